"""The run's tables, from its artifacts: tidy and long, with the columns that DESIGN's contract names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from vismech.lit.trace import NOT_CHECKED
from vismech.network import LOGITS
from vismech.stages.context import Context, Plan

TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]


@dataclass
class Timing:
    """What one artifact cost; ``items`` counts payload bytes' images or concepts as the stage reports them."""

    stage: str
    unit: str
    seconds: float
    peak_rss_bytes: int
    items: int
    cached: bool


def tidy(rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> pd.DataFrame:
    """Rows under a table's columns: its keys, then metric, value, n, ci_low, ci_high, units."""
    return pd.DataFrame(list(rows), columns=[*keys, *TAIL])


def completeness(ctx: Context, plan: Plan) -> pd.DataFrame:
    """Completeness gap (median, 95th percentile) and change with twice the steps, per pair of layers.

    Adjacent pairs and each layer's way to the class; over present (image, target) pairs.
    """
    attribute = ctx.config.attribute
    keys = {"path": attribute.path.value, "rule": attribute.rule.value, "steps": attribute.steps}
    specs = {(layer, LOGITS): spec for layer, spec in plan.to_class.items()} | dict(plan.pairs)
    order = {layer: index for index, layer in enumerate([*ctx.layers, LOGITS])}
    rows = []
    for (lower, upper), spec in sorted(specs.items(), key=lambda item: [order[name] for name in item[0]]):
        trace = ctx.store.open(spec)
        present = np.asarray(trace.array("present.npy"))
        gap, change = np.asarray(trace.array("gap.npy"))[present], np.asarray(trace.array("change.npy"))[present]
        change = change[change != NOT_CHECKED]
        base = {"lower": lower, "upper": upper, **keys}
        for metric, values, share in (("gap_median", gap, 0.5), ("gap_p95", gap, 0.95), ("step_change", change, 0.5)):
            if len(values):
                value = float(np.quantile(values, share))
                rows.append({**base, "metric": metric, "value": value, "n": len(values), "units": "share"})
        absent = int((~present).sum())
        rows.append({**base, "metric": "absent_targets", "value": absent, "n": present.size, "units": "count"})
    return tidy(rows, ["lower", "upper", *keys])


def timings(measured: Sequence[Timing]) -> pd.DataFrame:
    """Seconds, peak memory and size of every artifact; zero seconds for what was cached."""
    columns = ["stage", "unit", "seconds", "peak_rss_bytes", "items", "cached"]
    return pd.DataFrame([asdict(timing) for timing in measured], columns=columns)


def flat_metrics(name: str, frame: pd.DataFrame) -> dict[str, float]:
    """One number per row for ``metrics.json`` and loggers, called ``<name>/<metric>``.

    Args:
        name: with the columns that tell rows apart in braces, such as ``extraction/{layer}``.
        frame: the table.
    """
    return {f"{name.format(**row)}/{row['metric']}": row["value"] for row in frame.to_dict("records")}


def work_metrics(frame: pd.DataFrame) -> dict[str, Any]:
    """Seconds and numbers of artifacts computed and cached, from ``timings``."""
    timings = frame.to_dict("records")
    found: dict[str, Any] = {}
    found["seconds"] = sum(row["seconds"] for row in timings)
    found["cached"] = sum(row["cached"] for row in timings)
    found["computed"] = len(timings) - found["cached"]
    return found
