"""Opening somebody's run does not run their code: what a run's folder may name to be imported.

A configuration names code: a model's factory, a path's class, and Hydra's own ``_target_``. What the person types is
their own. What stands in a run's folder is somebody else's, and of that only networks of vismech, torch, torchvision
and timm are built, and whatever is defined in packages that the person names. Everything is judged by where it is
*defined*: ``torch.os:system`` is no part of torch.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from vismech.config.choices import Code, DataSource, Method, ModelSource
from vismech.config.schema import Config, ModelConfig
from vismech.errors import UserError

# Modules of networks and nothing else; torch.hub, torch.package and torch.load, say, execute what they load.
OWN_NETWORKS = ("vismech.sources.cifar_resnet", "vismech.sources.cct")
NETWORKS = (
    *OWN_NETWORKS,
    "torch.nn.modules",
    "torchvision.models",
    "torchvision.ops",
    "timm.models",
    "timm.layers",
)
OURS = ("vismech", "torch", "torchvision", "timm")
# Arguments of timm's builders by which a file of somebody's choice is unpickled.
FILES = {"checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "weights_path"}


def check_model(model: ModelConfig, run: Path, trusted: Collection[str] = ()) -> None:
    """Refuse a model from a run's configuration whose making could execute anything.

    Args:
        model: the run's.
        run: its folder, for sentences.
        trusted: packages that the person named.

    Raises:
        UserError: what the run names, and how to trust it.
    """
    if model.source is not ModelSource.custom:
        _check_arguments(model.kwargs, run)
        return
    module, _, name = (model.target or "").partition(":")
    package = module.partition(".")[0]
    if (package in trusted and package not in OURS) or _is_below(module, ("torch.nn", *NETWORKS)):
        found = _found(module, name, run)
    else:
        raise _untrusted(model.target, package, run)
    while isinstance(found, functools.partial):
        found = found.func
    home = str(getattr(found, "__module__", None) or "")
    if home.partition(".")[0] in trusted and home.partition(".")[0] not in OURS:
        return
    if not (
        _is_below(home, OWN_NETWORKS) or (_is_below(home, NETWORKS) and (_is_network(found) or _is_builder(found)))
    ):
        raise _untrusted(model.target, home.partition(".")[0], run)
    _check_arguments(model.kwargs, run)


def check_own(config: Config, run: Path, trusted: Collection[str] = ()) -> None:
    """Refuse code that a run's configuration names as the run's own, unless its package is trusted.

    Raises:
        UserError: what the run names, and how to trust it.
    """
    data, dictionary = config.data, config.dictionary
    named = {
        "data.target": (data.target, data.source is DataSource.custom),
        "dictionary.target": (dictionary.target, dictionary.method is Method.custom),
        "dictionary.code_target": (dictionary.code_target, dictionary.code is Code.custom),
    }
    for key, (target, used) in named.items():
        package = (target or "").partition(":")[0].partition(".")[0]
        if used and (package not in trusted or package in OURS):
            raise _untrusted(target, package, run, key)


def refuse_rerun(arguments: Sequence[str]) -> None:
    """Refuse to compose a run from another run's folder, whose files can name anything for Hydra to execute.

    ``--experimental-rerun`` reads a pickle; ``--config-dir RUN/.hydra`` makes callbacks and launchers of its choice.

    Raises:
        UserError: the argument.
    """
    before = ""
    for argument in arguments:
        if argument.startswith("--e") and "--experimental-rerun".startswith(argument.partition("=")[0]):
            raise UserError(
                f"{argument.partition('=')[0]} executes whatever is in the file: read .hydra/overrides.yaml of the run "
                "and give what you trust of it on the command line"
            )
        key = argument.lstrip("+").partition("=")[0]
        searched = argument.startswith(("-c", "--c")) or before.startswith(("-c", "--c")) or key == "hydra.searchpath"
        for part in re.split(r"[\[\],=+~\s'\"]", re.sub(r"^-c[dnp]", "", argument)):
            folder = Path(part.removeprefix("file://")).expanduser()
            named = ".hydra" in folder.parts and key != "hydra.output_subdir"
            if part and (named or (searched and _is_hydras(folder))):
                raise UserError(
                    f"{part} holds the configuration of a run, which can name code to execute: read its overrides.yaml "
                    "and give what you trust of it on the command line"
                )
        before = argument


def _is_hydras(folder: Path) -> bool:
    """Whether Hydra wrote the files of this folder, or of its ``.hydra``, for a run."""
    try:
        homes = (folder, folder / ".hydra")
        return any(all((home / name).is_file() for name in ("hydra.yaml", "overrides.yaml")) for home in homes)
    except (OSError, ValueError):  # no path at all, but a value that is too long for one
        return False


def _found(module: str, name: str, run: Path) -> Any:
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(
            f"{run} was made with model.target={module}:{name}, which cannot be imported ({error}): is its folder on "
            "PYTHONPATH?"
        ) from error


def _is_below(module: str, packages: Sequence[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _is_network(value: Any) -> bool:
    from torch import nn

    return isinstance(value, type) and issubclass(value, nn.Module)


def _is_builder(value: Any) -> bool:
    """Whether torchvision or timm lists the function among its architectures."""
    import timm
    from torchvision import models

    name = str(getattr(value, "__name__", ""))
    if timm.is_model(name) and timm.model_entrypoint(name) is value:
        return True
    return name in models.list_models(module=models) and models.get_model_builder(name) is value


def _check_arguments(arguments: Mapping[str, Any], run: Path) -> None:
    """Numbers and plain words only: no file to load, and nothing that holds one."""
    for name, value in arguments.items():
        if name in FILES or not _is_harmless(value):
            raise UserError(
                f"{run} was made with model.kwargs.{name}={value!r}, by which a file could be executed: start a run of "
                "your own with it if you trust it"
            )


def _is_harmless(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(map(_is_harmless, value))
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and value.isidentifier())


def _untrusted(target: str | None, package: str, run: Path, key: str = "model.target") -> UserError:
    if package in OURS or not package.isidentifier():
        return UserError(f"{run} was made with {key}={target}, which is no network: it is not imported")
    return UserError(
        f"{run} was made with {key}={target}, code of {package!r} that opening the run would execute: "
        f"give --trust {package} (in Python: trust={package!r}) if you trust it"
    )
