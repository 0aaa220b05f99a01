"""What every measure is: its jobs, given the plan so far, and how their artifacts become rows, curves and figures.

A measure is a folder here, with its ``KIND`` in ``stage.py`` and the directions of its metrics in ``__init__.py``; or
one's own, named as package.module:NAME in ``evaluate.own``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vismech.config.choices import Evaluation, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.sources.own import Own, load_own
from vismech.stages.context import Context, Job, Plan
from vismech.stages.work import Work


class Kind(NamedTuple):
    """One kind of measurement.

    Attributes:
        jobs: the artifacts that it needs, with the rest of the plan at hand.
        table: the table that its rows belong to; several kinds may share one.
        name: of one number in ``metrics.json``, with the columns that tell numbers apart in braces.
        rows: what the artifacts say, tidy and long.
        figures: draws what it has to show into a folder and returns the files, if it has anything to show.
        alone: whether it makes its own networks and images, and needs nothing of the plan.
        cases: the numbers behind the rows, image by image: the table's keys, then metric, image and value; written to
            ``cases/<table>.csv.gz``, so that runs can be compared image by image.
        curves: mean curves, written to ``tables/curves.csv``.
        needs: the stages whose artifacts it reads, beside those of the extraction.
        elsewhere: whether it takes codes that are read from another layer than the one that they rebuild.
    """

    jobs: Callable[[Context, Plan], list[Job]]
    table: str
    name: str
    rows: Callable[[Work, Plan], pd.DataFrame]
    figures: Callable[[Work, Plan, Path], list[Path]] | None = None
    alone: bool = False
    cases: Callable[[Work, Plan], pd.DataFrame] | None = None
    curves: Callable[[Work, Plan], pd.DataFrame] | None = None
    needs: tuple[Stage, ...] = (Stage.dictionary,)
    elsewhere: bool = False


TRACED = (Stage.dictionary, Stage.trace)


def measure_of(name: str) -> Kind:
    """The measure of that name: one of ours, or package.module:NAME.

    Raises:
        UserError: a name that is none of a measure's.
    """
    if name in [kind.value for kind in Evaluation]:
        return import_module(f"vismech.measures.{name}.stage").KIND
    found = load_own(name, "evaluate.own")
    if not isinstance(found, Kind):
        raise UserError(f"evaluate.own={name} is {type(found).__name__}, not a vismech.measures.base.Kind")
    return found


def asked(config: Config) -> Iterator[str]:
    """The names of the measures that a configuration asks for, each once."""
    yield from dict.fromkeys([*(kind.value for kind in config.evaluate.kinds), *config.evaluate.own])


def jobs_of(name: str, ctx: Context, plan: Plan) -> list[Job]:
    """A measure's jobs; those of one's own have its code in their keys, so that a change of it is measured again."""
    jobs = measure_of(name).jobs(ctx, plan)
    if name in [kind.value for kind in Evaluation]:
        return jobs
    code, stamped = Own.of(name, {}, "evaluate.own").code, {}
    for number, job in enumerate(jobs):
        specs = {}
        for unit, spec in job.specs.items():
            parents = {role: stamped.get(parent.key, parent) for role, parent in spec.parents.items()}
            specs[unit] = stamped[spec.key] = replace(spec, parents=parents, code=code)
        jobs[number] = replace(job, specs=specs)
    return jobs


def measured_rows(work: Work, plan: Plan, name: str) -> pd.DataFrame:
    """A kind's rows, read and resampled once in a run."""
    if name not in plan.rows:
        plan.rows[name] = measure_of(name).rows(work, plan)
    return plan.rows[name]


def alone(config: Config) -> bool:
    """Whether a run is for nothing but measures that need neither model nor data."""
    names = list(asked(config))
    return config.until is Stage.evaluate and bool(names) and all(measure_of(name).alone for name in names)
