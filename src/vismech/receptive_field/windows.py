"""Which input positions an output position reads: kernel taps as slices of a padded map.

Legend: B images, C channels, H×W input positions, h×w output positions, T = kernel rows · kernel columns taps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """The taps of one operation: output row j reads the input rows ``stride·j + dilation·tap − padding``.

    Attributes:
        size_in, size_out: (H, W) and (h, w).
        kernel, stride, dilation: as in a convolution, (rows, columns).
        padding: zeros before the first row and the first column; negative where the input is cropped. What follows the
            last row is implied by ``size_out``.
        expansion: for adaptive pools of uneven bins, the input (rows, columns) laid out bin by bin, −1 for none; the
            other fields then speak of this layout.
    """

    size_in: Pair
    size_out: Pair
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    expansion: tuple[tuple[int, ...], tuple[int, ...]] | None = None

    @property
    def taps(self) -> int:
        """T."""
        return self.kernel[0] * self.kernel[1]

    def each_tap(self) -> Iterator[Pair]:
        """(row, column) of every tap in row-major order."""
        return ((row, column) for row in range(self.kernel[0]) for column in range(self.kernel[1]))

    @property
    def span(self) -> Pair:
        """Rows and columns of the padded input that the taps reach."""
        return tuple(s * (o - 1) + d * (k - 1) + 1 for s, o, d, k in self._axes)  # type: ignore[return-value]

    @property
    def _axes(self) -> Iterator[tuple[int, int, int, int]]:
        return zip(self.stride, self.size_out, self.dilation, self.kernel, strict=True)

    def pad(self, values: Tensor, axis: int = -2) -> Tensor:
        """Input [..., H, W, ...] → padded input of ``span``, zero outside the image; ``axis`` is that of the rows."""
        after = (0, 0) * (values.ndim - 2 - axis % values.ndim)
        if self.expansion is not None:
            rows, columns = (torch.tensor(each, device=values.device) for each in self.expansion)
            padded = F.pad(values, (*after, 0, 1, 0, 1))
            rows, columns = rows % (self.size_in[0] + 1), columns % (self.size_in[1] + 1)
            return padded.index_select(axis, rows).index_select(axis + 1, columns)
        (top, left), (height, width) = self.padding, self.span
        amounts = (*after, left, width - self.size_in[1] - left, top, height - self.size_in[0] - top)
        return F.pad(values, amounts) if any(amounts) else values

    def scatter(self, here: Float[Tensor, "b h w n"]) -> tuple[Float[Tensor, "b rows columns n"], Iterator[Tensor]]:
        """A blank padded map, positions last, and a view of it per tap: where the tap of each output position is."""
        (top, left), span = self.padding, self.span
        rows, columns = span
        if self.expansion is None:  # room for rows that no tap reads, so that unpadding is a view
            rows, columns = max(rows, top + self.size_in[0]), max(columns, left + self.size_in[1])
        padded = here.new_zeros(len(here), rows, columns, here.shape[-1])
        image, row, column, last = padded.stride()
        strides = (image, self.stride[0] * row, self.stride[1] * column, last)
        steps = (self.dilation[0] * row, self.dilation[1] * column)
        return padded, (padded.as_strided(here.shape, strides, r * steps[0] + q * steps[1]) for r, q in self.each_tap())

    def unpad(self, padded: Float[Tensor, "b rows columns n"]) -> Float[Tensor, "b H W n"]:
        """The adjoint of :meth:`pad`, for what :meth:`scatter` made."""
        (top, left), (height, width) = self.padding, self.size_in
        if self.expansion is None:
            cropped = min(top, left, 0)
            if cropped:  # rows or columns before the first that is read
                return F.pad(
                    padded, (0, 0, -left, width + left - padded.shape[2], -top, height + top - padded.shape[1])
                )
            return padded[:, top : top + height, left : left + width]
        for axis, (expanded, count) in enumerate(zip(self.expansion, self.size_in, strict=True), start=1):
            index = torch.tensor(expanded, device=padded.device) % (count + 1)
            shape = (*padded.shape[:axis], count + 1, *padded.shape[axis + 1 :])
            padded = padded.new_zeros(shape).index_add_(axis, index, padded).narrow(axis, 0, count)
        return padded

    def tap(self, padded: Float[Tensor, "*rest rows columns"], row: int, column: int) -> Float[Tensor, "*rest h w"]:
        """What tap (row, column) of every output position reads: a view of the padded input."""
        starts = (row * self.dilation[0], column * self.dilation[1])
        stops = [start + s * (o - 1) + 1 for start, s, o in zip(starts, self.stride, self.size_out, strict=True)]
        return padded[..., starts[0] : stops[0] : self.stride[0], starts[1] : stops[1] : self.stride[1]]

    def unfold(self, padded: Float[Tensor, "b rows columns c"], height: int) -> Float[Tensor, "r q b h w c"]:
        """What every tap (r, q) of the first ``height`` rows of output positions reads, channels last: a view."""
        image, row, column, channel = padded.stride()
        taps = (self.dilation[0] * row, self.dilation[1] * column)
        positions = (self.stride[0] * row, self.stride[1] * column)
        size = (*self.kernel, len(padded), height, self.size_out[1], padded.shape[-1])
        return padded.as_strided(size, (*taps, image, *positions, channel), padded.storage_offset())

    @cached_property
    def inside(self) -> Float[Tensor, "taps h w"]:
        """1 where the tap of an output position lies inside the image, else 0."""
        padded = self.pad(torch.ones(self.size_in))
        return torch.stack([self.tap(padded, *tap) for tap in self.each_tap()])

    def input_positions(self, row: int, column: int) -> tuple[Tensor, Tensor]:
        """Input rows [h] and columns [w] read by one tap, counted from the first row and column of the input."""
        found = []
        for index, tap in enumerate((row, column)):
            start = torch.arange(self.size_out[index]) * self.stride[index] + tap * self.dilation[index]
            if self.expansion is not None:
                found.append(torch.tensor(self.expansion[index])[start])
            else:
                found.append(start - self.padding[index])
        return found[0], found[1]

    def after(self, first: Window) -> Window:
        """The window of this operation over ``first``'s input, when it reads what ``first`` puts out.

        Taps of the composition: ``first.dilation·s + first.stride·dilation·t``; see :meth:`composed_tap`.
        """
        axes = range(2)
        steps = [first.stride[i] * self.dilation[i] * (self.kernel[i] - 1) for i in axes]
        reach = [steps[i] + first.dilation[i] * (first.kernel[i] - 1) + 1 for i in axes]
        return Window(
            size_in=first.size_in,
            size_out=self.size_out,
            kernel=(reach[0], reach[1]),
            stride=(first.stride[0] * self.stride[0], first.stride[1] * self.stride[1]),
            padding=(
                first.padding[0] + first.stride[0] * self.padding[0],
                first.padding[1] + first.stride[1] * self.padding[1],
            ),
        )

    def composed_tap(self, first: Window, tap: Pair, first_tap: Pair) -> int:
        """Flat index, in ``self.after(first)``, of this window's ``tap`` over ``first``'s ``first_tap``."""
        row, column = (first.stride[i] * self.dilation[i] * tap[i] + first.dilation[i] * first_tap[i] for i in range(2))
        return row * self.after(first).kernel[1] + column


def adaptive(size_in: Pair, size_out: Pair) -> Window:
    """Bins of an adaptive pool: output j of an axis reads the inputs from ⌊j·n/m⌋ to ⌈(j+1)·n/m⌉ − 1."""
    bins = [[range(j * n // m, -((j + 1) * n // -m)) for j in range(m)] for n, m in zip(size_in, size_out, strict=True)]
    kernel = [max(len(span) for span in axis) for axis in bins]
    stride = [axis[1].start - axis[0].start if len(axis) > 1 else 1 for axis in bins]
    even = all(
        len(span) == kernel[i] and span.start == j * stride[i]
        for i, axis in enumerate(bins)
        for j, span in enumerate(axis)
    )
    if even:
        return Window(size_in, size_out, (kernel[0], kernel[1]), (stride[0], stride[1]))
    layout = [
        tuple(span[k] if k < len(span) else -1 for span in axis for k in range(kernel[i]))
        for i, axis in enumerate(bins)
    ]
    pair = (kernel[0], kernel[1])
    return Window(size_in, size_out, pair, stride=pair, expansion=(layout[0], layout[1]))
