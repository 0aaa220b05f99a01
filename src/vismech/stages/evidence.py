"""What a run measured, as the page shows it: each measure's figures and rows."""

from __future__ import annotations

import inspect
import tempfile
from importlib import import_module
from pathlib import Path

import pandas as pd

from vismech.config.choices import Evaluation
from vismech.measures.base import Kind, measure_of, measured_rows
from vismech.report.evidence import Measured
from vismech.stages import effects
from vismech.stages.context import Plan
from vismech.stages.work import Work

ON_THE_PAGE = "extraction"
"""The table whose rows the page shows in tables of their own."""
EFFECTS = "How far the edges, u × gradient and |u| agree with what removing concepts was measured to do."


def evidence(work: Work, plan: Plan) -> list[Measured]:
    """Every measure of the run beside those of the table ``extraction``; first what the graph's own edits showed."""
    found = []
    if plan.effects:
        found.append(Measured("effects", EFFECTS, effects.effects_table(work, plan), []))
    for name in plan.evaluations:
        kind = measure_of(name)
        pictures = _pictures(work, plan, kind)
        if kind.table != ON_THE_PAGE or pictures:
            rows = pd.DataFrame() if kind.table == ON_THE_PAGE else measured_rows(work, plan, name)
            found.append(Measured(kind.table, _question(name, kind), rows, pictures))
    return found


def _pictures(work: Work, plan: Plan, kind: Kind) -> list[bytes]:
    if kind.figures is None:
        return []
    with tempfile.TemporaryDirectory() as folder:
        return [path.read_bytes() for path in kind.figures(work, plan, Path(folder)) if path.suffix == ".png"]


def _question(name: str, kind: Kind) -> str:
    """The first line of the measure's documentation."""
    ours = name in [each.value for each in Evaluation]
    module = import_module(f"vismech.measures.{name}") if ours else inspect.getmodule(kind.jobs)
    return (inspect.getdoc(module) or name).partition("\n")[0]
