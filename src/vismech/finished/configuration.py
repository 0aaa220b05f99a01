"""The configuration of a finished run, read from its folder without running anybody's code."""

from __future__ import annotations

from collections.abc import Collection
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

from vismech.config.choices import PathWeight, Stage
from vismech.config.schema import Config
from vismech.config.trust import check_model, check_own
from vismech.errors import UserError

DONE = "metrics.json"
FILES = ".hydra/config.yaml", ".hydra/hydra.yaml"


def check_folder(run: Path) -> None:
    """Refuse a folder that no run has left.

    Raises:
        UserError: the folder.
    """
    if not any((run / name).is_file() for name in (DONE, *FILES)):
        raise UserError(f"{run} is not the folder of a run: name one such as outputs/runs/quickstart/<time>")


def config_of(run: Path, trusted: Collection[str] = (), names: Path | None = None) -> Config:
    """The configuration of a run, from its folder; paths are those of the folder that it was started in.

    Concepts are named by the file ``names``, or else by the run's own ``report.names`` where that is still there.

    Of the code that it names only what :mod:`vismech.config.trust` allows is imported; what names code that no concept
    needs (``attribute.curve``, ``weight`` and a decoder, ``evaluate.own`` and ``methods``, ``report.elements``) is left
    out.

    Raises:
        UserError: no run there, files that are none of a run's, or code of packages that are not ``trusted``.
    """
    check_folder(run)
    files = [run / name for name in FILES]
    for file in files:
        if not file.is_file():
            raise UserError(f"{file} is missing, which says how the run was made: take a run whose folder is whole")
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from vismech.compare.sweep import read_yaml

    found, hydra = map(read_yaml, files)
    try:
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.create(found)))
        started = Path(hydra["hydra"]["runtime"]["cwd"])
    except (OmegaConfBaseException, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise UserError(f"{run / '.hydra'} holds no configuration of this version of vismech ({reason})") from error
    check_model(config.model, run, trusted)
    check_own(config, run, trusted)
    config.attribute.curve, config.attribute.weight = {}, None
    if "decoder" in config.attribute.options:
        config.attribute.path, config.attribute.options = PathWeight.ig, {}
    config.evaluate.own, config.report.elements = [], []
    config.evaluate.methods, config.evaluate.method_options = [], {}
    config.store.root = str(started / config.store.root)
    for part, name in ((config.data, "root"), (config.model, "checkpoint")):
        if (value := getattr(part, name)) is not None:
            setattr(part, name, str(started / Path(value).expanduser()))
    if names is None and config.report.names is not None:
        own = started / Path(config.report.names).expanduser()
        names = own if own.is_file() else None
    config.report.names = None if names is None else str(names)
    return config


def described(config: Config) -> Config:
    """A copy that plans what a run's concepts are read from, up to their descriptions, and computes nothing anew."""
    return replace(deepcopy(config), until=Stage.describe, plan=False, force=[])
