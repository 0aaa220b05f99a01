"""Stage graph: the kept concepts and the edges between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vismech.attribution.account import ClassValues, absences
from vismech.attribution.aggregation import group_means
from vismech.attribution.graph import LayerConcepts, LayerEdges, build_graph, named
from vismech.attribution.influence import Inflow
from vismech.config.choices import Along, Output, Stage
from vismech.network.layers import LOGITS
from vismech.stages import trace as trace_stage
from vismech.stages.context import Context, Job
from vismech.stages.explained import Explained
from vismech.store.artifacts import Artifact, Spec, plain, write_json

VERSION = 3


def job(ctx: Context, logits: Spec, to_class: Mapping[str, Spec], pairs: Mapping[tuple[str, str], Spec]) -> Job:
    """The run's graph.

    Args:
        ctx: the run.
        logits: the predictions.
        to_class: layer → its trace to the class.
        pairs: (lower, upper) → trace between adjacent layers.
    """
    graph = plain(ctx.config.graph)
    parents = {"logits": logits, **{f"class {layer}": spec for layer, spec in to_class.items()}}
    parents |= {f"{lower}->{upper}": spec for (lower, upper), spec in pairs.items()}
    inputs = {"graph": graph, "layers": ctx.layers}
    return Job(Stage.graph, {"graph": Spec(Stage.graph.value, VERSION, "", inputs, parents)}, compute)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """``graph.json``."""
    for spec in specs.values():
        logits = ctx.store.open(spec.parents["logits"])
        who = trace_stage.read_explained(ctx, logits)
        own = _class_values(ctx, logits, who)
        layers, pairs = [], []
        for layer in ctx.layers:
            to_class = ctx.store.open(spec.parents[f"class {layer}"])
            layers.append(
                LayerConcepts(
                    layer,
                    trace_stage.importance(ctx, to_class, who),
                    trace_stage.selection(ctx, to_class, who),
                    _values(own, to_class, who),
                    _absent(to_class, who),
                )
            )
        for lower, upper in zip(ctx.layers, [*ctx.layers[1:], LOGITS], strict=True):
            name = f"class {lower}" if upper == LOGITS else f"{lower}->{upper}"
            trace = ctx.store.open(spec.parents[name])
            mean, size = _inflow(ctx, trace, who), _inflow(ctx, trace, who, np.abs)
            pairs.append(LayerEdges(lower, upper, trace.json("trace.json")["targets"], mean, size))
        groups = [
            {
                "key": group.key,
                "index": group.index,
                "images": int((who.group == index).sum()),
            }
            for index, group in enumerate(who.groups)
        ]
        with ctx.store.writer(spec) as folder:
            wanted = ctx.config.graph
            graph = build_graph(str(wanted.scope.value), groups, layers, pairs, wanted.prune)
            write_json(folder / "graph.json", graph)


def read(ctx: Context, spec: Spec) -> dict[str, Any]:
    """The graph of ``spec`` with the names that classes have in this run: they are in no key."""
    graph = ctx.store.open(spec).json("graph.json")
    names = {
        group["key"]: "all images" if group["index"] is None else ctx.class_name(group["index"])
        for group in graph["groups"]
    }
    return named(graph, names)


def _class_values(ctx: Context, logits: Artifact, who: Explained) -> np.ndarray:
    """What the network itself says of each explained image's class [n]: its logit, or its probability."""
    found = np.asarray(logits.array("logits.npy"))[who.rows].astype(np.float64)
    if ctx.config.attribute.output is Output.probability:
        found = np.exp(found - found.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
    return np.take_along_axis(found, who.classes[:, None].astype(np.int64), 1)[:, 0]


def _values(own: np.ndarray, to_class: Artifact, who: Explained) -> ClassValues:
    columns = [own, *(np.asarray(to_class.array(f"{name}.npy"))[:, 0] for name in ("value", "baseline", "error"))]
    return ClassValues(*(group_means(column, who.group, len(who.groups)) for column in columns))


def _absent(to_class: Artifact, who: Explained) -> np.ndarray:
    edges, anchors = (np.asarray(to_class.array(f"{name}.npy")) for name in ("edges", "anchors"))
    return absences(edges[:, 0], anchors >= 0, who.group, len(who.groups))


def _inflow(
    ctx: Context, trace: Artifact, who: Explained, of: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> Inflow:
    """Each group's mean of a trace's edges, or ``of`` them."""
    with_error = ctx.config.attribute.along is Along.activation
    columns = ("edges", "baseline", *(["error"] if with_error else []))
    found = [group_means(of(trace.array(f"{column}.npy")), who.group, len(who.groups)) for column in columns]
    return Inflow(*found)
