"""Circuits of several orders: faithfulness, completeness, CPR and CMD, and what each concept of the drawn one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from vismech.config.choices import CircuitOrder, EditValue, Evaluation, Scope, Stage
from vismech.costs import cost as costs
from vismech.costs.cost import Amount, Cost
from vismech.draws import generator_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.measures.base import TRACED, Kind
from vismech.measures.circuit import CircuitOptions
from vismech.measures.circuit.loop import SUBSETS, VALUES, CircuitLoop, Circuits, circuit_columns
from vismech.measures.circuit.scores import (
    SHARES,
    areas,
    counts,
    faithfulness,
    ranked,
    resampled,
    smallest,
)
from vismech.measures.transfer import TransferOptions
from vismech.measures.transfer.scores import check_groups, split
from vismech.network.layers import LOGITS
from vismech.passes.start import run_loop
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import effects as effects_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, passing, reading, written
from vismech.stages.dictionary import TABLE_KEYS
from vismech.stages.effects import EffectSettings, mean_of_vectors
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import TraceSettings, images_of, read_explained
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Rows

VERSION = 1
KEYS = ["order", "score", "edit", "errors", *TABLE_KEYS]
FEW = 5
"""Concepts of each layer that the drawn circuit of a half holds, at most, where the graph keeps more."""


@dataclass(frozen=True, kw_only=True)
class CircuitSettings(CircuitOptions, TransferOptions):
    """Which circuits.

    Attributes:
        layers: in network order.
        drawn: how many concepts of each layer the drawn circuit holds.
    """

    measure: Evaluation
    layers: tuple[str, ...]
    drawn: int
    seed: int


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """The effect of every concept on the class, and the circuits.

    Raises:
        UserError: no orders, or an edit that has no single meaning here.
    """
    evaluate, graph = ctx.config.evaluate, ctx.config.graph
    check_groups(evaluate.groups)
    if graph.scope is Scope["error"]:
        raise UserError("evaluate.kinds=circuit keeps a class's own value: give another graph.scope than error")
    if not evaluate.circuit_orders:
        raise UserError("evaluate.circuit_orders=[]: give one or more of " + ", ".join(CircuitOrder))
    if evaluate.edit not in effects_stage.EDITS:
        known = ", ".join(each.value for each in effects_stage.EDITS)
        raise UserError(f"evaluate.edit={evaluate.edit.value} must be one of {known}")
    rankings = effects_stage.every_concept(ctx, plan, evaluate.edit)
    settings = CircuitSettings.from_group(
        evaluate,
        measure=Evaluation.circuit,
        layers=tuple(ctx.layers),
        drawn=min(graph.important, FEW),
        seed=ctx.config.seed,
    )
    parents = {f"ranking {layer}": spec for layer, spec in rankings.items()}
    spec = Spec(Stage.evaluate.value, VERSION, "circuit", settings, parents)
    effects = {spec.unit: spec for spec in rankings.values()}
    ranking = Job(Stage.effects, effects, effects_stage.compute, effects_stage.cost, passes=True, concurrent=True)
    return [ranking, Job(Stage.evaluate, {"circuit": spec}, compute, cost, passes=True, concurrent=True)]


def cost(work: Work, specs: Mapping[str, Spec[CircuitSettings]]) -> dict[str, Cost]:
    """Every circuit of every image through all layers, each of which is coded anew behind the first."""
    ((unit, spec),) = specs.items()
    wanted, size = spec.settings, work.site.runtime.path_batch_size
    first: Spec[Any] = spec.parents[f"ranking {wanted.layers[0]}"].parents["importance"]
    images, _ = images_of(work, first.parents["logits"], first.settings.explained)
    parts = wanted.drawn * len(wanted.layers)
    circuits = 1 + 2 * len(wanted.circuit_orders) * len(SHARES) + 2 * (1 + SUBSETS) * parts
    calls = ceil(circuits / size)
    passed = images * calls * size  # the last call is filled up
    found = reading(work, images) + activations(work, wanted.layers[-1], images)
    for lower, upper in pairwise([*wanted.layers, LOGITS]):
        dictionary = spec.parents[f"ranking {lower}"].parents["importance"].parents["dictionary"]
        layout = work.layout(lower)
        edits = 2.0 * passed * layout.positions * layout.channels * concepts_of(work, lower, dictionary)
        coding = first.settings.coding
        found += coded(work, lower, dictionary, coding, images if lower == wanted.layers[0] else passed)
        found += passing(work, lower, upper, passed + images, images * (calls + 1))
        found += Cost(work={costs.Kind.products: Amount(edits, launches=8.0 * images * calls)})
    orders = len(wanted.circuit_orders), len(SHARES), parts
    return {unit: found + Cost(images, written=written(circuit_columns(*orders), images), about=True)}


def compute(work: Work, specs: Mapping[str, Spec[CircuitSettings]]) -> None:
    """``circuit_columns``, ``images.json`` and ``circuit.json``; a pass that was killed is continued."""
    for spec in specs.values():
        wanted = spec.settings
        first = spec.parents[f"ranking {wanted.layers[0]}"].parents["importance"]
        traced: TraceSettings = first.settings
        who = read_explained(work, first.parents["logits"], traced.explained)
        ids = [read_images(work.store.open(first.parents["logits"])).ids[row] for row in who.rows]
        halves = split(who.classes, ids, wanted.groups, wanted.seed)
        scored = np.flatnonzero(halves.half >= 0)
        layers, means, strengths = {}, {}, {}
        for name in wanted.layers:
            ranking = spec.parents[f"ranking {name}"]
            own = ranking.parents["importance"]
            layer = Layer(work.layout(name), dictionary_stage.read(work, own.parents["dictionary"], traced.coding))
            layers[name] = layer
            means[name] = torch.zeros(layer.dictionary.k)
            if wanted.edit is EditValue.mean:
                means[name] = mean_of_vectors(work, ranking.parents["vectors"], layer).to(layer.dictionary.atoms)
            strengths[name] = Strengths.of(work, ranking)
        circuits = [_circuits(wanted, strengths, halves.half, half) for half in range(int(halves.half.max()) + 1)]
        parts = max(sum(map(len, one.drawn)) for one in circuits)
        indices = [work.data.place[ids[row]] for row in scored]
        with work.store.writer(spec, resume=True) as folder:
            shape = len(wanted.circuit_orders), len(SHARES), parts
            rows = Rows(folder, circuit_columns(*shape), len(indices))
            loop = CircuitLoop(
                work.site,
                work.data,
                indices,
                {"circuit": rows},
                "circuit",
                layers=layers,
                means=means,
                circuits=circuits,
                halves=halves.half[scored],
                classes=who.classes[scored].astype(np.int64),
                orders=shape[0],
                sizes=shape[1],
                parts=parts,
                value=wanted.edit,
                errors=wanted.errors,
                seed=wanted.seed,
            )
            run_loop(loop)
            kept = rows.finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices)))
            sizes = {name: layers[name].dictionary.k for name in wanted.layers}
            in_use = {name: int(strengths[name].active.any(0).sum()) for name in wanted.layers}
            facts = {"groups": halves.names, "left_out": len(ids) - len(scored), "k": sizes, "in_use": in_use}
            facts["half"] = [int(halves.half[scored[row]]) for row in kept]
            facts["drawn"] = [[list(map(int, layer)) for layer in one.drawn] for one in circuits]
            write_json(folder / "circuit.json", facts)


class Strengths(NamedTuple):
    """What ranks one layer's concepts, image by image [n, K].

    Attributes:
        by_order: of every order but random.
        active: whether an image has the concept.
    """

    by_order: dict[CircuitOrder, np.ndarray]
    active: np.ndarray

    @classmethod
    def of(cls, work: Work, ranking: Spec[EffectSettings]) -> Strengths:
        """From the effects of a layer's concepts, and the trace to the class that they were chosen from."""
        artifact, trace = work.store.open(ranking), work.store.open(ranking.parents["importance"])
        concepts = artifact.json("effects.json")["concepts"]
        edges = np.asarray(trace.array("edges.npy"))[:, 0]

        def spread(name: str) -> np.ndarray:
            whole = np.zeros(edges.shape)
            whole[:, concepts] = artifact.array(f"{name}.npy")
            return whole

        size = spread("size")
        return cls(
            {
                CircuitOrder.gig: edges.astype(np.float64),
                CircuitOrder.u_x_gradient: spread("own_gradient"),
                CircuitOrder.magnitude: size,
                CircuitOrder.effect: spread("own"),
            },
            size > 0,
        )


def _circuits(wanted: CircuitSettings, strengths: Mapping[str, Strengths], half: np.ndarray, here: int) -> Circuits:
    """The circuits of the images of a half, from the images of its sister."""
    sister = half == here ^ 1
    kept, drawn = [], []
    for name, one in strengths.items():
        usable = np.flatnonzero(one.active[sister].any(0))
        masks = []
        for order in wanted.circuit_orders:
            if order is CircuitOrder.random:
                strength = generator_of(wanted.seed, "circuit", name, here).random(one.active.shape[1])
            else:
                strength = one.by_order[order][sister].mean(0)
            place = ranked(strength, usable).argsort()
            masks += [place < count for count in counts(len(place))]
        kept.append(np.stack(masks))
        best = ranked(one.by_order[CircuitOrder.gig][sister].mean(0), usable)
        drawn.append(sorted(best[: min(wanted.drawn, len(usable))].tolist()))
    return Circuits(kept, drawn)


class _Read(NamedTuple):
    base: dict[str, Any]
    settings: CircuitSettings
    artifact: Artifact
    facts: dict[str, Any]


def _read(work: Work, plan: Plan) -> Iterator[_Read]:
    for spec in plan.evaluations[Evaluation.circuit].values():
        if spec.stage == Stage.evaluate:
            settings, artifact = spec.settings, work.store.open(spec)
            base = {**plan.columns, "edit": settings.edit.value, "errors": settings.errors.value}
            yield _Read(base, settings, artifact, artifact.json("circuit.json"))


class _Curves(NamedTuple):
    """f of one order's circuits, and of the rest of the network, in each of some resamples [D, S]."""

    circuit: np.ndarray
    complement: np.ndarray


def _curves(one: _Read, score: str, weights: np.ndarray) -> list[_Curves]:
    """Of every order, from means over images with ``weights`` [D, N]."""
    place, means = VALUES.index(score), {}
    for name in ("clean", "empty", "circuit", "complement"):
        values = np.asarray(one.artifact.array(f"{name}.npy"))[..., place].astype(np.float64)
        means[name] = np.tensordot(weights, values, 1)
    both = (
        faithfulness(means[name], means["empty"][:, None], means["clean"][:, None])
        for name in ("circuit", "complement")
    )
    return [_Curves(*parts) for parts in zip(*(np.moveaxis(part, 1, 0) for part in both), strict=True)]


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """CPR and CMD of every order, linear and logarithmic, their lead over random circuits, and the smallest faithful
    circuit with what is left without it; intervals resample whole halves of groups, paired between orders."""
    found: list[dict[str, Any]] = []
    for one in _read(work, plan):
        half, orders = np.array(one.facts["half"]), one.settings.circuit_orders
        for score in VALUES:
            told, again = (
                _curves(one, score, weights) for weights in (np.full((1, len(half)), 1 / len(half)), resampled(half))
            )
            for column, order in enumerate(orders):
                base = {**one.base, "order": order.value, "score": score}
                for metric, value, draws, units in _numbers(one, orders, column, told, again):
                    ends = [None, None] if draws is None else np.nanquantile(draws, [0.025, 0.975]).tolist()
                    found.append({**base, **dict(zip(TAIL, (metric, value, len(half), *ends, units), strict=True))})
        found += _of_drawn(one)
    return tidy(found, KEYS)


def _numbers(
    one: _Read, orders: Sequence[CircuitOrder], column: int, told: list[_Curves], again: list[_Curves]
) -> Iterator[tuple[str, float, np.ndarray | None, str]]:
    """Metric, value, resamples and unit of one order."""
    control = orders.index(CircuitOrder.random) if CircuitOrder.random in orders else column
    values, draws = areas(told[column].circuit), areas(again[column].circuit)
    chance, chances = areas(told[control].circuit), areas(again[control].circuit)
    for metric, value in values.items():
        yield metric, float(value[0]), draws[metric], "area"
        if control != column:
            yield f"{metric}_minus_random", float((value - chance[metric])[0]), draws[metric] - chances[metric], "area"
    least = smallest(told[column].circuit[0])
    if least is not None:
        kept = np.mean([counts(k)[least] for k in one.facts["k"].values()])
        yield "smallest_share", SHARES[least], None, "share"
        yield "smallest_concepts", float(kept), None, "concepts per layer"
        rest = told[column].complement[0, least], again[column].complement[:, least]
        yield "smallest_complement", float(rest[0]), rest[1], "share"


def _of_drawn(one: _Read) -> Iterator[dict[str, Any]]:
    """Minimality of the drawn circuit, and what else is known of all circuits."""
    part = np.asarray(one.artifact.array("part.npy")).astype(np.float64)
    half = np.array(one.facts["half"])
    whole = np.asarray(one.artifact.array("clean.npy"))[:, 0] - np.asarray(one.artifact.array("empty.npy"))[:, 0]
    each = []
    for here in np.unique(half):
        inside = half == here
        count = sum(map(len, one.facts["drawn"][here]))
        if count and (scale := whole[inside].mean()) != 0:
            each += np.abs(part[inside][:, :count].mean(0) / scale).max(1).tolist()
    base, sizes = {**one.base, "order": "none", "score": "logit"}, [sum(map(len, each)) for each in one.facts["drawn"]]
    rows = [
        ("minimality_median", float(np.median(each)) if each else None, len(each), "share of f"),
        ("minimality_least", float(np.min(each)) if each else None, len(each), "share of f"),
        (
            "drawn_concepts",
            float(np.mean(sizes)),
            len(half),
            "concepts",
        ),
        ("concepts_in_use", float(np.mean(list(one.facts["in_use"].values()))), len(half), "concepts per layer"),
        ("circuit_left_out", one.facts["left_out"], len(half) + one.facts["left_out"], "images"),
    ]
    for metric, value, n, units in rows:
        if value is not None:
            yield {**base, **dict(zip(TAIL, (metric, value, n, None, None, units), strict=True))}


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """Each image's part in CPR, whose mean is CPR: what it keeps over all images' mean change from nothing to clean."""
    frames = []
    for one in _read(work, plan):
        ids, half = read_images(one.artifact).ids, one.facts["half"]
        for place, score in enumerate(VALUES):
            clean, empty = (np.asarray(one.artifact.array(f"{name}.npy"))[:, place] for name in ("clean", "empty"))
            circuit = np.asarray(one.artifact.array("circuit.npy"))[..., place].astype(np.float64)
            for column, order in enumerate(one.settings.circuit_orders):
                share = (circuit[:, column] - empty[:, None]) / (clean - empty).mean()
                values = {name: area for name, area in areas(share).items() if name.startswith("cpr")}
                for metric, area in values.items():
                    keys = {**one.base, "order": order.value, "score": score}
                    columns = {**{key: keys[key] for key in KEYS}, "metric": metric, "image": ids, "value": area}
                    frames.append(pd.DataFrame({**columns, "cluster": half}))
    return pd.concat(frames, ignore_index=True)


def curve_table(work: Work, plan: Plan) -> pd.DataFrame:
    """f of the circuits (``insertion``) and of what is left without them (``deletion``), over the share of concepts."""
    frames = []
    for one in _read(work, plan):
        images = len(one.facts["half"])
        count = np.mean([counts(k) for k in one.facts["k"].values()], 0)
        for score in VALUES:
            told = _curves(one, score, np.full((1, images), 1 / images))
            for order, curves in zip(one.settings.circuit_orders, told, strict=True):
                base = {**one.base, "order": order.value, "score": score, "axis": "share", "x": SHARES, "count": count}
                sides = {"insertion": curves.circuit[0], "deletion": curves.complement[0]}
                frames.append(pd.DataFrame({**base, **sides, "n": images}))
    return pd.concat(frames, ignore_index=True)


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """``circuit.png``: f over the size of the circuit, for every order."""
    from vismech.measures.circuit.figure import circuit_figure

    folder.mkdir(parents=True, exist_ok=True)
    return [circuit_figure(curve_table(work, plan), folder / "circuit.png")]


KIND = Kind(
    jobs,
    "circuit",
    "circuit/{order}/{score}",
    rows,
    figures=figures,
    cases=cases,
    curves=curve_table,
    needs=TRACED,
)
