"""Integrated gradients of many targets along a path between layers, under several weights at once.

Generalized Integrated Gradients (Kim et al., arXiv 2409.01610, Eq. 5) integrates along α·X̃, α ∈ [0, 1]:
``GIG_{pq→j} = u_pq · <Ḡ_p, v_q>`` with Ḡ the mean of ∂g_j(F_ab(α X̃))/∂X. One backward pass per (image, target, step)
serves every source concept, so cost does not grow with their number.

Legend: B images, S steps, R = path points in one pass, P positions, C channels, T targets, D directions of a curve.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.paths import Curve
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.targets import Targets
from vismech.attribution.weights import Weighing
from vismech.config import PathWeight
from vismech.pfv import Layout

Segment = Callable[[Tensor], Tensor]


class Profile(NamedTuple):
    """What a target does along the path, at every node.

    Attributes:
        values: g_j.
        norms: Euclidean norm of its gradient.
    """

    values: Float[Tensor, "b t s"]
    norms: Float[Tensor, "b t s"]


class PathIntegral(NamedTuple):
    """Weighted mean gradients along a curve, and the targets at its ends; all zero for absent targets.

    Attributes:
        gradients: weight → Ḡ, one for each direction of the curve.
        value: g_j at the end of the path, α = 1.
        baseline: g_j at its start, α = 0; the offset node's share.
        moves: whether a present target's change is more than rounding; the others have no left, right or idg part.
        crossing: α*, 1 where no node crosses or nothing moves.
        energy: ∫ (dg/dα)² dα, what idg sums to before it is rescaled; zero unless idg is asked for.
        profile: values and gradient norms at the nodes, if asked for.
    """

    gradients: dict[PathWeight, Float[Tensor, "b t d p c"]]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    moves: Bool[Tensor, "b t"]
    crossing: Float[Tensor, "b t"]
    energy: Float[Tensor, "b t"]
    profile: Profile | None


class Piece(NamedTuple):
    """One target on a stretch of the path of some images.

    Attributes:
        image: which images.
        first: index of the stretch's first node.
        target: which target.
        values: g_j.
        gradient: ∂g_j/∂X.
    """

    image: Int[Tensor, " b"]
    first: int
    target: int
    values: Float[Tensor, "b s"]
    gradient: Float[Tensor, "b s p c"]


def pieces(
    segment: Segment, layout: Layout, curve: Curve, clean: Tensor, targets: Targets, nodes: Tensor, rows: int
) -> Iterator[Piece]:
    """Values and gradients of every present target along the curve, in the order of the nodes for each image.

    At most ``rows`` path points are in one forward pass, so that memory does not grow with the number of steps.
    """
    together, stride = max(1, rows // len(nodes)), min(len(nodes), rows)
    present = targets.present
    with torch.enable_grad():
        for first in range(0, len(curve.end), together):
            image = torch.arange(first, min(first + together, len(curve.end)), device=nodes.device)
            wanted = present[image].any(0).nonzero()[:, 0].tolist()
            for begin in range(0, len(nodes) if wanted else 0, stride):
                alpha = nodes[begin : begin + stride]
                points = curve.points(image, alpha).flatten(0, 1).detach().requires_grad_()
                owner = image.repeat_interleave(len(alpha))
                values = targets(segment(layout.activation(points, clean[image])), owner)
                values = values * present[owner]
                for target in wanted:
                    last = target == wanted[-1]
                    slope = torch.autograd.grad(values[:, target].sum(), points, retain_graph=not last)[0]
                    value = values[:, target].detach().unflatten(0, (len(image), -1))
                    yield Piece(image, begin, target, value, slope.unflatten(0, (len(image), -1)))


def integrate(
    segment: Segment,
    layout: Layout,
    curve: Curve,
    clean: Tensor,
    targets: Targets,
    rule: Quadrature,
    *,
    weights: Sequence[PathWeight] = (PathWeight.ig,),
    phi: float = 0.9,
    rows: int = 256,
    profile: bool = False,
) -> PathIntegral:
    """Weighted mean gradients of every target along ``curve``, all weights from one pass.

    Args:
        segment: F_ab, from the lower layer's activation to the upper layer's.
        layout: how the lower activation is read as PFVs.
        curve: the path.
        clean: the clean lower activation [B, …]; what is no PFV (a class token) keeps its value along the path.
        targets: the functions that are explained.
        rule: nodes, ascending, and weights of the quadrature.
        weights: which weights to put under the integral.
        phi: share of the change that left_ig ends at.
        rows: path points per forward pass; memory grows with it and not with the number of steps.
        profile: keep values and gradient norms of every node too.

    Raises:
        FloatingPointError: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    device, end = curve.end.device, curve.end
    nodes = torch.as_tensor(rule.nodes, device=device).to(end)
    steps = torch.as_tensor(rule.weights, device=device).to(end)
    value, baseline = ends(segment, layout, curve, clean, targets, rows)
    weighing = Weighing(weights, phi, value, baseline, targets.present)
    directions = [one.flatten(1) for one in curve.directions] if weighing.slopes else None
    speeds = curve.path.speeds(nodes)
    total = end.new_zeros(*value.shape, len(weighing.kept), speeds.shape[1], *end.shape[1:])
    found = Profile(*(value.new_zeros(*value.shape, len(nodes)) for _ in range(2))) if profile else None
    for image, first, target, values, slope in pieces(segment, layout, curve, clean, targets, nodes, rows):
        here, flat = slice(first, first + values.shape[1]), slope.flatten(2)
        pull = None
        if directions is not None:  # image by image: torch is slow at a batch of matrices times vectors
            along = [torch.stack([part @ way[at] for part, at in zip(flat, image, strict=True)]) for way in directions]
            pull = (torch.stack(along, 2) * speeds[here]).sum(2)
        under = weighing(image, target, nodes[here], steps[here], values, pull)
        mixed = (under[:, :, None] * speeds[here].T).flatten(1, 2)
        total[image, target] += (mixed @ flat).view(len(image), *total.shape[2:])
        if found is not None:
            found.values[image, target, here] = values
            found.norms[image, target, here] = flat.norm(dim=2)
    if not torch.stack([total.isfinite().all(), value.isfinite().all(), baseline.isfinite().all()]).all():
        raise_not_finite(segment, layout, curve, clean, targets, nodes)
    gradients = weighing.finish(total)
    return PathIntegral(gradients, value, baseline, weighing.moves, weighing.crossing, weighing.energy, found)


@torch.no_grad()
def ends(
    segment: Segment, layout: Layout, curve: Curve, clean: Tensor, targets: Targets, rows: int
) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
    """The targets at the end of the path and at its start."""
    found: list[list[Tensor]] = [[], []]
    for image in torch.arange(len(curve.end), device=curve.end.device).split(rows):
        for at, part in zip((1.0, 0.0), found, strict=True):
            points = curve.points(image, curve.end.new_tensor([at]))[:, 0]
            part.append(targets(segment(layout.activation(points, clean[image])), image))
    value, baseline = (torch.cat(part) * targets.present for part in found)
    return value, baseline


def raise_not_finite(
    segment: Segment, layout: Layout, curve: Curve, clean: Tensor, targets: Targets, nodes: Tensor
) -> None:
    """Find the first point of the path that is not finite, one at a time; only ever called to explain a failure."""
    for index in range(len(curve.end)):
        image = torch.tensor([index], device=curve.end.device)
        for alpha in torch.cat([nodes.new_zeros(1), nodes, nodes.new_ones(1)]):
            with torch.enable_grad():
                point = curve.points(image, alpha[None])[:, 0].detach().requires_grad_()
                values = targets(segment(layout.activation(point, clean[image])), image) * targets.present[image]
                slope = torch.autograd.grad(values.sum(), point)[0]
            if not (values.isfinite().all() and slope.isfinite().all()):
                raise FloatingPointError(f"image {index}: the path is not finite at α = {float(alpha):.6g}")
    raise FloatingPointError("the sum over the path is not finite though each of its points is")
