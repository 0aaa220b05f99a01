"""Images of a Hugging Face data set: saved on the disk, a folder that ``datasets`` knows to read, or one on the hub.

A row has no name, so a sample id is the split and the row's number, and what tells one data set from another is every
byte of its images. Images are kept encoded until they are looked at.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from vismech.errors import UserError
from vismech.sources.data import Columns, numbered
from vismech.sources.pictures import UNLABELLED, ArchiveData, Sample


@dataclass(frozen=True)
class HubData(ArchiveData):
    """Images of a ``datasets.Dataset``, whose column ``column`` is not decoded; an id ends in its row."""

    rows: Any = field(default=None, compare=False, repr=False)
    column: str = "image"

    def content(self, index: int) -> bytes:
        """The bytes of an image file."""
        sample = self.samples[index].id
        image = self.rows[int(sample.rpartition("/")[2])][self.column]
        if image is None or (image["bytes"] is None and not image["path"]):
            raise UserError(f"{sample} of {self.root} is not a readable image (the row has none)")
        if image["bytes"] is not None:
            return image["bytes"]
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise UserError(f"{image['path']} is not a readable image ({error.strerror or error})") from error


def open_hub(root: Path, columns: Columns) -> HubData:
    """The rows of a split.

    Args:
        root: a folder of ``save_to_disk``, a folder of images or tables, or a name on the hub, ``@REVISION`` behind it.
        columns: where images and labels are, the split, and the subset.

    Raises:
        UserError: the package is not installed, no such data set, split or column, or a column of no images or labels.
    """
    try:
        datasets = import_module("datasets")
    except ImportError as error:
        raise UserError("data=huggingface needs the extra 'huggingface': pip install 'vismech[huggingface]'") from error
    try:
        found: Any = _opened(root, columns.subset)
    except Exception as error:  # of the network, of files, of the builder: datasets raises many kinds
        said = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"data.root={root} is no data set that can be opened ({said})") from error
    if isinstance(found, dict):
        if columns.split not in found:
            raise UserError(f"data.split={columns.split}: {root} has the splits {', '.join(map(str, found))}")
        found = found[columns.split]
    image = columns.image or "image"
    for key, name in (("data.image_column", image), ("data.label_column", columns.label)):
        if name is not None and name not in found.features:
            unlabelled = ", or null for images without labels" if key == "data.label_column" else ""
            raise UserError(f"{key}={name}: {root} has the columns {', '.join(found.features)}: give one{unlabelled}")
    if not isinstance(found.features[image], datasets.Image):
        raise UserError(f"data.image_column={image}: this column of {root} holds no images")
    found = found.cast_column(image, datasets.Image(decode=False))
    labels, classes = _labels(found, columns.label, root)
    samples = [Sample(f"{columns.split}/{row:09d}", label) for row, label in enumerate(labels)]
    return HubData(root, samples, classes, rows=found, column=image)


def _opened(root: Path, subset: str | None) -> Any:
    datasets: Any = import_module("datasets")
    if root.is_dir():
        if any((root / name).is_file() for name in ("state.json", "dataset_dict.json")):
            return datasets.load_from_disk(str(root))
        return datasets.load_dataset(str(root), subset)
    name, _, revision = root.as_posix().partition("@")
    return datasets.load_dataset(name, subset, revision=revision or None)


def _labels(rows: Any, column: str | None, root: Path) -> tuple[list[int], dict[int, str]]:
    """Each row's label, and the names of labels: those of the data set, else the values themselves."""
    datasets: Any = import_module("datasets")
    if column is None:
        return [UNLABELLED] * len(rows), {}
    values, feature = rows[column][:], rows.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return [UNLABELLED if value is None else value for value in values], dict(enumerate(feature.names))
    if not all(value is None or (isinstance(value, (int, str)) and not isinstance(value, bool)) for value in values):
        raise UserError(f"data.label_column={column}: this column of {root} holds neither names nor numbers")
    told = [None if value in (None, "") else str(value) for value in values]
    ranks = numbered(label for label in told if label is not None)
    return [UNLABELLED if label is None else ranks[label] for label in told], {
        rank: name for name, rank in ranks.items()
    }
