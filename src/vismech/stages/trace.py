"""Stage trace: edges between the concepts of two layers, or from a layer's concepts to the class."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from vismech.attribution.aggregation import group_means, select_concepts
from vismech.attribution.automatic import PROBED
from vismech.attribution.methods import OPTIONS
from vismech.attribution.windows import worth
from vismech.config.choices import Around, Baseline, Evaluation, ReadOut, Rule, Scope, Stage
from vismech.config.schema import Config
from vismech.costs.cost import Amount, Cost, Kind
from vismech.errors import UserError
from vismech.network.layers import LOGITS, PIXELS
from vismech.passes.baselines import Start, draw_baselines
from vismech.passes.nodes import tell_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.start import run_loop
from vismech.passes.trace import TraceLoop, UpperConcepts, trace_columns
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, counted, passing, reading, written
from vismech.stages.dictionary import CodingSettings
from vismech.stages.explained import Explained, ExplainedSettings, explained
from vismech.stages.mean import MeanSettings, mean_spec
from vismech.stages.mean import job as mean_job
from vismech.stages.work import Work, compact, read_images
from vismech.store.artifacts import Artifact, Spec
from vismech.store.rows import Rows
from vismech.store.settings import FLAT, UNUSED, Settings, used

VERSION = 2


@dataclass(frozen=True)
class TraceSettings(Settings):
    """Between which layers edges are traced, how, and for which images.

    Attributes:
        lower, upper: the layers; of the upper the graph's concepts are traced to, or the class.
        path: how edges are attributed.
        coding: how vectors are written in concepts.
        explained: which images.
        important, shared: how many concepts the graph keeps of the upper layer.
        around: hold, where paths run around the lower layer and what comes on them is held.
        prefix: tokens before the lower layer's patch tokens, where there are such: what they bring about is told.
    """

    lower: str
    upper: str
    path: PathSettings = field(metadata=FLAT)
    coding: CodingSettings = field(metadata=FLAT)
    explained: ExplainedSettings
    important: int = UNUSED
    shared: int = UNUSED
    around: Around = UNUSED
    prefix: int = UNUSED


def path_of(config: Config, upper: str) -> PathSettings:
    """How edges into ``upper`` are attributed."""
    end = "output" if upper == LOGITS else "readout"
    names = {"path", "baseline", "along", "check_images", "tolerance", end}
    return PathSettings.of(config.attribute, names, config.seed)


def explained_of(ctx: Context) -> ExplainedSettings:
    """Which images are explained."""
    return ExplainedSettings.of(ctx.config.graph, ctx.explained_classes, len(ctx.data), ctx.explained_inputs)


def _job(ctx: Context, settings: TraceSettings, **parents: Spec[Any]) -> Job:
    if ctx.config.attribute.baseline is Baseline.mean:
        parents["vectors"] = parents["dictionary"].parents["vectors"]
    if (mean := mean_of(ctx, settings.lower)) is not None:
        parents["mean"] = mean
    spec = Spec(Stage.trace.value, VERSION, f"{settings.lower}->{settings.upper}", settings, parents)
    return Job(Stage.trace, {spec.unit: spec}, compute, cost, passes=True, concurrent=True)


def mean_of(ctx: Context, lower: str) -> Spec[MeanSettings] | None:
    """What the baseline at a layer is made of beside its vectors: a mean over whole images, where it needs one."""
    kind = ctx.config.attribute.baseline
    if kind is Baseline.mean_image:
        return mean_spec(ctx, PIXELS)
    needed = kind is Baseline.mean_position or (kind is Baseline.mean and ctx.layout(lower).prefix > 0)
    return mean_spec(ctx, lower) if needed else None


def mean_jobs(ctx: Context) -> list[Job]:
    """The means that the baselines of the run's layers need."""
    means = {mean.key: mean for layer in ctx.layers if (mean := mean_of(ctx, layer)) is not None}
    return [mean_job(mean) for mean in means.values()]


def images_of(work: Work, logits: Spec[Any], wanted: ExplainedSettings) -> tuple[int, bool]:
    """How many images are explained; before the predictions are known about as many as are labelled so, and True."""
    if work.store.find(logits) is not None:
        return len(read_explained(work, logits, wanted).rows), False
    each, most = wanted.caps
    if wanted.scope is Scope["image"]:
        return 1, False
    count = len(work.data)
    if wanted.scope is Scope["dataset"]:
        found = count if each is None else min(count, each * work.outputs)
    else:
        standing = work.class_labels.classes(np.array([sample.label for sample in work.data.samples]))
        classes = wanted.classes[:1] if wanted.scope is Scope["error"] else wanted.classes
        labelled = [int((standing == index).sum()) or -(-count // work.outputs) for index in classes]
        found = sum(min(one, one if each is None else each) for one in labelled)
    return max(1, found if most is None else min(found, most)), True


def cost(work: Work, specs: Mapping[str, Spec[TraceSettings]]) -> dict[str, Cost]:
    """Codes of the lower layer; at each point of the path one way forward, and one back for each target."""
    found = {}
    for unit, spec in specs.items():
        settings = spec.settings
        path, lower, upper = settings.path, settings.lower, settings.upper
        images, about = images_of(work, spec.parents["logits"], settings.explained)
        targets = 1 if upper == LOGITS else targets_of(settings)
        starts = used(path.baselines, 1)
        steps = used(path.max_steps, path.steps) if used(path.tolerance, None) else path.steps
        points = steps * (images * starts + 2 * min(images, used(path.check_images, 0)))
        points += PROBED * path.steps if path.rule is Rule.auto else 0
        layout, k = work.layout(lower), concepts_of(work, lower, spec.parents["dictionary"])
        gradient = points * targets * layout.positions * layout.channels
        twice = 2 * images * (1 + starts * bool(used(settings.prefix, 0)))
        opened = images * (1 + (path.baseline is Baseline.blur))
        edges = 2.0 * images * k * targets * layout.positions * layout.channels
        found[unit] = (
            reading(work, opened)
            + activations(work, lower, opened)
            + coded(work, lower, spec.parents["dictionary"], settings.coding, opened)
            + _followed(work, settings, points, twice, targets)
            + Cost(
                written=written(trace_columns(targets, k, used(settings.prefix, 0)), images),
                work={Kind.products: Amount(edges / 2, traffic=2.0 * 4 * gradient, launches=30.0 * images * targets)},
                about=about or upper != LOGITS,
            )
        )
    return found


def _followed(work: Work, settings: TraceSettings, points: float, ends: float, targets: int) -> Cost:
    """So many path points, and ends of paths: whole maps, or the windows that targets at one position depend on."""
    path, lower, upper = settings.path, settings.lower, settings.upper
    share = counted(work, lower, upper).window
    local = upper != LOGITS and path.readout is ReadOut.max and path.under not in OPTIONS and worth(share, targets)
    rows, backs = (points * targets * share, 1) if local else (points, targets)
    found = passing(work, lower, upper, rows, rows / work.site.runtime.path_batch_size, backs)
    return found + passing(work, lower, upper, ends, ends / work.site.runtime.path_batch_size)


def targets_of(settings: TraceSettings) -> int:
    """Concepts of the upper layer that are traced to, at most."""
    groups = max(1, len(settings.explained.classes)) if settings.explained.scope is not Scope["error"] else 1
    return settings.important * groups + used(settings.shared, 0) * (groups > 1)


def _settings(ctx: Context, lower: str, upper: str, **kept: int) -> TraceSettings:
    coding = dictionary_stage.coding_of(ctx.config)
    more: dict[str, Any] = dict(kept)
    if (around := ctx.config.attribute.around) is Around.hold and ctx.held(lower, upper):
        more["around"] = around
    if prefix := ctx.layout(lower).prefix:
        more["prefix"] = prefix
    return TraceSettings(lower, upper, path_of(ctx.config, upper), coding, explained_of(ctx), **more)


def class_job(ctx: Context, lower: str, logits: Spec[Any], dictionary: Spec[Any]) -> Job:
    """From a layer's concepts straight to the class logit: the importance of each concept for the class."""
    return _job(ctx, _settings(ctx, lower, LOGITS), logits=logits, dictionary=dictionary)


def gradient_job(ctx: Context, lower: str, logits: Spec[Any], dictionary: Spec[Any]) -> Job:
    """As :func:`class_job`, with one node at the end of the path, where edges are u × gradient."""
    settings = _settings(ctx, lower, LOGITS)
    nodes: dict[str, Any] = {"rule": Rule.riemann_right, "steps": 1, "check_images": 0}
    nodes |= dict.fromkeys(("path", "phi", "weight", "tolerance", "max_steps", "automatic", "options"), UNUSED)
    return _job(ctx, replace(settings, path=replace(settings.path, **nodes)), logits=logits, dictionary=dictionary)


def concept_job(
    ctx: Context, lower: str, upper: str, logits: Spec[Any], dictionary: Spec[Any], importance: Spec[Any]
) -> Job:
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
    settings = _settings(ctx, lower, upper, important=graph.important, shared=graph.shared)
    return _job(ctx, settings, logits=logits, dictionary=dictionary, importance=importance)


def read_explained(work: Work, logits: Spec[Any], wanted: ExplainedSettings) -> Explained:
    """The images that a graph explains."""
    artifact = work.store.open(logits)
    images = read_images(artifact)
    classes = work.class_labels.classes(images.labels)
    return explained(wanted, images.ids, classes, artifact.array("logits.npy"), work.class_names)


def importance(trace: Artifact, who: Explained) -> np.ndarray:
    """Importance of each concept for each group [G, K]: the mean edge to the class logit over the group's images."""
    return group_means(np.asarray(trace.array("edges.npy"))[:, 0], who.group, len(who.groups))


def who_is_explained(work: Work, plan: Plan) -> Explained | None:
    """The images that a run's graph explains; None without traces to the class."""
    if plan.logits is None or not plan.to_class:
        return None
    settings: TraceSettings = next(iter(plan.to_class.values())).settings
    return read_explained(work, plan.logits, settings.explained)


def importances(work: Work, plan: Plan) -> dict[str, np.ndarray]:
    """Layer → importance of each concept for each explained group [G, K]; nothing without traces to the class."""
    who = who_is_explained(work, plan)
    if who is None:
        return {}
    return {layer: importance(work.store.open(spec), who) for layer, spec in plan.to_class.items()}


def compute(work: Work, specs: Mapping[str, Spec[TraceSettings]]) -> None:
    """Fill the traces of ``specs``; one that was killed is continued."""
    for spec in specs.values():
        settings = spec.settings
        lower, upper = settings.lower, settings.upper
        who = read_explained(work, spec.parents["logits"], settings.explained)
        images = read_images(work.store.open(spec.parents["logits"]))
        concepts = dictionary_stage.read(work, spec.parents["dictionary"], settings.coding)
        targets, above = [], None
        if upper != LOGITS:
            above_trace = work.store.open(spec.parents["importance"])
            kept = select_concepts(importance(above_trace, who), settings.important, settings.shared)
            targets = kept.concepts
            if not targets:
                raise UserError(_no_edge(upper, settings, work.layout(upper).prefix))
            above = _upper(work, settings, targets, above_trace, spec.parents["importance"])
        indices = [work.data.place[images.ids[row]] for row in who.rows]
        with work.store.writer(spec, resume=True) as folder:
            columns = trace_columns(len(targets) or 1, concepts.k, used(settings.prefix, 0))
            rows = Rows(folder, columns, len(indices))
            loop = TraceLoop(
                work.site,
                work.data,
                indices,
                {"trace": rows},
                f"trace {lower} → {upper}",
                lower=lower,
                upper=upper,
                path=settings.path,
                layout=work.layout(lower),
                dictionary=concepts,
                concepts=above,
                classes=who.classes.astype(np.int64),
                start=start_of(work, spec, images.ids),
                around=used(settings.around, Around.refuse),
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
            if settings.around is Around.hold:
                facts["held"] = list(work.network.around(lower, upper).held)
            (folder / "trace.json").write_bytes(compact(facts))


def _no_edge(upper: str, settings: TraceSettings, prefix: int) -> str:
    nothing = f"no concept of {upper} has an edge to the class along attribute.path={settings.path.under}"
    if prefix:
        return (
            f"{nothing}: what follows may read the class token alone, whose part is no concept's; leave {upper} out of "
            "extract.layers, or give attribute.path=ig"
        )
    return f"{nothing}, so there is nothing to trace to: give attribute.path=ig or more attribute.steps"


def _upper(work: Work, settings: TraceSettings, targets: list[int], trace: Artifact, spec: Spec[Any]) -> UpperConcepts:
    concepts = dictionary_stage.read(work, spec.parents["dictionary"], settings.coding)
    places = np.asarray(trace.array("anchors.npy"))[:, targets]
    return UpperConcepts(work.layout(settings.upper), concepts, tuple(targets), places)


def start_of(work: Work, spec: Spec[TraceSettings], readable: list[str]) -> Start:
    """The baseline of a trace."""
    path, samples, mean = spec.settings.path, [], None
    if path.baseline is Baseline.mean:
        vectors = work.store.open(spec.parents["vectors"]).array("vectors.npy")
        mean = torch.from_numpy(vectors.mean((0, 1), dtype=np.float64).astype(np.float32))
    elif path.baseline is Baseline.images:
        samples = draw_baselines(readable, path.seed, path.baselines)
    elif path.baseline is Baseline.image:
        assert path.baseline_image is not None
        samples = [path.baseline_image]
    whole = None
    if "mean" in spec.parents:
        whole = torch.from_numpy(np.array(work.store.open(spec.parents["mean"]).array("mean.npy")))
    places = tuple(work.data.place[sample] for sample in samples)
    return Start(path.baseline, mean, places, whole, used(path.blur, 0.0))


HOLDING = (
    Evaluation.planted,
    Evaluation.stability,
    Evaluation.localization,
    Evaluation.reconstruction,
    Evaluation.insertion,
    Evaluation.transfer,
)
"""Measures that compute nothing from one layer to another, or hold what runs around the lower one."""


def held_pairs(ctx: Context, pairs: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of some pairs of layers with paths around the lower one, where these may be held.

    Raises:
        UserError: a pair that cannot be cut between, and the remedy.
    """
    if ctx.config.attribute.around is Around.refuse:
        try:
            ctx.check_cuts(list(pairs))
        except UserError as error:
            hold = "attribute.around=hold traces what runs through the lower layer alone, all else held"
            raise UserError(f"{error}; {hold}") from error
        return []
    return [pair for pair in pairs if ctx.held(*pair)]


def check_cuts(ctx: Context, measures: Sequence[str], effects: bool) -> None:
    """Refuse pairs of layers that cannot be traced, and what cannot be measured where something is held.

    Args:
        ctx: the run.
        measures: names of the measures that it asks for.
        effects: whether it measures the effects of the graph's concepts.

    Raises:
        UserError: the pair or the measure, and the remedy.
    """
    pairs = [*pairwise([*ctx.layers, LOGITS])]
    if ctx.config.attribute.around is Around.hold:
        pairs += [(layer, LOGITS) for layer in ctx.layers]
    # Every pair is looked at, so that each is noted with the model.
    held = held_pairs(ctx, dict.fromkeys(pairs))
    if not held:
        return
    lower, upper = min(held)
    told = f"attribute.around=hold holds what runs around {lower} on the way to {upper}, which"
    if effects:
        raise UserError(f"{told} graph.measured=true does not: give graph.measured=false")
    if cutting := [name for name in measures if name in {each.value for each in Evaluation} - {*HOLDING}]:
        raise UserError(f"{told} evaluate.kinds={cutting[0]} does not: give evaluate=none, or ends of blocks as layers")


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
