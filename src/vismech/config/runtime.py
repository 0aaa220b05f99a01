"""The configuration's group runtime: how the work is carried out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class RuntimeConfig:
    """How the work is carried out; of this only tf32 is in keys.

    On a CPU each process uses one thread: use more processes.
    """

    accelerator: str = "auto"
    """auto (a CUDA device, or else the CPU), cpu, or gpu, which is CUDA."""
    devices: Any = 1
    """Number of devices (or processes on CPU), a list of them, or auto."""
    shard: str | None = None
    """i/n, the i-th of n jobs that fill each pass over images together, on machines that share store.root, with all
    other keys the same. A job begins with its own n-th of the batches, then takes those of jobs that died or have not
    come, and waits for none but a living one; the last to finish commits. What is no pass is the first comer's."""
    job: int = 0
    """With devices=1 the GPU number job modulo their count is used; in a sweep, the job's number unless it is given."""
    tf32: bool = False
    """Round factors of products and convolutions to ten bits on CUDA devices: faster, and 4e-4 … 4e-3 off."""
    strategy: str = "auto"
    """Lightning's strategy; ddp_spawn for several devices."""
    batch_size: int = 32
    """Images per forward pass, at most; the last batch is padded to it. Fewer where the device's memory is short."""
    path_batch_size: int = 64
    """Path points (images × steps) per forward and backward pass of a segment, at most."""
    workers: int = 0
    """Processes that read images."""
    channels_last: bool = True
    """Use the channels-last memory format, faster on most devices at these batch sizes."""
