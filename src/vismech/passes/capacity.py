"""How many rows of a pass a device's free memory holds.

An estimate from the sizes of values, not a measurement: it keeps most runs from running out of memory, and what it gets
wrong is halved then. Results depend on the number of rows by rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from vismech.network.hooked import HookedSegment

SHARE = 0.8
"""Of the free memory; kernels need workspaces, and what is freed is not always in one piece."""
BYTES = 4
CONTAINER = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int | None:
    """Memory that a CUDA device can still give to this process; None on a CPU, where the system has the say."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return None
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def available_bytes() -> int | None:
    """Memory that this machine, or the container that this process is in, can still give; None where it is not told."""
    found = []
    try:
        told = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(1024 * int(told["MemAvailable"].split()[0]))
    except (OSError, ValueError, KeyError):
        pass
    try:
        most, used = (int((CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        found.append(most - used)
    except (OSError, ValueError):  # no container, or "max"
        pass
    return min(found, default=None)


def rows_that_fit(wanted: int, numbers_per_row: int, device: torch.device) -> int:
    """``wanted`` rows, or as many as the free memory holds, but at least two: some kernels differ for one."""
    free = free_bytes(device)
    if free is None:
        return wanted
    return min(wanted, max(2, int(SHARE * free / (BYTES * max(1, numbers_per_row)))))


def numbers_per_row(segment: nn.Module) -> int:
    """Numbers that a segment computes for one row, of which a backward pass keeps a fifth to nearly all.

    ResNet-50 from layer1.0 to the logits computes 149 MB and keeps 67; EfficientNet-Lite0 from blocks.2, 27 and 26.
    """
    if isinstance(segment, HookedSegment):
        return sum(prod(segment.network.shape(layer)) for layer in segment.network.layers)
    graphs = [part.graph for part in segment.modules() if isinstance(part, fx.GraphModule)]
    values = (
        value
        for graph in graphs
        for node in graph.nodes
        if node.op in ("call_function", "call_module")
        for value in _tensors(node)
    )
    return sum(_numbers(value) for value in values)


def _tensors(node: fx.Node) -> Iterator[Tensor]:
    value = node.meta.get("val")
    yield from (part for part in (value if isinstance(value, (tuple, list)) else [value]) if isinstance(part, Tensor))


def _numbers(value: Tensor) -> int:
    """Per row: graphs are captured from two, and the sizes that depend on their number are symbols."""
    sizes = [size if isinstance(size, int) else int(size.node.hint) for size in value.shape]
    return prod(sizes) // 2
