"""The pipeline: which artifacts a configuration needs, which of them exist, and computing the rest.

extract(layer) → dictionary(layer) → describe(layer)
                          └→ trace(layer → class) → trace(layer → upper layer) → effects → graph → evaluate → cards
                                                                                                        └→ report
"""

from __future__ import annotations

import json
import logging
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from vismech.attribution.methods import OPTIONS, told_cost
from vismech.config.choices import LoggerKind, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.measures import images as measured
from vismech.measures.base import alone, asked, measure_of
from vismech.network.layers import LOGITS
from vismech.passes.devices import accelerator_of, rounding
from vismech.passes.memory import keep_freed_memory, out_of_memory
from vismech.passes.portions import no_memory
from vismech.passes.threads import one_thread
from vismech.sources.checks import check_config_sources
from vismech.sources.data import Columns, ImageData, open_data
from vismech.stages import cards, describe, dictionary, effects, extract, graph, report, trace, where
from vismech.stages.attribute import check_attribute
from vismech.stages.context import Context, Job, Plan
from vismech.stages.explained import check_classes, check_listed, check_scope
from vismech.stages.tables import Timing
from vismech.store.artifacts import Spec

log = logging.getLogger(__name__)
ORDER = list(Stage)


@dataclass
class Events:
    """One JSON line per stage event, in the run's folder and nowhere else."""

    path: Path
    timings: list[Timing] = field(default_factory=list)

    def write(self, event: str, **facts: Any) -> None:
        """Append one line."""
        line = {"time": round(time.time(), 3), "event": event, **facts}
        with self.path.open("a") as file:
            file.write(json.dumps(line, sort_keys=True) + "\n")


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


def run_plan(ctx: Context, plan: Plan, events: Events, before_measures: Callable[[], None] = lambda: None) -> None:
    """Compute what is missing, each artifact under its lock.

    ``before_measures`` is called once, before the first evaluation that is still to be computed.

    Raises:
        UserError: what the user can mend; artifacts that were finished before are intact.
    """
    keep_freed_memory()
    told = False
    for number, job in enumerate(plan.jobs, 1):
        if (
            job.stage is Stage.evaluate
            and not told
            and any(ctx.store.find(spec) is None for spec in job.specs.values())
        ):
            before_measures()
            told = True
        _run_job(ctx, job, events, f"{number} of {len(plan.jobs)}")


def _run_job(ctx: Context, job: Job, events: Events, place: str) -> None:
    forced = job.stage in ctx.config.force

    def missing(specs: Mapping[str, Spec]) -> dict[str, Spec]:
        return {unit: spec for unit, spec in specs.items() if forced or ctx.store.find(spec) is None}

    started = time.perf_counter()
    todo = missing(job.specs)
    if todo:
        with ExitStack() as locks:
            # One order for all processes, so that two jobs that share units cannot wait for each other.
            for spec in sorted(todo.values(), key=lambda spec: spec.key):
                locks.enter_context(ctx.store.lock(spec))
            todo = missing(todo)  # another job may have finished while this one waited
            if todo:
                for unit, spec in todo.items():
                    events.write("start", stage=job.stage.value, unit=unit, key=spec.key)
                log.info("%s %s (%s)", job.stage.value, ", ".join(todo), place)
                try:
                    # The number of threads shows in the last bits of sums; processes are the way to use more cores.
                    with one_thread(), rounding(ctx.config.runtime.tf32):
                        job.compute(ctx, todo)
                except BaseException as error:
                    with suppress(OSError):  # a full disk must not hide what ended the stage
                        for unit, spec in todo.items():
                            events.write("failed", stage=job.stage.value, unit=unit, key=spec.key, error=str(error))
                    if out_of_memory(error):
                        raise no_memory(f"{job.stage.value} {', '.join(todo)}") from error
                    raise
    seconds = time.perf_counter() - started
    peak = peak_memory()
    for unit, spec in job.specs.items():
        computed = unit in todo
        share = seconds / len(todo) if computed else 0.0
        items = _items(ctx, spec)
        events.timings.append(Timing(job.stage.value, spec.unit, share, peak, items, not computed))
        if computed:
            ctx.store.write_provenance(spec, _provenance(ctx, share, peak))
        name = "computed" if computed else "hit"
        events.write(name, stage=job.stage.value, unit=unit, key=spec.key, seconds=round(share, 3))


def peak_memory() -> int:
    """Largest resident set of this process or any child that has ended, in bytes."""
    usage = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return usage if sys.platform == "darwin" else usage * 1024


def _items(ctx: Context, spec: Spec) -> int:
    """Rows of an artifact's arrays: images for passes over images, concepts for dictionaries and descriptions."""
    artifact = ctx.store.open(spec)
    names = set(artifact.manifest["files"])
    if "images.json" in names:
        return len(artifact.json("images.json")["ids"])
    if "trace.json" in names:
        return len(artifact.json("trace.json")["images"])
    if "effects.json" in names:
        return len(artifact.json("effects.json")["images"])
    if "metrics.json" in names:
        return int(artifact.json("metrics.json")["images"])
    if "dictionary.json" in names:
        return int(spec.inputs["k"])
    if "shares.npy" in names:
        return len(artifact.array("shares.npy"))
    if "graph.json" in names:
        return len(artifact.json("graph.json")["nodes"])
    if "fields.json" in names:
        return len(artifact.json("fields.json")["tops"])
    return len(names)


def _provenance(ctx: Context, seconds: float, peak: int) -> dict[str, Any]:
    runtime = ctx.config.runtime
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "seconds": round(seconds, 3),
        "peak_rss_bytes": peak,
        "host": platform.node(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("vismech", "torch", "lightning", "numpy")},
        "git": git_commit(),
        "run": ctx.config.name,
        "runtime": runtime,
        "preprocess": None if alone(ctx.config) else ctx.model.preprocess,
    }


def git_commit() -> str | None:
    """The commit of the folder that this package is imported from, if it is a checkout."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()


def check(config: Config) -> None:
    """Refuse values that no stage could use.

    Raises:
        UserError: the key, its value and the remedy.
    """
    accelerator_of(config.runtime)
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
    check_attribute(config)
    if config.graph.prune is not None and not 0 < config.graph.prune <= 1:
        raise UserError(f"graph.prune={config.graph.prune} must be above 0 and at most 1: it is a share")
    if config.logger.artifacts and config.logger.kind is not LoggerKind.wandb:
        raise UserError(f"logger.artifacts=true is W&B's: give logger=wandb instead of logger={config.logger.kind}")
    check_scope(config.graph)
    check_config_sources(config)
