"""Stage trace: edges between the concepts of two layers, or from a layer's concepts to the class."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from vismech.attribution import automatic
from vismech.attribution.aggregation import Selection, group_means, select_concepts
from vismech.attribution.weights import SIDES
from vismech.config.choices import Baseline, Rule, Scope, Stage
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.network.layers import LOGITS
from vismech.passes.baselines import Start, draw_baselines
from vismech.passes.nodes import tell_nodes
from vismech.passes.start import run_loop
from vismech.passes.trace import TraceLoop, UpperConcepts, trace_columns
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan, compact, read_images
from vismech.stages.explained import Explained, explained
from vismech.store.artifacts import Artifact, Spec, plain
from vismech.store.rows import Rows

VERSION = 2


def path_inputs(config: Config, upper: str) -> dict:
    """The part of a key that says how edges into ``upper`` are attributed: what matters for the chosen options.

    The mode is left out for the reason that batch sizes are: it changes last bits only.
    """
    attribute = config.attribute
    names = ["path", "baseline", "along", "rule", "steps", "check_images"]
    names += ["phi"] if attribute.path in SIDES else []
    names += {Baseline.image: ["baseline_image"], Baseline.images: ["baselines"]}.get(attribute.baseline, [])
    names += ["curve"] if attribute.curve else []
    names += ["tolerance", "max_steps"] if attribute.tolerance is not None else []
    names += ["output" if upper == LOGITS else "readout"]
    inputs = {name: plain(getattr(attribute, name)) for name in names} | rule_inputs(attribute)
    return {**inputs, "seed": config.seed} if attribute.baseline is Baseline.images else inputs


def rule_inputs(attribute: AttributeConfig) -> dict:
    """The part of a key that says how nodes are chosen, where they are."""
    return {"automatic": automatic.VERSION} if attribute.rule is Rule.auto else {}


def _inputs(ctx: Context, lower: str, upper: str) -> dict:
    coding, images = dictionary_stage.coding_inputs(ctx), explained_inputs(ctx)
    return {"lower": lower, "upper": upper, **path_inputs(ctx.config, upper), **coding, "explained": images}


def explained_inputs(ctx: Context) -> dict:
    """The part of a key that says which images are explained."""
    graph, most = ctx.config.graph, ctx.config.graph.images_per_class
    images = {"scope": graph.scope, "classes": graph.classes, "image": graph.image, "images": graph.images}
    images["images_per_class"] = most
    if graph.scope is Scope["dataset"]:
        # Keys are those of when images_per_class was a cap of the whole data set, where that is what is asked for.
        if most is None:
            images["images_per_class"] = graph.limit
        elif most < len(ctx.data) or graph.limit is not None:
            images |= {"capped": "each predicted class", "limit": graph.limit}
    return {**plain(images), **ctx.explained_inputs}


def _job(ctx: Context, inputs: dict, **parents: Spec) -> Job:
    if ctx.config.attribute.baseline is Baseline.mean:
        parents["vectors"] = parents["dictionary"].parents["vectors"]
    spec = Spec(Stage.trace.value, VERSION, f"{inputs['lower']}->{inputs['upper']}", inputs, parents)
    return Job(Stage.trace, {spec.unit: spec}, compute)


def class_job(ctx: Context, lower: str, logits: Spec, dictionary: Spec) -> Job:
    """From a layer's concepts straight to the class logit: the importance of each concept for the class."""
    return _job(ctx, _inputs(ctx, lower, LOGITS), logits=logits, dictionary=dictionary)


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
    inputs = {**_inputs(ctx, lower, upper), "important": graph.important, "shared": graph.shared}
    return _job(ctx, inputs, logits=logits, dictionary=dictionary, importance=importance)


def read_explained(ctx: Context, logits: Artifact) -> Explained:
    """The images that the configured graph explains."""
    images = read_images(logits)
    classes = ctx.class_labels.classes(images.labels)
    return explained(ctx.config.graph, images.ids, classes, logits.array("logits.npy"), ctx.class_names)


def importance(ctx: Context, trace: Artifact, who: Explained) -> np.ndarray:
    """Importance of each concept for each group [G, K]: the mean edge to the class logit over the group's images."""
    return group_means(np.asarray(trace.array("edges.npy"))[:, 0], who.group, len(who.groups))


def importances(ctx: Context, plan: Plan) -> dict[str, np.ndarray]:
    """Layer → importance of each concept for each explained group [G, K]; nothing without traces to the class."""
    if plan.logits is None or not plan.to_class:
        return {}
    who = read_explained(ctx, ctx.store.open(plan.logits))
    return {layer: importance(ctx, ctx.store.open(spec), who) for layer, spec in plan.to_class.items()}


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
            if not targets:
                raise UserError(
                    f"no concept of {upper} has an edge to the class along attribute.path={ctx.config.attribute.path}, "
                    "so there is nothing to trace to: give attribute.path=ig or more attribute.steps"
                )
            above = _upper(ctx, upper, targets, above_trace, spec.parents["importance"])
        indices = [ctx.data.place[images.ids[row]] for row in who.rows]
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
                start=_start(ctx, spec, images.ids),
            )
            run_loop(loop)
            tell_nodes(folder, spec.unit)
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
    concepts = dictionary_stage.read(ctx, ctx.store.open(spec.parents["dictionary"]))
    places = np.asarray(trace.array("anchors.npy"))[:, targets]
    return UpperConcepts(ctx.layout(upper), concepts, tuple(targets), places)


def _start(ctx: Context, spec: Spec, readable: list[str]) -> Start:
    attribute, samples, mean = ctx.config.attribute, [], None
    if attribute.baseline is Baseline.mean:
        vectors = ctx.store.open(spec.parents["vectors"]).array("vectors.npy")
        mean = torch.from_numpy(vectors.mean((0, 1), dtype=np.float64).astype(np.float32))
    elif attribute.baseline is Baseline.images:
        samples = draw_baselines(readable, ctx.config.seed, attribute.baselines)
    elif attribute.baseline is Baseline.image:
        assert attribute.baseline_image is not None
        samples = [attribute.baseline_image]
    return Start(attribute.baseline, mean, tuple(ctx.data.place[sample] for sample in samples))


def check_baseline(ctx: Context) -> None:
    """Refuse baselines that the data cannot give, before anything is computed.

    Raises:
        UserError: an unknown sample id, or fewer images than baselines.
    """
    attribute, ids = ctx.config.attribute, ctx.data.ids
    if attribute.baseline is Baseline.image and attribute.baseline_image not in ids:
        raise UserError(
            f"attribute.baseline_image={attribute.baseline_image} is not a sample id of this data; "
            f"the first is {ids[0]!r}"
        )
    if attribute.baseline is Baseline.images:
        draw_baselines(ids, ctx.config.seed, attribute.baselines)
