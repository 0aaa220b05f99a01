"""Stage evaluate: everything that is measured beside the graph, one module per kind.

A kind names its jobs, given the plan so far, and reads their artifacts into rows of one of the run's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from vismech.config import Evaluation
from vismech.stages.context import Context, Job, Plan
from vismech.stages.evaluations import reconstruction


class Kind(NamedTuple):
    """One kind of measurement.

    Attributes:
        jobs: the artifacts that it needs, with the rest of the plan at hand.
        table: the table that its rows belong to; several kinds may share one.
        name: of one number in ``metrics.json``, with the columns that tell numbers apart in braces.
        rows: what the artifacts say, tidy and long.
    """

    jobs: Callable[[Context, Plan], list[Job]]
    table: str
    name: str
    rows: Callable[[Context, Plan], pd.DataFrame]


EVALUATIONS = {
    Evaluation.reconstruction: Kind(reconstruction.jobs, "extraction", "extraction/{layer}", reconstruction.rows),
}
