"""Images named by a CSV file: a row of column names, then a path and a label per row."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from vismech.errors import UserError
from vismech.sources.data import Columns, numbered
from vismech.sources.pictures import UNLABELLED, ImageData, Sample


def open_table(path: Path, columns: Columns) -> ImageData:
    """The images of a table, told by their paths as written; an empty label is none.

    Paths are relative to the table's folder. Names ending in ``.tsv`` are separated by tabs.

    Args:
        path: the table.
        columns: ``image``, the column of paths (``path``), and ``label``.

    Raises:
        UserError: a table that cannot be read, a column or row that is not there, a path twice, or none that is a file.
    """
    image = columns.image or "path"
    rows = _rows(path, [name for name in (image, columns.label) if name is not None])
    lines: dict[str, int] = {}
    labels: dict[str, str] = {}
    for line, row in rows:
        sample = _sample_id(path, line, row[image])
        if sample in lines:
            raise UserError(f"data.root={path}: line {line} names {sample!r} again, which line {lines[sample]} has")
        lines[sample], labels[sample] = line, row[columns.label].strip() if columns.label else ""
    if labels and not any(os.path.lexists(path.parent / sample) for sample in labels):
        raise UserError(
            f"data.root={path}: none of its {len(labels)} paths is a file, such as {next(iter(labels))!r}: they are "
            f"relative to {path.parent}"
        )
    ranks = numbered(label for label in labels.values() if label)
    samples = [Sample(sample, ranks.get(label, UNLABELLED)) for sample, label in labels.items()]
    return ImageData(path.parent, samples, {rank: name for name, rank in ranks.items()})


def _rows(path: Path, wanted: list[str]) -> list[tuple[int, dict[str, str]]]:
    """Line number and cells of each row that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = getattr(error, "strerror", None) or "it is no CSV in UTF-8"
        raise UserError(f"data.root={path} cannot be read ({said}): give a table of paths and labels") from error
    names = rows[0][1] if rows else []
    missing = [name for name in wanted if name not in names]
    if missing:
        key = "data.label_column" if missing[0] == wanted[-1] and len(wanted) > 1 else "data.image_column"
        unlabelled = ", or data.label_column=null for images without labels" if key == "data.label_column" else ""
        raise UserError(
            f"data.root={path} has no column {missing[0]!r} in its first row ({', '.join(names) or 'nothing'}): "
            f"give {key}=NAME{unlabelled}"
        )
    bad = next((line for line, row in rows[1:] if len(row) != len(names)), None)
    if bad is not None:
        raise UserError(f"data.root={path}: line {bad} has not as many cells as there are columns ({len(names)})")
    return [(line, dict(zip(names, row, strict=True))) for line, row in rows[1:]]


def _sample_id(path: Path, line: int, cell: str) -> str:
    """The path in a cell, without what says the same twice; below the table's folder it is relative to it."""
    written = cell.strip()
    if not written or "\0" in written:
        raise UserError(f"data.root={path}: line {line} names no path")
    file = Path(os.path.normpath(Path(written).expanduser()))
    folder = path.parent.absolute()
    return (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
