"""What a plan costs: counts, bytes and seconds of every artifact that is missing, and what does not fit."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vismech.attribution.windows import ROW_MULTIPLE
from vismech.config.schema import RuntimeConfig
from vismech.costs.cost import Cost
from vismech.costs.machines import GPUS, Machine, machine_of
from vismech.errors import UserError
from vismech.passes.threads import allowed_threads
from vismech.stages.context import Context, Plan

log = logging.getLogger(__name__)


class Priced(NamedTuple):
    """One missing artifact.

    Attributes:
        stage, unit: which.
        cost: None where its stage does not tell.
        seconds: on this machine.
        gpu: on the GPU that is asked for.
    """

    stage: str
    unit: str
    cost: Cost | None
    seconds: float | None
    gpu: float | None


class Prices(NamedTuple):
    """All of a plan's missing artifacts, and the machine that their seconds are of."""

    rows: list[Priced]
    machine: Machine

    @property
    def seconds(self) -> float:
        """Of all that is told."""
        return sum(row.seconds or 0.0 for row in self.rows)

    @property
    def gpu(self) -> float:
        """On the GPU, of all that is told."""
        return sum(row.gpu or 0.0 for row in self.rows)


def prices(ctx: Context, plan: Plan, missing: Iterable[str]) -> Prices:
    """What the artifacts whose keys are ``missing`` cost.

    Raises:
        UserError: more bytes than the store's disk has at all.
    """
    machine, wanted = machine_of(ctx.store.root), set(missing)
    gpu = GPUS[ctx.config.plan_device] if ctx.config.plan_device else None
    runtime = ctx.config.runtime
    processes, rows = processes_of(runtime), []
    portions = max(1, min(allowed_threads() // processes, runtime.batch_size // ROW_MULTIPLE))
    for job in plan.jobs:
        specs = {unit: spec for unit, spec in job.specs.items() if spec.key in wanted}
        if not specs:
            continue
        costs = job.cost(ctx, specs) if job.cost else {}
        for unit in specs:
            cost = costs.get(unit)
            at_once = portions if job.concurrent else 1
            here = None if cost is None else machine.seconds(cost, processes, portions=at_once)
            there = None
            if cost is not None and gpu is not None:
                there = gpu.seconds(cost, machine, processes, ctx.site.runtime.tf32)
            measure = getattr(specs[unit].settings, "measure", "")
            rows.append(Priced(job.stage.value, f"{measure} {unit}".strip(), cost, here, there))
    check_room([row.cost for row in rows if row.cost], ctx.store.root, gpu.memory if gpu else None)
    return Prices(rows, machine)


def processes_of(runtime: RuntimeConfig) -> int:
    """Processes, or devices, that share a pass; one where their number is found out later."""
    if isinstance(runtime.devices, int) and runtime.devices > 0:
        return runtime.devices
    return max(1, len(runtime.devices)) if isinstance(runtime.devices, Sequence) and runtime.devices != "auto" else 1


def check_room(costs: Sequence[Cost], root: Path, device: float | None) -> None:
    """Refuse what the store's disk can never hold, and warn of what the free disk or the memory may not.

    Raises:
        UserError: more bytes that are certain to be written than the disk has.
    """
    place = next(folder for folder in (root.absolute(), *root.absolute().parents) if folder.exists())
    disk, certain = shutil.disk_usage(place), sum(cost.written for cost in costs if cost.exact)
    told = f"the disk of store.root={root} has {disk.total / 1e9:.1f} GB"
    if certain > disk.total:
        raise UserError(
            f"this run writes {certain / 1e9:.1f} GB of vectors, and {told}: set store.root to a larger disk, or "
            "extract=uniform with a smaller extract.per_image"
        )
    every = sum(cost.written for cost in costs)
    if every > disk.free:
        log.warning(
            "this run writes up to %.1f GB, and the disk of store.root=%s has %.1f GB free: free some, set store.root "
            "to another disk, or lower extract.per_image",
            *(every / 1e9, root, disk.free / 1e9),
        )
    held, memory = max((cost.held for cost in costs), default=0.0), memory_bytes()
    if memory is not None and held > memory:
        log.warning(
            "this run may hold %.1f GB at once, and this machine has %.1f GB of memory: lower extract.per_image, "
            "dictionary.k, runtime.batch_size or runtime.path_batch_size",
            *(held / 1e9, memory / 1e9),
        )
    if device is not None and held > device:
        log.warning(
            "this run may hold %.1f GB at once, and the GPU has %.0f GB of memory: lower runtime.batch_size, "
            "runtime.path_batch_size or dictionary.k",
            *(held / 1e9, device / 1e9),
        )


def memory_bytes() -> float | None:
    """This machine's memory; None where the system does not tell."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return None
