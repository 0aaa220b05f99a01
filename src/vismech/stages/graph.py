"""Stage graph: the kept concepts and the edges between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from vismech.attribution.account import ClassValues, absences
from vismech.attribution.aggregation import group_means, select_concepts
from vismech.attribution.graph import LayerConcepts, LayerEdges, build_graph, named
from vismech.attribution.influence import Inflow
from vismech.config.choices import Along, Output, Stage
from vismech.costs.cost import Amount, Cost, Kind
from vismech.network.layers import LOGITS
from vismech.stages.context import Context, Job
from vismech.stages.counted import concepts_of
from vismech.stages.effects import layer_effects, marked
from vismech.stages.explained import Explained
from vismech.stages.settings import KeptSettings
from vismech.stages.trace import TraceSettings, images_of, importance, read_explained
from vismech.stages.work import Work
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.settings import Settings, used

VERSION = 3
RESAMPLED = 3_000
"""Operations for a parent's means and intervals, about; for the cost alone."""


@dataclass(frozen=True)
class GraphSettings(Settings):
    """The graph, and its layers in network order."""

    graph: KeptSettings
    layers: tuple[str, ...]


def job(
    ctx: Context,
    logits: Spec,
    to_class: Mapping[str, Spec],
    pairs: Mapping[tuple[str, str], Spec],
    measured: Mapping[str, Spec],
) -> Job:
    """The run's graph.

    Args:
        ctx: the run.
        logits: the predictions.
        to_class: layer → its trace to the class.
        pairs: (lower, upper) → trace between adjacent layers.
        measured: "lower->upper" → measured effects of the lower layer's concepts, where there are any.
    """
    graph = KeptSettings.from_group(ctx.config.graph, classes=ctx.explained_classes)
    parents = {"logits": logits, **{f"class {layer}": spec for layer, spec in to_class.items()}}
    parents |= {f"{lower}->{upper}": spec for (lower, upper), spec in pairs.items()}
    parents |= {f"effects {unit}": spec for unit, spec in measured.items()}
    settings = GraphSettings(graph, tuple(ctx.layers))
    return Job(Stage.graph, {"graph": Spec(Stage.graph.value, VERSION, "", settings, parents)}, compute, cost)


def cost(work: Work, specs: Mapping[str, Spec[GraphSettings]]) -> dict[str, Cost]:
    """The traces' edges, read and averaged."""
    found = {}
    for unit, spec in specs.items():
        edges = 0.0
        for traced in spec.parents.values():
            if traced.stage == Stage.trace.value:
                images, _ = images_of(work, spec.parents["logits"], traced.settings.explained)
                targets = 1 if traced.settings.upper == LOGITS else used(traced.settings.important, 1)
                k = concepts_of(work, traced.settings.lower, traced.parents["dictionary"])
                edges += images * targets * float(k)
        found[unit] = Cost(work={Kind.products: Amount(traffic=40.0 * edges, launches=RESAMPLED * len(spec.parents))})
    return found


def compute(work: Work, specs: Mapping[str, Spec[GraphSettings]]) -> None:
    """``graph.json``."""
    for spec in specs.values():
        wanted, ordered = spec.settings.graph, list(spec.settings.layers)
        traced: TraceSettings = spec.parents[f"class {ordered[0]}"].settings
        who = read_explained(work, spec.parents["logits"], traced.explained)
        own = _class_values(work.store.open(spec.parents["logits"]), traced.path.output, who)
        with_error = traced.path.along is Along.activation
        layers, pairs = [], []
        for layer in ordered:
            to_class = work.store.open(spec.parents[f"class {layer}"])
            layers.append(
                LayerConcepts(
                    layer,
                    found := importance(to_class, who),
                    select_concepts(found, wanted.important, wanted.shared),
                    _values(own, to_class, who),
                    _absent(to_class, who),
                )
            )
        for lower, upper in zip(ordered, [*ordered[1:], LOGITS], strict=True):
            name = f"class {lower}" if upper == LOGITS else f"{lower}->{upper}"
            trace = work.store.open(spec.parents[name])
            mean, size = _inflow(trace, who, with_error), _inflow(trace, who, with_error, np.abs)
            pairs.append(LayerEdges(lower, upper, trace.json("trace.json")["targets"], mean, size))
        groups = [
            {
                "key": group.key,
                "index": group.index,
                "images": int((who.group == index).sum()),
                **({} if group.against is None else {"against": group.against}),
            }
            for index, group in enumerate(who.groups)
        ]
        with work.store.writer(spec) as folder:
            graph = build_graph(str(wanted.scope.value), groups, layers, pairs, wanted.prune)
            if held := _held(work, spec):
                graph["held"] = held
            effects = [parent for name, parent in spec.parents.items() if name.startswith("effects ")]
            if effects:
                found = {one.settings.lower: layer_effects(work, one, who) for one in effects}
                graph = marked(graph, found, effects[0].settings.edit)
            write_json(folder / "graph.json", graph)


def _held(work: Work, spec: Spec[GraphSettings]) -> dict[str, list[str]]:
    """lower->upper → what is held around the lower layer, for the pairs where anything is."""
    traces = [parent for parent in spec.parents.values() if parent.stage == Stage.trace.value]
    told = {trace.unit: work.store.open(trace).json("trace.json").get("held") for trace in traces}
    return {unit: held for unit, held in told.items() if held}


def read(work: Work, spec: Spec[Any], given: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The graph of ``spec`` with the names that classes have in this run, and those ``given`` to concepts by their
    nodes' ids: they are in no key."""
    graph = work.store.open(spec).json("graph.json")
    found = named(graph, {group["key"]: _name(work, group) for group in graph["groups"]}, given or {})
    for group in found["groups"]:
        if "against" in group:
            group |= {"answered": work.class_name(group["index"]), "labelled": work.class_name(group["against"])}
    return found


def _name(work: Work, group: Mapping[str, Any]) -> str:
    """A group's class; of a difference both classes, as what is read: answered − labelled."""
    if group["index"] is None:
        return "all images"
    name = work.class_name(group["index"])
    return f"{name} − {work.class_name(group['against'])}" if "against" in group else name


def _class_values(logits: Artifact, output: Output, who: Explained) -> np.ndarray:
    """What the network itself says of each explained image's class [n], or of the difference of its two classes: by
    logit, or by probability."""
    found = np.asarray(logits.array("logits.npy"))[who.rows].astype(np.float64)
    if output is Output.probability:
        found = np.exp(found - found.max(1, keepdims=True))
        found /= found.sum(1, keepdims=True)
    own = np.take_along_axis(found, who.classes.reshape(len(found), -1).astype(np.int64), 1)
    return own[:, 0] - own[:, 1:].sum(1)


def _values(own: np.ndarray, to_class: Artifact, who: Explained) -> ClassValues:
    columns = [own, *(np.asarray(to_class.array(f"{name}.npy"))[:, 0] for name in ("value", "baseline", "error"))]
    return ClassValues(*(group_means(column, who.group, len(who.groups)) for column in columns))


def _absent(to_class: Artifact, who: Explained) -> np.ndarray:
    edges, anchors = (np.asarray(to_class.array(f"{name}.npy")) for name in ("edges", "anchors"))
    return absences(edges[:, 0], anchors >= 0, who.group, len(who.groups))


def _inflow(
    trace: Artifact, who: Explained, with_error: bool, of: Callable[[np.ndarray], np.ndarray] = np.asarray
) -> Inflow:
    """Each group's mean of a trace's edges, or ``of`` them."""
    columns = ("edges", "baseline", *(["error"] if with_error else []))
    found = [group_means(of(trace.array(f"{column}.npy")), who.group, len(who.groups)) for column in columns]
    return Inflow(*found)
