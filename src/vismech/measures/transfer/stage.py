"""Transfer insertion and deletion at every layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.config.choices import Evaluation, MeanRule, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.measures.base import Kind
from vismech.measures.images import measured_count
from vismech.measures.insertion.loop import ROW_MULTIPLE, InsertionSettings
from vismech.measures.insertion.scores import FIRST, count_area, count_axis
from vismech.measures.insertion.stage import KEYS, base_of, case_frame, finish, held_layers, read_layers
from vismech.measures.statistics import clustered_bootstrap
from vismech.measures.transfer import TransferOptions
from vismech.measures.transfer.loop import ORDERS, TransferLoop, transfer_columns
from vismech.measures.transfer.scores import Halves, check_groups, fixed_orders, split
from vismech.network.layers import LOGITS
from vismech.passes.start import run_loop
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, passing, reading, written
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Rows

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class TransferSettings(TransferOptions):
    """Which images share an order, and the seed of the halves; how concepts are ranked and coded is insertion's."""

    measure: Evaluation
    seed: int


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job for all layers, so that images are read and passed once.

    Raises:
        UserError: without the evaluation that ranks concepts, or groups that are none.
    """
    evaluate = ctx.config.evaluate
    parents = plan.evaluations.get(Evaluation.insertion)
    if parents is None:
        raise UserError(
            f"evaluate.kinds={[kind.value for kind in evaluate.kinds]}: transfer ranks concepts by insertion's "
            "attributions: give insertion before transfer"
        )
    check_groups(evaluate.groups)
    settings = TransferSettings.from_group(evaluate, measure=Evaluation.transfer, seed=ctx.config.seed)
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, settings, {"insertion": spec})
        for layer, spec in parents.items()
    }
    return [Job(Stage.evaluate, specs, compute, cost, passes=True, concurrent=True)]


def cost(work: Work, specs: Mapping[str, Spec[TransferSettings]]) -> dict[str, Cost]:
    """Of each layer its codes, and a row for each count and order that is read."""
    ranked_by, found = next(iter(specs.values())).parents["insertion"].settings, {}
    images, axis = measured_count(work, ranked_by.measured), len(count_axis())
    shared = reading(work, images) + activations(work, LOGITS, images)
    for layer, spec in specs.items():
        own = coded(work, layer, spec.parents["insertion"].parents["dictionary"], ranked_by.coding, images)
        rows = images * (ROW_MULTIPLE + len(ORDERS) * 2.0 * (axis - 1))
        own += passing(work, layer, LOGITS, rows, images * (1 + len(ORDERS)))
        own += Cost(images, written=written(transfer_columns(), images), about=True)
        found[layer] = (shared if not found else Cost()) + own
    return found


def compute(work: Work, specs: Mapping[str, Spec[TransferSettings]]) -> None:
    """``count.npy``, ``images.json`` and ``groups.json``; a pass that was killed is continued."""
    settings = next(iter(specs.values())).settings
    ranked_by: InsertionSettings = next(iter(specs.values())).parents["insertion"].settings
    mean_kept = ranked_by.mean_rule is MeanRule.kept
    ranking = {layer: work.store.open(spec.parents["insertion"]) for layer, spec in specs.items()}
    dictionaries = {layer: spec.parents["insertion"].parents["dictionary"] for layer, spec in specs.items()}
    layers = read_layers(work, dictionaries, ranked_by.coding)
    # Prediction and image are the same at every layer.
    first = next(iter(ranking.values()))
    ids = read_images(first).ids
    halves = split(np.asarray(first.array("predicted.npy")), ids, settings.groups, settings.seed)
    scored = np.flatnonzero(halves.half >= 0)
    indices = [work.measured.place[ids[row]] for row in scored]
    orders = {}
    for layer, artifact in ranking.items():
        kept = layers[layer].dictionary.mean_index if mean_kept else None
        orders[layer] = _orders(layer, layers[layer].dictionary.k, kept, artifact, halves, settings.seed)
    with ExitStack() as stack:
        folders = {layer: stack.enter_context(work.store.writer(spec, resume=True)) for layer, spec in specs.items()}
        rows = {layer: Rows(folder, transfer_columns(), len(indices)) for layer, folder in folders.items()}
        half = halves.half[scored]
        how = {"layers": layers, "held": held_layers(work, layers), "mean_kept": mean_kept}
        how |= {"halves": half, "orders": orders}
        run_loop(TransferLoop(work.site, work.measured, indices, rows, "transfer", **how))
        for layer, folder in folders.items():
            used = np.asarray(ranking[layer].array("ranked.npy")).any(0)
            facts = {"groups": halves.names, "left_out": len(ids) - len(scored), "images": len(ids)}
            write_json(folder / "groups.json", {**facts, "in_use": int(used.sum()), "half": half.tolist()})
        finish(work, folders, rows, indices)


def _orders(name: str, concepts: int, kept: int | None, artifact: Artifact, halves: Halves, seed: int) -> np.ndarray:
    edges, ranked = (np.asarray(artifact.array(f"{part}.npy")) for part in ("edges", "ranked"))
    rankable = np.ones(concepts, dtype=bool)
    if kept is not None:
        rankable[kept] = False
    return fixed_orders(edges, ranked, halves.half, rankable, name, seed)


class _Scores(NamedTuple):
    base: dict[str, Any]
    metric: str
    ids: list[str]
    values: np.ndarray
    halves: np.ndarray


def _scores(work: Work, plan: Plan) -> Iterator[_Scores]:
    for layer, spec in plan.evaluations[Evaluation.transfer].items():
        artifact = work.store.open(spec)
        count, ids = np.asarray(artifact.array("count.npy")).astype(np.float64), read_images(artifact).ids
        halves = np.array(artifact.json("groups.json")["half"])
        for first in FIRST:
            areas = count_area(count, count_axis(), first)
            score = dict(zip(ORDERS, (areas[..., 0] - areas[..., 1]).T, strict=True))
            found = {(f"transfer_first_{first}", order): values for order, values in score.items()}
            # What all concepts rebuild is in both orders alike, so that a poor reconstruction gains nothing by it.
            found[f"transfer_gain_{first}", "gig"] = score["gig"] - score["random"]
            for (metric, order), values in found.items():
                base = {**base_of(work, plan, layer), "variant": "plain", "order": order}
                yield _Scores(base, metric, ids, values, halves)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer and order, in the form of ``extraction.csv``; ``transfer_gain`` is the lead over the random order.

    Intervals resample the halves of groups, since all images of a half are scored by one order.
    ``concepts_in_use`` counts those that any measured image has; ``transfer_left_out`` the images whose group is too
    small.
    """
    found = []
    for one in _scores(work, plan):
        row = (one.metric, float(one.values.mean()), len(one.values), *clustered_bootstrap(one.values, one.halves))
        found.append({**one.base, **dict(zip(TAIL, (*row, "area of the first concepts"), strict=True))})
    for layer, spec in plan.evaluations[Evaluation.transfer].items():
        facts = work.store.open(spec).json("groups.json")
        base = {**base_of(work, plan, layer), "variant": "plain", "order": "none"}
        for metric, value, units in (
            ("concepts_in_use", facts["in_use"], "concepts"),
            ("transfer_left_out", facts["left_out"], "images"),
        ):
            tail = (metric, value, facts["images"], None, None, units)
            found.append({**base, **dict(zip(TAIL, tail, strict=True))})
    return tidy(found, KEYS)


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """The numbers behind :func:`rows`, image by image: its keys, then metric, image, value and cluster.

    The cluster is the half of a group whose images are scored by one order.
    """
    found = [
        case_frame(one.base, one.metric, np.array(one.ids), one.values).assign(cluster=one.halves)
        for one in _scores(work, plan)
    ]
    return pd.concat(found, ignore_index=True)


KIND = Kind(jobs, "extraction", "extraction/{layer}/{variant}/{order}", rows, cases=cases, elsewhere=True)
