"""What one row costs in a part of a network: counted on tensors without numbers, so that nothing is computed."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from vismech.costs.cost import Amount
from vismech.network.locality import window_share
from vismech.passes.capacity import numbers_per_row

log = logging.getLogger(__name__)
ROWS = 7  # a number that few sizes of parameters are multiples of


class Counts(NamedTuple):
    """FLOPs and bytes of one row and operations of one call: forward, and back to the input for one gradient.

    ``kept`` are the numbers that a row computes, most of which a backward pass holds; ``window`` is the share of the
    input that one position of the output depends on.
    """

    flops: float
    traffic: float
    launches: float
    back_flops: float
    back_traffic: float
    back_launches: float
    kept: float
    window: float = 1.0

    @property
    def forward(self) -> Amount:
        """A forward pass."""
        return Amount(self.flops, traffic=self.traffic, launches=self.launches)

    @property
    def backward(self) -> Amount:
        """A gradient."""
        return Amount(self.back_flops, traffic=self.back_traffic, launches=self.back_launches)


class _Traffic(TorchDispatchMode):
    """Counts operations that are no views, and the bytes that they read and write."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.operations = 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        view = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
        if not view and func.namespace != "prim":  # which asks a tensor for its device
            leaves = [each for each in tree_leaves((args, kwargs, found)) if isinstance(each, Tensor)]
            own = [each for each in leaves if each.ndim and each.shape[0] % ROWS == 0]  # parameters are read once
            self.bytes += sum(each.numel() * each.element_size() for each in own)
            self.operations += 1
        return found


def count(segment: nn.Module, shape: tuple[int, ...]) -> Counts:
    """Counts of a segment whose input has ``shape`` without the batch axis."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _count(segment, torch.zeros(ROWS, *shape))
    except Exception as error:  # an operation of the user's own may know nothing of such tensors
        log.debug("counting on zeros: %s", error)
        return _count(segment, torch.zeros(ROWS, *shape))


def _count(segment: nn.Module, rows: Tensor) -> Counts:
    rows = rows.requires_grad_()
    with torch.enable_grad():
        with FlopCounterMode(display=False) as ahead, _Traffic() as moved:
            value = segment(rows).sum()
        with FlopCounterMode(display=False) as back, _Traffic() as returned:
            torch.autograd.grad(value, rows, allow_unused=True)
    return Counts(
        ahead.get_total_flops() / ROWS,
        moved.bytes / ROWS,
        moved.operations,
        back.get_total_flops() / ROWS,
        returned.bytes / ROWS,
        returned.operations,
        numbers_per_row(segment),
        window_share(segment, tuple(rows.shape[2:])),
    )
