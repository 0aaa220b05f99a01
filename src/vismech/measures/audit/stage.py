"""An audit of the classes: the concepts that carry each, what they are worth, and who else uses them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vismech.config.choices import EditValue, Evaluation, Scope, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.intervene.edits import Edit
from vismech.measures.audit import AuditOptions
from vismech.measures.audit.loop import NOT_LOOKED, AuditLoop, audit_columns
from vismech.measures.audit.scores import (
    LEAST_IMAGES,
    class_effects,
    conflicts,
    counts_as_effect,
    group_entropy,
    used_by,
)
from vismech.measures.base import TRACED, Kind, measured_rows
from vismech.measures.images import MeasuredSettings, measured_count, measured_indices, measured_of, measured_parents
from vismech.measures.localization.stage import has_fields
from vismech.network.layers import LOGITS
from vismech.passes.start import run_loop
from vismech.sources.groups import Groups, read_groups
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import (
    activations,
    coded,
    concepts_of,
    count_of,
    edited,
    reading,
    traced_to_pixels,
    written,
)
from vismech.stages.dictionary import TABLE_KEYS
from vismech.stages.effects import mean_of_vectors
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import TraceSettings
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Spec, write_json
from vismech.store.rows import Rows
from vismech.store.settings import FLAT, UNUSED, used

VERSION = 1
KEYS = ["layer", "class", "concept", *TABLE_KEYS, "k", "edit"]
LOOKED = 64
"""Images whose concepts are localised, where boxes are given."""


@dataclass(frozen=True, kw_only=True)
class AuditSettings(AuditOptions):
    """Which concepts are edited, and in which images.

    ``threshold`` is read when rows are made, and stands here so that equal artifacts have equal rows.
    """

    measure: Evaluation
    layer: str
    edit: EditValue
    measured: MeasuredSettings = field(metadata=FLAT)
    groups: Groups = UNUSED


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One artifact for each layer, all from one pass.

    Raises:
        UserError: too few images of every class, or settings that cannot be used.
    """
    edit, evaluate = ctx.config.edit, ctx.config.evaluate
    if ctx.config.graph.scope is Scope["error"]:
        raise UserError("evaluate.kinds=audit looks at classes: give another graph.scope than error")
    if edit.candidates < 1 or not 0 < edit.threshold < 1:
        raise UserError(
            f"edit.candidates={edit.candidates}, edit.threshold={edit.threshold}: give at least 1 concept, and a "
            "threshold above 0 and below 1"
        )
    if evaluate.edit not in (EditValue.zero, EditValue.mean):
        raise UserError(f"evaluate.edit={evaluate.edit.value}: an audit sets concepts to zero or mean")
    ctx.measured_labels.require("evaluate.kinds=audit")
    labels = ctx.measured_labels.classes(np.array([sample.label for sample in ctx.measured.samples]))
    chosen = spread(list(range(len(labels))), evaluate.images)
    sizes = np.bincount(labels[chosen][labels[chosen] >= 0], minlength=1)
    if sizes.max() < LEAST_IMAGES:
        raise UserError(
            f"evaluate.kinds=audit: a class effect is a mean over at least {LEAST_IMAGES} images of a class, but the "
            f"largest class has {sizes.max()} of the {len(chosen)} that are measured: give more evaluate.images or data"
        )
    groups = UNUSED
    if ctx.config.data.groups is not None:
        groups = read_groups(ctx.config.data.groups, [sample.id for sample in ctx.measured.samples])
        groups.boxes()
    specs = {}
    for layer in ctx.layers:
        settings = AuditSettings.from_group(
            edit,
            measure=Evaluation.audit,
            layer=layer,
            edit=evaluate.edit,
            measured=measured_of(ctx),
            groups=groups,
        )
        parents = {"importance": plan.to_class[layer], **measured_parents(plan)}
        if evaluate.edit is EditValue.mean:
            parents["vectors"] = plan.vectors[layer]
        specs[layer] = Spec(Stage.evaluate.value, VERSION, layer, settings, parents)
    return [Job(Stage.evaluate, specs, compute, cost, passes=True)]


def cost(work: Work, specs: Mapping[str, Spec[AuditSettings]]) -> dict[str, Cost]:
    """Every layer's codes, an edit of each concept that carries a class, and where some of them lie."""
    images, found = measured_count(work, next(iter(specs.values())).settings.measured), {}
    shared = reading(work, images) + activations(work, list(specs)[-1], images)
    for layer, spec in specs.items():
        wanted, trace = spec.settings, spec.parents["importance"]
        dictionary, traced = trace.parents["dictionary"], trace.settings
        classes = len(traced.explained.classes) or min(len(work.data), work.outline.shape(LOGITS)[0])
        concepts = min(wanted.candidates * classes, concepts_of(work, layer, dictionary))
        own = coded(work, layer, dictionary, traced.coding, images) + edited(work, layer, images * (concepts + 1.0), 1)
        if wanted.groups is not UNUSED and wanted.groups.boxes() is not None:
            looked = min(images, LOOKED)
            own += traced_to_pixels(work, looked, looked * concepts)
        own += Cost(images, written=written(audit_columns(concepts), images), about=True)
        found[layer] = (Cost() if found else shared) + own
    return found


def _importances(work: Work, trace: Spec[TraceSettings]) -> dict[int, np.ndarray]:
    """Class → mean edge of every concept to it [K], over the explained images of the class."""
    artifact = work.store.open(trace)
    edges = np.asarray(artifact.array("edges.npy"))[:, 0].astype(np.float64)
    classes = np.array(artifact.json("trace.json")["classes"])
    return {int(label): edges[classes == label].mean(0) for label in np.unique(classes)}


def compute(work: Work, specs: Mapping[str, Spec[AuditSettings]]) -> None:
    """The arrays of :func:`audit_columns`, ``images.json`` and ``audit.json``; a killed pass is continued."""
    first = next(iter(specs.values()))
    indices = measured_indices(work, first.settings.measured, first)
    samples = [work.measured.samples[index] for index in indices]
    labels = work.measured_labels.classes(np.array([sample.label for sample in samples]))
    groups: Groups | None = used(first.settings.groups, None)
    boxes = None if groups is None else groups.boxes()
    layers, edits = {}, {}
    for layer, spec in specs.items():
        trace = spec.parents["importance"]
        traced: TraceSettings = trace.settings
        dictionary = dictionary_stage.read(work, trace.parents["dictionary"], traced.coding)
        layers[layer] = Layer(work.layout(layer), dictionary)
        wanted = spec.settings
        strongest = [
            concept
            for values in _importances(work, trace).values()
            for concept in np.argsort(-values, kind="stable")[: wanted.candidates].tolist()
            if values[concept] > 0
        ]
        chosen = tuple(sorted({*strongest}))
        means: tuple[float, ...] = ()
        if wanted.edit is EditValue.mean:
            means = tuple(mean_of_vectors(work, spec.parents["vectors"], layers[layer])[list(chosen)].tolist())
        edits[layer] = Edit(chosen, wanted.edit, means=means)
    mapped = frozenset(layer for layer in layers if boxes is not None and has_fields(work, layer))
    with ExitStack() as stack:
        folders = {layer: stack.enter_context(work.store.writer(spec, resume=True)) for layer, spec in specs.items()}
        rows = {
            layer: Rows(folder, audit_columns(len(edits[layer].concepts)), len(indices))
            for layer, folder in folders.items()
        }
        loop = AuditLoop(
            work.site,
            work.measured,
            indices,
            rows,
            "audit",
            layers=layers,
            edits=edits,
            labels=labels,
            boxes=None if boxes is None else boxes[indices],
            looked=frozenset(spread(list(range(len(indices))), LOOKED)),
            mapped=mapped,
        )
        run_loop(loop)
        for layer, folder in folders.items():
            kept = rows[layer].finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices, work.measured)))
            facts = {"concepts": list(edits[layer].concepts), "fields": layer in mapped}
            write_json(folder / "audit.json", facts)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """For every class and concept with a class effect: D and its interval; what logit and accuracy of all the class's
    images lose; the attributed importance; the concept's place among the layer's by lost logit; how many images have
    it; who else uses it or is harmed; entropy over each attribute's groups; and where its receptive field lies."""
    found: list[dict[str, Any]] = []
    for spec in plan.evaluations[Evaluation.audit].values():
        found += _layer_rows(work, plan, spec)
    return tidy(found, KEYS)


def _layer_rows(work: Work, plan: Plan, spec: Spec[AuditSettings]) -> Iterator[dict[str, Any]]:
    wanted, artifact = spec.settings, work.store.open(spec)
    images, facts = read_images(artifact), artifact.json("audit.json")
    concepts = facts["concepts"]
    looked = "share of the receptive field" if facts["fields"] else "share of the upsampled code"
    labels = work.measured_labels.classes(images.labels)
    arrays = {name: np.asarray(artifact.array(f"{name}.npy")) for name in audit_columns(0)}
    probability, logit, right = (arrays[name].astype(np.float64) for name in ("probability", "logit", "right"))
    told = class_effects(labels, probability, logit, right, arrays["active"])
    harmed, shared = conflicts(told.effect, wanted.threshold), used_by(told.effect, wanted.threshold)
    importances = _importances(work, spec.parents["importance"])
    base = {
        **plan.columns,
        "layer": wanted.layer,
        "k": count_of(work, plan.dictionaries[wanted.layer]),
    }
    base["edit"] = wanted.edit.value
    for row, label in enumerate(told.classes.tolist()):
        own = labels == label
        places = np.argsort(np.argsort(-told.logit[row], kind="stable"), kind="stable") + 1
        entropies = _entropies(work, wanted, images.ids, own, arrays)
        inside = np.where(arrays["inside"][own] == NOT_LOOKED, np.nan, arrays["inside"][own])
        for column in np.flatnonzero(counts_as_effect(told.effect[row])):
            here = {**base, "class": work.class_name(label), "concept": concepts[column]}
            ends = told.low[row, column], told.high[row, column]
            numbers = [
                ("class_effect", told.effect[row, column], told.images[row, column], *ends, "probability"),
                ("logit_effect", told.logit[row, column], own.sum(), None, None, "logits"),
                ("accuracy", told.accuracy[row, column], own.sum(), None, None, "share"),
                ("rank", places[column], len(concepts), None, None, "place by logit_effect"),
                ("active", told.active[row, column], own.sum(), None, None, "share"),
                ("used_by", shared[row, column], len(told.classes), None, None, "other classes"),
                ("conflicts", harmed[row, column], len(told.classes), None, None, "classes harmed"),
            ]
            if label in importances:
                value = importances[label][concepts[column]]
                numbers.append(("importance", value, None, None, None, "logits"))
            for name, values in entropies.items():
                numbers.append((f"entropy_{name}", values[column], own.sum(), None, None, "share of log groups"))
            seen = inside[:, column][np.isfinite(inside[:, column])]
            if len(seen):
                numbers.append(("inside", seen.mean(), len(seen), None, None, looked))
            for one in numbers:
                if np.isfinite(one[1]):
                    yield {**here, **dict(zip(TAIL, one, strict=True))}


def _entropies(
    work: Work, wanted: AuditSettings, ids: list[str], own: np.ndarray, arrays: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    groups: Groups | None = used(wanted.groups, None)
    if groups is None:
        return {}
    place = np.array([work.measured.place[sample] for sample in ids])[own]
    return {
        name: group_entropy(
            arrays["probability"][own].astype(np.float64),
            arrays["active"][own],
            np.unique(np.array(groups.columns[name])[place], return_inverse=True)[1],
        )
        for name in groups.attributes
    }


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """``audit.png``: for every class its first concepts by lost logit, layer by layer."""
    from vismech.measures.audit.figure import audit_figure

    table = measured_rows(work, plan, Evaluation.audit)
    if not len(table):  # no concept has an effect on any class
        return []
    folder.mkdir(parents=True, exist_ok=True)
    return [audit_figure(table, folder / "audit.png")]


KIND = Kind(jobs, "audit", "audit/{layer}/{class}/{concept}", rows, figures=figures, needs=TRACED)
