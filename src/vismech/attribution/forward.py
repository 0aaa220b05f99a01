"""The same edges in forward mode: one directional derivative per source unit gives every target at once.

    e_{q→j} = ∫ w(α) <∂g_j/∂X, velocity of unit q> dα

Reverse mode costs one backward pass per target, forward mode one forward derivative per moving unit; both give the
same numbers.

Legend: B images, I of them, S steps, Q units, N of them, T targets, P positions, C channels, D directions of a curve.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from vismech.attribution.gig import Ends, Segment, ends, nodes_of, raise_not_finite
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.sources import Edges, Source
from vismech.attribution.targets import Targets
from vismech.attribution.weights import OwnWeight, Weighing
from vismech.config.choices import PathWeight
from vismech.network.pfv import Layout


class ForwardIntegral(NamedTuple):
    """Edges of every weight, with what :class:`~vismech.attribution.gig.PathIntegral` tells of the targets."""

    edges: dict[PathWeight, Edges]
    value: Float[Tensor, "i t"]
    baseline: Float[Tensor, "i t"]
    moves: Bool[Tensor, "i t"]
    crosses: Bool[Tensor, "i t"]
    crossing: Float[Tensor, "i t"]
    energy: Float[Tensor, "i t"]


@torch.no_grad()
def integrate_forward(
    segment: Segment,
    layout: Layout,
    source: Source,
    clean: Tensor,
    targets: Targets,
    rule: Quadrature,
    *,
    weights: Sequence[PathWeight] = (PathWeight.ig,),
    phi: float = 0.9,
    rows: int = 256,
    images: Int[Tensor, " i"] | None = None,
    known: Ends | None = None,
    own: OwnWeight | None = None,
) -> ForwardIntegral:
    """Edges from every moving unit of ``source``; arguments as for :func:`~vismech.attribution.gig.integrate`.

    Raises:
        NotFinite: a value or derivative on the path is not finite; the message names the image's index and α.
        NotImplementedError: an operation of the segment has no forward derivative in torch.
    """
    curve = source.curve
    images = torch.arange(len(curve.end), device=curve.end.device) if images is None else images
    nodes, steps = nodes_of(rule, curve)
    at_ends = Ends(*(part[images] for part in known or ends(segment, layout, curve, clean, targets, rows)))
    present, speeds = targets.present[images], curve.path.speeds(nodes)
    weighing = Weighing(weights, phi, *at_ends, present, own)
    # One unit more for the error.
    total = nodes.new_zeros(len(weighing.kept), *present.shape, source.count + 1)
    for row, index in enumerate(images.tolist()):
        target, units = present[row].nonzero()[:, 0], source.active(index)
        if not len(target) or not len(units):
            continue
        stride = max(1, rows // len(units))
        for first in range(0, len(nodes), stride):
            here = slice(first, first + stride)
            points = curve.points(images[row : row + 1], nodes[here])[0]
            values, parts = nodes[:0], []
            for some in units.split(max(1, rows // len(points))):
                velocity = torch.einsum("sd,dnpc->nspc", speeds[here], source.parts(index, some))
                found = _derivatives(segment, layout, points, velocity, clean[index : index + 1], targets, index)
                values = found.values[:, target]
                parts.append(found.slopes[..., target])
            slopes = torch.cat(parts)  # [q, s, t]
            under = weighing(row, target, nodes[here], steps[here], values.T)
            if weighing.slopes:
                climb = slopes.sum(0).T
                weighing.climb(row, target, steps[here], climb)
                under = torch.cat([under, (steps[here] * climb)[:, None]], 1)
            total[:, row, target[:, None], units] += torch.einsum("tws,qst->wtq", under, slopes)
    if not torch.stack([total.sum(), *(part.sum() for part in at_ends)]).isfinite().all():
        raise_not_finite(segment, layout, curve, clean, targets, nodes, images)
    sums = weighing.finish(dict(zip(weighing.kept, total, strict=True)))
    edges = {weight: Edges(part[..., :-1].contiguous(), part[..., -1]) for weight, part in sums.items()}
    told = weighing.moves, weighing.crosses, weighing.crossing, weighing.energy
    return ForwardIntegral(edges, *at_ends, *told)


class _Derivatives(NamedTuple):
    values: Float[Tensor, "s t"]
    slopes: Float[Tensor, "n s t"]


def _derivatives(
    segment: Segment,
    layout: Layout,
    points: Float[Tensor, "s p c"],
    velocity: Float[Tensor, "n s p c"],
    clean: Tensor,
    targets: Targets,
    image: int,
) -> _Derivatives:
    """Targets at some points, and their derivatives along N velocities, for which the points are passed once."""
    owner = torch.full((len(points),), image, device=points.device)

    def value(points: Tensor) -> Tensor:
        return targets(segment(layout.activation(points, clean)), owner)

    def along(velocity: Tensor) -> Any:
        return torch.func.jvp(value, (points,), (velocity,))

    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        # The other kernels of attention have no forward derivative; torch warns of a function that it calls itself.
        warnings.filterwarnings("ignore", r"`torch\.jit\.", FutureWarning)
        values, slopes = torch.func.vmap(along)(velocity)
    return _Derivatives(values[0], slopes)
