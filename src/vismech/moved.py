"""Modules that have moved: their old names work for one release, with a warning that tells the new one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "choices": "config.choices",
    "coding": "dictionaries.coding",
    "data": "sources.data",
    "graph": "attribution.graph",
    "labels": "sources.labels",
    "lasso": "dictionaries.lasso",
    "layers": "network.layers",
    "localization": "receptive_field.localization",
    "models": "sources.models",
    "pfv": "network.pfv",
    "pipeline": "stages.pipeline",
    "pursuit": "dictionaries.pursuit",
    "run": "stages.run",
    "search": "dictionaries.search",
}


class _Moved(MetaPathFinder, Loader):
    """Finds an old name and hands out the module that has it now."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of an old name; None of any other."""
        package, _, name = fullname.partition(".")
        return ModuleSpec(fullname, self) if package == "vismech" and name in MOVED else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module under its new name."""
        new = f"vismech.{MOVED[spec.name.partition('.')[2]]}"
        warnings.warn(f"{spec.name} is now {new}; the old name goes with the next release", FutureWarning, stacklevel=2)
        module = import_module(new)
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it is loaded; only its own spec, which the import has replaced, is put back."""
        module.__spec__ = self._own


def install() -> None:
    """Let old names be found, once."""
    if not any(isinstance(finder, _Moved) for finder in sys.meta_path):
        sys.meta_path.append(_Moved())
