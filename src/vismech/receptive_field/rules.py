"""From a pre-activation z and the terms it is the sum of to sharing ratios, one rule per operation (SRD §3).

    μ_{i→j} = <v_{i→j}, z_j> / ||z_j||²,   Σ_i μ_{i→j} = 1

A **term** knows the contributions v of one input map and measures them without channels: their energies <v, z> and,
where a bias is to be shared, their norms ||v||. A **branch** is one summand of z: the terms that share a bias.

Legend: B images, C channels, T taps, h×w output positions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, fx

from vismech.receptive_field.windows import Window

Values = dict[fx.Node, Tensor]


class Energies(NamedTuple):
    """What a term measures of its contributions: <v, z> and ||v||, both [B, T, h, w]; no norms when none are needed."""

    products: Tensor
    norms: Tensor | None


@dataclass
class Term:
    """Contributions v of one map of pointwise feature vectors to z, tap by tap.

    Attributes:
        source: number of the map.
        window: which of its positions the taps of an output position read.
        value: the node whose value v is computed from.
    """

    source: int
    window: Window
    value: fx.Node

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """Energies of the contributions, without any bias."""
        raise NotImplementedError

    @cached_property
    def inside(self) -> Float[Tensor, "taps h w"]:
        """How many input positions each tap reads: 0 outside the image."""
        return self.window.inside


@dataclass
class Branch:
    """One summand of z: its terms, and the bias [C] that their taps share (None: there is none)."""

    terms: Sequence[Term]
    bias: Callable[[], Tensor] | None = None

    @cached_property
    def inside(self) -> Float[Tensor, "taps h w"]:
        """How many input positions the taps of all terms read."""
        return torch.cat([term.inside for term in self.terms])


def sharing_ratios_of(
    branches: Sequence[Branch], values: Values, z: Float[Tensor, "b c h w"]
) -> list[Float[Tensor, "b _ h w"] | None]:
    """μ [B, T, h, w] of every term, in order; None where it is 1 throughout (a single tap).

    A branch's bias b is shared in proportion to ||v_t||, equally among the taps inside the image when all are zero; a
    vanishing z is shared equally among the taps of all branches.
    """
    terms = [term for branch in branches for term in branch.terms]
    if len(terms) == 1 and terms[0].window.taps == 1:
        return [None]
    measured = []
    for branch in branches:
        energies = [term.measure(values, z, norms=branch.bias is not None) for term in branch.terms]
        products = torch.cat([energy.products for energy in energies], 1)
        if branch.bias is not None:
            norms = torch.cat([energy.norms for energy in energies if energy.norms is not None], 1)
            along_bias = torch.matmul(branch.bias().to(z), z.flatten(2)).unflatten(1, z.shape[2:])
            products = products.addcmul_(along_bias[:, None], _shares(norms, branch.inside))
        measured.append(products)
    ratios = _shares(torch.cat(measured, 1), torch.cat([branch.inside for branch in branches]))
    return list(ratios.split([term.window.taps for term in terms], 1))


def _shares(amounts: Float[Tensor, "b taps h w"], inside: Float[Tensor, "taps h w"]) -> Float[Tensor, "b taps h w"]:
    """``amounts`` divided by their sum over taps; equal shares inside the image where that sum is zero."""
    total = amounts.sum(1, keepdim=True)
    nothing = total == 0
    if not nothing.any():
        return amounts / total
    inside = inside.to(amounts)
    return torch.where(nothing, inside / inside.sum(0), amounts / total.masked_fill(nothing, 1))


class Whole(Term):
    """v = the value at the output position itself: an identity branch, or a one-tap convolution with its bias."""

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """See :class:`Term`."""
        return Energies((values[self.value] * z).sum(1, keepdim=True), None)


@dataclass
class Block(Term):
    """v = some channels of z: one of the concatenated maps, scaled by the batch norm that reads the concatenation."""

    channels: slice
    scale: Callable[[], Tensor] | None = None  # [C]

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """See :class:`Term`."""
        v = values[self.value]
        if self.scale is not None:
            v = v * self.scale().to(v)[self.channels, None, None]
        product = (v * z[:, self.channels]).sum(1, keepdim=True)
        return Energies(product, torch.linalg.vector_norm(v, dim=1, keepdim=True) if norms else None)


class Average(Term):
    """An average pool: v_t = x_t/n. The divisor n is the same for all taps of a position and cancels."""

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """See :class:`Term`."""
        padded = self.window.pad(values[self.value])
        products = [(self.window.tap(padded, *tap) * z).sum(1) for tap in self.window.each_tap()]
        return Energies(torch.stack(products, 1), None)


@dataclass
class Maximum(Term):
    """A max pool: each channel's value belongs to the position of its maximum, v_s = x·[argmax = s].

    Attributes:
        pool: the pool itself, giving its values and the flat positions of the maxima.
        shift: rows and columns that an explicit pad put before the map, which those positions count.
    """

    pool: Callable[[Tensor], tuple[Tensor, Tensor]]
    shift: tuple[int, int] = (0, 0)

    def parts(self, values: Values, images: slice = slice(None)) -> Float[Tensor, "taps b h w c"]:
        """x·[argmax = s] for every tap s, channels last."""
        x = values[self.value][images]
        # Pooling is ten times faster with channels last.
        pooled, positions = self.pool(x.contiguous(memory_format=torch.channels_last))
        pooled, positions = pooled.movedim(1, -1).contiguous(), positions.movedim(1, -1).contiguous().int()
        rows = torch.div(positions, x.shape[-1], rounding_mode="trunc")
        columns = positions - rows * x.shape[-1]
        first_row, first_column = (first.to(rows) for first in self.window.input_positions(0, 0))
        taps = _tap(rows, first_row[:, None, None] + self.shift[0], self.window.dilation[0]) * self.window.kernel[1]
        taps += _tap(columns, first_column[:, None] + self.shift[1], self.window.dilation[1])
        return pooled.new_zeros(self.window.taps, *pooled.shape).scatter_(0, taps.long()[None], pooled[None])

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """See :class:`Term`."""
        z = z.movedim(1, -1)
        return Energies((self.parts(values) * z).sum(-1).transpose(0, 1), None)


def _tap(position: Tensor, first: Tensor, dilation: int) -> Tensor:
    """Which tap reads a row (or column), when the first one reads ``first``."""
    return position - first if dilation == 1 else torch.div(position - first, dilation, rounding_mode="trunc")
