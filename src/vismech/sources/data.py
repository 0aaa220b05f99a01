"""Where images come from: the sources by name, and what of each is listed."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

from vismech.config.choices import DataSource, Half
from vismech.draws import digest_of
from vismech.errors import UserError
from vismech.sources.folders import class_folders, image_files
from vismech.sources.own import load_own
from vismech.sources.pictures import ImageData, Sample
from vismech.sources.settings import DataConfig

__all__ = ["ImageData", "Sample", "open_data"]

log = logging.getLogger(__name__)
SAMPLE_NAMES = "imagenet_*.jpg"
CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# open(root, columns) -> ImageData. Named, not imported: a source is loaded when it is used.
OPENERS: dict[DataSource, str] = {
    DataSource.folder: "vismech.sources.flat:open_flat",
    DataSource.csv: "vismech.sources.table:open_table",
    DataSource.huggingface: "vismech.sources.hub:open_hub",
    DataSource.webdataset: "vismech.sources.shards:open_shards",
}
CLASS_FOLDERS = {DataSource.imagefolder, DataSource.imagenet, DataSource.cifar10}
# What data.root is, and how a source is laid out.
ROOTS: dict[DataSource, tuple[str, str]] = {
    **dict.fromkeys(CLASS_FOLDERS, ("FOLDER, the folder that holds one folder per class", "ROOT/<class>/<image file>")),
    DataSource.folder: ("FOLDER, the folder of images", "images in a folder, at any depth"),
    DataSource.csv: ("FILE.csv, a table of paths and labels", "one row per image below a row of column names"),
    DataSource.huggingface: ("FOLDER_OR_NAME, a data set on the disk or on the hub", "rows with an image"),
    DataSource.webdataset: ("FOLDER, the folder of tar files, or one of them", "images and their labels in tar files"),
}


class Columns(NamedTuple):
    """Where sources that are tables have images and labels; None: the source's own name, of ``label`` no label."""

    image: str | None = None
    label: str | None = "label"
    split: str = "train"
    subset: str | None = None

    @classmethod
    def of(cls, data: DataConfig) -> Columns:
        """What the configuration says."""
        return cls(data.image_column, data.label_column, data.split, data.subset)


def open_data(
    source: DataSource,
    root: str | Path | None = None,
    limit: int | None = None,
    classes: Sequence[int] = (),
    half: Half = Half.all,
    key: str = "data.root",
    folders: Sequence[str] = (),
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
    columns: Columns | None = None,
) -> ImageData:
    """List the images of ``source`` below ``root``.

    Args:
        source: how the folder is laid out; ``samples`` needs no root (the photographs that ship with foolbox).
        root: the folder of class folders, or what :data:`ROOTS` says of the source.
        limit: at most so many images, taken round robin over the classes in the order of their names, so that a small
            number still holds many classes.
        classes: class indices to keep; empty keeps all.
        half: of the images that are left, all or about half of them: those of this :func:`half_of`.
        key: the configuration's key that ``root`` comes from, for sentences.
        folders: names of classes to keep; empty keeps all.
        target, options: of ``custom``, the function package.module:open and its keyword arguments.
        columns: of tables, where images and labels are.

    Raises:
        UserError: a missing, empty or unreadable folder, a class folder that the source does not know, a class without
            images, a name that is not UTF-8.
    """
    source = DataSource(source)
    if limit is not None and limit < 1:
        raise UserError(f"data.limit={limit} must be at least 1")
    if source is DataSource.samples:
        found = _samples()
        root = found.root
    elif source is DataSource.custom:
        found = load_own(target, "data.target", options)(root, **(options or {}))
        if not isinstance(found, ImageData):
            raise UserError(
                f"data.target={target} returned {type(found).__name__}, not a vismech.sources.data.ImageData"
            )
        root = found.root
    else:
        root = locate(source, root, key)
        if source in CLASS_FOLDERS:
            found = _folders(source, root, folders)
        else:
            found = _opener(source)(root, columns or Columns())
    by_class: dict[int, list[Sample]] = {}
    for sample in sorted(found.samples, key=lambda sample: sample.id):
        if (not classes or sample.label in classes) and (not folders or found.classes.get(sample.label) in folders):
            by_class.setdefault(sample.label, []).append(sample)
    if not by_class:
        wanted = f" of the classes {list(folders or classes)}" if folders or classes else ""
        expected = ROOTS.get(source, ("", "images"))[1]
        raise UserError(f"there is no image{wanted} below {root}: data={source} expects {expected}")
    for name in folders:
        if not any(found.classes.get(label) == name for label in by_class):
            raise UserError(f"{key}={root} has no image of the class {name!r}, which data.classes asks for")
    absent = sorted(set(classes) - by_class.keys())
    if absent:
        raise UserError(f"data.classes={list(classes)}: there is no image of class {absent[0]} below {root}")
    rounds = chain.from_iterable(zip_longest(*by_class.values()))
    samples = [sample for sample in rounds if sample is not None][:limit]
    kept = [sample for sample in samples if half is Half.all or half_of(sample.id) is half]
    if not kept:
        raise UserError(f"data.half={half.value}: none of the {len(samples)} images is in it: use more images")
    kept = sorted(kept, key=lambda sample: sample.id)
    return replace(found, samples=kept, source=found.source if source is DataSource.custom else source)


def locate(source: DataSource, root: str | Path | None, key: str) -> Path:
    """What ``root``, the value of ``key``, stands for, looked for before anything is listed.

    Raises:
        UserError: none is given, or it is not there.
    """
    what = ROOTS[source][0]
    if root is None:
        raise UserError(f"data={source} needs data.root={what}")
    path = Path(root).expanduser()
    if source is DataSource.huggingface:  # a name on the hub is no path
        return path
    if source is DataSource.csv and not path.is_file():
        raise UserError(f"{key}={path} is not a file: data=csv needs {what}")
    if source is DataSource.webdataset and not path.exists():
        raise UserError(f"{key}={path} is neither a folder nor a file: data=webdataset needs {what}")
    if source not in (DataSource.csv, DataSource.webdataset) and not path.is_dir():
        raise UserError(f"{key}={path} is not a folder")
    return path


def _opener(source: DataSource) -> Any:
    module, _, name = OPENERS[source].partition(":")
    return getattr(import_module(module), name)


def numbered(names: Iterable[str]) -> dict[str, int]:
    """Names of classes → their ranks: in the order of numbers where all are numbers, else of the alphabet."""
    found = set(names)
    numbers = all(name.isdecimal() for name in found)
    return {
        name: rank for rank, name in enumerate(sorted(found, key=lambda name: (int(name), name) if numbers else name))
    }


def half_of(sample: str) -> Half:
    """The half that an image belongs to, by a hash of its id alone: with the run's seed in it, images that chose under
    one seed would confirm under the next."""
    odd = digest_of("half", sample)[0] % 2
    return Half.confirming if odd else Half.choosing


def _folders(source: DataSource, root: Path, only: Sequence[str]) -> ImageData:
    names = class_folders(root)
    match source:
        case DataSource.imagenet:
            labels, classes = imagenet_wnids(), dict(enumerate(imagenet_names()))
        case DataSource.cifar10:
            labels, classes = {name: index for index, name in enumerate(CIFAR10)}, dict(enumerate(CIFAR10))
        case _:
            labels, classes = {name: index for index, name in enumerate(names)}, dict(enumerate(names))
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise UserError(
            f"{root / unknown[0]} is not a class folder of {source}: use data=imagefolder for your own classes"
        )
    samples = [
        Sample(path.relative_to(root).as_posix(), labels[name])
        for name in names
        if not only or name in only
        for path in image_files(root / name)
    ]
    return ImageData(root, samples, classes)


def _samples() -> ImageData:
    """The 20 ImageNet photographs in foolbox; the class index is the last part of the file's name."""
    root = samples_folder()
    samples = [Sample(path.name, int(path.stem.split("_")[-1])) for path in root.glob(SAMPLE_NAMES)]
    return ImageData(root, samples, dict(enumerate(imagenet_names())))


def samples_folder() -> Path:
    """The folder of the photographs that ship with foolbox.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data=samples needs the extra 'samples': pip install 'vismech[samples]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def imagenet_wnids() -> dict[str, int]:
    """WordNet id → class index of ImageNet-1k."""
    return {wnid: index for index, (wnid, _) in enumerate(_imagenet())}


def imagenet_names() -> list[str]:
    """Class names of ImageNet-1k in index order, as torchvision has them."""
    return [name for _, name in _imagenet()]


@lru_cache(maxsize=1)
def _imagenet() -> list[tuple[str, str]]:
    """WordNet id and name of each class: a table of our own, since the libraries that know them load for seconds."""
    with (Path(__file__).parent / "imagenet_classes.csv").open(newline="", encoding="utf-8") as file:
        return [(row["wnid"], row["name"]) for row in csv.DictReader(file)]
