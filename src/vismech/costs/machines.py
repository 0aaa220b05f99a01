"""How fast machines are: this one as `vismech-bench` measured it, and GPUs by their makers' numbers.

On a CPU operations follow one another, so seconds add up: products at the rate of their kind, bytes at the memory's
bandwidth, and a fixed time for each operation. A GPU is given its work while it computes: whichever is longer counts,
beginning the operations or doing them.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vismech.config.choices import Gpu
from vismech.costs.cost import ON_DEVICE, PER_IMAGE, Cost, Kind

FILE = "machines.json"
EFFICIENCY = 0.4
"""Of a GPU's peak, which products reach at these sizes."""
BANDWIDTH = 0.7
"""Of a GPU's memory bandwidth, which elementwise kernels reach."""
LAUNCH = 5e-6
"""Seconds from one launch to the next."""


@dataclass(frozen=True)
class Machine:
    """A computer's constants.

    Attributes:
        rates: units of each kind of work per second, by one thread.
        bandwidth: bytes per second that one thread moves in memory.
        launch: seconds that beginning an operation takes.
        store: bytes per second that the store takes.
        measured: whether these were measured here, and are not the defaults.
    """

    rates: Mapping[Kind, float]
    bandwidth: float
    launch: float
    store: float
    measured: bool = True

    def seconds(self, cost: Cost, processes: int = 1, but: frozenset[Kind] = frozenset(), portions: int = 1) -> float:
        """Seconds of a cost with so many processes, each of which passes so many portions of a batch at once, without
        the kinds in ``but``."""
        at_once = 1 + PORTION * (portions - 1)
        total = cost.written / self.store
        for kind, amount in cost.work.items():
            if kind not in but:
                spent = (amount.flops + 2 * amount.doubles) / self.rates[kind]
                spent += amount.traffic / self.bandwidth + amount.launches * self.launch
                shared = processes if kind in PER_IMAGE else 1
                total += spent / (shared * at_once if kind in ON_DEVICE & PER_IMAGE else shared)
        return total


PORTION = 0.7
"""What a further thread adds to the speed of the first, as measured on two cores."""

DEFAULTS = Machine(
    {
        Kind.open: 30.0,
        Kind.start: 5.0,
        Kind.read: 1e7,
        Kind.forward: 1.5e10,
        Kind.backward: 1e10,
        Kind.lasso: 1e10,
        Kind.pursuit: 3e9,
        Kind.products: 2e10,
        Kind.bisecting: 3e9,
        Kind.splits: 500.0,
        Kind.kmeans: 5e9,
        Kind.search: 5e9,
        Kind.picture: 5e6,
        Kind.host: 5e7,
    },
    bandwidth=4e9,
    launch=15e-6,
    store=1e8,
    measured=False,
)
"""A slow core; for machines on which `vismech-bench` was not run."""


@dataclass(frozen=True)
class Accelerator:
    """A GPU as its maker describes it: FLOP/s without sparsity and without TF32, bytes/s, bytes."""

    float32: float
    float64: float
    tf32: float
    bandwidth: float
    memory: float

    def seconds(self, cost: Cost, host: Machine, devices: int = 1, tf32: bool = False) -> float:
        """Seconds of a cost on so many of these: what only the host does is added, with one of its threads for each."""
        total = host.seconds(cost, devices, ON_DEVICE)
        for kinds, sharing in ((ON_DEVICE & PER_IMAGE, devices), (ON_DEVICE - PER_IMAGE, 1)):
            busy = launching = 0.0
            for kind in kinds & cost.work.keys():
                amount, peak = cost.work[kind], self.tf32 if tf32 and kind is not Kind.search else self.float32
                busy += amount.flops / (peak * EFFICIENCY) + amount.doubles / (self.float64 * EFFICIENCY)
                busy += amount.traffic / (self.bandwidth * BANDWIDTH)
                launching += amount.launches * LAUNCH
            total += max(busy, launching) / sharing
        return total


GPUS = {
    Gpu.t4: Accelerator(8.1e12, 0.25e12, 8.1e12, 0.32e12, 16e9),
    Gpu.v100: Accelerator(15.7e12, 7.8e12, 15.7e12, 0.9e12, 32e9),
    Gpu.rtx4090: Accelerator(82.6e12, 1.3e12, 82.6e12, 1.01e12, 24e9),
    Gpu.l40s: Accelerator(91.6e12, 1.4e12, 183e12, 0.86e12, 48e9),
    Gpu.a100: Accelerator(19.5e12, 9.7e12, 156e12, 2.04e12, 80e9),
    Gpu.h100: Accelerator(67e12, 34e12, 494e12, 3.35e12, 80e9),
    Gpu.h200: Accelerator(67e12, 34e12, 494e12, 4.8e12, 141e9),
}
"""NVIDIA's data sheets; float32 and float64 outside of tensor cores."""


def here(device: str) -> str:
    """What this machine's constants are filed under."""
    return f"{platform.node()} {device}"


def machine_of(root: Path, device: str = "cpu") -> Machine:
    """This machine as it was measured beside the store at ``root``, or the defaults."""
    try:
        found = json.loads((root / FILE).read_bytes())[here(device)]
        told = {Kind.host.value: DEFAULTS.rates[Kind.host], **found["rates"]}  # which older files are without
        rates = {kind: float(told[kind.value]) for kind in Kind}
        machine = Machine(rates, float(found["bandwidth"]), float(found["launch"]), float(found["store"]))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return DEFAULTS
    return machine if min(*rates.values(), machine.bandwidth, machine.launch, machine.store) > 0 else DEFAULTS


def keep(root: Path, machine: Machine, device: str = "cpu") -> Path:
    """File this machine's constants beside the store, and leave those of others."""
    file = root / FILE
    try:
        every = dict(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        every = {}
    found = asdict(machine) | {"rates": {kind.value: rate for kind, rate in machine.rates.items()}}
    every[here(device)] = {name: value for name, value in found.items() if name != "measured"}
    root.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{FILE}.{os.getpid()}")
    part.write_text(json.dumps(every, indent=1, sort_keys=True) + "\n")
    part.replace(file)
    return file
