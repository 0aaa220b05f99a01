"""Computing a plan: job by job, each artifact under its lock, and what is noted of it.

With ``runtime.shard`` the passes over images are filled by several runs at once, under locks that they share, before
one of them commits what they filled (:mod:`vismech.passes.shards`).
"""

from __future__ import annotations

import json
import logging
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vismech.config.choices import Stage
from vismech.errors import Unfinished
from vismech.measures.base import alone
from vismech.passes.devices import rounding
from vismech.passes.memory import keep_freed_memory, out_of_memory
from vismech.passes.portions import no_memory
from vismech.passes.shards import shard_of
from vismech.passes.threads import one_thread
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import count_of
from vismech.stages.tables import Timing
from vismech.store.artifacts import Spec

log = logging.getLogger(__name__)


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

    @contextmanager
    def locked(todo: Mapping[str, Spec], shared: bool = False) -> Iterator[dict[str, Spec]]:
        """Hold the keys; what is still missing of them, as another run may have finished while this one waited."""
        with ExitStack() as locks:
            # One order for all processes, so that two jobs that share units cannot wait for each other.
            for spec in sorted(todo.values(), key=lambda spec: spec.key):
                locks.enter_context(ctx.store.lock(spec, shared=shared))
            yield missing(todo)

    started = time.perf_counter()
    todo = missing(job.specs)
    if todo and job.passes and shard_of(ctx.config.runtime) is not None:
        with locked(todo, shared=True) as left, ctx.sharing():
            if left:
                _compute(ctx, job, left, events, place)
    if todo:
        with locked(todo) as todo:
            if todo:
                _compute(ctx, job, todo, events, place)
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


def _compute(ctx: Context, job: Job, todo: Mapping[str, Spec], events: Events, place: str) -> None:
    for unit, spec in todo.items():
        events.write("start", stage=job.stage.value, unit=unit, key=spec.key)
    log.info("%s %s (%s)", job.stage.value, ", ".join(todo), place)
    try:
        # The number of threads shows in the last bits of sums; processes are the way to use more cores.
        with one_thread(), rounding(ctx.config.runtime.tf32):
            job.compute(ctx, todo)
    except Unfinished:
        log.debug("%s %s: the rest is others'", job.stage.value, ", ".join(todo))
    except BaseException as error:
        with suppress(OSError):  # a full disk must not hide what ended the stage
            for unit, spec in todo.items():
                events.write("failed", stage=job.stage.value, unit=unit, key=spec.key, error=str(error))
        if out_of_memory(error):
            raise no_memory(f"{job.stage.value} {', '.join(todo)}") from error
        raise


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
        return count_of(ctx, spec)
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
