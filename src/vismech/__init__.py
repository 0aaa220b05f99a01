"""vismech: how an image model computes, as a causal graph of concepts.

The names below are loaded when they are first used, so that ``import vismech`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vismech.moved import install

if TYPE_CHECKING:
    import vismech.edit as edit
    from vismech.attribution.engine import attribute
    from vismech.attribution.paths import Path
    from vismech.attribution.sources import ConceptSource
    from vismech.attribution.targets import LogitTargets
    from vismech.dictionaries import build
    from vismech.finished.run import open_run
    from vismech.network.cut import open_network
    from vismech.network.pfv import layout_of

__all__ = [
    "ConceptSource",
    "LogitTargets",
    "Path",
    "attribute",
    "build",
    "edit",
    "layout_of",
    "open_network",
    "open_run",
]

# Where each name is; the same as above, for those who run the code rather than read it.
_HOMES = {
    "ConceptSource": "vismech.attribution.sources",
    "LogitTargets": "vismech.attribution.targets",
    "Path": "vismech.attribution.paths",
    "attribute": "vismech.attribution.engine",
    "build": "vismech.dictionaries",
    "layout_of": "vismech.network.pfv",
    "open_network": "vismech.network.cut",
    "open_run": "vismech.finished.run",
}
_PACKAGES = {"edit": "vismech.edit"}

install()


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(_PACKAGES[name])  # which makes it an attribute
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
