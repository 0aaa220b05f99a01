"""Stage effects: what happens to the class and to the concepts above when a concept of the graph is edited."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from vismech.attribution.aggregation import select_concepts
from vismech.config.choices import EditValue, Output, PathWeight, ReadOut, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.intervene.agreement import agreements, contradicted, mean_effects
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit, mean_codes
from vismech.network.layers import LOGITS
from vismech.passes.effects import Edited, EffectsLoop, effect_columns
from vismech.passes.start import run_loop
from vismech.passes.trace import NOT_CHECKED, UpperConcepts
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, passing, reading, written
from vismech.stages.explained import Explained
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import TraceSettings, images_of, importance, read_explained
from vismech.stages.work import Work, compact, read_images
from vismech.store.artifacts import Artifact, Spec
from vismech.store.rows import Rows
from vismech.store.settings import UNUSED, Settings, used

VERSION = 1
CHECKED = 8
"""The share of an edit that arrives is measured on so many images: every one of them is encoded anew."""
MEAN_VECTORS = 8192
"""A concept's mean code is that over so many of the layer's vectors at most, evenly spread."""
EDITS = (EditValue.zero, EditValue.mean, EditValue.resample)
ORDERS = ("gig", "u_x_gradient", "magnitude")


@dataclass(frozen=True)
class EffectSettings(Settings):
    """Which concepts are edited and how; images, targets and read-outs are those of the traces.

    Attributes:
        lower, upper: the edited layer, and the next one or the class.
        edit: what a concept's code becomes.
        important, shared: how many concepts the graph keeps of the lower layer.
        seed: of the images that codes are resampled from.
    """

    lower: str
    upper: str
    edit: EditValue
    important: int
    shared: int
    seed: int = UNUSED


def job(ctx: Context, to_class: Mapping[str, Spec[Any]], pairs: Mapping[tuple[str, str], Spec[Any]]) -> Job:
    """The effects of every layer's kept concepts, in one pass.

    Args:
        ctx: the run.
        to_class: layer → its trace to the class.
        pairs: (lower, upper) → trace between adjacent layers.

    Raises:
        UserError: an edit that has no single meaning here.
    """
    graph, specs = ctx.config.graph, {}
    if graph.edit not in EDITS:
        raise UserError(f"graph.edit={graph.edit.value} must be one of {', '.join(each.value for each in EDITS)}")
    seed = ctx.config.seed if graph.edit is EditValue.resample else UNUSED
    for lower, upper in zip(ctx.layers, [*ctx.layers[1:], LOGITS], strict=True):
        settings = EffectSettings(lower, upper, graph.edit, graph.important, graph.shared, seed)
        parents = {"importance": to_class[lower]}
        if upper != LOGITS:
            parents["trace"] = pairs[lower, upper]
        if graph.edit is EditValue.mean:
            parents["vectors"] = to_class[lower].parents["dictionary"].parents["vectors"]
        unit = f"{lower}->{upper}"
        specs[unit] = Spec(Stage.effects.value, VERSION, unit, settings, parents)
    return Job(Stage.effects, specs, compute, cost, passes=True, concurrent=True)


def cost(work: Work, specs: Mapping[str, Spec[EffectSettings]]) -> dict[str, Cost]:
    """Codes, and for each edited concept a way to the next layer and from there to the class."""
    found, first = {}, next(iter(specs.values())).parents["importance"]
    images, _ = images_of(work, first.parents["logits"], first.settings.explained)
    groups, size = max(1, len(first.settings.explained.classes)), work.site.runtime.path_batch_size
    shared = reading(work, images) + activations(work, [*specs.values()][-1].settings.lower, images)
    for unit, spec in specs.items():
        wanted, traced = spec.settings, spec.parents["importance"]
        dictionary = traced.parents["dictionary"]
        kept = wanted.important * groups + wanted.shared * (groups > 1)
        edited = min(kept, concepts_of(work, wanted.lower, dictionary))
        targets = edited if wanted.upper != LOGITS else 1
        rows = float(images * (edited + 1))
        own = coded(work, wanted.lower, dictionary, traced.settings.coding, images + min(images, CHECKED) * edited)
        own += passing(work, wanted.lower, LOGITS, images, 0, 1)
        own += passing(work, wanted.lower, wanted.upper, rows, rows / size)
        if wanted.upper != LOGITS:
            own += passing(work, wanted.upper, LOGITS, rows, rows / size)
            own += passing(work, wanted.lower, wanted.upper, images, 0, targets)
        own += Cost(images, written=written(effect_columns(targets, edited), images), about=True)
        found[unit] = (shared if not found else Cost()) + own
    return found


def every_concept(ctx: Context, plan: Plan, edit: EditValue) -> dict[str, Spec[EffectSettings]]:
    """Layer → the effects on the class of all its concepts that have an edge to it."""
    found = {}
    for layer in ctx.layers:
        trace = plan.to_class[layer]
        parents = {"importance": trace}
        if edit is EditValue.mean:
            parents["vectors"] = trace.parents["dictionary"].parents["vectors"]
        every = dictionary_stage.size(ctx, layer) + 1  # and a mean concept
        seed = ctx.config.seed if edit is EditValue.resample else UNUSED
        settings = EffectSettings(layer, LOGITS, edit, every, 0, seed)
        found[layer] = Spec(Stage.effects.value, VERSION, f"{layer}->{LOGITS}", settings, parents)
    return found


def compute(work: Work, specs: Mapping[str, Spec[EffectSettings]]) -> None:
    """Fill ``specs`` in one pass; a pass that was killed is continued."""
    first: Spec[TraceSettings] = next(iter(specs.values())).parents["importance"]
    who = read_explained(work, first.parents["logits"], first.settings.explained)
    ids = read_images(work.store.open(first.parents["logits"])).ids
    indices = [work.data.place[ids[row]] for row in who.rows]
    with ExitStack() as stack:
        folders = {unit: stack.enter_context(work.store.writer(spec, resume=True)) for unit, spec in specs.items()}
        edited = {spec.settings.lower: _edited(work, spec, who) for spec in specs.values()}
        rows = {}
        for unit, spec in specs.items():
            one = edited[spec.settings.lower]
            targets = len(one.concepts.concepts) if one.concepts else 1
            columns = effect_columns(targets, len(one.edit.concepts))
            rows[spec.settings.lower] = Rows(folders[unit], columns, len(indices))
        loop = EffectsLoop(
            work.site,
            work.data,
            indices,
            rows,
            "effects",
            edited=edited,
            classes=who.classes.astype(np.int64),
            output=used(first.settings.path.output, Output.logit),
            readout=_readout(specs),
            checked=CHECKED,
            seed=used(next(iter(specs.values())).settings.seed, 0),
        )
        run_loop(loop)
        for unit, spec in specs.items():
            rows[spec.settings.lower].finish()
            one = edited[spec.settings.lower]
            above = list(one.concepts.concepts) if one.concepts else []
            facts = {"concepts": list(one.edit.concepts), "targets": above, "images": [ids[row] for row in who.rows]}
            (folders[unit] / "effects.json").write_bytes(compact(facts))


def _readout(specs: Mapping[str, Spec[EffectSettings]]) -> ReadOut:
    read = [spec.parents["trace"].settings.path.readout for spec in specs.values() if "trace" in spec.parents]
    return used(read[0], ReadOut.max) if read else ReadOut.max


def _edited(work: Work, spec: Spec[EffectSettings], who: Explained) -> Edited:
    wanted, own = spec.settings, spec.parents["importance"]
    traced: TraceSettings = own.settings
    layer = Layer(work.layout(wanted.lower), dictionary_stage.read(work, own.parents["dictionary"], traced.coding))
    found = importance(work.store.open(own), who)
    chosen = select_concepts(found, wanted.important, wanted.shared).concepts
    edit = Edit(tuple(chosen), wanted.edit, means=_means(work, spec, layer, chosen))
    if wanted.upper == LOGITS:
        return Edited(layer, edit, wanted.upper, None)
    trace = spec.parents["trace"]
    above = trace.parents["importance"]
    targets = work.store.open(trace).json("trace.json")["targets"]
    concepts = UpperConcepts(
        work.layout(wanted.upper),
        dictionary_stage.read(work, above.parents["dictionary"], traced.coding),
        tuple(targets),
        np.asarray(work.store.open(above).array("anchors.npy"))[:, targets],
    )
    return Edited(layer, edit, wanted.upper, concepts)


def _means(work: Work, spec: Spec[EffectSettings], layer: Layer, chosen: Sequence[int]) -> tuple[float, ...]:
    if "vectors" not in spec.parents:
        return ()
    means = mean_of_vectors(work, spec.parents["vectors"], layer)
    return tuple(means[list(chosen)].tolist())


def mean_of_vectors(work: Work, vectors: Spec[Any], layer: Layer) -> torch.Tensor:
    """Each concept's mean code [K] over a layer's stored vectors, of whole images, evenly spread."""
    stored = work.store.open(vectors).array("vectors.npy")  # [n, p, c]
    count = max(1, min(len(stored), MEAN_VECTORS // stored.shape[1]))
    rows = np.arange(count) * len(stored) // count
    there = layer.to(work.device).dictionary
    parts = [torch.from_numpy(np.array(stored[some])).to(work.device) for some in np.array_split(rows, -(-count // 64))]
    return mean_codes([there.encode(part) for part in parts]).cpu()


class Measured(NamedTuple):
    """Edges and effects of one pair of layers, image by image [n, T, Q]; T = 1 for the class.

    Attributes:
        upper: a layer, or ``logits``.
        by_order: what the attribution says, u × gradient, and Σ|u|.
        effects: what was measured.
        present: whether an image has the target [n, T].
    """

    upper: str
    by_order: dict[str, np.ndarray]
    effects: np.ndarray
    present: np.ndarray


def _array(artifact: Artifact, name: str) -> np.ndarray:
    return np.asarray(artifact.array(f"{name}.npy"))


def measured(work: Work, spec: Spec[EffectSettings]) -> Iterator[Measured]:
    """The pair of layers of a spec, and its lower layer against the class."""
    artifact = work.store.open(spec)
    chosen = artifact.json("effects.json")["concepts"]
    size = _array(artifact, "size")[:, None]
    edges = _array(work.store.open(spec.parents["importance"]), "edges")[..., chosen]
    told = {
        "gig": edges,
        "u_x_gradient": _array(artifact, "own_gradient")[:, None],
        "magnitude": size,
    }
    own = _array(artifact, "own")[:, None]
    yield Measured(LOGITS, told, own, np.ones(own.shape[:2], bool))
    if "trace" in spec.parents:
        trace, effect = work.store.open(spec.parents["trace"]), _array(artifact, "effect")
        told = {
            "gig": _array(trace, "edges")[..., chosen],
            "u_x_gradient": _array(artifact, "gradient"),
            "magnitude": np.broadcast_to(size, effect.shape),
        }
        yield Measured(spec.settings.upper, told, effect, _array(trace, "present"))


def order_name(traced: TraceSettings, order: str) -> str:
    """What an order is called: gig is the path's own name where another weight was traced."""
    return traced.path.under.value if order == "gig" and traced.path.under is not PathWeight.ig else order


def effects_table(work: Work, plan: Plan) -> pd.DataFrame:
    """Agreement of what attributions say with what was measured, for every pair of layers and every layer's way to the
    class; and ``achieved``, the share of the edits that arrives when they are encoded again."""
    rows: list[dict[str, Any]] = []
    for spec in plan.effects.values():
        lower, traced = spec.settings.lower, spec.parents["importance"].settings
        base = {**plan.columns, "edit": spec.settings.edit.value, "lower": lower}
        for one in measured(work, spec):
            for order, edges in one.by_order.items():
                here = {**base, "upper": one.upper, "order": order_name(traced, order)}
                for found in agreements(edges, one.effects, one.present):
                    if order == "magnitude" and found.metric == "slope":
                        continue  # of other units
                    tail = (found.metric, found.value, found.n, found.low, found.high, _unit(found.metric))
                    rows.append({**here, **dict(zip(TAIL, tail, strict=True))})
        share = _array(work.store.open(spec), "achieved")
        checked = share[np.isfinite(share) & (share != NOT_CHECKED)]
        if len(checked):
            tail = ("achieved", float(checked.mean()), len(checked), None, None, "share")
            rows.append({**base, "upper": lower, "order": "none", **dict(zip(TAIL, tail, strict=True))})
    return tidy(rows, ["lower", "upper", "order", "edit", *plan.columns])


def _unit(metric: str) -> str:
    return "share" if metric.endswith("sign_agreement") else "ratio" if metric == "slope" else "correlation"


class Effect(NamedTuple):
    """A measured effect as graph and tables show it; a single image has no interval."""

    value: float
    ci_low: float | None
    ci_high: float | None


class LayerEffects(NamedTuple):
    """Measured effects of one layer's kept concepts, per group.

    Attributes:
        own: group → concept → effect on the class.
        links: group → (concept, target) → effect on the target.
        gradient, size: group → the same by u × gradient, and group → concept → mean Σ|u|.
    """

    own: list[dict[int, Effect]]
    links: list[dict[tuple[int, int], Effect]]
    gradient: list[dict[tuple[int, int | None], float]]
    size: list[dict[int, float]]


def layer_effects(work: Work, spec: Spec[EffectSettings], who: Explained) -> LayerEffects:
    """What the graph's nodes and links show of one layer."""
    artifact = work.store.open(spec)
    facts = artifact.json("effects.json")
    concepts, targets = facts["concepts"], facts["targets"]
    found = LayerEffects([], [], [], [])
    for group in range(len(who.groups)):
        here = who.group == group
        own = mean_effects(_array(artifact, "own")[here])
        found.own.append({concept: _effect(own, (place,)) for place, concept in enumerate(concepts)})
        slope = _array(artifact, "own_gradient")[here].mean(0, dtype=np.float64)
        slopes: dict[tuple[int, int | None], float] = {
            (concept, None): float(slope[place]) for place, concept in enumerate(concepts)
        }
        links: dict[tuple[int, int], Effect] = {}
        if targets:
            above = mean_effects(_array(artifact, "effect")[here])
            gradient = _array(artifact, "gradient")[here].mean(0, dtype=np.float64)
            for row, target in enumerate(targets):
                for place, concept in enumerate(concepts):
                    links[concept, target] = _effect(above, (row, place))
                    slopes[concept, target] = float(gradient[row, place])
        found.links.append(links)
        found.gradient.append(slopes)
        size = _array(artifact, "size")[here].mean(0, dtype=np.float64)
        found.size.append({concept: float(size[place]) for place, concept in enumerate(concepts)})
    return found


def _effect(means: Any, place: tuple[int, ...]) -> Effect:
    low, high = float(means.low[place]), float(means.high[place])
    return Effect(float(means.value[place]), None if np.isnan(low) else low, None if np.isnan(high) else high)


def marked(graph: dict[str, Any], effects: Mapping[str, LayerEffects], edit: EditValue) -> dict[str, Any]:
    """The graph with ``effects`` on its concepts (on the class) and links (on their targets), group by group, and with
    ``contradicted`` on links whose sign a measured effect excludes."""
    keys = [group["key"] for group in graph["groups"]]
    for node in graph["nodes"]:
        if node["kind"] == "concept":
            own = effects[node["layer"]].own
            node["effects"] = {key: own[place][node["concept"]]._asdict() for place, key in enumerate(keys)}
    for link in graph["links"]:
        concept = link["source"].rpartition("/")[2]
        if not concept.isdigit():
            continue
        found, told = effects[link["lower"]], {}
        for place, key in enumerate(keys):
            if key not in link["weights"]:
                continue
            if link["upper"] == LOGITS:
                told[key] = found.own[place][int(concept)]
            else:
                told[key] = found.links[place][int(concept), int(link["target"].rpartition("/")[2])]
        link["effects"] = {key: effect._asdict() for key, effect in told.items()}
        link["contradicted"] = any(_excluded(link["weights"][key], effect) for key, effect in told.items())
    return {**graph, "edit": edit.value}


def _excluded(weight: float, effect: Effect) -> bool:
    low, high = (effect.value if end is None else end for end in (effect.ci_low, effect.ci_high))
    return contradicted(weight, low, high)


def links_table(work: Work, plan: Plan, graph: Mapping[str, Any], who: Explained) -> pd.DataFrame:
    """Every drawn link of a concept, per group: its edge, u × gradient, Σ|u|, and what was measured."""
    rows: list[dict[str, Any]] = []
    found = {spec.settings.lower: layer_effects(work, spec, who) for spec in plan.effects.values()}
    keys = [group.key for group in who.groups]
    for link in graph["links"]:
        for key, effect in link.get("effects", {}).items():
            here, place = found[link["lower"]], keys.index(key)
            concept = int(link["source"].rpartition("/")[2])
            target = None if link["upper"] == LOGITS else int(link["target"].rpartition("/")[2])
            rows.append(
                {
                    "source": link["source"],
                    "target": link["target"],
                    "lower": link["lower"],
                    "upper": link["upper"],
                    "group": key,
                    "edge": link["weights"][key],
                    "u_x_gradient": here.gradient[place][concept, target],
                    "magnitude": here.size[place][concept],
                    "effect": effect["value"],
                    "ci_low": effect["ci_low"],
                    "ci_high": effect["ci_high"],
                    "n": int((who.group == place).sum()),
                    "edit": graph["edit"],
                    "contradicted": _excluded(link["weights"][key], Effect(**effect)),
                }
            )
    return pd.DataFrame(rows)
