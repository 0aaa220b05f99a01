"""The run's tables, from its artifacts: tidy and long, with the columns that DESIGN's contract names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from vismech.config import Code
from vismech.lit.trace import NOT_CHECKED
from vismech.network import LOGITS
from vismech.pipeline import Events, Plan
from vismech.stages.context import Context

TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]
UNITS = {"l0": "concepts per vector", "dead": "concepts", "dense": "concepts", "r2": "share", "relative_error": "share"}


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
    return pd.DataFrame(rows, columns=["lower", "upper", *keys, *TAIL])


def reconstruction(ctx: Context, plan: Plan) -> pd.DataFrame:
    """Reconstruction of every layer, in the form of ``extraction.csv``."""
    wanted = ctx.config.dictionary
    keys = ["layer", "dictionary", "k", "code", "center", "mean_rule", "variant", "order", "budget"]
    rows = []
    for layer, spec in plan.evaluations.items():
        metrics = ctx.store.open(spec).json("metrics.json")
        images, positions = metrics.pop("images"), metrics.pop("positions")
        base = {
            "layer": layer,
            "dictionary": wanted.method.value,
            "k": plan.dictionaries[layer].inputs["k"],
            "code": wanted.code.value,
            "center": wanted.center,
            "mean_rule": "kept" if wanted.center else "none",
            "variant": "reconstruction",
            "order": "none",
            "budget": wanted.l0_per_channel if wanted.code is Code.omp else wanted.penalty,
        }
        for metric, value in metrics.items():
            accuracy = metric.endswith(("_clean", "_spliced"))
            count = images if accuracy else positions
            low, high = _wilson(value, images) if accuracy else (None, None)
            units = "share of images" if accuracy else UNITS.get(metric, "count")
            tail = dict(zip(TAIL, (metric, value, count, low, high, units), strict=True))
            rows.append({**base, **tail})
    return pd.DataFrame(rows, columns=[*keys, *TAIL])


def timings(events: Events) -> pd.DataFrame:
    """Seconds, peak memory and size of every artifact; zero seconds for what was cached."""
    columns = ["stage", "unit", "seconds", "peak_rss_bytes", "items", "cached"]
    return pd.DataFrame([asdict(timing) for timing in events.timings], columns=columns)


def flat_metrics(tables: Mapping[str, pd.DataFrame]) -> dict[str, Any]:
    """One number per name for ``metrics.json`` and loggers: ``<table>/<keys>/<metric>``."""
    found: dict[str, Any] = {}
    for row in tables["completeness"].to_dict("records"):
        found[f"completeness/{row['lower']}->{row['upper']}/{row['metric']}"] = row["value"]
    for row in tables["extraction"].to_dict("records"):
        found[f"extraction/{row['layer']}/{row['metric']}"] = row["value"]
    timings = tables["timings"].to_dict("records")
    found["seconds"] = sum(row["seconds"] for row in timings)
    found["cached"] = sum(row["cached"] for row in timings)
    found["computed"] = len(timings) - found["cached"]
    return found


def _wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    centre = share + z * z / (2 * count)
    spread = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    scale = 1 + z * z / count
    return float((centre - spread) / scale), float((centre + spread) / scale)
