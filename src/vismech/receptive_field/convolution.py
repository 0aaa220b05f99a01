"""The sharing-ratio rule of convolutions, alone or fused with the max pool that they read.

    v_t = W_t x_t;  after a max pool, taps are pool tap × convolution tap:  v_{t,s} = W_t (x_t·[argmax = s])

Legend: B images, T taps, S taps of the pool (1 without one), h×w output positions, G groups, i and o channels per group
in and out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.receptive_field.rules import Energies, Maximum, Term, Values
from vismech.receptive_field.taps import Taps, taps_of
from vismech.receptive_field.windows import Window

_SCRATCH = 2**20  # numbers per intermediate result, so that they stay in the cache


@dataclass
class Convolution(Term):
    """Contributions of a convolution's taps, folded with its batch norm, or of pool tap × convolution tap.

    Attributes:
        taps: the convolution's own window; ``window`` is the same, or its composition with the pool's.
        weight: gives the folded weight [G·o, i, rows, columns].
        pool: the max pool that it is fused with; then ``value`` is what the pool reads.
    """

    taps: Window
    weight: Callable[[], Tensor]
    groups: int
    pool: Maximum | None = None

    @cached_property
    def _arithmetic(self) -> Taps:
        matrices = self.weight().unflatten(0, (self.groups, -1)).permute(3, 4, 0, 1, 2)
        return taps_of(matrices, self.taps, len(self._places))

    @cached_property
    def _places(self) -> Int[Tensor, "s t"]:
        """Where convolution tap t over pool tap s stands among the window's taps."""
        if self.pool is None:
            return torch.arange(self.taps.taps)[None]
        first, taps = self.pool.window, list(self.taps.each_tap())
        return torch.tensor([[self.taps.composed_tap(first, tap, s) for tap in taps] for s in first.each_tap()])

    @cached_property
    def inside(self) -> Float[Tensor, "taps h w"]:
        """See :class:`~vismech.receptive_field.rules.Term`; every pair of a pool tap and a convolution tap counts."""
        if self.pool is None:
            return self.window.inside
        padded = self.taps.pad(self.pool.window.inside)
        counts = torch.zeros(self.window.taps, *self.window.size_out)
        for number, tap in enumerate(self.taps.each_tap()):
            counts.index_add_(0, self._places[:, number], self.taps.tap(padded, *tap))
        return counts

    def measure(self, values: Values, z: Float[Tensor, "b c h w"], norms: bool) -> Energies:
        """See :class:`~vismech.receptive_field.rules.Term`."""
        found = [z.new_zeros(self.window.taps, len(z), *z.shape[2:]) for _ in range(2 if norms else 1)]
        (height, width), taps = self.taps.size_out, self._arithmetic
        per_row = taps.channels * width * self.taps.taps
        count = max(1, _SCRATCH // (per_row * height))
        step = max(1, _SCRATCH // (per_row * min(count, len(z))))
        for start in range(0, len(z), count):
            images = slice(start, start + count)
            parts, z_last = self.taps.pad(self._parts(values, images), axis=2), z[images].movedim(1, -1)
            if taps.runs:
                parts, z_last = parts.contiguous(), z_last.contiguous()
            for first in range(0, height, step):
                rows = slice(first, first + step)
                prepared = taps.prepare(z_last[:, rows])
                for places, part in zip(self._places, parts, strict=True):
                    x = part[:, first * self.taps.stride[0] :]
                    energies = taps(x, prepared, len(range(height)[rows]), norms)
                    for energy, target in zip(energies, found, strict=True):
                        energy, target = energy.flatten(0, 1), target[:, images, rows]
                        if self.pool is None:
                            target.copy_(energy)
                        else:
                            target[places] += energy
        products, *lengths = (one.transpose(0, 1) for one in found)
        return Energies(products, lengths[0] if norms else None)

    def _parts(self, values: Values, images: slice) -> Float[Tensor, "s b rows columns c"]:
        return values[self.value][images].movedim(1, -1)[None] if self.pool is None else self.pool.parts(values, images)
