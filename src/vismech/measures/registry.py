"""Stage evaluate: everything that is measured beside the graph, one module per kind.

A kind names its jobs, given the plan so far, and reads their artifacts into rows of one of the run's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vismech.config.choices import Evaluation, Stage
from vismech.config.schema import Config
from vismech.measures.attribution import stage as attribution
from vismech.measures.insertion import stage as insertion
from vismech.measures.interlayer import stage as interlayer
from vismech.measures.localization import stage as localization
from vismech.measures.planted import stage as planted
from vismech.measures.reconstruction import stage as reconstruction
from vismech.measures.saturation import stage as saturation
from vismech.measures.stability import stage as stability
from vismech.measures.transfer import stage as transfer
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


TRACED = (Stage.dictionary, Stage.trace)


EVALUATIONS = {
    Evaluation.reconstruction: Kind(
        reconstruction.jobs, "extraction", "extraction/{layer}", reconstruction.rows, cases=reconstruction.cases
    ),
    Evaluation.localization: Kind(
        localization.jobs, "localization", "localization/{layer}/{map}/{fraction:g}/{place}", localization.rows
    ),
    Evaluation.saturation: Kind(
        saturation.jobs,
        "saturation",
        "saturation/{lower}->{upper}/{path}",
        saturation.rows,
        saturation.figures,
        needs=TRACED,
    ),
    Evaluation.attribution: Kind(
        attribution.jobs, "attribution", "attribution/{source}->{target}/{path}", attribution.rows, needs=TRACED
    ),
    Evaluation.insertion: Kind(
        insertion.jobs,
        "extraction",
        "extraction/{layer}/{variant}/{order}",
        insertion.rows,
        cases=insertion.cases,
        curves=insertion.curve_table,
    ),
    Evaluation.transfer: Kind(
        transfer.jobs, "extraction", "extraction/{layer}/{variant}/{order}", transfer.rows, cases=transfer.cases
    ),
    Evaluation.interlayer: Kind(
        interlayer.jobs,
        "interlayer",
        "interlayer/{lower}->{upper}/{order}/{score}/{readout}",
        interlayer.rows,
        interlayer.figures,
        cases=interlayer.cases,
        curves=interlayer.curve_table,
    ),
    Evaluation.stability: Kind(
        stability.jobs, "stability", "stability/{layer}/{against}", stability.rows, needs=TRACED
    ),
    Evaluation.planted: Kind(
        planted.jobs,
        "planted",
        "planted/{network}/{dictionary}/{noise:g}/{method}",
        planted.rows,
        planted.figures,
        alone=True,
        needs=(),
    ),
}


def measured_rows(work: Work, plan: Plan, kind: Evaluation) -> pd.DataFrame:
    """A kind's rows, read and resampled once in a run."""
    if kind not in plan.rows:
        plan.rows[kind] = EVALUATIONS[kind].rows(work, plan)
    return plan.rows[kind]


def alone(config: Config) -> bool:
    """Whether a run is for nothing but kinds that need neither model nor data."""
    kinds = config.evaluate.kinds
    return config.until is Stage.evaluate and bool(kinds) and all(EVALUATIONS[kind].alone for kind in kinds)
