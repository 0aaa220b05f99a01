"""What a run starts from is looked for before anything is loaded: folders, files and names that are not there.

Light on purpose: it imports no torch, so that a mistyped path is told at once. What it lets pass is checked again, and
fully, when images are listed and the model is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from vismech.config.choices import Baseline, DataSource, Evaluation, ModelSource, Scope, Stage
from vismech.config.schema import Config
from vismech.errors import UserError

# Evaluations that need neither model nor data where a run is for nothing else.
ALONE = {Evaluation.planted}
# Sources whose sample ids are paths below a folder.
FILES = {DataSource.imagefolder, DataSource.imagenet, DataSource.cifar10, DataSource.samples, DataSource.folder}


def check_config_sources(config: Config) -> None:
    """Refuse sources that are not there.

    Raises:
        UserError: the key, its value and the remedy.
    """
    if config.until is Stage.evaluate and _alone(config):
        return
    if config.data.source is DataSource.custom:
        _check_model(config)
        return
    root = _images(config)
    if config.data.source in FILES:
        _check_samples(config, root)
    if config.evaluate.root is not None:
        _check_root("evaluate.root", config.evaluate.root, config.data.source)
    _check_model(config)


def _check_samples(config: Config, root: Path) -> None:
    """Refuse ids of images that are no files."""
    for key, sample, wanted in (
        ("graph.image", config.graph.image, config.graph.scope in (Scope["image"], Scope["error"])),
        (
            "attribute.baseline_image",
            config.attribute.baseline_image,
            config.attribute.baseline is Baseline.image,
        ),
    ):
        if wanted and sample is not None and not os.path.lexists(root / sample):
            raise UserError(
                f"{key}={sample} is not a sample id of this data: give an image's path below {root}"
                + (f", such as {first}" if (first := _first_below(root, config.data.source)) else "")
            )


def _alone(config: Config) -> bool:
    evaluate = config.evaluate
    return bool(evaluate.kinds) and not evaluate.own and ALONE.issuperset(evaluate.kinds)


def _images(config: Config) -> Path:
    from vismech.sources.data import samples_folder

    data = config.data
    if data.source is DataSource.samples:
        return samples_folder()
    return _check_root("data.root", data.root, data.source)


def _check_root(key: str, given: str | None, source: DataSource) -> Path:
    from vismech.sources.data import ROOTS, locate

    if source is DataSource.samples:
        raise UserError(f"{key}={given} needs the layout of its folders: data=samples has none, give another data")
    root = locate(source, given, key)
    if source in FILES and _first_below(root, source) is None:
        raise UserError(f"there is no image below {root}: data={source} expects {ROOTS[source][1]}")
    return root


def _first_below(root: Path, source: DataSource) -> str | None:
    """Some sample id, found without listing everything."""
    from vismech.sources.data import SAMPLE_NAMES
    from vismech.sources.folders import class_folders, image_files

    if source is DataSource.samples:
        return min((path.name for path in root.glob(SAMPLE_NAMES)), default=None)
    folders = [root] if source is DataSource.folder else (root / name for name in class_folders(root))
    files = (path for folder in folders for path in image_files(folder))
    return next((path.relative_to(root).as_posix() for path in files), None)


def _check_model(config: Config) -> None:
    model = config.model
    if model.checkpoint is not None and not Path(model.checkpoint).expanduser().is_file():
        raise UserError(f"model.checkpoint={model.checkpoint} is not a file")
    if model.probe is not None and not Path(model.probe).expanduser().is_file():
        raise UserError(f"model.probe={model.probe} is not a file")
    if model.source is ModelSource.custom and ":" not in (model.target or ""):
        raise UserError(
            f"model.target={model.target} must be package.module:factory, a callable that returns your module"
        )
