"""What is known of images beside their class: attributes such as a domain, a hospital, or a mark in the picture.

``data.groups`` is a CSV file whose first column is the sample id and whose other columns are attributes, or
``level:N``, the N-th folder of the sample id, the class's own being number 1.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vismech.errors import UserError
from vismech.store.settings import UNHASHED, Settings

BOX = ("left", "top", "right", "bottom")
"""Columns of a box around the object, as shares of the photograph's width and height; they are no attributes."""


@dataclass(frozen=True)
class Groups(Settings):
    """Attributes of images, in the key by their content.

    Attributes:
        content: hash of ids and values.
        columns: attribute → value of each image.
    """

    content: str
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict, metadata=UNHASHED)

    @property
    def attributes(self) -> list[str]:
        """The columns that are no part of a box."""
        return [name for name in self.columns if name not in BOX]

    def boxes(self) -> np.ndarray | None:
        """Left, top, right and bottom of each image [n, 4] as shares; None where no boxes are given.

        Raises:
            UserError: a box that is none.
        """
        if not all(name in self.columns for name in BOX):
            return None
        try:
            found = np.array([[float(value) for value in self.columns[name]] for name in BOX]).T
        except ValueError as error:
            raise UserError(f"data.groups: a side of a box is no number ({error}): give shares from 0 to 1") from error
        if not ((found >= 0) & (found <= 1)).all() or (found[:, :2] >= found[:, 2:]).any():
            raise UserError("data.groups: a box needs 0 ≤ left < right ≤ 1 and 0 ≤ top < bottom ≤ 1")
        return found


def read_groups(source: str, ids: Sequence[str]) -> Groups:
    """The attributes of images, in the order of ``ids``.

    Raises:
        UserError: a file that cannot be read, has no attribute, or misses images; a level that ids do not have.
    """
    columns = _levels(source, ids) if source.startswith("level:") else _table(Path(source), ids)
    told = hashlib.sha256()
    for name, values in columns.items():
        told.update("\0".join([name, *values]).encode() + b"\1")
    told.update("\0".join(ids).encode())
    return Groups(told.hexdigest()[:20], columns)


def _levels(source: str, ids: Sequence[str]) -> dict[str, list[str]]:
    level = source.removeprefix("level:")
    if not level.isdigit() or not int(level):
        raise UserError(f"data.groups={source}: write level:N with N at least 1, the class's own folder being 1")
    parts = [sample.split("/")[:-1] for sample in ids]
    short = next((sample for sample, folders in zip(ids, parts, strict=True) if len(folders) < int(level)), None)
    if short is not None:
        raise UserError(f"data.groups={source}: {short!r} is in fewer folders: give a lower level")
    return {f"level_{level}": [folders[int(level) - 1] for folders in parts]}


def _table(path: Path, ids: Sequence[str]) -> dict[str, list[str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            names, *rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error, ValueError) as error:
        said = getattr(error, "strerror", None) or "it holds no table"
        raise UserError(f"data.groups={path}: {said}: give a CSV of sample id and attributes, or level:N") from error
    if len(names) < 2 or any(len(row) != len(names) for row in rows):
        raise UserError(
            f"data.groups={path}: give a first column of sample ids and one or more of attributes, the same in all rows"
        )
    known = {row[0]: row[1:] for row in rows}
    missing = [sample for sample in ids if sample not in known]
    if missing:
        raise UserError(
            f"data.groups={path} misses {len(missing)} of the {len(ids)} images, such as {missing[0]!r}; the table has "
            f"ids such as {next(iter(known), 'none')!r}: add a row for each, by its path below data.root"
        )
    return {name: [known[sample][place] for sample in ids] for place, name in enumerate(names[1:])}
