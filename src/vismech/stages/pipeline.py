"""The pipeline: which artifacts a configuration needs, which of them exist, and in which order they are made.

extract(layer) → dictionary(layer) → describe(layer)
                          └→ trace(layer → class) → trace(layer → upper layer) → effects → graph → evaluate → cards
                                                                                                        └→ report
"""

from __future__ import annotations

import logging
from itertools import pairwise
from pathlib import Path
from typing import Any

from vismech.attribution.methods import OPTIONS, told_cost
from vismech.config.choices import Stage
from vismech.config.schema import Config
from vismech.measures import images as measured
from vismech.measures.base import alone, asked, jobs_of, measure_of
from vismech.network.layers import LOGITS
from vismech.sources.data import Columns, open_data
from vismech.sources.pictures import ImageData
from vismech.stages import cards, describe, dictionary, effects, extract, graph, reads, report, trace, where
from vismech.stages.checks import check
from vismech.stages.context import Context, Job, Plan
from vismech.stages.explained import check_classes, check_listed
from vismech.stages.naming import given_names
from vismech.store.artifacts import Spec

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

    needed, places = not alone(ctx.config), {}
    if needed and wanted(Stage.dictionary):
        places = {layer: place for layer in ctx.layers if (place := reads.read_from(ctx, layer)) is not None}
        own = [name for name in asked(ctx.config) if wanted(Stage.evaluate) and not measure_of(name).elsewhere]
        reads.check_reach(ctx, places.items(), own, wanted(Stage.trace))
    extracted = add(extract.job(ctx, wanted(Stage.trace), places.values())) if needed else {}
    vectors, logits = {layer: extracted[layer] for layer in ctx.layers if needed}, extracted.get(LOGITS)
    dictionaries, descriptions, to_class, pairs = {}, {}, {}, {}
    if wanted(Stage.dictionary):
        for layer in vectors:
            dictionaries |= add(dictionary.job(ctx, layer, extracted))
    for layer in vectors:
        if wanted(Stage.describe):
            descriptions |= add(describe.job(ctx, layer, vectors[layer], dictionaries[layer]))
    graph_spec, measured_effects = None, {}
    if logits is not None:
        trace.check_baseline(ctx)
        check_classes(ctx)
        measures = list(asked(ctx.config)) if wanted(Stage.evaluate) else []
        trace.check_cuts(ctx, measures, ctx.config.graph.measured and wanted(Stage.effects))
        for job in trace.mean_jobs(ctx):
            add(job)
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
        given=given_names(ctx.config.report.names, dictionaries),
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
            for job in jobs_of(kind, ctx, plan):
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
