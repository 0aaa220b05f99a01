"""One run: compute the plan's artifacts, then write the run's folder (tables, graph, figures, page) and log it.

The folder holds ``run.log``, ``events.jsonl``, ``plan.json``, ``metrics.json``, ``tables/``, ``figures/``,
``report/index.html``, ``graph.json`` and ``graph.graphml``.
"""

from __future__ import annotations

import logging
import re
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from vismech.attribution.exchange import attribution_graph
from vismech.attribution.graph import write_graphml
from vismech.config.choices import Stage
from vismech.config.schema import Config
from vismech.dictionaries.search import require_faiss
from vismech.measures.base import measure_of, measured_rows
from vismech.stages import effects, tables
from vismech.stages import graph as graph_stage
from vismech.stages.cards import TABLE
from vismech.stages.checks import check
from vismech.stages.context import Context, Plan
from vismech.stages.pipeline import ORDER, describe_plan, make_plan, open_context
from vismech.stages.planned import Prices, prices
from vismech.stages.report import early_page, unreadable_images
from vismech.stages.running import Events, run_plan
from vismech.stages.trace import who_is_explained
from vismech.store.artifacts import Spec, plain, write_json
from vismech.store.disk import writing
from vismech.store.manifest import MANIFEST, read_provenance

if TYPE_CHECKING:
    from vismech.passes.loggers import Kept

log = logging.getLogger(__name__)


class Result(NamedTuple):
    """What a run left behind.

    Attributes:
        folder: the run's folder.
        plan: rows of stage, unit, key and hit.
        metrics: flat numbers; empty when only planned.
        written: the page and the figures.
        prices: what is missing costs, where that was all that was asked for.
    """

    folder: Path
    plan: list[dict[str, Any]]
    metrics: dict[str, Any]
    written: list[Path]
    prices: Prices | None = None


def run(config: Config, folder: Path) -> Result:
    """Compute what ``config`` asks for and describe it in ``folder``.

    Raises:
        UserError: one sentence for anything the user can mend, a disk that is full or may not be written included.
    """
    check(config)
    started, ctx = time.perf_counter(), open_context(config)
    plan = make_plan(ctx)
    rows = describe_plan(ctx, plan)
    if config.plan:
        missing = [row["key"] for row in rows if not row["hit"]]
        return Result(folder, rows, {}, [], prices(ctx, plan, missing))
    if not _only(config, Stage.extract):
        require_faiss()
    with writing(folder, "hydra.run.dir"), ctx.store.uses.recorded():
        for spec in plan.specs():
            ctx.store.uses.note(spec.key)
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", rows)
        events = Events(folder / "events.jsonl")

        def show() -> None:
            if (page := early_page(ctx, plan, folder)) is not None:
                log.info("the page can be read while the rest is measured: %s", page)

        run_plan(ctx, plan, events, show)
        return Result(folder, rows, *_describe(ctx, plan, events, folder, started))


def _copy(ctx: Context, spec: Spec, folder: Path, but: str = "") -> list[Path]:
    """An artifact's files into the run's folder, each checked against what was written."""
    artifact, copied = ctx.store.open(spec), []
    for name in artifact.manifest["files"]:
        if name != but:
            copied.append(folder / name)
            copied[-1].parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(artifact.path(name), copied[-1])
    return copied


def _only(config: Config, stage: Stage) -> bool:
    return config.until is not None and ORDER.index(config.until) <= ORDER.index(stage)


def _describe(
    ctx: Context, plan: Plan, events: Events, folder: Path, started: float
) -> tuple[dict[str, Any], list[Path]]:
    from vismech.passes.loggers import log_run  # slow to import, and a plan needs it not

    unreadable = unreadable_images(ctx, plan)
    for sample in unreadable:
        log.warning("unreadable image left out: %s", sample)
    frames = {"completeness": tables.completeness(ctx, plan), "timings": tables.timings(events.timings)}
    metrics = tables.flat_metrics("completeness/{lower}->{upper}", frames["completeness"])
    written: list[Path] = []
    if plan.graph is not None:
        graph = graph_stage.read(ctx, plan.graph, plan.given)
        assert plan.logits is not None
        told = tables.answered(ctx, plan.logits)
        frames["graph"] = scores = tables.graph_scores(graph, told, ctx.config.attribute.output.value)
        metrics |= tables.flat_metrics("graph/{group}", scores.loc[scores.layer.isna()])
        metrics |= tables.flat_metrics("graph/{group}/{layer}", scores.loc[scores.layer.notna()])
        if plan.effects:
            who = who_is_explained(ctx, plan)
            assert who is not None
            frames["effects"] = effects.effects_table(ctx, plan)
            frames["links"] = effects.links_table(ctx, plan, graph, who)
            metrics |= tables.flat_metrics("effects/{lower}->{upper}/{order}", frames["effects"])
        write_json(folder / "graph.json", graph)
        write_graphml(graph, folder / "graph.graphml")
        scan = ctx.config.model.target or ctx.config.model.name
        write_json(folder / "attribution_graph.json", attribution_graph(graph, ctx.config.name, scan))
    cases: dict[str, list[pd.DataFrame]] = {}
    curves: list[pd.DataFrame] = []
    for kind in plan.evaluations:
        measured = measure_of(kind)
        frame = measured_rows(ctx, plan, kind)
        metrics |= tables.flat_metrics(measured.name, frame)
        before = frames.get(measured.table)
        frames[measured.table] = frame if before is None else pd.concat([before, frame], ignore_index=True)
        if measured.cases is not None:
            cases.setdefault(measured.table, []).append(measured.cases(ctx, plan))
        if measured.curves is not None:
            curves.append(measured.curves(ctx, plan))
        if measured.figures is not None:
            written += measured.figures(ctx, plan, folder / "figures")
    if curves:
        frames["curves"] = pd.concat(curves, ignore_index=True)
    for name, parts in cases.items():
        (folder / "cases").mkdir(exist_ok=True)
        # No time in the header, so that the same numbers are the same bytes.
        compression = {"method": "gzip", "mtime": 1}
        together = pd.concat(parts, ignore_index=True)
        together.to_csv(folder / "cases" / f"{name}.csv.gz", index=False, compression=compression)
    if plan.pictures is not None:
        _copy(ctx, plan.pictures, folder, but=TABLE)
        frames["concepts"] = pd.read_csv(ctx.store.open(plan.pictures).path(TABLE))
    if plan.report is not None:
        written += _copy(ctx, plan.report, folder)
    (folder / "tables").mkdir(exist_ok=True)
    for name, frame in frames.items():
        if len(frame):
            frame.to_csv(folder / "tables" / f"{name}.csv", index=False)
    metrics |= tables.work_metrics(frames["timings"])
    metrics |= {"images": len(ctx.data), "unreadable_images": len(unreadable)}
    metrics["wall_seconds"] = round(time.perf_counter() - started, 3)
    write_json(folder / "metrics.json", metrics)
    kept = _kept(ctx, plan) if ctx.config.logger.artifacts else []
    log_run(ctx.config, plain(ctx.config), metrics, frames, written, folder, kept)
    return metrics, written


def _kept(ctx: Context, plan: Plan) -> list[Kept]:
    """Dictionaries and graph for W&B, where names have neither slashes nor spaces."""
    from vismech.passes.loggers import Kept

    specs = {f"dictionary-{layer}": ("dictionary", spec) for layer, spec in plan.dictionaries.items()}
    if plan.graph is not None:
        specs["graph"] = ("graph", plan.graph)
    found = []
    for name, (kind, spec) in specs.items():
        artifact = ctx.store.open(spec)
        names = artifact.manifest["files"]
        files = {each: artifact.path(each) for each in names} | {MANIFEST: artifact.folder / MANIFEST}
        facts = {name: value for name, value in artifact.manifest.items() if name != "files"}
        facts["provenance"] = read_provenance(artifact.folder)
        found.append(Kept(re.sub(r"[^\w.-]", "_", f"{ctx.config.name}-{name}"), kind, files, facts))
    return found
