"""Which devices a run computes on, and how its numbers are rounded there."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vismech.config.runtime import RuntimeConfig
from vismech.errors import UserError

ACCELERATORS = ("auto", "cpu", "gpu", "cuda")


def accelerator_of(runtime: RuntimeConfig) -> str:
    """Lightning's name of the accelerator: a CUDA device or the CPU.

    Lightning's own `auto` and `gpu` would take Apple's MPS, which has no float64, in which codes are solved for.

    Raises:
        UserError: any other accelerator.
    """
    if runtime.accelerator not in ACCELERATORS:
        why = "has no float64, in which codes are solved for" if runtime.accelerator == "mps" else "is not known here"
        raise UserError(f"runtime.accelerator={runtime.accelerator} {why}: choose one of {', '.join(ACCELERATORS)}")
    if runtime.accelerator == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return "cpu" if runtime.accelerator == "cpu" else "cuda"


def devices_of(runtime: RuntimeConfig) -> Any:
    """Lightning's `devices`; a run that wants one of several GPUs takes the one that its number says."""
    if accelerator_of(runtime) == "cuda" and runtime.devices == 1:
        return [runtime.job % max(1, torch.cuda.device_count())]
    return runtime.devices


def first_device(runtime: RuntimeConfig) -> str:
    """Where a single process does what is no pass over images; the CPU where no GPU is found."""
    if accelerator_of(runtime) == "cpu" or not torch.cuda.is_available():
        return "cpu"
    devices = devices_of(runtime)
    return f"cuda:{devices[0] if isinstance(devices, list) else 0}"


@contextmanager
def rounding(tf32: bool) -> Iterator[None]:
    """Let CUDA round the factors of products and convolutions to ten bits (TF32), or not; restored on leaving.

    PyTorch does so for convolutions by default, which moves activations by 3e-4 … 4e-3 of their size.
    """
    before = torch.backends.cudnn.allow_tf32, bool(torch.backends.cuda.matmul.allow_tf32)
    set_rounding(tf32, tf32)
    try:
        yield
    finally:
        set_rounding(*before)


def set_rounding(convolutions: bool, products: bool) -> None:
    """What :func:`rounding` does, for good: for processes of our own."""
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


def quiet() -> None:
    """Silence Lightning's advice and deprecations that a user of ours cannot follow."""
    for message in (
        ".*does not have many workers.*",
        ".*custom batch sampler.*",
        ".*LeafSpec.*",
        ".*uneven batch length.*",
        ".*GPU available but not used.*",
    ):
        warnings.filterwarnings("ignore", message=message)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
