"""Normalisations whose gradients of a single row can be trusted on a CPU.

PyTorch's CPU kernels of batch and instance norm tell channels-last tensors from others in two ways, which disagree on
a single row whose first stride is not its size, as when it is read through a transposed view. Where input and incoming
gradient differ so, the input's gradient is mixed up between channels: wrong by more than its own size. With two rows or
more it is right, and with one row whose strides are those of a fresh tensor.

Legend: B rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


def plain_gradient(value: Tensor) -> Tensor:
    """``value`` itself, whose gradient will be contiguous where it is of one row."""
    if value.requires_grad and len(value) == 1:
        value.register_hook(_contiguous)
    return value


def plain_strides(value: Tensor) -> Tensor:
    """``value`` itself, or a contiguous copy where it is of one row, asks for a gradient and has unusual strides."""
    if not value.requires_grad or len(value) != 1:
        return value
    formats = [torch.contiguous_format, *([torch.channels_last] if value.ndim == 4 else [])]
    usual = (torch.empty(value.shape, memory_format=kind, device="meta").stride() for kind in formats)
    return value if value.stride() in usual else _contiguous(value)


def _contiguous(value: Tensor) -> Tensor:
    # Tensor.contiguous() would hand on the strides of a single row as they are.
    return value.clone(memory_format=torch.contiguous_format)


def batch_norm(value: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """``aten.batch_norm``."""
    return plain_gradient(aten.batch_norm.default(plain_strides(value), *arguments, **named))


def batch_norm_no_training(value: Tensor, *arguments: Any, **named: Any) -> tuple[Tensor, Tensor, Tensor]:
    """``aten._native_batch_norm_legit_no_training``, what a batch norm is decomposed to."""
    found, *rest = aten._native_batch_norm_legit_no_training.default(plain_strides(value), *arguments, **named)
    return plain_gradient(found), *rest


def instance_norm(value: Tensor, *arguments: Any, **named: Any) -> Tensor:
    """``aten.instance_norm``."""
    return plain_gradient(aten.instance_norm.default(plain_strides(value), *arguments, **named))


GUARDED: dict[Any, Callable[..., Any]] = {
    aten.batch_norm.default: batch_norm,
    aten._native_batch_norm_legit_no_training.default: batch_norm_no_training,
    aten.instance_norm.default: instance_norm,
}
"""The operations of an exported graph that must be replaced, and by what."""
