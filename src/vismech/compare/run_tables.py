"""What finished runs left to compare: their tidy tables, their settings, and the values of single images."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.compare.sweep import numbered, read_yaml
from vismech.errors import UserError

log = logging.getLogger(__name__)

Row = dict[str, Any]
"""One number: the table's keys, then TAIL; None where there is nothing."""
TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]
"""The columns that end every tidy table; those before them are its keys."""
TABLES = ("extraction", "interlayer", "planted", "stability", "localization", "saturation", "attribution")
"""The order in which a table is looked for when none is named; all others come after these."""
UNCOMPARED = {"name", "plan", "until", "force", "describe", "report", "runtime", "logger", "store"}
"""Keys and groups of the configuration that change no number."""


SHARED = "transfer_"
"""Begins the metrics whose images share orders, so that their values are no independent cases."""


class Cases(NamedTuple):
    """Values of images: the columns that tell numbers apart, and their texts → value by image.

    Attributes:
        keys: columns.
        values: texts of the columns → image → value.
        clusters: texts of the columns → image → what it shares with others, such as the order it is scored by.
    """

    keys: list[str]
    values: Mapping[tuple[str, ...], Mapping[str, float]]
    clusters: Mapping[tuple[str, ...], Mapping[str, str]]

    def of(self, row: Row) -> Mapping[str, float]:
        """The values whose mean a row of the table is; none of medians and of ratios of sums.

        None either of images that share an order in a file that does not say which: their interval would be too narrow.
        """
        found = self.values.get(self._key(row), {})
        if str(row["metric"]).startswith(SHARED) and not self.shared(row):
            return {}
        same = found and np.isclose(np.mean([*found.values()]), row["value"], rtol=1e-3, atol=1e-6)
        return found if same else {}

    def shared(self, row: Row) -> Mapping[str, str]:
        """The cluster of each image behind a row, of those that have one."""
        return self.clusters.get(self._key(row), {})

    def _key(self, row: Row) -> tuple[str, ...]:
        return tuple(text_of(row.get(key)) for key in self.keys)


@dataclass(frozen=True)
class Run:
    """The folder of a run, or of a sweep's job."""

    folder: Path

    @property
    def label(self) -> str:
        """The last two parts of its path."""
        return "/".join(self.folder.resolve().parts[-2:])

    @cached_property
    def settings(self) -> dict[str, str]:
        """The configuration as dotted key → text, without what changes no number; empty where it was not kept."""
        file = self.folder / ".hydra/config.yaml"
        found = read_yaml(file) if file.is_file() else {}
        if not isinstance(found or {}, Mapping):
            raise UserError(f"{file} is no configuration: take a run whose folder is whole")
        kept = {str(key): value for key, value in (found or {}).items() if key not in UNCOMPARED}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in _flat(kept)}

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Its tidy tables."""
        files = sorted((self.folder / "tables").glob("*.csv"))
        return {file.stem: file for file in files if {"metric", "value"} <= {*_header(file)}}

    def rows(self, table: str) -> list[Row]:
        """One of its tables."""
        try:
            frame = pd.read_csv(self.tables[table]).astype(object)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.tables[table]} cannot be read ({error}): take a run whose folder is whole"
            ) from error
        return [
            dict(zip(frame, values, strict=True)) for values in frame.where(frame.notna(), None).to_numpy().tolist()
        ]

    def cases(self, table: str) -> Cases:
        """The values of images behind one of its tables, if it kept any: ``cases/<table>.csv.gz``.

        Of an image that holds several, such as one for each target, the mean.
        """
        file = self.folder / "cases" / f"{table}.csv.gz"
        if not file.is_file():
            return Cases([], {}, {})
        try:
            frame = pd.read_csv(file, dtype={"image": str})
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise UserError(f"{file} cannot be read ({error}): take a run whose folder is whole") from error
        keys = [str(name) for name in frame if name not in ("image", "value", "cluster")]
        several: dict[tuple[str, ...], dict[str, list[float]]] = {}
        clusters: dict[tuple[str, ...], dict[str, str]] = {}
        texts = [frame[key].map(text_of).tolist() for key in keys]
        shared = frame["cluster"].map(text_of).tolist() if "cluster" in frame else [""] * len(frame)
        rows = zip(*texts, frame["image"].tolist(), frame["value"].tolist(), shared, strict=True)
        for *key, image, value, cluster in rows:
            several.setdefault(tuple(key), {}).setdefault(image, []).append(value)
            if cluster:
                clusters.setdefault(tuple(key), {})[image] = cluster
        means = {key: {image: sum(all_) / len(all_) for image, all_ in of.items()} for key, of in several.items()}
        return Cases(keys, means, clusters)


def open_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs at ``folders`` and the jobs of the sweeps there, each once, in the order given.

    Raises:
        UserError: a folder that is neither.
    """
    found: dict[Path, Run] = {}
    for folder in folders:
        jobs = [] if (folder / "tables").is_dir() or not folder.is_dir() else numbered(folder)
        here = [each for each in jobs or [folder] if (each / "tables").is_dir()]
        if not here:
            raise UserError(
                f"{folder} holds no tables: name the folder of a run, outputs/runs/<name>/<time>, or of a sweep, "
                "outputs/sweeps/<name>/<time>"
            )
        if len(jobs) > len(here):
            log.warning(
                "%s: %d of its %d jobs have no tables and are left out", folder, len(jobs) - len(here), len(jobs)
            )
        found |= {each.resolve(): Run(each) for each in here}
    return list(found.values())


def choose_table(runs: Sequence[Run], wanted: str | None = None) -> str:
    """The table to compare: the one that is asked for, else the first that every run has.

    Raises:
        UserError: a run lacks it, or no table is in all of them.
    """
    if wanted is None:
        common = set.intersection(*({*run.tables} for run in runs))
        if not common:
            raise UserError("there is no table that all of these runs have: compare runs that measured the same")
        return min(common, key=lambda name: (TABLES.index(name) if name in TABLES else len(TABLES), name))
    for run in runs:
        if wanted not in run.tables:
            raise UserError(
                f"{run.folder} has no table {wanted!r} to compare; it has {', '.join(run.tables) or 'none'}"
            )
    return wanted


def text_of(value: Any) -> str:
    """A key as text: the same for 8, 8.0 and "8", empty for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    try:
        return str(value) if isinstance(value, bool) else f"{float(value):.15g}"
    except ValueError:
        return str(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and value
        found += _flat(value, f"{prefix}{key}.") if inner else [(f"{prefix}{key}", value)]
    return found


def _header(file: Path) -> list[str]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().strip().split(",")
