"""The pipeline: which artifacts a configuration needs, which of them exist, and computing the rest.

extract(layer) → dictionary(layer) → describe(layer)
                          └→ trace(layer → class) → trace(layer → upper layer) → effects → graph → evaluate → cards
                                                                                                        └→ report
"""

from __future__ import annotations

import logging
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

from vismech.attribution.methods import OPTIONS, Manifold, load_decoder, options_of, told_cost
from vismech.attribution.paths import load_path
from vismech.attribution.quadrature import quadrature
from vismech.config.choices import Baseline, LoggerKind, Mode, PathWeight, ReadOut, Rule, Stage
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.measures import images as measured
from vismech.measures.base import alone, asked, measure_of
from vismech.network.layers import LOGITS
from vismech.passes.devices import accelerator_of
from vismech.passes.settings import PathSettings
from vismech.passes.shards import shard_of
from vismech.sources.checks import check_config_sources
from vismech.sources.data import Columns, ImageData, open_data
from vismech.sources.own import Own
from vismech.stages import cards, describe, dictionary, effects, extract, graph, report, trace, where
from vismech.stages.context import Context, Job, Plan
from vismech.stages.explained import check_classes, check_listed, check_scope
from vismech.store.artifacts import Spec
from vismech.store.settings import UNUSED

log = logging.getLogger(__name__)
ORDER = list(Stage)


def open_context(config: Config) -> Context:
    """The run's context; images are listed if anything needs them, the model is not opened yet.

    Raises:
        UserError: images that cannot be listed, or none of the name that the graph is to explain.
    """
    if alone(config):
        return Context.of(config, ImageData(Path(), [], {}), _planned)
    data = config.data
    found = open_data(
        data.source,
        data.root,
        data.limit,
        data.classes,
        data.half,
        target=data.target,
        options=data.options,
        columns=Columns.of(data),
    )
    check_listed(config.graph, found.ids)
    return Context.of(config, found, _planned)


def _planned(config: Config) -> tuple[Context, Plan]:
    check(config)
    ctx = open_context(config)
    return ctx, make_plan(ctx)


def make_plan(ctx: Context) -> Plan:
    """Every artifact that the configuration asks for, up to ``until``."""
    stages = _stages(ctx.config)

    def wanted(stage: Stage) -> bool:
        return stage in stages

    jobs: list[Job] = []

    def add(job: Job) -> dict[str, Spec]:
        jobs.append(job)
        return dict(job.specs)

    needed = not alone(ctx.config)
    vectors = add(extract.job(ctx, logits=wanted(Stage.trace))) if needed else {}
    logits = vectors.pop(LOGITS, None)
    dictionaries, descriptions, to_class, pairs = {}, {}, {}, {}
    if wanted(Stage.dictionary):
        for layer in vectors:
            dictionaries |= add(dictionary.job(ctx, layer, vectors[layer]))
    for layer in vectors:
        if wanted(Stage.describe):
            descriptions |= add(describe.job(ctx, layer, vectors[layer], dictionaries[layer]))
    graph_spec, measured_effects = None, {}
    if logits is not None:
        trace.check_baseline(ctx)
        check_classes(ctx)
        ctx.check_cuts(list(pairwise([*ctx.layers, LOGITS])))
        for layer in reversed(ctx.layers):
            (to_class[layer],) = add(trace.class_job(ctx, layer, logits, dictionaries[layer])).values()
        for lower, upper in reversed(list(pairwise(ctx.layers))):
            job = trace.concept_job(ctx, lower, upper, logits, dictionaries[lower], to_class[upper])
            (pairs[lower, upper],) = add(job).values()
        if ctx.config.graph.measured and wanted(Stage.effects):
            measured_effects = add(effects.job(ctx, to_class, pairs))
        if wanted(Stage.graph):
            (graph_spec,) = add(graph.job(ctx, logits, to_class, pairs, measured_effects)).values()
    answers = None
    if wanted(Stage.evaluate) and needed and ctx.config.evaluate.correct_only:
        job = measured.answers_job(ctx)
        (answers,) = job.specs.values()
        if logits is None or logits.key != answers.key:
            jobs.append(job)
    columns = dictionary.table_keys(ctx.config)
    plan = Plan(
        jobs,
        vectors,
        dictionaries,
        descriptions,
        to_class,
        pairs,
        logits,
        graph_spec,
        {},
        measured_effects,
        answers,
        columns=columns,
    )
    page = graph_spec if wanted(Stage.report) and (ctx.config.report.page or ctx.config.report.figure) else None
    pictured = bool(descriptions) and cards.count(ctx) > 0
    # Before what is measured, so that there is a page to read meanwhile.
    drawn: dict[str, Spec] = {}
    if page is not None or pictured:
        drawn = add(cards.fields_job(ctx, plan, page))
    if page is not None:
        drawn |= add(where.job(ctx, plan))
    if wanted(Stage.evaluate):
        for kind in asked(ctx.config):
            plan.evaluations[kind] = {}
            for job in measure_of(kind).jobs(ctx, plan):
                plan.evaluations[kind] |= add(job)
    if pictured:
        (plan.pictures,) = add(cards.pictures_job(ctx, plan, drawn["fields"])).values()
    if page is not None:
        (plan.report,) = add(report.job(ctx, plan, **drawn)).values()
    return plan


def _stages(config: Config) -> set[Stage]:
    """The stages up to ``until``; ``until=evaluate`` leaves out those that no evaluation reads."""
    last = config.until or Stage.report
    if last is not Stage.evaluate:
        return set(ORDER[: ORDER.index(last) + 1])
    read = (measure_of(kind).needs for kind in asked(config))
    return {Stage.extract, Stage.evaluate}.union(*read)


def describe_plan(ctx: Context, plan: Plan) -> list[dict[str, Any]]:
    """Hit or miss for every artifact; a forced stage is a miss. What a trace along another path costs is logged."""
    if ctx.config.attribute.path in OPTIONS and (plan.to_class or plan.pairs):
        log.info(told_cost(ctx.config.attribute.path, ctx.config.attribute.options, ctx.config.attribute.steps))
    rows = []
    for spec in plan.specs():
        hit = spec.stage not in ctx.config.force and ctx.store.find(spec) is not None
        rows.append({"stage": spec.stage, "unit": spec.unit, "key": spec.key, "hit": hit})
    return rows


def check(config: Config) -> None:
    """Refuse values that no stage could use.

    Raises:
        UserError: the key, its value and the remedy.
    """
    accelerator_of(config.runtime)
    if shard_of(config.runtime) is not None and config.force:
        raise UserError(
            f"runtime.shard={config.runtime.shard} cannot go with force, as each of the jobs would compute all anew: "
            "give force without runtime.shard"
        )
    positive = {
        "extract.per_image": config.extract.per_image,
        "dictionary.vectors_per_concept": config.dictionary.vectors_per_concept,
        "describe.nearest": config.describe.nearest,
        "attribute.steps": config.attribute.steps,
        "attribute.baselines": config.attribute.baselines,
        "graph.important": config.graph.important,
        "runtime.batch_size": config.runtime.batch_size,
        "runtime.path_batch_size": config.runtime.path_batch_size,
        "evaluate.seeds": config.evaluate.seeds,
        "evaluate.training_images": config.evaluate.training_images,
    }
    optional = {
        "data.limit": config.data.limit,
        "dictionary.k_per_channel": config.dictionary.k_per_channel,
        "dictionary.k": k if isinstance(k := config.dictionary.k, int) else None,
        "graph.images_per_class": config.graph.images_per_class,
        "graph.limit": config.graph.limit,
        "evaluate.images": config.evaluate.images,
    }
    for key, value in {**positive, **optional}.items():
        if value is not None and value < 1:
            raise UserError(f"{key}={value} must be at least 1")
    for key, value in (
        ("describe.cards", config.describe.cards),
        ("graph.shared", config.graph.shared),
        ("attribute.check_images", config.attribute.check_images),
    ):
        if value is not None and value < 0:
            raise UserError(f"{key}={value} must not be negative")
    dictionary.check_count(config)
    if not 0 < config.describe.mass <= 1:
        raise UserError(f"describe.mass={config.describe.mass} must be above 0 and at most 1: it is a share")
    if config.describe.context is not None and config.describe.context < 0:
        raise UserError(f"describe.context={config.describe.context} must not be negative: it is a margin")
    if config.dictionary.penalty <= 0:
        raise UserError(
            f"dictionary.penalty={config.dictionary.penalty} must be positive: it is a fraction of the mean norm"
        )
    _check_attribute(config)
    if config.graph.prune is not None and not 0 < config.graph.prune <= 1:
        raise UserError(f"graph.prune={config.graph.prune} must be above 0 and at most 1: it is a share")
    if config.logger.artifacts and config.logger.kind is not LoggerKind.wandb:
        raise UserError(f"logger.artifacts=true is W&B's: give logger=wandb instead of logger={config.logger.kind}")
    check_scope(config.graph)
    check_config_sources(config)


def _check_attribute(config: Config) -> None:
    attribute = config.attribute
    if attribute.rule is not Rule.auto:
        quadrature(attribute.rule, attribute.steps)
    every = {each.name for each in fields(AttributeConfig)} & {each.name for each in fields(PathSettings)} - {"weight"}
    own = Own.of(attribute.weight, {}, "attribute.weight") if attribute.path is PathWeight.custom else UNUSED
    PathSettings(**{name: getattr(attribute, name) for name in every}, weight=own).integral(
        config.runtime.path_batch_size
    )
    load_path(attribute.curve)
    _check_method(attribute)
    if attribute.baseline is Baseline.image and attribute.baseline_image is None:
        raise UserError("attribute.baseline=image needs attribute.baseline_image=SAMPLE_ID, a path below data.root")
    if attribute.mode is Mode.forward and attribute.readout is ReadOut.code:
        raise UserError("attribute.readout=code has no forward derivative: give attribute.mode=reverse or auto")


def _check_method(attribute: AttributeConfig) -> None:
    method = f"attribute.path={attribute.path.value}"
    if attribute.path not in OPTIONS:
        if attribute.options:
            raise UserError(f"{method} has no options: leave attribute.options={attribute.options} out")
        return
    options = options_of(attribute.path, attribute.options)
    if isinstance(options, Manifold):
        load_decoder(options.decoder)
    if attribute.curve:
        raise UserError(f"{method} is a path of its own: leave attribute.curve empty")
