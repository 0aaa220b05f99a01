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
    if config.evaluate.root is not None:
        _check_root("evaluate.root", Path(config.evaluate.root).expanduser(), config.data.source)
    _check_model(config)


def _alone(config: Config) -> bool:
    evaluate = config.evaluate
    return bool(evaluate.kinds) and not evaluate.own and ALONE.issuperset(evaluate.kinds)


def _images(config: Config) -> Path:
    from vismech.sources.data import samples_folder

    data = config.data
    if data.source is DataSource.samples:
        return samples_folder()
    if data.root is None:
        raise UserError(f"data={data.source} needs data.root=FOLDER, the folder that holds one folder per class")
    root = Path(data.root).expanduser()
    _check_root("data.root", root, data.source)
    return root


def _check_root(key: str, root: Path, source: DataSource) -> None:
    from vismech.sources.data import class_folders

    if source is DataSource.samples:
        raise UserError(f"{key}={root} needs the layout of its folders: data=samples has none, give another data")
    if not root.is_dir():
        raise UserError(f"{key}={root} is not a folder")
    if not class_folders(root):
        raise UserError(f"there is no image below {root}: data={source} expects ROOT/<class>/<image file>")


def _first_below(root: Path, source: DataSource) -> str | None:
    """Some sample id, found without listing everything."""
    from vismech.sources.data import SAMPLE_NAMES, class_folders, image_files

    if source is DataSource.samples:
        return min((path.name for path in root.glob(SAMPLE_NAMES)), default=None)
    files = (path for name in class_folders(root) for path in image_files(root / name))
    return next((path.relative_to(root).as_posix() for path in files), None)


def _check_model(config: Config) -> None:
    model = config.model
    if model.checkpoint is not None and not Path(model.checkpoint).expanduser().is_file():
        raise UserError(f"model.checkpoint={model.checkpoint} is not a file")
    if model.source is ModelSource.custom and ":" not in (model.target or ""):
        raise UserError(
            f"model.target={model.target} must be package.module:factory, a callable that returns your module"
        )
