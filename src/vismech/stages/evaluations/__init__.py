"""Stage evaluate: everything that is measured beside the graph, one module per kind.

A kind names its jobs, given the plan so far, and reads their artifacts into rows of one of the run's tables.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from vismech.choices import Evaluation
from vismech.stages.context import Context, Job, Plan
from vismech.stages.evaluations import attribution, localization, reconstruction, saturation


class Kind(NamedTuple):
    """One kind of measurement.

    Attributes:
        jobs: the artifacts that it needs, with the rest of the plan at hand.
        table: the table that its rows belong to; several kinds may share one.
        name: of one number in ``metrics.json``, with the columns that tell numbers apart in braces.
        rows: what the artifacts say, tidy and long.
        figures: draws what it has to show into a folder and returns the files, if it has anything to show.
    """

    jobs: Callable[[Context, Plan], list[Job]]
    table: str
    name: str
    rows: Callable[[Context, Plan], pd.DataFrame]
    figures: Callable[[Context, Plan, Path], list[Path]] | None = None


EVALUATIONS = {
    Evaluation.reconstruction: Kind(reconstruction.jobs, "extraction", "extraction/{layer}", reconstruction.rows),
    Evaluation.localization: Kind(
        localization.jobs, "localization", "localization/{layer}/{map}/{fraction:g}/{place}", localization.rows
    ),
    Evaluation.saturation: Kind(
        saturation.jobs, "saturation", "saturation/{lower}->{upper}/{path}", saturation.rows, saturation.figures
    ),
    Evaluation.attribution: Kind(
        attribution.jobs, "attribution", "attribution/{source}->{target}/{path}", attribution.rows
    ),
}
