"""Every concept of every layer in columns, for the page's list of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from vismech.report.listing import Columns
from vismech.stages import trace as trace_stage
from vismech.stages.context import Plan
from vismech.stages.work import Work


def listing(work: Work, plan: Plan) -> dict[str, Columns]:
    """Layer → its concepts' columns, in the order of their numbers."""
    measured, who = trace_stage.importances(work, plan), trace_stage.who_is_explained(work, plan)
    keys = [] if who is None else [group.key for group in who.groups]
    found = {}
    for layer, spec in plan.descriptions.items():
        artifact = work.store.open(spec)
        shares, facts = np.asarray(artifact.array("shares.npy")), artifact.json("concepts.json")
        names, parts = _commonest(work, np.asarray(artifact.array("classes.npy")), len(shares))
        importance = zip(keys, measured.get(layer, []), strict=False)
        found[layer] = Columns(
            _short(shares),
            _short(facts["tightness"]),
            _short(facts["entropy"]),
            names,
            _short(parts),
            {key: _short(values) for key, values in importance},
        )
    return found


def _commonest(work: Work, counts: np.ndarray, k: int) -> tuple[list[str | None], list[float | None]]:
    """Each concept's commonest class, the first of several, and the share of its members that are of it."""
    names: list[str | None] = [None] * k
    parts: list[float | None] = [None] * k
    totals = np.bincount(counts[:, 0], counts[:, 2], minlength=k)
    for concept, label, count in counts[np.lexsort((-counts[:, 1], counts[:, 2]))].tolist():
        names[concept], parts[concept] = work.label_name(label), count / totals[concept]
    return names, parts


def _short(values: Iterable[Any]) -> list[float | None]:
    """Three significant digits, which is what the page writes."""
    return [None if value is None else float(f"{value:.3g}") for value in values]
