"""Gradients of concepts at one position, from the window of the lower layer that this position depends on.

A concept that is read at one position of a convolutional network's layer has a gradient of zero outside a window of the
layer below, which between two blocks is a few positions wide. What lies outside is not computed: neither forward nor
back. The gradient is the same; its last digits are those of convolutions of another size.

Legend: B images, I of them, N pairs of an image and a target, S steps, P positions, W of them in a window, C channels,
T targets, D directions of a curve, M sums for each gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.paths import Curve
from vismech.attribution.targets import AtPositions, Targets
from vismech.attribution.weights import Weighing
from vismech.config.choices import ReadOut
from vismech.network.locality import Reach
from vismech.network.pfv import Axes, Layout

# A row's last digits depend on its place among so many and on the number of rows: it would show who shares a pass.
ROW_MULTIPLE = 8
# Of what whole maps cost, what windows may cost at most.
WORTH = 0.7


class Windows(NamedTuple):
    """Windows of the lower layer, one for each position of the upper.

    Attributes:
        layout: how a window's activation is read as PFVs.
        whole: rows and columns of the lower layer.
        reaches: what an upper position reads, along rows and columns.
        targets: the concepts, at one position of the upper layer each.
    """

    layout: Layout
    whole: tuple[int, int]
    reaches: tuple[Reach, Reach]
    targets: AtPositions

    def atoms(self, image: Int[Tensor, " n"], target: Int[Tensor, " n"]) -> Float[Tensor, "n c"]:
        """v_j of pairs of an image and a target."""
        every = self.targets.atoms
        return every[target] if every.ndim == 2 else every[image, target]

    @property
    def share(self) -> float:
        """Positions of a window over those of the layer."""
        return self.layout.positions / (self.whole[0] * self.whole[1])

    def places(self, anchors: Int[Tensor, " n"]) -> tuple[Int[Tensor, "n w"], Int[Tensor, "n 2"]]:
        """The positions of each window in the lower layer, and the anchor's position in the window's own output."""
        columns = self.targets.layout.grid[1]
        lower, upper = [], []
        sides = (anchors // columns, anchors % columns), self.reaches, self.whole, self.layout.grid
        for at, reach, side, size in zip(*sides, strict=True):
            start = reach.start(at, side)
            lower.append(start[:, None] + torch.arange(size, device=at.device))
            upper.append(at - start // reach.stride)
        places = (lower[0][:, :, None] * self.whole[1] + lower[1][:, None]).flatten(1)
        return places, torch.stack(upper, 1)


def windows_of(segment: Callable[[Tensor], Tensor], layout: Layout, targets: Targets) -> Windows | None:
    """Windows of a segment's targets; None where it is not local, or where they would save little."""
    reaches: tuple[Reach, Reach] | None = getattr(segment, "reach", None)
    if reaches is None or not isinstance(targets, AtPositions) or targets.readout is not ReadOut.max:
        return None
    if not layout.axes is targets.layout.axes is Axes.channels_first:
        return None
    rows, columns = (reach.window(side) for reach, side in zip(reaches, layout.grid, strict=True))
    found = Windows(Layout(layout.axes, (rows, columns), layout.channels), layout.grid, reaches, targets)
    return found if worth(found.share, targets.atoms.shape[-2]) else None


def worth(share: float, targets: int) -> bool:
    """Whether windows of this share of a map cost less than the whole map, forward once and back for each target."""
    return 2 * targets * share < WORTH * (1 + targets)


def weighed_in_windows(
    segment: Callable[[Tensor], Tensor],
    windows: Windows,
    curve: Curve,
    images: Int[Tensor, " i"],
    nodes: Float[Tensor, " s"],
    steps: Float[Tensor, " s"],
    rows: int,
    weighing: Weighing,
) -> Float[Tensor, "t i m numbers"]:
    """Weighted sums of the gradients of every target that is present, zero outside its window.

    M counts the kept weights and for each the curve's directions. As many numbers share a pass as with whole maps.

    Args:
        segment: F_ab, which keeps what is local local.
        windows: see :func:`windows_of`.
        curve: the path.
        images: which of its images.
        nodes, steps: nodes and weights of the quadrature.
        rows: path points of whole maps in a pass.
        weighing: the weights under the integral, which takes note of what the path tells.
    """
    targets, speeds, whole = windows.targets, curve.path.speeds(nodes), curve.end
    anchors = targets.anchors[images]
    owner, target = (anchors >= 0).nonzero(as_tuple=True)
    limit = max(1, int(rows / windows.share))
    stride = min(len(nodes), limit)
    together = max(1, limit // len(nodes)) if len(nodes) % ROW_MULTIPLE == 0 else 1
    count = len(weighing.kept) * speeds.shape[1]
    sums = whole.new_zeros(anchors.shape[1], len(images), count, *whole.shape[1:])
    for some, which in zip(owner.split(together), target.split(together), strict=True):
        image = images[some]
        places, at = windows.places(anchors[some, which])
        here = image[:, None], places
        ways = [way[here].flatten(1) for way in curve.directions] if weighing.slopes else []
        total = whole.new_zeros(len(some), count, places.shape[1] * whole.shape[2])
        for begin in range(0, len(nodes), stride):
            alpha, step, speed = (part[begin : begin + stride] for part in (nodes, steps, speeds))
            points = curve.within(image, places, alpha)
            values, gradient = _gradients(segment, windows, points, at, windows.atoms(image, which))
            under = weighing(some, which, alpha, step, values)
            if ways:
                slopes = (torch.bmm(gradient, torch.stack(ways, 2)) * speed).sum(2)
                weighing.climb(some, which, step, slopes)
                under = torch.cat([under, (step * slopes)[:, None]], 1)
            total.baddbmm_((under[:, :, None] * speed.T).flatten(1, 2), gradient)
        # [n, w, m, c] on either side: places of one array, and the sums that belong there.
        sums[which[:, None], some[:, None], :, places] = total.unflatten(2, (-1, whole.shape[2])).transpose(1, 2)
    return sums.flatten(3)


@torch.enable_grad()
def _gradients(
    segment: Callable[[Tensor], Tensor],
    windows: Windows,
    points: Float[Tensor, "n s w c"],
    at: Int[Tensor, "n 2"],
    atoms: Float[Tensor, "n c2"],
) -> tuple[Float[Tensor, "n s"], Float[Tensor, "n s numbers"]]:
    """Each pair's concept at every point of its path, and the gradient there."""
    each, leaf = points.shape[1], points.flatten(0, 1).detach().requires_grad_()
    upper = segment(windows.layout.activation(leaf, leaf))
    row, column = at.repeat_interleave(each, 0).unbind(1)
    vectors = upper[torch.arange(len(upper), device=upper.device), :, row, column]
    values = (vectors * atoms.repeat_interleave(each, 0)).sum(1)
    (gradient,) = torch.autograd.grad(values.sum(), leaf)
    return values.detach().unflatten(0, (-1, each)), gradient.flatten(1).unflatten(0, (-1, each))
