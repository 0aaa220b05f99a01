"""Stage trace: edges between the concepts of two layers, or from a layer's concepts to the class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from vismech.attribution.aggregation import Selection, group_means, select_concepts
from vismech.config import Stage
from vismech.lit.loop import run_loop
from vismech.lit.trace import TraceLoop, UpperConcepts, trace_columns
from vismech.network import LOGITS
from vismech.rows import Rows
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, compact, read_images
from vismech.stages.explained import Explained, explained
from vismech.store import Artifact, Spec, plain

VERSION = 1


def _inputs(ctx: Context, lower: str, upper: str) -> dict:
    attribute, graph = plain(ctx.config.attribute), ctx.config.graph
    del attribute["readout"]  # says nothing about a logit; concept_job adds it
    images = {"scope": graph.scope, "classes": graph.classes, "image": graph.image}
    images |= {"images": graph.images, "images_per_class": graph.images_per_class}
    coding = dictionary_stage.coding_inputs(ctx)
    return {"lower": lower, "upper": upper, **attribute, **coding, "explained": plain(images)}


def _job(inputs: dict, **parents: Spec) -> Job:
    spec = Spec(Stage.trace.value, VERSION, f"{inputs['lower']}->{inputs['upper']}", inputs, parents)
    return Job(Stage.trace, {spec.unit: spec}, compute)


def class_job(ctx: Context, lower: str, logits: Spec, dictionary: Spec) -> Job:
    """From a layer's concepts straight to the class logit: the importance of each concept for the class."""
    return _job(_inputs(ctx, lower, LOGITS), logits=logits, dictionary=dictionary)


def concept_job(ctx: Context, lower: str, upper: str, logits: Spec, dictionary: Spec, importance: Spec) -> Job:
    """From a layer's concepts to the concepts that the graph keeps in the upper layer.

    Args:
        ctx: the run.
        lower: lower layer.
        upper: upper layer.
        logits: the predictions, which choose the images.
        dictionary: of the lower layer.
        importance: the upper layer's trace to the class, which chooses the targets.
    """
    graph = ctx.config.graph
    choice = {"readout": ctx.config.attribute.readout.value, "important": graph.important, "shared": graph.shared}
    inputs = {**_inputs(ctx, lower, upper), **choice}
    return _job(inputs, logits=logits, dictionary=dictionary, importance=importance)


def read_explained(ctx: Context, logits: Artifact) -> Explained:
    """The images that the configured graph explains."""
    images = read_images(logits)
    names = {**ctx.data.classes, **ctx.model.classes}
    return explained(ctx.config.graph, images.ids, images.labels, logits.array("logits.npy"), names)


def importance(ctx: Context, trace: Artifact, who: Explained) -> np.ndarray:
    """Importance of each concept for each group [G, K]: the mean edge to the class logit over the group's images."""
    return group_means(np.asarray(trace.array("edges.npy"))[:, 0], who.group, len(who.groups))


def selection(ctx: Context, trace: Artifact, who: Explained) -> Selection:
    """The concepts that the graph keeps in a layer, from the layer's trace to the class."""
    return select_concepts(importance(ctx, trace, who), ctx.config.graph.important, ctx.config.graph.shared)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Fill the traces of ``specs``; one that was killed is continued."""
    for spec in specs.values():
        lower, upper = spec.inputs["lower"], spec.inputs["upper"]
        logits = ctx.store.open(spec.parents["logits"])
        who, images = read_explained(ctx, logits), read_images(logits)
        concepts = dictionary_stage.read(ctx, ctx.store.open(spec.parents["dictionary"]))
        targets, above = [], None
        if upper != LOGITS:
            above_trace = ctx.store.open(spec.parents["importance"])
            targets = selection(ctx, above_trace, who).concepts
            above = _upper(ctx, upper, targets, above_trace, spec.parents["importance"])
        place = {sample: index for index, sample in enumerate(ctx.data.ids)}
        indices = [place[images.ids[row]] for row in who.rows]
        with ctx.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, trace_columns(len(targets) or 1, concepts.k), len(indices))
            loop = TraceLoop(
                ctx.config,
                ctx.data,
                indices,
                {"trace": rows},
                f"trace {lower} → {upper}",
                lower=lower,
                upper=upper,
                layout=ctx.layout(lower),
                dictionary=concepts,
                concepts=above,
                classes=who.classes.astype(np.int64),
            )
            run_loop(loop)
            rows.finish()
            facts = {
                "lower": lower,
                "upper": upper,
                "targets": targets,
                "groups": [group.key for group in who.groups],
                "group": who.group.tolist(),
                "classes": who.classes.tolist(),
                "images": [images.ids[row] for row in who.rows],
            }
            (folder / "trace.json").write_bytes(compact(facts))


def _upper(ctx: Context, upper: str, targets: list[int], trace: Artifact, spec: Spec) -> UpperConcepts:
    atoms = dictionary_stage.read(ctx, ctx.store.open(spec.parents["dictionary"])).atoms
    places = np.asarray(trace.array("anchors.npy"))[:, targets]
    return UpperConcepts(ctx.layout(upper), atoms[torch.tensor(targets)], places)
