"""Numbers of several runs side by side: which belong in one column, which of them is best, and which tie with it.

A number is told from others by its table's keys, and where these are equal by the settings that differ among the runs.
Numbers of one metric in one column of the comparison compete.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

import numpy as np

from vismech.compare.run_tables import TAIL, Row, Run, text_of
from vismech.config.choices import Evaluation
from vismech.errors import UserError
from vismech.measures.statistics import paired_difference

MEASURES = [import_module(f"vismech.measures.{name}") for name in Evaluation]
COLUMNS = (("layer",), ("lower", "upper"), ("source", "target"), ("network",))
"""What becomes the columns of a comparison: the first of these that the table has."""
LOWER = frozenset(["gap_median", "gap_p95", "step_change"]).union(*(one.LOWER for one in MEASURES))
"""Metrics of which less is better: errors, gaps, what is left after deletion, sensitivities, useless concepts."""
NEUTRAL = frozenset(
    [
        *("share_median", "steps_mean", "steps_max", "nodes", "links"),
        *("absent_targets", "still_targets", "uncrossed_targets", "slope", "achieved"),
    ]
).union(*(one.NEUTRAL for one in MEASURES))
"""Metrics that describe and do not rank: sizes, what was left out, controls, chance levels."""
APART = ("variant", "score", "readout")
"""Keys whose different values measure different things: their numbers do not compete."""


class Numbers(NamedTuple):
    """Rows of several runs.

    Attributes:
        rows: ``place`` (which run) and ``run`` (its label), settings, keys and TAIL.
        settings: keys of the configuration that differ among the runs.
        keys: the table's own keys.
    """

    rows: list[Row]
    settings: list[str]
    keys: list[str]

    def values(self, name: str) -> list[str]:
        """What a key is in these rows, each text once."""
        return list(dict.fromkeys(text_of(row[name]) for row in self.rows))

    def cells(self, names: Iterable[str]) -> dict[tuple[str, ...], list[Row]]:
        """The rows by metric and what ``names`` are."""
        found: dict[tuple[str, ...], list[Row]] = {}
        for row in self.rows:
            found.setdefault((row["metric"], *(text_of(row[name]) for name in names)), []).append(row)
        return found


def collect_runs(runs: Sequence[Run], table: str) -> Numbers:
    """The rows of one table of all runs.

    Raises:
        UserError: no rows, or a value that is not finite.
    """
    every = dict.fromkeys(key for run in runs for key in run.settings)
    tables = [run.rows(table) for run in runs]
    keys = [key for key in dict.fromkeys(key for rows in tables for row in rows for key in row) if key not in TAIL]
    differ = [key for key in every if key not in keys and len({run.settings.get(key) for run in runs}) > 1]
    found: list[Row] = []
    for place, (run, rows) in enumerate(zip(runs, tables, strict=True)):
        facts = {"place": place, "run": run.label, **{key: run.settings.get(key) for key in differ}}
        found += [{**facts, **dict.fromkeys([*keys, *TAIL]), **row} for row in rows]
    if not found or not all(_finite(row["value"]) for row in found):
        raise UserError(f"table {table!r} holds {'a value that is no number' if found else 'no rows'}")
    return Numbers(found, differ, keys)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and bool(np.isfinite(value))


def select(numbers: Numbers, metrics: Sequence[str], where: Mapping[str, Sequence[str]]) -> Numbers:
    """The rows of some metrics (none: all), in their order, whose keys have one of the values wanted.

    Raises:
        UserError: an unknown metric or key, or a value that no row has.
    """
    known_keys(numbers, [*where])
    for key, wanted in where.items():
        texts = [text_of(value) for value in wanted]
        for text in texts:
            known(text, numbers.values(key), f"row with {key}")
        numbers = numbers._replace(rows=[row for row in numbers.rows if text_of(row[key]) in texts])
    there = numbers.values("metric")
    for metric in metrics:
        known(metric, there, "metric")
    return numbers._replace(
        rows=[row for metric in metrics or there for row in numbers.rows if row["metric"] == metric]
    )


def default_columns(numbers: Numbers) -> list[str]:
    """The table's layers or pairs of layers."""
    return next(([*names] for names in COLUMNS if {*names} <= {*numbers.keys}), [])


def default_rows(numbers: Numbers, columns: Sequence[str]) -> list[str]:
    """The table's keys that vary, then as many more as it takes to give every number a cell of its own.

    These are settings that differ among the runs, then keys that the column decides (k where it is a multiple of the
    channels), and at last the run.
    """
    found, bound = [], []
    for key in numbers.keys:
        if key not in columns and len(numbers.values(key)) > 1:
            (bound if _decided(numbers, key, columns) else found).append(key)
    for key in [*numbers.settings, *bound, "run"]:
        cells = len(numbers.cells([*found, *columns]))
        if cells < len(numbers.rows) and len(numbers.cells([*found, key, *columns])) > cells:
            found.append(key)
    return found or ["run"]


def _decided(numbers: Numbers, key: str, columns: Sequence[str]) -> bool:
    """Whether in every run the column says what a key is, and another column says otherwise."""
    run: dict[int, set[str]] = {}
    cell: dict[tuple, set[str]] = {}
    for row in numbers.rows:
        run.setdefault(row["place"], set()).add(text_of(row[key]))
        cell.setdefault((row["place"], *(text_of(row[name]) for name in columns)), set()).add(text_of(row[key]))
    return max(map(len, cell.values())) == 1 < max(map(len, run.values()))


def one_to_a_cell(numbers: Numbers, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Refuse rows and columns that leave several numbers to one cell.

    Raises:
        UserError: what would tell the numbers apart.
    """
    there = [*numbers.settings, *numbers.keys, "run"]
    for (metric, *_), cell in numbers.cells([*rows, *columns]).items():
        if len(cell) > 1:
            differ = [key for key in there if len({text_of(row[key]) for row in cell}) > 1]
            remedy = (
                f"add to --rows, or choose with --where, one of {', '.join(differ)}" if differ else "they are doubles"
            )
            raise UserError(f"{len(cell)} numbers would share a cell of {metric}: {remedy}")


def judge(
    numbers: Numbers, runs: Sequence[Run], table: str, columns: Sequence[str], directions: Mapping[str, int]
) -> list[Row]:
    """The rows with ``mark`` (best, tied or empty), ``test`` (paired, overlap or empty) and the paired difference.

    In each metric and column, and for each value of APART's keys, the largest number is best, or the smallest where the
    metric's direction is −1; numbers equal to it are best too. Another ties with it when zero lies in the interval of
    their paired difference (:func:`~vismech.measures.statistics.paired_difference`, its own minus the best's) over
    the images that both runs kept values of, or, where one of them kept none, when their intervals overlap. Images that
    share an order in either run, as those of transfer do, are drawn together.
    """
    blank = dict.fromkeys(["mark", "test", "difference", "difference_low", "difference_high", "common_images"])
    judged = [{**row, **blank} for row in numbers.rows]
    cases = [run.cases(table) for run in runs]
    apart = [*columns, *(key for key in APART if key in numbers.keys)]
    for (metric, *_), part in numbers._replace(rows=judged).cells(apart).items():
        sign = directions.get(metric, direction(metric))
        if not sign or len(part) < 2:
            continue
        best = max(part, key=lambda row: sign * row["value"])
        first = cases[best["place"]].of(best)
        for row in part:
            if row["value"] == best["value"]:
                row["mark"] = "best"
                continue
            second = cases[row["place"]].of(row)
            common = sorted({*first} & {*second})
            ends = [row["ci_low"], row["ci_high"], best["ci_low"], best["ci_high"]]
            tied = False
            clusters = _together(common, cases[best["place"]].shared(best), cases[row["place"]].shared(row))
            # One cluster alone says nothing of how others would come out.
            if len(common) > 1 and (clusters is None or len({*clusters}) > 1):
                pairs = np.array([[second[image], first[image]] for image in common])
                found = paired_difference(
                    pairs[:, 0], pairs[:, 1], clusters=None if clusters is None else np.array(clusters)
                )
                names = ["difference", "difference_low", "difference_high"]
                row |= {**dict(zip(names, found, strict=True)), "test": "paired", "common_images": len(common)}
                tied = found.low <= 0 <= found.high
            elif None not in ends:
                row["test"] = "overlap"
                tied = ends[0] <= ends[3] and ends[2] <= ends[1]
            row["mark"] = "tied" if tied else None
    return judged


def _together(images: Sequence[str], *shared: Mapping[str, str]) -> list[int] | None:
    """The cluster of each image: together are those that share something in any of the runs; None where none do."""
    if not any(shared):
        return None
    above: dict[object, object] = {}

    def top(place: object) -> object:
        while above.setdefault(place, place) != place:
            place = above[place]
        return place

    for image in images:
        for run, clusters in enumerate(shared):
            if image in clusters:
                above[top((run, clusters[image]))] = top(image)
    tops = {each: number for number, each in enumerate(dict.fromkeys(top(image) for image in images))}
    return [tops[top(image)] for image in images]


def direction(metric: str) -> int:
    """1 where more is better, −1 where less is, 0 where neither; differences are judged as what they are of."""
    name = metric.partition("_minus_")[0]
    return 0 if name in NEUTRAL else -1 if name in LOWER else 1


def known_keys(numbers: Numbers, keys: Iterable[str]) -> None:
    """Refuse what is no key of the table, no setting that differs and not the run."""
    for key in keys:
        known(key, [*numbers.settings, *numbers.keys, "run"], "key")


def known(name: str, names: Sequence[str], what: str) -> None:
    """Refuse what is none of ``names``.

    Raises:
        UserError: what there is.
    """
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3) or names
        raise UserError(f"there is no {what} {name!r}; it can be {', '.join(near)}")
