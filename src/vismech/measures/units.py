"""What the kinds that measure attributions image by image share: their artifacts and how these become rows.

Sources are the concepts of each layer, towards the concepts that the graph keeps in the next and from the last layer
towards the class, and the pixels towards the class. Images are those that the graph explains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from vismech.attribution.automatic import Choice
from vismech.config.choices import Baseline, Evaluation, Rule, SourceKind, Stage
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.measures.statistics import bootstrap
from vismech.measures.unit_loop import UnitLoop
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.pfv import Layout
from vismech.passes.baselines import Start
from vismech.passes.nodes import NODES, read_nodes
from vismech.passes.start import run_loop
from vismech.passes.trace import UpperConcepts
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import trace as trace_stage
from vismech.stages.context import Context, Job, Plan, compact, read_images, some_kept, write_images
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Column, Rows

Columns = Callable[[int, int, Layout | None], dict[str, Column]]
"""Arrays for a number of targets and of steps; of pixels also their layout."""


def unit_jobs(
    ctx: Context, plan: Plan, kind: Evaluation, version: int, loop: type[UnitLoop], columns: Columns
) -> list[Job]:
    """One artifact for each source and its targets.

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
    inputs = {
        "measure": kind.value,
        "rule": attribute.rule.value,
        "steps": attribute.steps,
        "phi": attribute.phi,
        "images": evaluate.images,
        "sensitivity_images": evaluate.sensitivity_images,
        "seed": ctx.config.seed,
        **trace_stage.rule_inputs(attribute),
    }
    found: dict[str, Spec] = {}

    def add(lower: str, upper: str, more: Mapping[str, Any], **parents: Spec) -> None:
        unit = f"{lower}->{upper}"
        ends = {"lower": lower, "upper": upper}
        found[unit] = Spec(Stage.evaluate.value, version, unit, {**inputs, **ends, **more}, parents)

    if SourceKind.pixels in evaluate.sources:
        assert plan.logits is not None
        explained = {**trace_stage.explained_inputs(ctx), "output": attribute.output.value}
        add(PIXELS, LOGITS, {"explained": explained}, logits=plan.logits)
    if SourceKind.concepts in evaluate.sources:
        for lower, upper in pairwise([*ctx.layers, LOGITS]):
            add(lower, upper, {}, trace=plan.to_class[lower] if upper == LOGITS else plan.pairs[lower, upper])

    def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
        for spec in specs.values():
            _fill(ctx, spec, loop, columns)

    return [Job(Stage.evaluate, {unit: spec}, compute) for unit, spec in found.items()]


class _Source(NamedTuple):
    """What a loop needs to know of a source, its images in the order of the graph's."""

    layout: Layout
    dictionary: Dictionary | None
    concepts: UpperConcepts | None
    images: list[str]
    classes: np.ndarray


def _source(ctx: Context, spec: Spec) -> _Source:
    lower, upper = spec.inputs["lower"], spec.inputs["upper"]
    if lower == PIXELS:
        logits = ctx.store.open(spec.parents["logits"])
        who, ids = trace_stage.read_explained(ctx, logits), read_images(logits).ids
        return _Source(ctx.layout(PIXELS), None, None, [ids[row] for row in who.rows], who.classes)
    parent = spec.parents["trace"]
    facts = ctx.store.open(parent).json("trace.json")
    concepts = None
    if upper != LOGITS:
        above = parent.parents["importance"]
        anchors = np.asarray(ctx.store.open(above).array("anchors.npy"))[:, facts["targets"]]
        dictionary = dictionary_stage.read(ctx, ctx.store.open(above.parents["dictionary"]))
        concepts = UpperConcepts(ctx.layout(upper), dictionary, tuple(facts["targets"]), anchors)
    dictionary = dictionary_stage.read(ctx, ctx.store.open(parent.parents["dictionary"]))
    return _Source(ctx.layout(lower), dictionary, concepts, facts["images"], np.array(facts["classes"]))


def _fill(ctx: Context, spec: Spec, kind: type[UnitLoop], columns: Columns) -> None:
    """The kind's arrays, ``images.json`` and ``units.json``; a pass that was killed is continued."""
    source, evaluate, unit = _source(ctx, spec), ctx.config.evaluate, spec.unit
    chosen = spread(list(range(len(source.images))), evaluate.images)
    concepts = source.concepts
    if concepts is not None:
        concepts = replace(concepts, anchors=concepts.anchors[chosen])
    targets = 1 if concepts is None else len(concepts.concepts)
    indices = [ctx.data.place[source.images[row]] for row in chosen]
    pixels = source.layout if spec.inputs["lower"] == PIXELS else None
    with ctx.store.writer(spec, resume=True) as folder:
        nodes = nodes_of(ctx, spec)
        rows = Rows(folder, columns(targets, nodes.steps, pixels), len(indices))
        loop = kind(
            ctx.config,
            ctx.data,
            indices,
            {"evaluate": rows},
            f"{spec.inputs['measure']} {unit}",
            lower=spec.inputs["lower"],
            upper=spec.inputs["upper"],
            layout=source.layout,
            dictionary=source.dictionary,
            concepts=concepts,
            classes=source.classes[chosen].astype(np.int64),
            start=Start(),
            nodes=nodes if spec.inputs["rule"] == Rule.auto else None,
            sensitivity_rows=spread(list(range(len(indices))), evaluate.sensitivity_images),
        )
        run_loop(loop)
        kept = rows.finish()
        some_kept(kept)
        facts = {"classes": source.classes[chosen][kept].tolist(), "targets": [*concepts.concepts] if concepts else []}
        write_json(folder / "units.json", facts)
        (folder / "images.json").write_bytes(compact(write_images(ctx, kept, indices)))


def nodes_of(ctx: Context, spec: Spec) -> Choice:
    """The nodes of a source: with rule=auto those of the trace that is measured, or the midpoint rule for pixels.

    Pixels have no trace; how complete their attributions are is one of the metrics.
    """
    rule, steps = Rule(spec.inputs["rule"]), spec.inputs["steps"]
    if rule is not Rule.auto:
        return Choice(rule, steps)
    if spec.inputs["lower"] == PIXELS:
        return Choice(Rule.midpoint, steps)
    return read_nodes(ctx.store.open(spec.parents["trace"]).path(NODES))


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
