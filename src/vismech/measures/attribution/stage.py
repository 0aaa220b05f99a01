"""How well attributions tell what units do, for concepts of each layer and for pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd

from vismech.config.choices import Evaluation
from vismech.measures.attribution.loop import METHODS, AttributionLoop
from vismech.measures.base import TRACED, Kind
from vismech.measures.unit_loop import score_columns
from vismech.measures.units import Scores, interval_row, unit_jobs
from vismech.network.pfv import Layout
from vismech.stages.context import Context, Job, Plan
from vismech.stages.tables import tidy
from vismech.stages.work import Work
from vismech.store.rows import Column

VERSION = 1
MEDIANS = ("completeness", "infidelity", "infidelity_relative")
"""Errors relative to a change that may be small, or squared: a mean would be that of a few targets."""
UNITS = {"infidelity": "output squared"}


def _columns(targets: int, steps: int, pixels: Layout | None) -> dict[str, Column]:
    return score_columns(AttributionLoop.scores, targets)


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One pair of layers each, and the pixels."""
    return unit_jobs(ctx, plan, Evaluation.attribution, VERSION, AttributionLoop, _columns)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every source, target and method, in the form of ``attribution.csv``; ``n`` counts images, which are resampled."""
    found = []
    for spec in plan.evaluations[Evaluation.attribution].values():
        scores = Scores(work.store.open(spec))
        for column, method in enumerate(METHODS):
            base = {"source": spec.inputs["lower"], "target": spec.inputs["upper"], "path": method}
            for metric in AttributionLoop.scores:
                middle = np.median if metric in MEDIANS else np.mean
                cases = scores.images(metric, column, middle=middle)
                found += interval_row(base, metric, cases, UNITS.get(metric, "share"), middle)
    return tidy(found, ["source", "target", "path"])


KIND = Kind(jobs, "attribution", "attribution/{source}->{target}/{path}", rows, needs=TRACED)
