"""What the kinds that measure attributions image by image share: their artifacts and how these become rows.

Sources are the concepts of each layer, towards the concepts that the graph keeps in the next and from the last layer
towards the class, and the pixels towards the class. Images are those that the graph explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from vismech.attribution.automatic import Choice
from vismech.config.choices import Baseline, Evaluation, Output, Rule, SourceKind, Stage
from vismech.costs import cost as costs
from vismech.costs.cost import Amount, Cost
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.measures.attribution.methods import MethodSettings, passes_of
from vismech.measures.saturation import UnitOptions
from vismech.measures.saturation.scores import DRAWS, WEIGHTS
from vismech.measures.statistics import bootstrap
from vismech.measures.unit_loop import UnitLoop
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.pfv import Layout
from vismech.passes.baselines import Start
from vismech.passes.nodes import NODES, read_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.start import run_loop
from vismech.passes.trace import UpperConcepts
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import trace as trace_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, passing, reading, written
from vismech.stages.explained import ExplainedSettings, spread
from vismech.stages.tables import TAIL
from vismech.stages.trace import images_of
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Column, Rows
from vismech.store.settings import FLAT, UNUSED, Settings, used

Columns = Callable[[int, int, Layout | None], dict[str, Column]]
"""Arrays for a number of targets and of steps; of pixels also their layout."""
Masks = Callable[[bool, int], int]
"""Masked outputs of an image, of pixels or not, for a number of targets."""


@dataclass(frozen=True)
class PixelTargets(Settings):
    """Which images are explained, and whether their logits or probabilities."""

    explained: ExplainedSettings = field(metadata=FLAT)
    output: Output


@dataclass(frozen=True, kw_only=True)
class UnitSettings(UnitOptions):
    """Which source is measured, and how; what its trace says already is not said again.

    Attributes:
        lower, upper: the layers, or pixels and the class.
        path: nodes and φ.
        measure: which measure.
        images: at most so many.
        seed: of disturbances and random sets of units.
        explained: of pixels, which have no trace, the targets.
        further: what the measure alone reads.
    """

    lower: str
    upper: str
    path: PathSettings = field(metadata=FLAT)
    measure: Evaluation
    images: int | None
    seed: int
    explained: PixelTargets = UNUSED
    further: MethodSettings = UNUSED


def unit_jobs(
    ctx: Context,
    plan: Plan,
    kind: Evaluation,
    version: int,
    loop: Callable[..., UnitLoop],
    columns: Columns,
    further: MethodSettings = UNUSED,
    *,
    masks: Masks,
) -> list[Job]:
    """One artifact for each source and its targets; ``further`` is what the measure's own settings are.

    ``masks``: outputs that are computed of each image with some of its units at the baseline.

    Raises:
        UserError: sources, paths or numbers that cannot be measured.
    """
    attribute, evaluate = ctx.config.attribute, ctx.config.evaluate
    if not evaluate.sources or not {*evaluate.sources} <= {SourceKind.concepts, SourceKind.pixels}:
        raise UserError(f"evaluate.sources={[*map(str, evaluate.sources)]}: give concepts, pixels or both")
    if evaluate.sensitivity_images < 0:
        raise UserError(f"evaluate.sensitivity_images={evaluate.sensitivity_images} must not be negative")
    if attribute.curve or attribute.baseline is not Baseline.zero:
        raise UserError(
            f"evaluate.kinds={kind.value} measures straight paths from zero: leave attribute.curve empty and "
            f"attribute.baseline={attribute.baseline.value} at zero"
        )
    path = PathSettings.of(attribute, {"phi"})
    shared: dict[str, Any] = {"measure": kind, "path": path, "seed": ctx.config.seed, "further": further}
    shared |= {"sources": UNUSED, "to_class": UNUSED}  # the layers say it
    found: dict[str, Spec[UnitSettings]] = {}

    def add(lower: str, upper: str, explained: Any = UNUSED, **parents: Spec[Any]) -> None:
        unit = f"{lower}->{upper}"
        settings = UnitSettings.from_group(evaluate, lower=lower, upper=upper, explained=explained, **shared)
        found[unit] = Spec(Stage.evaluate.value, version, unit, settings, parents)

    if SourceKind.pixels in evaluate.sources:
        assert plan.logits is not None
        add(PIXELS, LOGITS, PixelTargets(trace_stage.explained_of(ctx), attribute.output), logits=plan.logits)
    if SourceKind.concepts in evaluate.sources:
        far = [(layer, LOGITS) for layer in ctx.layers]
        for lower, upper in far if evaluate.to_class else pairwise([*ctx.layers, LOGITS]):
            add(lower, upper, trace=plan.to_class[lower] if upper == LOGITS else plan.pairs[lower, upper])

    def compute(work: Work, specs: Mapping[str, Spec[UnitSettings]]) -> None:
        for spec in specs.values():
            _fill(work, spec, loop, columns)

    def cost(work: Work, specs: Mapping[str, Spec[UnitSettings]]) -> dict[str, Cost]:
        return {unit: _cost(work, spec, masks, columns) for unit, spec in specs.items()}

    return [Job(Stage.evaluate, {unit: spec}, compute, cost, passes=True) for unit, spec in found.items()]


def _cost(work: Work, spec: Spec[UnitSettings], masks: Masks, columns: Columns) -> Cost:
    """Points of each image's path with a gradient for each target, of some images with noise too, and masked units.

    Further methods as they say, and all of them again where mosaics are measured.
    """
    wanted, pixels = spec.settings, spec.settings.lower == PIXELS
    trace: Spec[Any] = spec.parents["logits"] if pixels else spec.parents["trace"]
    logits = trace if pixels else trace.parents["logits"]
    explained = wanted.explained.explained if pixels else trace.settings.explained
    images, about = images_of(work, logits, explained)
    images = images if wanted.images is None else min(images, wanted.images)
    noisy = DRAWS * min(images, wanted.sensitivity_images)
    targets = 1 if wanted.upper == LOGITS else trace_stage.targets_of(trace.settings)
    layout, size = work.layout(wanted.lower), work.site.runtime.path_batch_size
    further = wanted.further or None
    attributed = images + noisy
    if further and used(further.mosaics, False) and wanted.upper == LOGITS:
        attributed += images
    points = float(wanted.path.steps * attributed)
    masked = float(images * masks(pixels, targets))
    found = reading(work, images) + passing(work, wanted.lower, wanted.upper, points, points / size, targets)
    found += passing(work, wanted.lower, wanted.upper, masked + 2 * images, masked / size)
    units = layout.positions
    if not pixels:
        dictionary = trace.parents["dictionary"]
        units = concepts_of(work, wanted.lower, dictionary)
        found += activations(work, wanted.lower, images)
        found += coded(work, wanted.lower, dictionary, trace.settings.coding, images + noisy)
    for one in passes_of(further, wanted.path.steps, targets, units) if further else []:
        rows = float(attributed * one.forward)
        found += passing(work, wanted.lower, wanted.upper, rows, rows / size, one.backward / one.forward)
    composed = 2.0 * masked * units * layout.positions * layout.channels
    sums = 2.0 * len(WEIGHTS) * points * targets * layout.positions * layout.channels
    arrays = written(columns(targets, wanted.path.steps, layout if pixels else None), images)
    products = {costs.Kind.products: Amount(composed + sums, launches=60.0 * images * targets)}
    return found + Cost(images, written=arrays, work=products, about=about or wanted.upper != LOGITS)


class _Source(NamedTuple):
    """What a loop needs to know of a source, its images in the order of the graph's.

    ``path`` is the measured one: its nodes and φ, and along what and to which read-out the trace went.
    """

    layout: Layout
    path: PathSettings
    dictionary: Dictionary | None
    concepts: UpperConcepts | None
    images: list[str]
    classes: np.ndarray


def _source(work: Work, spec: Spec[UnitSettings]) -> _Source:
    settings = spec.settings
    lower, upper, path = settings.lower, settings.upper, settings.path
    if lower == PIXELS:
        logits, targets = spec.parents["logits"], settings.explained
        who, ids = trace_stage.read_explained(work, logits, targets.explained), read_images(work.store.open(logits)).ids
        path = replace(path, output=targets.output)
        return _Source(work.layout(PIXELS), path, None, None, [ids[row] for row in who.rows], who.classes)
    parent = spec.parents["trace"]
    traced: trace_stage.TraceSettings = parent.settings
    path = replace(path, along=traced.path.along, output=traced.path.output, readout=traced.path.readout)
    facts = work.store.open(parent).json("trace.json")
    concepts = None
    if upper != LOGITS:
        above = parent.parents["importance"]
        anchors = np.asarray(work.store.open(above).array("anchors.npy"))[:, facts["targets"]]
        dictionary = dictionary_stage.read(work, above.parents["dictionary"], traced.coding)
        concepts = UpperConcepts(work.layout(upper), dictionary, tuple(facts["targets"]), anchors)
    dictionary = dictionary_stage.read(work, parent.parents["dictionary"], traced.coding)
    return _Source(work.layout(lower), path, dictionary, concepts, facts["images"], np.array(facts["classes"]))


def _fill(work: Work, spec: Spec[UnitSettings], kind: Callable[..., UnitLoop], columns: Columns) -> None:
    """The kind's arrays, ``images.json`` and ``units.json``; a pass that was killed is continued."""
    source, wanted = _source(work, spec), spec.settings
    chosen = spread(list(range(len(source.images))), wanted.images)
    concepts = source.concepts
    if concepts is not None:
        concepts = replace(concepts, anchors=concepts.anchors[chosen])
    targets = 1 if concepts is None else len(concepts.concepts)
    indices = [work.data.place[source.images[row]] for row in chosen]
    pixels = source.layout if wanted.lower == PIXELS else None
    with work.store.writer(spec, resume=True) as folder:
        nodes = nodes_of(work, spec)
        rows = Rows(folder, columns(targets, nodes.steps, pixels), len(indices))
        loop = kind(
            work.site,
            work.data,
            indices,
            {"evaluate": rows},
            f"{wanted.measure.value} {spec.unit}",
            lower=wanted.lower,
            upper=wanted.upper,
            path=source.path,
            layout=source.layout,
            dictionary=source.dictionary,
            concepts=concepts,
            classes=source.classes[chosen].astype(np.int64),
            start=Start(),
            nodes=nodes if wanted.path.rule is Rule.auto else None,
            seed=wanted.seed,
            sensitivity_rows=spread(list(range(len(indices))), wanted.sensitivity_images),
        )
        run_loop(loop)
        kept = rows.finish()
        some_kept(kept)
        shown = source.classes.reshape(len(source.images), -1)[:, 0]  # of a difference the class that is ahead
        facts = {"classes": shown[chosen][kept].tolist(), "targets": [*concepts.concepts] if concepts else []}
        write_json(folder / "units.json", facts)
        (folder / "images.json").write_bytes(compact(write_images(work, kept, indices)))


def nodes_of(work: Work, spec: Spec[UnitSettings]) -> Choice:
    """The nodes of a source: with rule=auto those of the trace that is measured, or the midpoint rule for pixels.

    Pixels have no trace; how complete their attributions are is one of the metrics.
    """
    path = spec.settings.path
    if path.rule is not Rule.auto:
        return Choice(path.rule, path.steps)
    if spec.settings.lower == PIXELS:
        return Choice(Rule.midpoint, path.steps)
    return read_nodes(work.store.open(spec.parents["trace"]).path(NODES))


class Scores:
    """The arrays of one artifact as numbers of whole images, which are the independent cases.

    Args:
        artifact: what :func:`unit_jobs` computed.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact

    def array(self, name: str) -> np.ndarray:
        """One of its arrays."""
        return np.asarray(self.artifact.array(f"{name}.npy"))

    def images(self, name: str, column: int | None = None, against: int | None = None, middle=np.mean) -> np.ndarray:
        """One number per image that has any: the ``middle`` over its targets.

        Args:
            name: metric.
            column: which of the methods, where the metric has several.
            against: another method, whose value is subtracted target by target.
            middle: np.mean, or np.median where ratios have heavy tails.
        """
        value, defined = self.array(name).astype(np.float64), self.array(f"{name}_defined")
        if column is not None:
            first, second = value[..., column], value[..., column if against is None else against]
            value = first if against is None else first - second
            defined = defined[..., column] & defined[..., column if against is None else against]
        return np.array([middle(row[here]) for row, here in zip(value, defined, strict=True) if here.any()])


def interval_row(
    base: Mapping[str, Any], metric: str, cases: np.ndarray, units: str, statistic=np.mean
) -> Iterator[dict]:
    """A row with its statistic over images and a bootstrap interval; none where there are no cases."""
    if len(cases):
        row = (metric, float(statistic(cases)), len(cases), *bootstrap(cases, statistic=statistic), units)
        yield {**base, **dict(zip(TAIL, row, strict=True))}


def count_row(base: Mapping[str, Any], metric: str, flags: np.ndarray) -> dict[str, Any]:
    """A row that counts targets."""
    row = (metric, int(flags.sum()), flags.size, None, None, "targets")
    return {**base, **dict(zip(TAIL, row, strict=True))}
