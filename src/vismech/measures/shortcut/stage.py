"""Shortcut removal: concepts chosen by several orders are edited, and what the model then answers is scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vismech.config.choices import EditOrder, EditValue, Evaluation, Half, Scope, Stage
from vismech.config.schema import EvaluateConfig
from vismech.costs.cost import Cost
from vismech.draws import generator_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.measures.base import TRACED, Kind
from vismech.measures.images import answers_job, measured_count, measured_indices, measured_of, measured_parents
from vismech.measures.shortcut.loop import EditedLoop, StrengthLoop, answer_columns, strength_columns
from vismech.measures.shortcut.rows import figures, rows
from vismech.measures.shortcut.scores import (
    by_attribute,
)
from vismech.measures.shortcut.settings import ShortcutSettings, StrengthSettings, has_attribute
from vismech.network.layers import LOGITS
from vismech.passes.start import run_loop
from vismech.sources.data import half_of
from vismech.sources.groups import Groups, read_groups
from vismech.sources.labels import class_index
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import effects as effects_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, edited, reading, written
from vismech.stages.effects import mean_of_vectors
from vismech.stages.trace import TraceSettings, importance, read_explained
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Spec, write_json
from vismech.store.rows import Rows
from vismech.store.settings import UNUSED

VERSION = 1
VALUES = (EditValue.zero, EditValue.mean)


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """What ranks concepts, and the edits.

    Raises:
        UserError: attributes, classes, counts or concepts that cannot be used.
    """
    edit, graph = ctx.config.edit, ctx.config.graph
    target = _target(ctx)
    if ctx.config.data.groups is None:
        raise UserError("evaluate.kinds=shortcut needs data.groups: a CSV of sample id and attributes, or level:N")
    ids = [sample.id for sample in ctx.measured.samples]
    groups = read_groups(ctx.config.data.groups, ids)
    attribute = _attribute(edit.attribute, edit.present, groups)
    if graph.scope is not Scope["class"] or ctx.explained_classes != [target]:
        raise UserError(
            f"evaluate.kinds=shortcut ranks concepts by what they do for edit.target={target}: give graph=class and "
            f"graph.classes=[{target}]"
        )
    if not edit.counts or min(edit.counts) < 1 or not edit.values or {*edit.values} - {*VALUES}:
        raise UserError(
            f"edit.counts={edit.counts}, edit.values={[each.value for each in edit.values]}: give counts of at least 1 "
            "and values of zero and mean"
        )
    given = _given(ctx, edit.concepts)
    by_hand = [EditOrder.given] if any(given.values()) else []
    orders = tuple(dict.fromkeys([*edit.orders, *by_hand]))
    ctx.measured_labels.require("evaluate.kinds=shortcut")
    rankings = effects_stage.every_concept(ctx, plan, EditValue.zero)
    measured, parents = measured_of(ctx), measured_parents(plan)
    strengths, specs = {}, {}
    twin = None
    if edit.twin is not None:
        other, job = _twin(ctx, edit.twin)
        (twin,) = job.specs.values()
        plan.jobs.append(replace(job, compute=lambda _, given: job.compute(other, given), passes=False))
    for layer in ctx.layers:
        dictionary = plan.dictionaries[layer]
        strengths[layer] = Spec(
            Stage.evaluate.value,
            VERSION,
            f"strength {layer}",
            StrengthSettings("strength", layer, dictionary_stage.coding_of(ctx.config), measured),
            {"dictionary": dictionary, **parents},
        )
        settings = ShortcutSettings.from_group(
            edit,
            concepts=UNUSED,
            twin=UNUSED,
            measure=Evaluation.shortcut,
            layer=layer,
            measured=measured,
            groups=groups,
            attribute=attribute,
            target=target,
            orders=orders,
            given=given[layer],
            seed=ctx.config.seed,
        )
        found = {"strength": strengths[layer], "ranking": rankings[layer], "vectors": plan.vectors[layer], **parents}
        found |= {} if twin is None else {"twin": twin}
        specs[layer] = Spec(Stage.evaluate.value, VERSION, layer, settings, found)
    return [
        Job(
            Stage.effects,
            {spec.unit: spec for spec in rankings.values()},
            effects_stage.compute,
            effects_stage.cost,
            passes=True,
        ),
        Job(Stage.evaluate, {spec.unit: spec for spec in strengths.values()}, _compute_strengths, _cost, passes=True),
        Job(Stage.evaluate, specs, compute, _cost, passes=True),
    ]


def _cost(work: Work, specs: Mapping[str, Spec[Any]]) -> dict[str, Cost]:
    """Every layer's codes in one pass, and for what is edited an answer to each edit."""
    images, found = measured_count(work, next(iter(specs.values())).settings.measured), {}
    edits = isinstance(next(iter(specs.values())).settings, ShortcutSettings)
    shared = reading(work, images)
    shared += activations(work, LOGITS if edits else [*specs.values()][-1].settings.layer, images)
    for unit, spec in specs.items():
        wanted, strength = spec.settings, spec.parents.get("strength", spec)
        dictionary = strength.parents["dictionary"]
        columns = strength_columns(concepts_of(work, wanted.layer, dictionary))
        own = coded(work, wanted.layer, dictionary, strength.settings.coding, images)
        if edits:
            each = len(wanted.orders) * len(wanted.values)
            columns = answer_columns(each * len(wanted.counts))
            for concepts in wanted.counts:
                own += edited(work, wanted.layer, float(images * each), concepts)
        own += Cost(images, written=written(columns, images), about=True)
        found[unit] = (Cost() if found else shared) + own
    return found


def _target(ctx: Context) -> int:
    given = ctx.config.edit.target
    names = ctx.class_names if isinstance(given, str) else {}
    target = None if given is None else class_index("edit.target", given, names)
    if target is None or not 0 <= target < ctx.outputs:
        raise UserError(f"edit.target={given}: give the class that goes with the attribute, 0 to {ctx.outputs - 1}")
    return target


def _attribute(wanted: str | None, present: str, groups: Groups) -> str:
    names = groups.attributes
    if wanted is None and len(names) != 1:
        raise UserError(f"edit.attribute=null, but data.groups has {', '.join(names)}: choose one of them")
    name = wanted or names[0]
    if name not in names:
        raise UserError(f"edit.attribute={name} is none of data.groups' attributes: {', '.join(names)}")
    values = {*groups.columns[name]}
    if present not in values or len(values) < 2:
        raise UserError(
            f"edit.present={present}: images with and without it are needed, but data.groups' {name} is "
            f"{', '.join(sorted(values)[:5])}"
        )
    return name


def _given(ctx: Context, named: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Layer → the concepts that are named by hand."""
    found: dict[str, list[int]] = {layer: [] for layer in ctx.layers}
    for name in named:
        layer, _, concept = name.rpartition("/")
        if layer not in found or not concept.isdigit():
            raise UserError(f"edit.concepts: {name!r} is no concept of {', '.join(ctx.layers)}: write layer/number")
        size = dictionary_stage.size(ctx, layer)
        if int(concept) >= size:
            raise UserError(f"edit.concepts: {name}: {layer} has {size} concepts: give {layer}/0 to {layer}/{size - 1}")
        found[layer].append(int(concept))
    return {layer: tuple(dict.fromkeys(concepts)) for layer, concepts in found.items()}


def _twin(ctx: Context, checkpoint: str) -> tuple[Context, Job]:
    """The answers of the same architecture with other weights to the same measured images."""
    config = replace(ctx.config, until=Stage.extract)
    config.model = replace(ctx.config.model, checkpoint=checkpoint)
    config.evaluate = replace(EvaluateConfig(), kinds=[], root=ctx.config.evaluate.root)
    other, _ = ctx.planned(config)
    return other, answers_job(other)


def _opened(work: Work, specs: Mapping[str, Spec[Any]]) -> dict[str, Layer]:
    found = {}
    for spec in specs.values():
        strength, layer = spec.parents.get("strength", spec), spec.settings.layer
        dictionary = dictionary_stage.read(work, strength.parents["dictionary"], strength.settings.coding)
        found[layer] = Layer(work.layout(layer), dictionary)
    return found


def _compute_strengths(work: Work, specs: Mapping[str, Spec[StrengthSettings]]) -> None:
    """``mean.npy`` and ``images.json`` of every layer, in one pass; one that was killed is continued."""
    layers = _opened(work, specs)
    columns = {
        spec.settings.layer: strength_columns(layers[spec.settings.layer].dictionary.k) for spec in specs.values()
    }
    _pass(work, specs, StrengthLoop, "strengths", columns, layers=layers)


def compute(work: Work, specs: Mapping[str, Spec[ShortcutSettings]]) -> None:
    """``before.npy``, ``after.npy``, ``images.json`` and ``edits.json`` of every layer; a killed pass is continued."""
    layers, sets, into, columns = _opened(work, specs), {}, {}, {}
    for spec in specs.values():
        name, wanted = spec.settings.layer, spec.settings
        ordered = _orders(work, spec, layers[name].dictionary.k)
        becomes = {EditValue.zero: torch.zeros(layers[name].dictionary.k)}
        if EditValue.mean in wanted.values:
            becomes[EditValue.mean] = mean_of_vectors(work, spec.parents["vectors"], layers[name]).float()
        each = [
            (ordered[order][:count], becomes[value])
            for order in wanted.orders
            for count in wanted.counts
            for value in wanted.values
        ]
        most = max(len(concepts) for concepts, _ in each)
        padded = [np.pad(concepts, (0, most - len(concepts)), constant_values=-1) for concepts, _ in each]
        sets[name], into[name] = torch.from_numpy(np.stack(padded)), torch.stack([codes for _, codes in each])
        columns[name] = answer_columns(len(each))
    _pass(work, specs, EditedLoop, "shortcut", columns, {"sets": sets}, layers=layers, sets=sets, into=into)


def _pass(
    work: Work,
    specs: Mapping[str, Spec[Any]],
    kind: Any,
    title: str,
    columns: Mapping[str, Any],
    told: Mapping[str, Mapping[str, torch.Tensor]] | None = None,
    **given: Any,
) -> None:
    first = next(iter(specs.values()))
    indices = measured_indices(work, first.settings.measured, first)
    with ExitStack() as stack:
        folders = {
            spec.settings.layer: stack.enter_context(work.store.writer(spec, resume=True)) for spec in specs.values()
        }
        rows = {layer: Rows(folder, columns[layer], len(indices)) for layer, folder in folders.items()}
        run_loop(kind(work.site, work.measured, indices, rows, title, **given))
        for layer, folder in folders.items():
            kept = rows[layer].finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices, work.measured)))
            for name, of in (told or {}).items():
                write_json(folder / f"{name}.json", of[layer].tolist())


def _orders(work: Work, spec: Spec[ShortcutSettings], concepts: int) -> dict[EditOrder, np.ndarray]:
    """Order → concepts, the first to be edited first; what measured images tell is that of their choosing half."""
    wanted, ranking = spec.settings, spec.parents["ranking"]
    strength = work.store.open(spec.parents["strength"])
    ids = read_images(strength).ids
    has = has_attribute(work, wanted, ids)
    choosing = np.array([half_of(sample) is Half.choosing for sample in ids])
    means = np.asarray(strength.array("mean.npy"))[choosing]
    active = np.flatnonzero(means.any(0))
    trace = work.store.open(ranking.parents["importance"])
    traced: TraceSettings = ranking.parents["importance"].settings
    who = read_explained(work, ranking.parents["importance"].parents["logits"], traced.explained)
    artifact = work.store.open(ranking)
    effect = np.zeros(concepts)
    effect[artifact.json("effects.json")["concepts"]] = np.asarray(artifact.array("own.npy")).mean(0, dtype=np.float64)

    def falling(values: np.ndarray) -> np.ndarray:
        return np.argsort(-values, kind="stable")

    found = {
        EditOrder.attribute: falling(by_attribute(means, has[choosing])),
        EditOrder.gig: falling(importance(trace, who)[0]),
        EditOrder.effect: falling(effect),
        EditOrder.random: generator_of(wanted.seed, "shortcut", wanted.layer).permutation(active),
        EditOrder.given: np.array(wanted.given, dtype=np.int64),
    }
    return {order: found[order] for order in wanted.orders}


KIND = Kind(jobs, "shortcut", "shortcut/{layer}/{order}/{edit}/{count}/{half}", rows, figures=figures, needs=TRACED)
