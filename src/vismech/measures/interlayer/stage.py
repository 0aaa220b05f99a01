"""Inter-layer insertion and deletion of neighbouring layers' concepts, for every order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.attribution.weights import SIDES
from vismech.config.choices import Baseline, Evaluation, MeanRule, Order, ReadOut, Stage
from vismech.costs import cost as costs
from vismech.costs.cost import Amount, Cost
from vismech.errors import UserError
from vismech.measures.base import Kind
from vismech.measures.images import measured_count, measured_indices, measured_of, measured_parents
from vismech.measures.insertion.scores import GRID, random_control
from vismech.measures.interlayer.loop import (
    PATHS,
    InterlayerLoop,
    InterlayerSettings,
    Layer,
    Pair,
    interlayer_columns,
)
from vismech.measures.interlayer.orders import EARLY, READOUTS, Curves
from vismech.measures.interlayer.scores import SCORES, Scored, scored
from vismech.measures.units import count_row, interval_row
from vismech.passes.nodes import tell_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.start import run_loop
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, count_of, passing, reading, written
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Spec
from vismech.store.rows import Rows

log = logging.getLogger(__name__)
VERSION = 2
ACTIVE = 3
"""A concept in so many is active somewhere in an image, as observed of the lasso; for the cost alone."""
DICTIONARY = ["dictionary", "k", "code", "center", "mean_rule", "budget"]
KEYS = ["lower", "upper", *DICTIONARY, "order", "score", "readout"]


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One artifact for each pair of neighbouring layers, all from one pass.

    Raises:
        UserError: fewer than two layers, layers that cannot be cut, or paths, numbers and orders without a meaning.
    """
    evaluate, attribute = ctx.config.evaluate, ctx.config.attribute
    pairs = [Pair(*pair) for pair in pairwise(plan.dictionaries)]
    if not pairs:
        raise UserError(
            f"evaluate.kinds=interlayer needs two layers or more: extract.layers={ctx.config.extract.layers}"
        )
    if evaluate.targets_per_image < 1:
        raise UserError(f"evaluate.targets_per_image={evaluate.targets_per_image} must be at least 1")
    if not evaluate.orders:
        raise UserError(f"evaluate.orders=[]: name some of {', '.join(Order)}")
    if attribute.curve or attribute.baseline is not Baseline.zero or attribute.readout is ReadOut.code:
        raise UserError(
            "evaluate.kinds=interlayer orders concepts along straight paths from zero by targets' projections: leave "
            f"attribute.curve empty and attribute.baseline={attribute.baseline} at zero, and give "
            f"attribute.readout={attribute.readout} as max or sum"
        )
    ctx.check_cuts([(pair.lower, pair.upper) for pair in pairs])
    names = {"along", "readout", "tolerance"}
    names |= {"phi"} if any(PATHS.get(order) in SIDES for order in evaluate.orders) else set()
    specs = {}
    for pair in pairs:
        unit = f"{pair.lower}->{pair.upper}"
        settings = InterlayerSettings.from_group(
            evaluate,
            measure=Evaluation.interlayer,
            **pair._asdict(),
            coding=dictionary_stage.coding_of(ctx.config),
            path=PathSettings.of(attribute, names),
            measured=measured_of(ctx),
            orders=list(dict.fromkeys(evaluate.orders)),
            mean_kept=dictionary_stage.kept_mean(ctx.config) is MeanRule.kept,
            seed=ctx.config.seed,
        )
        parents = {side: plan.dictionaries[layer] for side, layer in pair._asdict().items()} | measured_parents(plan)
        specs[unit] = Spec(Stage.evaluate.value, VERSION, unit, settings, parents)
    return [Job(Stage.evaluate, specs, compute, cost, passes=True, concurrent=True)]


def cost(work: Work, specs: Mapping[str, Spec[InterlayerSettings]]) -> dict[str, Cost]:
    """Of each pair both layers' codes, the edges' points, and a row for each step of every order and target."""
    wanted, found, seen = next(iter(specs.values())).settings, {}, set()
    images, size = measured_count(work, wanted.measured), work.site.runtime.path_batch_size
    patching, orders = Order.activation_patching in wanted.orders, len(wanted.orders)
    last = [*specs.values()][-1].settings.upper
    shared = reading(work, images * (1 + patching)) + activations(work, last, images * (1 + patching))
    each = {Order.leave_one_out, Order.activation_patching} & {*wanted.orders}
    for unit, spec in specs.items():
        lower, upper = spec.settings.lower, spec.settings.upper
        own, layout = Cost(images), work.layout(lower)
        for side, layer in (("lower", lower), ("upper", upper)):
            times = (layer not in seen) + (patching and side == "lower")
            own += coded(work, layer, spec.parents[side], wanted.coding, images * times)
            seen.add(layer)
        k = concepts_of(work, lower, spec.parents["lower"])
        active = k / ACTIVE
        points = images * (wanted.path.steps + (Order.u_x_gradient in wanted.orders))
        steps = 2.0 * (GRID + len(EARLY) - 2) * orders * wanted.targets_per_image
        rows = images * (steps + len(each) * active)
        own += passing(work, lower, upper, points, points / size, wanted.targets_per_image)
        own += passing(work, lower, upper, rows, rows / size)
        gradients = float(points * wanted.targets_per_image * layout.positions * layout.channels)
        sums = 2.0 * images * steps * layout.positions * active
        own += Cost(
            images,
            written=written(interlayer_columns(wanted.targets_per_image, orders), images),
            work={costs.Kind.products: Amount(sums, traffic=8 * gradients, launches=300.0 * images * orders)},
        )
        found[unit] = (shared if not found else Cost()) + own
    return found


def compute(work: Work, specs: Mapping[str, Spec[InterlayerSettings]]) -> None:
    """The arrays of :func:`interlayer_columns` and ``images.json`` of every pair; a killed pass is continued."""
    first = next(iter(specs.values()))
    wanted = first.settings
    indices, layers = measured_indices(work, wanted.measured, first), {}
    if Order.activation_patching in wanted.orders and len(indices) < 2:
        raise UserError("evaluate.orders=activation_patching needs two images: measure more, or leave it out")
    pairs = {unit: Pair(spec.settings.lower, spec.settings.upper) for unit, spec in specs.items()}
    for unit, spec in specs.items():
        for side, name in pairs[unit]._asdict().items():
            if name not in layers:
                concepts = dictionary_stage.read(work, spec.parents[side], wanted.coding)
                layers[name] = Layer(work.layout(name), concepts)
    columns = interlayer_columns(wanted.targets_per_image, len(wanted.orders))
    with ExitStack() as stack:
        folders = {unit: stack.enter_context(work.store.writer(spec, resume=True)) for unit, spec in specs.items()}
        rows = {unit: Rows(folder, columns, len(indices)) for unit, folder in folders.items()}
        how = {"how": wanted, "pairs": pairs, "layers": layers}
        run_loop(InterlayerLoop(work.site, work.measured, indices, rows, "interlayer", **how))
        for unit, folder in folders.items():
            tell_nodes(folder, unit)
            kept = rows[unit].finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices, work.measured)))


def _orders(plan: Plan) -> tuple[Order, ...]:
    return next(iter(plan.evaluations[Evaluation.interlayer].values())).settings.orders


class _Measured(NamedTuple):
    """One pair of layers under one score and read-out.

    Attributes:
        keys: columns of the table, without the order.
        ids: images with a measured target.
        score: its curves.
        areas: metric → [images, orders].
        present: targets that there are.
    """

    keys: dict[str, Any]
    ids: list[str]
    score: Scored
    areas: dict[str, np.ndarray]
    present: np.ndarray


def _measured(work: Work, plan: Plan) -> Iterator[_Measured]:
    keys = plan.columns
    for spec in plan.evaluations[Evaluation.interlayer].values():
        artifact = work.store.open(spec)
        arrays = {name: np.asarray(artifact.array(f"{name}.npy")) for name in Curves._fields}
        present, ids = np.asarray(artifact.array("concepts.npy")) >= 0, read_images(artifact).ids
        lower, upper = spec.inputs["lower"], spec.inputs["upper"]
        base = {"lower": lower, "upper": upper, **keys, "k": count_of(work, plan.dictionaries[lower])}
        for column, readout in enumerate(READOUTS):
            for name in SCORES:
                found = scored({part: array[:, :, :, column] for part, array in arrays.items()}, present, name)
                measured = [ids[row] for row in np.flatnonzero(found.measured.any(1))]
                named = {**base, "score": name, "readout": readout}
                yield _Measured(named, measured, found, found.areas(), present)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every pair, order, score and read-out, in the form of ``interlayer.csv``.

    ``n`` counts images, which intervals resample after the mean over an image's targets. ``gig_ahead`` is gig's AUC
    difference minus the row's, image by image, ``gig_ahead_first_8`` the same of ``auc_first_8``. ``random_control`` is
    the random order's AUC difference with the interval (99.9 %) that must hold zero. Counts of targets: ``absent`` from
    an image, ``skipped`` for a small denominator. ``completeness_gap`` is a median of targets, then of images.
    """
    orders, found = _orders(plan), []
    for one in _measured(work, plan):
        for column, order in enumerate(orders):
            base = {**one.keys, "order": order.value}
            for metric, values in one.areas.items():
                found += interval_row(base, metric, values[:, column], "share")
            if Order.gig in orders and order is not Order.gig:
                for metric, name in (("auc_difference", "gig_ahead"), ("auc_first_8", "gig_ahead_first_8")):
                    values = one.areas[metric]
                    found += interval_row(base, name, values[:, orders.index(Order.gig)] - values[:, column], "share")
            if order is Order.random:
                found += _control(base, one.areas["auc_difference"][:, column])
        everything = {**one.keys, "order": "all"}
        found.append(count_row(everything, "skipped", one.present & ~one.score.measured))
        found.append(count_row(everything, "absent", ~one.present))
    return tidy([*found, *_gaps(work, plan)], KEYS)


def _control(base: Mapping[str, Any], cases: np.ndarray) -> Iterator[dict[str, Any]]:
    if len(cases):
        interval = random_control(cases)
        if not interval.low <= 0 <= interval.high:
            where = f"{base['lower']} → {base['upper']}, {base['score']}, {base['readout']}"
            log.error(
                "%s: the random order's AUC difference is %+.4f [%+.4f, %+.4f], not zero: do not believe the others",
                where, cases.mean(), *interval,
            )  # fmt: skip
        yield {
            **base,
            **dict(
                zip(
                    TAIL, ("random_control", cases.mean(), len(cases), *interval, "share, 99.9 % interval"), strict=True
                )
            ),
        }


def _gaps(work: Work, plan: Plan) -> Iterator[dict[str, Any]]:
    """Of ig along the configured path, whatever the score: the median over an image's targets, then over images."""
    keys = plan.columns
    for spec in plan.evaluations[Evaluation.interlayer].values():
        artifact = work.store.open(spec)
        gap, present = np.asarray(artifact.array("gap.npy")), np.asarray(artifact.array("concepts.npy")) >= 0
        cases = np.array([np.median(row[here]) for row, here in zip(gap, present, strict=True) if here.any()])
        lower, upper = spec.inputs["lower"], spec.inputs["upper"]
        base = {"lower": lower, "upper": upper, **keys, "k": count_of(work, plan.dictionaries[lower])}
        base |= {"order": Order.gig.value, "score": "none", "readout": spec.settings.path.readout.value}
        yield from interval_row(base, "completeness_gap", cases, "share", np.median)


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """What :func:`rows` averages, image by image, for paired comparisons between runs."""
    frames = [
        pd.DataFrame({**one.keys, "order": order.value, "metric": metric, "image": one.ids, "value": values[:, column]})
        for one in _measured(work, plan)
        for metric, values in one.areas.items()
        for column, order in enumerate(_orders(plan))
    ]
    return pd.concat(frames, ignore_index=True).reindex(columns=[*KEYS, "metric", "image", "value"])


def curve_table(work: Work, plan: Plan) -> pd.DataFrame:
    """Mean curves over images, after the mean over an image's targets: the keys, axis, x, insertion, deletion."""
    frames = []
    for one in _measured(work, plan):
        some, x = one.score.measured.any(1), np.linspace(0, 1, one.score.insertion.shape[-1])
        parts = {"insertion": one.score.insertion, "deletion": one.score.deletion}
        means = {name: np.nanmean(part[some], axis=1).mean(0) for name, part in parts.items() if some.any()}
        for column, order in enumerate(_orders(plan) if means else []):
            both = {name: mean[column] for name, mean in means.items()}
            frames.append(pd.DataFrame({**one.keys, "order": order.value, "axis": "share", "x": x, **both}))
    return pd.concat(frames, ignore_index=True).reindex(columns=[*KEYS, "axis", "x", "insertion", "deletion"])


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """Mean curves of every pair and order, by the paper's score and read-out."""
    from vismech.measures.interlayer import figure as drawing  # loads matplotlib

    return [drawing.curves_figure(curve_table(work, plan), folder / "interlayer_curves.png")]


KIND = Kind(
    jobs,
    "interlayer",
    "interlayer/{lower}->{upper}/{order}/{score}/{readout}",
    rows,
    figures,
    cases=cases,
    curves=curve_table,
)
