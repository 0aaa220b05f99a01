"""What a run starts from is looked for before anything is loaded: folders, files and names that are not there.

Light on purpose: it imports no torch, so that a mistyped path is told at once. What it lets pass is checked again, and
fully, when images are listed and the model is opened.
"""

from __future__ import annotations

import os
from pathlib import Path

from vismech.choices import Baseline, DataSource, ModelSource, Scope
from vismech.config import Config
from vismech.errors import UserError


def check_sources(config: Config) -> None:
    """Refuse sources that are not there.

    Raises:
        UserError: the key, its value and the remedy.
    """
    root = _images(config)
    for key, sample, wanted in (
        ("graph.image", config.graph.image, config.graph.scope is Scope["image"]),
        (
            "attribute.baseline_image",
            config.attribute.baseline_image,
            config.attribute.baseline is Baseline.image,
        ),
    ):
        if wanted and sample is not None and not os.path.lexists(root / sample):
            raise UserError(
                f"{key}={sample} is not there: give a sample id, an image's path below {root}"
                + (f", such as {first}" if (first := _first_below(root)) else "")
            )
    if config.evaluate.root is not None:
        _check_root("evaluate.root", Path(config.evaluate.root).expanduser(), config.data.source)
    _check_model(config)


def _images(config: Config) -> Path:
    from vismech.data import samples_folder

    data = config.data
    if data.source is DataSource.samples:
        return samples_folder()
    if data.root is None:
        raise UserError(f"data={data.source} needs data.root=FOLDER, the folder that holds one folder per class")
    root = Path(data.root).expanduser()
    _check_root("data.root", root, data.source)
    return root


def _check_root(key: str, root: Path, source: DataSource) -> None:
    from vismech.data import class_folders

    if source is DataSource.samples:
        raise UserError(f"{key}={root} needs the layout of its folders: data=samples has none, give another data")
    if not root.is_dir():
        raise UserError(f"{key}={root} is not a folder")
    if not class_folders(root):
        raise UserError(f"there is no image below {root}: data={source} expects ROOT/<class>/<image file>")


def _first_below(root: Path) -> str | None:
    """Some sample id, found without listing everything."""
    from vismech.data import SUFFIXES

    for folder, inner, files in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                return (Path(folder) / name).relative_to(root).as_posix()
    return None


def _check_model(config: Config) -> None:
    model = config.model
    if model.checkpoint is not None and not Path(model.checkpoint).expanduser().is_file():
        raise UserError(f"model.checkpoint={model.checkpoint} is not a file")
    if model.source is ModelSource.custom and ":" not in (model.target or ""):
        raise UserError(
            f"model.target={model.target} must be package.module:factory, a callable that returns your module"
        )
