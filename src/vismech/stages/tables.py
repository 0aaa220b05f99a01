"""The run's tables, from its artifacts: tidy and long."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.attribution.account import Answered, shares
from vismech.attribution.methods import COMPLETE, OPTIONS, options_of
from vismech.attribution.weights import SIDES, STILL
from vismech.config.choices import PathWeight, Rule
from vismech.network.layers import LOGITS
from vismech.passes.nodes import NODES, read_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.trace import NOT_CHECKED
from vismech.sources.labels import UNKNOWN
from vismech.stages.context import Plan
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Artifact, Spec
from vismech.store.settings import used

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


def completeness(work: Work, plan: Plan) -> pd.DataFrame:
    """How far each pair of layers' edges can be believed; adjacent pairs and each layer's way to the class.

    ``gap_median`` and ``gap_p95`` of the completeness gap, over (image, target) pairs that are present and change along
    the path; a part of the path, left_ig or right_ig, has no gap but a ``share_median`` of the change, and counts the
    targets that never make the share φ; so do attributions that are not complete. ``model_calls`` an image of what is
    no weight on the straight path. ``step_change``: with twice the steps. ``absent_targets``, ``still_targets``
    (present, but without a change) and ``uncrossed_targets`` are left out of what stands above them. With a tolerance,
    ``steps_mean`` and ``steps_max`` of the images. ``prefix_share``, where class tokens or others stand before the
    patch tokens: of what these and the patch tokens bring about, ``|prefix| / (|prefix| + |change along the path|)``,
    the median over (image, target) pairs that are present and that either changes. ``held_around``, where paths run
    around the lower layer: so many values on them are held, and edges are of what runs through the layer alone.
    ``rule``, ``steps`` and ``power`` are those that rule=auto chose.
    """
    specs = {(layer, LOGITS): spec for layer, spec in plan.to_class.items()} | dict(plan.pairs)
    order = {layer: index for index, layer in enumerate([*plan.vectors, LOGITS])}
    rows = []
    for (lower, upper), spec in sorted(specs.items(), key=lambda item: [order[name] for name in item[0]]):
        trace, path = work.store.open(spec), spec.settings.path
        base = {"lower": lower, "upper": upper, "path": path.under.value, **_nodes(path, trace)}
        rows += [{**base, **one._asdict()} for one in _converged(path, trace) if one.n]
    return tidy(rows, ["lower", "upper", "path", "rule", "steps", "power"])


def _nodes(path: PathSettings, trace: Artifact) -> dict[str, Any]:
    if path.rule is not Rule.auto or path.under in OPTIONS:
        rule = Rule.midpoint if path.rule is Rule.auto else path.rule
        return {"rule": rule.value, "steps": path.steps, "power": 1}
    chosen = read_nodes(trace.path(NODES))
    return {"rule": chosen.rule.value, "steps": chosen.steps, "power": chosen.power}


class _Measured(NamedTuple):
    metric: str
    value: float
    n: int
    units: str


def _converged(path: PathSettings, trace: Artifact) -> Iterator[_Measured]:
    def column(name: str) -> np.ndarray:
        return np.asarray(trace.array(f"{name}.npy"))

    present, moves, change = column("present"), column("moves"), column("change")
    if path.under in OPTIONS:
        targets = present.shape[1]
        options = options_of(path.under, used(path.options, {}))
        calls = options.calls(path.steps, targets, column("edges").shape[2])
        yield _Measured("model_calls", calls, len(present), "count per image")
    unequal = path.under in OPTIONS and path.under not in COMPLETE
    if unequal or path.under in (*SIDES, PathWeight.custom):  # parts of the change, so that no gap tells of them
        whole = column("value") - column("baseline")
        part = column("edges").sum(2) + column("error")
        yield _quantile("share_median", part[moves] / whole[moves], 0.5)
    else:
        yield _quantile("gap_median", column("gap")[moves], 0.5)
        yield _quantile("gap_p95", column("gap")[moves], 0.95)
    yield _quantile("step_change", change[present & (change != NOT_CHECKED)], 0.5)
    if used(path.tolerance, None) is not None:
        steps = column("steps")
        yield _Measured("steps_mean", float(steps.mean()), len(steps), "count")
        yield _Measured("steps_max", int(steps.max()), len(steps), "count")
    yield _Measured("absent_targets", int((~present).sum()), present.size, "count")
    yield _Measured("still_targets", int((present & ~moves).sum()), present.size, "count")
    if held := trace.json("trace.json").get("held"):
        yield _Measured("held_around", len(held), len(present), "count")
    if "prefix.npy" in trace.manifest["files"]:
        yield _quantile(
            "prefix_share", prefix_shares(column("prefix"), column("value"), column("baseline"), present), 0.5
        )
    if path.under in SIDES:
        yield _Measured("uncrossed_targets", int((moves & ~column("crosses")).sum()), present.size, "count")


def prefix_shares(prefix: np.ndarray, value: np.ndarray, baseline: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Share of the tokens before the patch tokens in what both bring about of each target, where that is more than
    rounding."""
    own, others = np.abs(prefix), np.abs(value - baseline)
    sizes = np.maximum(np.abs(value), np.maximum(np.abs(baseline), np.abs(baseline - prefix)))
    some = present & (np.maximum(own, others) > STILL * sizes)
    return own[some] / (own + others)[some]


def _quantile(metric: str, values: np.ndarray, share: float) -> _Measured:
    value = float(np.quantile(values, share)) if len(values) else 0.0
    return _Measured(metric, value, len(values), "share")


def answered(work: Work, logits: Spec[Any]) -> Answered:
    """How many of the run's images the network answers rightly, of those whose class is known."""
    artifact = work.store.open(logits)
    classes = work.class_labels.classes(read_images(artifact).labels)
    known = classes != UNKNOWN
    right = np.asarray(artifact.array("logits.npy")).argmax(1) == classes
    return Answered(int((right & known).sum()), int(known.sum()))


def graph_scores(graph: Mapping[str, Any], told: Answered, unit: str = "logits") -> pd.DataFrame:
    """Scores of the whole graph, per group and for the mean over groups; what is left of it after pruning; and layer by
    layer what the drawn concepts account for of the class's value, in its ``unit`` and as shares of it."""
    images = {group["key"]: group["images"] for group in graph["groups"]}
    total, rows = sum(images.values()), []
    for group, scores in graph["scores"].items():
        base = {"group": group, "n": images.get(group, total), "units": "share"}
        rows += [{**base, "metric": name, "value": value} for name, value in scores.items() if value is not None]
    whole = list(graph["scores"])[-1]
    for name in ("nodes", "links"):
        rows.append({"group": whole, "metric": name, "value": len(graph[name]), "n": total, "units": "count"})
    if told.share is not None:
        rows.append({"group": whole, "metric": "accuracy", "value": told.share, "n": told.known, "units": "share"})
    for layer, accounts in graph["account"].items():
        for group, parts in accounts.items():
            base = {"group": group, "layer": layer, "n": images[group]}
            rows += [{**base, "metric": name, "value": value, "units": unit} for name, value in parts.items()]
            rows += [
                {**base, "metric": f"{name}_share", "value": value, "units": "share"}
                for name, value in shares(parts)._asdict().items()
                if value is not None
            ]
    return tidy(rows, ["group", "layer"])


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
