"""Repair: what removing the concepts of a difference graph does to its errors and to right answers, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.config.choices import Evaluation, Half, MeanRule, Order, Rule, Scope, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.measures.base import TRACED, Kind
from vismech.measures.repair.loop import RepairLoop, RepairSettings, repair_columns
from vismech.measures.repair.scores import AHEAD, COUNTS, METRICS, ORDERS, Selection, Tried, group_orders, happened
from vismech.measures.statistics import paired_difference, wilson
from vismech.network.layers import LOGITS
from vismech.passes.nodes import NODES, read_nodes
from vismech.passes.start import run_loop
from vismech.sources.data import half_of
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import trace as trace_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, count_of, edited, passing, reading, written
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Spec
from vismech.store.rows import Rows

VERSION = 1
KEYS = ["layer", "dictionary", "k", "code", "center", "mean_rule", "budget", "order", "selection", "count"]


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job for each layer; the traces of u × gradient that it reads join the plan before it.

    Raises:
        UserError: a graph that is not of errors, or of a single one.
    """
    graph = ctx.config.graph
    if graph.scope is not Scope["error"] or graph.image is not None:
        raise UserError(
            "evaluate.kinds=repair removes the concepts of errors, all images of a class that are answered as another: "
            f"give graph=error graph.classes=[LABELLED,ANSWERED], and no graph.image (graph.scope={graph.scope.value})"
        )
    assert plan.logits is not None
    mean_kept = dictionary_stage.kept_mean(ctx.config) is MeanRule.kept
    settings = RepairSettings(Evaluation.repair, ctx.config.evaluate.images, mean_kept, ctx.config.seed)
    found = []
    for layer, dictionary in plan.dictionaries.items():
        job = trace_stage.gradient_job(ctx, layer, plan.logits, dictionary)
        plan.jobs.append(job)
        (at_end,) = job.specs.values()
        parents = {Order.gig.value: plan.to_class[layer], Order.u_x_gradient.value: at_end}
        spec = Spec(Stage.evaluate.value, VERSION, layer, settings, parents)
        found.append(Job(Stage.evaluate, {layer: spec}, compute, cost, passes=True))
    return found


def cost(work: Work, specs: Mapping[str, Spec[RepairSettings]]) -> dict[str, Cost]:
    """Each image's own edges by both orders, and what is answered without the first concepts of each selection."""
    found, sets = {}, len(Selection) * len(ORDERS)
    for layer, spec in specs.items():
        parent = spec.parents[Order.gig.value]
        traced: trace_stage.TraceSettings = parent.settings
        dictionary, size = parent.parents["dictionary"], work.site.runtime.path_batch_size
        wrong, _ = trace_stage.images_of(work, parent.parents["logits"], traced.explained)
        right = len(work.data) if spec.settings.images is None else 2 * spec.settings.images
        images = min(len(work.data), wrong + right)
        points = images * (traced.path.steps + 1.0)
        own = reading(work, images) + activations(work, layer, images)
        own += coded(work, layer, dictionary, traced.coding, images)
        own += passing(work, layer, LOGITS, points, points / size, 1)
        for removed in COUNTS:
            own += edited(work, layer, float(images * sets), removed)
        found[layer] = own + Cost(images, written=written(repair_columns(), images), about=True)
    return found


class _Tried(NamedTuple):
    """The images that are tried.

    Attributes:
        rows: of the predictions, ascending.
        what: each one is.
        true, answered: t and w.
    """

    rows: list[int]
    what: list[Tried]
    true: int
    answered: int


def compute(work: Work, specs: Mapping[str, Spec[RepairSettings]]) -> None:
    """``answers.npy``, ``repair.json`` and ``images.json``; a pass that was killed is continued."""
    for layer, spec in specs.items():
        wanted, parent = spec.settings, spec.parents[Order.gig.value]
        traced: trace_stage.TraceSettings = parent.settings
        ids, tried = _tried(work, spec)
        indices = [work.data.place[ids[row]] for row in tried.rows]
        concepts = dictionary_stage.read(work, parent.parents["dictionary"], traced.coding)
        rankable = np.ones(concepts.k, dtype=bool)
        if concepts.mean_index is not None and wanted.mean_kept:
            rankable[concepts.mean_index] = False
        auto = traced.path.rule is Rule.auto
        with work.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, repair_columns(), len(indices))
            loop = RepairLoop(
                work.site,
                work.data,
                indices,
                {"evaluate": rows},
                f"repair {layer}",
                lower=layer,
                upper=LOGITS,
                path=traced.path,
                layout=work.layout(layer),
                dictionary=concepts,
                concepts=None,
                classes=np.tile(np.array([tried.answered, tried.true], dtype=np.int64), (len(indices), 1)),
                start=trace_stage.start_of(work, parent, ids),
                nodes=read_nodes(work.store.open(parent).path(NODES)) if auto else None,
                how_drawn=wanted,
                group=group_orders(_choosing(work, spec), rankable, wanted.seed, "repair", layer),
            )
            run_loop(loop)
            kept = rows.finish()
            some_kept(kept)
            facts = {"tried": [tried.what[row] for row in kept], "true": tried.true, "answered": tried.answered}
            (folder / "repair.json").write_bytes(compact(facts))
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices)))


def _tried(work: Work, spec: Spec[RepairSettings]) -> tuple[list[str], _Tried]:
    """Sample ids of the predictions; the explained images, and right ones of both classes."""
    parent = spec.parents[Order.gig.value]
    artifact = work.store.open(parent.parents["logits"])
    images = read_images(artifact)
    who = trace_stage.read_explained(work, parent.parents["logits"], parent.settings.explained)
    answered, true = map(int, who.classes[0])
    labels, predicted = work.class_labels.classes(images.labels), np.asarray(artifact.array("logits.npy")).argmax(1)
    what = dict.fromkeys(who.rows.tolist(), Tried.wrong)
    for index, tried in ((true, Tried.right_t), (answered, Tried.right_w)):
        right = np.flatnonzero((labels == index) & (predicted == index)).tolist()
        what |= dict.fromkeys(spread(right, spec.settings.images), tried)
    rows = sorted(what)
    return images.ids, _Tried(rows, [what[row] for row in rows], true, answered)


def _choosing(work: Work, spec: Spec[RepairSettings]) -> dict[Order, np.ndarray]:
    """Edges to the difference of the wrong images that choose the group's concepts.

    Raises:
        UserError: wrong images that are all in one half.
    """
    found = {}
    for order in (Order.gig, Order.u_x_gradient):
        trace = work.store.open(spec.parents[order.value])
        halves = np.array([half_of(sample) for sample in trace.json("trace.json")["images"]])
        if len(set(halves)) < 2:
            raise UserError(
                "evaluate.kinds=repair chooses concepts on one half of the wrong images and scores them on the other, "
                f"but the {len(halves)} that there are are all in one half: explain more of them "
                "(graph.images_per_class, data.half=all), or other graph.classes"
            )
        found[order] = np.asarray(trace.array("edges.npy"))[halves == Half.choosing, 0]
    return found


class _Cases(NamedTuple):
    """Whether it happened to each image of one kind, by order."""

    base: dict[str, Any]
    tried: Tried
    ids: np.ndarray
    values: dict[Order, np.ndarray]


def _cases(work: Work, plan: Plan) -> Iterator[_Cases]:
    for layer, spec in plan.evaluations[Evaluation.repair].items():
        artifact = work.store.open(spec)
        facts, ids = artifact.json("repair.json"), np.array(read_images(artifact).ids)
        answers, tried = np.asarray(artifact.array("answers.npy")), np.array(facts["tried"])
        confirming = np.array([half_of(sample) is Half.confirming for sample in ids])
        keys = {"layer": layer, **plan.columns, "k": count_of(work, plan.dictionaries[layer])}
        for place, selection in enumerate(Selection):
            for kind in Tried:
                here = (tried == kind) & (confirming | (selection is Selection.image))
                found = happened(answers[here, place], kind, facts["true"], facts["answered"]).astype(np.float64)
                for index, count in enumerate(COUNTS):
                    values: dict[Order, np.ndarray] = dict(zip(ORDERS, found[:, :, index].T, strict=True))
                    yield _Cases({**keys, "selection": selection.value, "count": count}, kind, ids[here], values)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer, selection, order and count, in the form of ``repair.csv``; ``n`` counts images.

    ``repair_rate``: of the wrong images that become right; ``damage_rate_t`` and ``damage_rate_w``: of the right ones
    of the true class and of the answered one that become wrong; Wilson's intervals. ``gig_ahead``: gig's repair rate
    less the row's; ``gig_ahead_damage_…``: the row's damage less gig's; paired, with bootstrap intervals.
    """
    found = []
    for one in _cases(work, plan):
        gig = one.values[Order.gig]
        for order, values in one.values.items() if len(gig) else ():
            base, count = {**one.base, "order": order.value}, len(values)
            told = [(METRICS[one.tried], share := float(values.mean()), count, *wilson(share, count), "share")]
            if order is not Order.gig:
                pair = (gig, values) if one.tried is Tried.wrong else (values, gig)
                ahead = paired_difference(*pair)
                told.append((AHEAD[one.tried], ahead.value, count, ahead.low, ahead.high, "share"))
            found += [{**base, **dict(zip(TAIL, row, strict=True))} for row in told]
    return tidy(found, KEYS)


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """The numbers behind :func:`rows`, image by image: its keys, then metric, image and value, 1 where it happened."""
    frames = [
        pd.DataFrame(
            {**one.base, "order": order.value, "metric": METRICS[one.tried], "image": one.ids, "value": values}
        )
        for one in _cases(work, plan)
        for order, values in one.values.items()
    ]
    return pd.concat(frames, ignore_index=True).reindex(columns=[*KEYS, "metric", "image", "value"])


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """Repair rate against the number of concepts removed, for every layer, order and selection."""
    from vismech.measures.base import measured_rows
    from vismech.measures.repair import figure as drawing  # loads matplotlib

    return [drawing.repair_figure(measured_rows(work, plan, Evaluation.repair), folder / "repair.png")]


KIND = Kind(jobs, "repair", "repair/{layer}/{selection}/{order}/{count}", rows, figures, cases=cases, needs=TRACED)
