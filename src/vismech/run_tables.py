"""What finished runs left to compare: their tidy tables, their settings, and the values of single images."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from vismech.errors import UserError
from vismech.sweep import numbered

log = logging.getLogger(__name__)

Row = dict[str, Any]
"""One number: the table's keys, then TAIL; None where there is nothing."""
TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]
"""The columns that end every tidy table; those before them are its keys."""
TABLES = ("extraction", "interlayer", "planted", "stability", "localization", "saturation", "attribution")
"""The order in which a table is looked for when none is named; all others come after these."""
UNCOMPARED = {"name", "plan", "until", "force", "describe", "report", "runtime", "logger", "store"}
"""Keys and groups of the configuration that change no number."""


class Cases(NamedTuple):
    """Values of images: the columns that tell numbers apart, and their texts → value by image."""

    keys: list[str]
    values: Mapping[tuple[str, ...], Mapping[str, float]]

    def of(self, row: Row) -> Mapping[str, float]:
        """The values whose mean a row of the table is; none of medians and of ratios of sums."""
        found = self.values.get(tuple(text_of(row.get(key)) for key in self.keys), {})
        same = found and np.isclose(np.mean([*found.values()]), row["value"], rtol=1e-3, atol=1e-6)
        return found if same else {}


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
        try:
            found = yaml.safe_load(file.read_bytes()) if file.is_file() else {}
        except yaml.YAMLError as error:  # a tag that names code is refused here, too
            reason = str(error).strip().partition("\n")[0]
            raise UserError(f"{file} is no plain configuration ({reason}): leave this run out") from error
        kept = {key: value for key, value in (found or {}).items() if key not in UNCOMPARED}
        return {key: value if isinstance(value, str) else json.dumps(value) for key, value in _flat(kept)}

    @cached_property
    def tables(self) -> dict[str, Path]:
        """Its tidy tables."""
        files = sorted((self.folder / "tables").glob("*.csv"))
        return {file.stem: file for file in files if {"metric", "value"} <= {*_header(file)}}

    def rows(self, table: str) -> list[Row]:
        """One of its tables."""
        frame = pd.read_csv(self.tables[table]).astype(object)
        return [
            dict(zip(frame, values, strict=True)) for values in frame.where(frame.notna(), None).to_numpy().tolist()
        ]

    def cases(self, table: str) -> Cases:
        """The values of images behind one of its tables, if it kept any: ``cases/<table>.csv.gz``.

        Of an image that holds several, such as one for each target, the mean.
        """
        file = self.folder / "cases" / f"{table}.csv.gz"
        if not file.is_file():
            return Cases([], {})
        frame = pd.read_csv(file, dtype={"image": str})
        keys = [str(name) for name in frame if name not in ("image", "value")]
        several: dict[tuple[str, ...], dict[str, list[float]]] = {}
        texts = [frame[key].map(text_of).tolist() for key in keys]
        for *key, image, value in zip(*texts, frame["image"].tolist(), frame["value"].tolist(), strict=True):
            several.setdefault(tuple(key), {}).setdefault(image, []).append(value)
        means = {key: {image: sum(all_) / len(all_) for image, all_ in of.items()} for key, of in several.items()}
        return Cases(keys, means)


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
    with file.open(encoding="utf-8") as lines:
        return lines.readline().strip().split(",")
