"""Cuts where paths run around the lower layer: what comes on them is given beside the activation, and held.

In a transformer's block the attention and the MLP add to a residual stream, so that no single value separates what
comes after from what came before. Held at its clean value, the stream is a constant, and what follows is a function of
the contribution alone. A row of such a cut is one flat vector: the numbers of the lower layer's activation, then those
of what is held; :class:`HeldLayout` reads and writes the first part as PFVs and copies the second, as a
:class:`~vismech.network.pfv.Layout` does with class tokens.

Legend: B images, R path points, N numbers of a row, P positions, C channels, M tokens before the patch tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, fx, nn

from vismech.network.pfv import Layout


@dataclass(frozen=True)
class Packing:
    """Several values with a row per image as one flat row.

    Attributes:
        shapes: of the values, without the batch axis; the first is the lower layer's activation.
        types: theirs; integers and truth values come back as they were.
    """

    shapes: tuple[tuple[int, ...], ...]
    types: tuple[torch.dtype, ...]

    @classmethod
    def of(cls, values: Sequence[Tensor]) -> Packing:
        """How values of an exported graph are packed."""
        shapes = tuple(tuple(int(size) for size in value.shape[1:]) for value in values)
        return cls(shapes, tuple(value.dtype for value in values))

    @property
    def numbers(self) -> int:
        """N."""
        return sum(map(prod, self.shapes))

    def packed(self, values: Sequence[Tensor]) -> Float[Tensor, "b n"]:
        """Values [B, …] as rows."""
        first = values[0]
        return torch.cat([value.reshape(first.shape[0], -1).to(first.dtype) for value in values], 1)

    def parts(self, rows: Float[Tensor, "b n"]) -> list[Tensor]:
        """The values that rows are made of."""
        found = []
        for part, shape, kind in zip(
            rows.split([prod(shape) for shape in self.shapes], 1), self.shapes, self.types, strict=True
        ):
            value = part.reshape(part.shape[0], *shape)
            found.append(value if kind.is_floating_point else value.to(kind))
        return found


@dataclass(frozen=True)
class HeldLayout(Layout):
    """How the rows of a held cut are read as PFVs: those of the lower layer; what is held is copied.

    Attributes:
        packing: of the rows.
    """

    packing: Packing = Packing((), ())

    def _own(self, rows: Float[Tensor, "b n"]) -> Tensor:
        return self.packing.parts(rows)[0]

    def _with(self, activation: Tensor, rows: Float[Tensor, "r n"]) -> Float[Tensor, "b n"]:
        """Rows of other activations; there may be several for each of ``rows``, in order."""
        own = activation.reshape(activation.shape[0], -1)
        held = rows[:, own.shape[1] :].repeat_interleave(own.shape[0] // rows.shape[0], 0)
        return torch.cat([own, held.to(own)], 1)

    def vectors(self, activation: Tensor) -> Float[Tensor, "b p c"]:
        """See :meth:`Layout.vectors`."""
        return super().vectors(self._own(activation))

    def activation(self, vectors: Float[Tensor, "b p c"], clean: Tensor) -> Tensor:
        """See :meth:`Layout.activation`."""
        return self._with(super().activation(vectors, self._own(clean)), clean)

    def before(self, activation: Tensor) -> Float[Tensor, "b m c"]:
        """See :meth:`Layout.before`."""
        return super().before(self._own(activation))

    def begun_by(self, clean: Tensor, before: Float[Tensor, "b m c"]) -> Tensor:
        """See :meth:`Layout.begun_by`."""
        return self._with(super().begun_by(self._own(clean), before), clean)


@dataclass(frozen=True)
class HeldCut:
    """A network between two layers with a path around the lower one.

    Attributes:
        segment: rows [B, N] → the upper layer's output.
        read: images → rows, everything at its clean value.
        packing: of the rows.
        held: what is held, in words; empty where no path runs around the lower layer.
    """

    segment: nn.Module
    read: Callable[[Tensor], Float[Tensor, "b n"]]
    packing: Packing
    held: tuple[str, ...]

    def layout(self, below: Layout) -> HeldLayout:
        """How rows are read, from the lower layer's own layout."""
        return HeldLayout(below.axes, below.grid, below.channels, below.prefix, self.packing)


class HeldSegment(nn.Module):
    """A graph of several inputs as a function of packed rows."""

    def __init__(self, cut: nn.Module, follow: Callable[[torch.device], None], packing: Packing) -> None:
        super().__init__()
        self.cut, self.follow, self.packing = cut, follow, packing

    def forward(self, rows: Float[Tensor, "b n"]) -> Tensor:
        """The upper layer's output."""
        self.follow(rows.device)
        return self.cut(*self.packing.parts(rows))[0]


def frontier(
    order: Sequence[fx.Node],
    start: fx.Node,
    end: fx.Node,
    images: fx.Node,
    told_by_any: Callable[[fx.Node], bool],
) -> tuple[fx.Node, ...] | None:
    """Values that come from the images around ``start`` and are first met by one that comes from it; None where none
    does.

    Args:
        order: the nodes that ``end`` needs once ``start`` is given, in their order.
        start, end: of the cut.
        images: the graph's input.
        told_by_any: whether a node is the number of images or the device, which any value tells.
    """
    from_images, from_start = {images}, {start}
    met: dict[fx.Node, None] = {}
    for node in order:
        if node is start or told_by_any(node):
            continue
        reads = node.all_input_nodes
        if any(read in from_start for read in reads):
            from_start.add(node)
            met |= dict.fromkeys(read for read in reads if read in from_images and read not in from_start)
        elif any(read in from_images for read in reads):
            from_images.add(node)
    return tuple(met) if end in from_start else None
