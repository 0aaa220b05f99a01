"""Concept insertion and deletion at every layer (C-Ins and C-Del)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.attribution.automatic import PROBED
from vismech.config.choices import Baseline, Evaluation, Stage
from vismech.costs import cost as costs
from vismech.costs.cost import Amount, Cost
from vismech.errors import UserError
from vismech.measures.base import Kind
from vismech.measures.images import measured_count, measured_indices, measured_of, measured_parents
from vismech.measures.insertion.loop import (
    ROW_MULTIPLE,
    InsertionLoop,
    InsertionSettings,
    Layer,
    insertion_columns,
    whole_variants,
)
from vismech.measures.insertion.scores import FIRST, GRID, count_area, count_axis, random_control, share_area
from vismech.measures.statistics import bootstrap
from vismech.network.layers import LOGITS
from vismech.passes.nodes import tell_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.start import run_loop
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, count_of, passing, reading, written
from vismech.stages.dictionary import CodingSettings
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import held_pairs
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Artifact, Spec
from vismech.store.rows import Rows
from vismech.store.settings import UNUSED

log = logging.getLogger(__name__)
VERSION = 1
KEYS = ["layer", "dictionary", "k", "code", "center", "mean_rule", "variant", "order", "budget"]


class Cases(NamedTuple):
    """One metric of one curve, image by image.

    Attributes:
        variant: plain, residual, matched_<budget> or sparse_<budget>.
        order: gig, random, greedy, or none of a number that no order changes.
        metric: its name.
        images: rows of the artifact that it is defined for.
        values: one number per such image.
    """

    variant: str
    order: str
    metric: str
    images: np.ndarray
    values: np.ndarray


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job for all layers, so that images are read and passed once.

    Raises:
        UserError: numbers or paths that cannot be measured.
    """
    evaluate, attribute = ctx.config.evaluate, ctx.config.attribute
    if any(budget < 1 for budget in evaluate.budgets) or len({*evaluate.budgets}) < len(evaluate.budgets):
        raise UserError(f"evaluate.budgets={evaluate.budgets}: give different numbers of concepts, at least 1")
    share = evaluate.budget_l0_per_channel
    if share is not None and not 0 < share <= 1:
        raise UserError(f"evaluate.budget_l0_per_channel={share} must be above 0 and at most 1, or null")
    for key, value in (("random_images", evaluate.random_images), ("greedy_images", evaluate.greedy_images)):
        if value is not None and value < 0:
            raise UserError(f"evaluate.{key}={value} must not be negative")
    if attribute.curve or attribute.baseline is not Baseline.zero:
        raise UserError(
            "evaluate.kinds=insertion ranks concepts along straight paths from zero: leave attribute.curve empty and "
            f"attribute.baseline={attribute.baseline.value} at zero"
        )
    names = {"path", "baseline", "along", "tolerance", "output"}
    settings = InsertionSettings.from_group(
        evaluate,
        measure=Evaluation.insertion,
        coding=dictionary_stage.coding_of(ctx.config),
        path=PathSettings.of(attribute, names),
        measured=measured_of(ctx),
        seed=ctx.config.seed,
        budget_l0_per_channel=UNUSED if share is None else share,
        mean_rule=dictionary_stage.kept_mean(ctx.config),
    )
    parents = measured_parents(plan)
    held_pairs(ctx, [(layer, LOGITS) for layer in plan.dictionaries])
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, settings, {"dictionary": spec, **parents})
        for layer, spec in plan.dictionaries.items()
    }
    return [Job(Stage.evaluate, specs, compute, cost, passes=True, concurrent=True)]


def cost(work: Work, specs: Mapping[str, Spec[InsertionSettings]]) -> dict[str, Cost]:
    """Of each layer its codes, edges of these and of every budget's, and a row for each count of each curve."""
    wanted, found = next(iter(specs.values())).settings, {}
    images, axis = measured_count(work, wanted.measured), len(count_axis(wanted.budgets))
    shared, size = reading(work, images) + activations(work, LOGITS, images), work.site.runtime.path_batch_size
    matched, whole = len(wanted.matched), len(whole_variants(wanted.residual))
    random = images if wanted.random_images is None else min(images, wanted.random_images)
    for layer, spec in specs.items():
        dictionary, layout = spec.parents["dictionary"], work.layout(layer)
        k = concepts_of(work, layer, dictionary)
        points = float(images * (1 + matched) * wanted.path.steps + PROBED * wanted.path.steps)
        curves = images * whole + random
        reads = 2.0 * (curves * (GRID + axis - 4) + images * matched * (axis - 2))
        reads += wanted.greedy_images * FIRST[-1] * k
        ends = images * ROW_MULTIPLE * (1.0 + 1 + matched + 2 * whole)
        # Each curve's partial sums, the points' gradients, and what is coded anew.
        sums = 2.0 * reads * layout.positions * k + 2.0 * points * layout.positions * layout.channels
        anew = 4.0 * images * layout.positions * layout.channels * sum(each.budget for each in wanted.matched)
        own = coded(work, layer, dictionary, wanted.coding, images)
        own += passing(work, layer, LOGITS, points, points / size, 1)
        own += passing(work, layer, LOGITS, reads + ends, images * (2 * (1 + matched + whole) + curves / images))
        own += Cost(
            images,
            written=written(insertion_columns(k, wanted.matched, wanted.residual), images),
            work={costs.Kind.products: Amount(sums + anew, traffic=4 * sums, launches=150.0 * images * (1 + matched))},
        )
        found[layer] = (shared if not found else Cost()) + own
    return found


def compute(work: Work, specs: Mapping[str, Spec[InsertionSettings]]) -> None:
    """The arrays of ``insertion_columns``, and ``images.json``; a killed pass is continued."""
    first = next(iter(specs.values()))
    wanted = first.settings
    indices = measured_indices(work, wanted.measured, first)
    every = list(range(len(indices)))
    with ExitStack() as stack:
        folders = {layer: stack.enter_context(work.store.writer(spec, resume=True)) for layer, spec in specs.items()}
        dictionaries = {layer: spec.parents["dictionary"] for layer, spec in specs.items()}
        layers, rows = read_layers(work, dictionaries, wanted.coding), {}
        for layer, folder in folders.items():
            columns = insertion_columns(layers[layer].dictionary.k, wanted.matched, wanted.residual)
            rows[layer] = Rows(folder, columns, len(indices))
        loop = InsertionLoop(
            work.site,
            work.measured,
            indices,
            rows,
            "insertion",
            layers=layers,
            held=held_layers(work, layers),
            how=wanted,
            random_rows=spread(every, wanted.random_images),
            greedy_rows=spread(every, wanted.greedy_images),
        )
        run_loop(loop)
        for layer, folder in folders.items():
            tell_nodes(folder, f"{layer}->{LOGITS}")
        finish(work, folders, rows, indices)


def read_layers(work: Work, dictionaries: Mapping[str, Spec[Any]], coding: CodingSettings) -> dict[str, Layer]:
    """Layer → its dictionary and layout."""
    return {
        layer: Layer(work.layout(layer), dictionary_stage.read(work, spec, coding))
        for layer, spec in dictionaries.items()
    }


def held_layers(work: Work, layers: Iterable[str]) -> list[str]:
    """The layers with paths around them to the class; planning has refused them where these may not be held."""
    return [layer for layer in layers if work.held(layer, LOGITS)]


def finish(work: Work, folders: Mapping[str, Any], rows: Mapping[str, Rows], indices: list[int]) -> None:
    """Leave out unreadable images and write ``images.json``."""
    for layer, folder in folders.items():
        kept = rows[layer].finish()
        some_kept(kept)
        (folder / "images.json").write_bytes(compact(write_images(work, kept, indices, work.measured)))


def metrics_of(artifact: Artifact, wanted: InsertionSettings) -> Iterator[Cases]:
    """Every metric of every curve, image by image."""
    axis = count_axis(wanted.budgets)
    names = ("share", "count", "random_share", "random_count", "drawn", "greedy", "tried", "l0", "distinct", "clean")
    arrays = {name: np.asarray(artifact.array(f"{name}.npy")) for name in names}
    everyone = np.arange(len(arrays["clean"]))
    whole, matched = whole_variants(wanted.residual), wanted.matched
    for column, variant in enumerate(whole):
        for metric, values in _areas(arrays["share"][:, column], arrays["count"][:, column], axis):
            yield Cases(variant, "gig", metric, everyone, values)
    for column, variant in enumerate(matched, len(whole)):
        for metric, values in _matched_areas(arrays["count"][:, column], axis, variant.budget):
            yield Cases(variant.name, "gig", metric, everyone, values)
    drawn, tried = (np.flatnonzero(arrays[name]) for name in ("drawn", "tried"))
    if len(drawn):
        for metric, values in _areas(arrays["random_share"][drawn], arrays["random_count"][drawn], axis):
            yield Cases("plain", "random", metric, drawn, values)
    if len(tried):
        for first in FIRST:
            yield Cases("plain", "greedy", f"auc_first_{first}", tried, _first(arrays["greedy"][tried], axis, first))
    for column, variant in enumerate(["plain", *(each.name for each in matched)]):
        yield Cases(variant, "none", "l0", everyone, arrays["l0"][:, column])
        yield Cases(variant, "none", "distinct_concepts", everyone, arrays["distinct"][:, column])
    yield Cases("plain", "none", "probability_clean", everyone, arrays["clean"])


def _areas(share: np.ndarray, count: np.ndarray, axis: Sequence[int]) -> Iterator[tuple[str, np.ndarray]]:
    yield from _both(share_area(share.astype(np.float64)))
    for first in FIRST:
        yield f"auc_first_{first}", _first(count, axis, first)


def _matched_areas(count: np.ndarray, axis: Sequence[int], budget: int) -> Iterator[tuple[str, np.ndarray]]:
    """Of exactly m concepts a share is a count over m, so that the area over all of them is that over the first m."""
    yield from _both(count_area(count.astype(np.float64), axis, budget))
    for first in FIRST:
        if first < budget:
            yield f"auc_first_{first}", _first(count, axis, first)


def _both(areas: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    inserted, deleted = areas.T
    yield "c_insertion", inserted
    yield "c_deletion", deleted
    yield "auc_difference", inserted - deleted


def _first(count: np.ndarray, axis: Sequence[int], first: int) -> np.ndarray:
    inserted, deleted = count_area(count.astype(np.float64), axis, first).T
    return inserted - deleted


UNITS = {"l0": "concepts per vector", "distinct_concepts": "concepts per image", "probability_clean": "share"}


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer and curve, in the form of ``extraction.csv``; intervals resample images.

    ``random_control`` is the mean AUC difference of random orders with its 99.9 % interval, which has to hold zero.
    """
    found: list[dict[str, Any]] = []
    for layer, spec in plan.evaluations[Evaluation.insertion].items():
        base = base_of(work, plan, layer)
        for cases in metrics_of(work.store.open(spec), spec.settings):
            here = {**base, "variant": cases.variant, "order": cases.order}
            found.append({**here, **interval(cases.metric, cases.values, UNITS.get(cases.metric, "area"))})
            if cases.order == "random" and cases.metric == "auc_difference":
                found.append({**here, **_control(layer, cases.values)})
    return tidy(found, KEYS)


def base_of(work: Work, plan: Plan, layer: str) -> dict[str, Any]:
    """The columns of a layer's rows that say which dictionary they are of."""
    return {"layer": layer, **plan.columns, "k": count_of(work, plan.dictionaries[layer])}


def interval(metric: str, values: np.ndarray, units: str) -> dict[str, Any]:
    """The tail of a row: the mean over images and its bootstrap interval."""
    values = values.astype(np.float64)
    row = (metric, float(values.mean()), len(values), *bootstrap(values), units)
    return dict(zip(TAIL, row, strict=True))


def _control(layer: str, values: np.ndarray) -> dict[str, Any]:
    low, high = random_control(values)
    if not low <= 0 <= high:
        log.error(
            "%s: NEGATIVE CONTROL FAILED: random orders have an AUC difference of %.4f, whose 99.9 %% interval "
            "[%.4f, %.4f] does not hold zero: do not trust this run's insertion and deletion",
            layer,
            values.mean(),
            low,
            high,
        )
    tail = ("random_control", float(values.mean()), len(values), low, high, "area, 99.9 % interval")
    return dict(zip(TAIL, tail, strict=True))


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """The numbers behind :func:`rows`, image by image: its keys, then metric, image and value."""
    found = []
    for layer, spec in plan.evaluations[Evaluation.insertion].items():
        artifact = work.store.open(spec)
        ids, base = np.array(read_images(artifact).ids), base_of(work, plan, layer)
        for each in metrics_of(artifact, spec.settings):
            keys = {**base, "variant": each.variant, "order": each.order}
            found.append(case_frame(keys, each.metric, ids[each.images], each.values))
    return pd.concat(found, ignore_index=True)


def case_frame(base: Mapping[str, Any], metric: str, images: np.ndarray, values: np.ndarray) -> pd.DataFrame:
    """One metric's numbers, image by image, under the table's keys."""
    frame = pd.DataFrame({"metric": metric, "image": images, "value": values})
    for place, key in enumerate(KEYS):
        frame.insert(place, key, base[key])
    return frame


def curve_table(work: Work, plan: Plan) -> pd.DataFrame:
    """Mean curves over the images: the keys, then axis (share or count), x, insertion, deletion and n."""
    found = []
    for layer, spec in plan.evaluations[Evaluation.insertion].items():
        artifact, budgets = work.store.open(spec), spec.settings.budgets
        drawn = np.flatnonzero(artifact.array("drawn.npy"))
        names = [*whole_variants(spec.settings.residual), *(each.name for each in spec.settings.matched)]
        for axis, x in (("share", np.linspace(0, 1, GRID)), ("count", np.array(count_axis(budgets), dtype=float))):
            gig = np.asarray(artifact.array(f"{axis}.npy"))
            drawings = {(name, "gig"): gig[:, column] for column, name in enumerate(names[: gig.shape[1]])}
            if len(drawn):
                drawings["plain", "random"] = np.asarray(artifact.array(f"random_{axis}.npy"))[drawn]
            for (variant, order), values in drawings.items():
                mean, keys = values.mean(0, dtype=np.float64), {"variant": variant, "order": order, "axis": axis}
                curve = {"x": x, "insertion": mean[0], "deletion": mean[1], "n": len(values)}
                found.append(pd.DataFrame({**base_of(work, plan, layer), **keys, **curve}))
    columns = [*KEYS, "axis", "x", "insertion", "deletion", "n"]
    return pd.concat(found, ignore_index=True).reindex(columns=columns)


KIND = Kind(
    jobs,
    "extraction",
    "extraction/{layer}/{variant}/{order}",
    rows,
    cases=cases,
    curves=curve_table,
    elsewhere=True,
)
