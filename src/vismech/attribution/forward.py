"""The same edges in forward mode: one directional derivative per source unit gives every target at once.

    e_{q→j} = ∫ w(α) <∂g_j/∂X, velocity of unit q> dα

Reverse mode costs one backward pass per target, forward mode one forward derivative per moving unit; both give the
same numbers.

Legend: B images, S steps, Q units, T targets, P positions, C channels, D directions of a curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd import forward_ad

from vismech.attribution.gig import Segment, ends, raise_not_finite
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.sources import Edges, Source
from vismech.attribution.targets import Targets
from vismech.attribution.weights import Weighing
from vismech.config import PathWeight
from vismech.pfv import Layout


class ForwardIntegral(NamedTuple):
    """Edges of every weight, with what :class:`~vismech.attribution.gig.PathIntegral` tells of the targets."""

    edges: dict[PathWeight, Edges]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    weighing: Weighing


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
) -> ForwardIntegral:
    """Edges from every moving unit of ``source``; arguments as for :func:`~vismech.attribution.gig.integrate`.

    Raises:
        FloatingPointError: a value or derivative on the path is not finite; the message names the image's index and α.
    """
    curve = source.curve
    nodes, steps = (torch.as_tensor(part, device=curve.end.device).to(curve.end) for part in rule)
    value, baseline = ends(segment, layout, curve, clean, targets, rows)
    present, speeds = targets.present, curve.path.speeds(nodes)
    weighing = Weighing(weights, phi, value, baseline, present)
    # One unit more for the error.
    total = value.new_zeros(*value.shape, len(weighing.kept), source.count + 1)
    for index in range(len(value)):
        image, target = torch.tensor([index], device=value.device), present[index].nonzero()[:, 0]
        units = source.active(index)
        if not len(target) or not len(units):
            continue
        owner = image.expand(len(target))
        stride = max(1, rows // len(units))
        for first in range(0, len(nodes), stride):
            here = slice(first, first + stride)
            points = curve.points(image, nodes[here])[0]
            values, slopes = [], []
            for some in units.split(max(1, rows // len(points))):
                velocity = torch.einsum("sd,dnpc->snpc", speeds[here], source.parts(index, some)).flatten(0, 1)
                found = _dual(segment, layout, points, velocity, clean[image], targets, image)
                slopes.append(found.tangent.unflatten(0, (len(points), len(some)))[:, :, target])
                values.append(found.primal.unflatten(0, (len(points), len(some)))[:, 0, target])
            slope = torch.cat(slopes, 1)  # [s, q, t]
            pull = slope.sum(1).T if weighing.slopes else None
            under = weighing(owner, target, nodes[here], steps[here], values[0].T, pull)
            total[index, target[:, None], :, units] += torch.einsum("tws,sqt->tqw", under, slope)
    if not torch.stack([total.isfinite().all(), value.isfinite().all(), baseline.isfinite().all()]).all():
        raise_not_finite(segment, layout, curve, clean, targets, nodes)
    edges = {
        weight: Edges(part[..., :-1].contiguous(), part[..., -1]) for weight, part in weighing.finish(total).items()
    }
    return ForwardIntegral(edges, value, baseline, weighing)


class _Dual(NamedTuple):
    primal: Tensor
    tangent: Tensor


def _dual(
    segment: Segment, layout: Layout, points: Tensor, velocity: Tensor, clean: Tensor, targets: Targets, image: Tensor
) -> _Dual:
    """Targets at points [S, P, C], each with its own N velocities [S·N, P, C], and their derivatives along these."""
    with forward_ad.dual_level():
        repeated = points.repeat_interleave(len(velocity) // len(points), 0)
        moving = forward_ad.make_dual(repeated, velocity)
        answer = targets(segment(layout.activation(moving, clean)), image.expand(len(velocity)))
        primal, tangent = forward_ad.unpack_dual(answer)
    return _Dual(primal, torch.zeros_like(primal) if tangent is None else tangent)
