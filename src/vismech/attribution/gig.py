"""Integrated gradients of many targets along a path between layers, under several weights at once.

Generalized Integrated Gradients (Kim et al., arXiv 2409.01610, Eq. 5) integrates along α·X̃, α ∈ [0, 1]:
``GIG_{pq→j} = u_pq · <Ḡ_p, v_q>`` with Ḡ the mean of ∂g_j(F_ab(α X̃))/∂X. One backward pass per (image, target, step)
serves every source concept, so cost does not grow with their number.

Legend: B images, I of them, S steps, P positions, C channels, T targets, D directions of a curve, M tokens before those
of the positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.paths import Curve, Points
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.targets import Targets
from vismech.attribution.weights import OwnWeight, Weighing
from vismech.attribution.windows import ROW_MULTIPLE, weighed_in_windows, windows_of
from vismech.config.choices import PathWeight
from vismech.errors import NotFinite
from vismech.network.pfv import Layout

Segment = Callable[[Tensor], Tensor]
CACHED_NUMBERS = 2**18


class Profile(NamedTuple):
    """What a target does along the path, at every node.

    Attributes:
        values: g_j.
        norms: Euclidean norm of its gradient.
    """

    values: Float[Tensor, "b t s"]
    norms: Float[Tensor, "b t s"]


class Ends(NamedTuple):
    """The targets at the end of the path, α = 1, and at its start, α = 0."""

    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]


class Nodes(NamedTuple):
    """A quadrature rule on the curve's device and in its precision."""

    alpha: Float[Tensor, " s"]
    steps: Float[Tensor, " s"]


class PathIntegral(NamedTuple):
    """Weighted mean gradients along a curve, and what the path told of the targets; all zero for absent targets.

    Attributes:
        gradients: weight → Ḡ, one for each direction of the curve.
        value: g_j at the end of the path, α = 1.
        baseline: g_j at its start, α = 0; the offset node's share.
        moves: whether a present target's change is more than rounding; the others have no left, right or idg part.
        crosses: whether a target that moves has made the share φ of its change at some node; found where left_ig or
            right_ig is wanted.
        crossing: α*, 1 where the target does not cross.
        energy: ∫ (dg/dα)² dα, what idg sums to before it is rescaled; zero unless idg is asked for.
        profile: values and gradient norms at the nodes, if asked for.
    """

    gradients: dict[PathWeight, Float[Tensor, "b t d p c"]]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    moves: Bool[Tensor, "b t"]
    crosses: Bool[Tensor, "b t"]
    crossing: Float[Tensor, "b t"]
    energy: Float[Tensor, "b t"]
    profile: Profile | None


class Piece(NamedTuple):
    """One target on a stretch of the path of some images.

    Attributes:
        images: which of the images that were asked for.
        stretch: which of the nodes.
        target: which target.
        values: g_j.
        gradient: ∂g_j/∂X.
    """

    images: slice
    stretch: slice
    target: int
    values: Float[Tensor, "b s"]
    gradient: Float[Tensor, "b s p c"]


def pieces(
    segment: Segment,
    layout: Layout,
    curve: Points,
    clean: Tensor,
    targets: Targets,
    nodes: Float[Tensor, " s"],
    rows: int,
    images: Int[Tensor, " i"],
) -> Iterator[Piece]:
    """Values and gradients of every target that is present, along the curve, in the order of the nodes for each image.

    At most ``rows`` path points are in one forward pass, so that memory does not grow with the number of steps. Images
    share a pass where their nodes are a multiple of :data:`ROW_MULTIPLE`.
    """
    together = max(1, rows // len(nodes)) if len(nodes) % ROW_MULTIPLE == 0 else 1
    stride, present = min(len(nodes), rows), targets.present
    with torch.enable_grad():
        for first in range(0, len(images), together):
            image = images[first : first + together]
            wanted = present[image].any(0).nonzero()[:, 0].tolist()
            for begin in range(0, len(nodes) if wanted else 0, stride):
                alpha = nodes[begin : begin + stride]
                there = slice(first, first + len(image)), slice(begin, begin + len(alpha))
                points = curve.points(image, alpha).flatten(0, 1).detach().requires_grad_()
                owner = image.repeat_interleave(len(alpha))
                values = targets(segment(layout.activation(points, clean[image])), owner) * present[owner]
                values = values.unflatten(0, (len(image), -1))
                for target in wanted:
                    last, value = target == wanted[-1], values[..., target]
                    slope = torch.autograd.grad(value.sum(), points, retain_graph=not last)[0]
                    yield Piece(*there, target, value.detach(), slope.unflatten(0, (len(image), -1)))


def _filled(segment: Segment, activation: Tensor) -> Tensor:
    """The segment's output, computed with the last row again until there are a multiple of :data:`ROW_MULTIPLE`."""
    rows = len(activation)
    last = activation[-1:].expand(-rows % ROW_MULTIPLE, *activation.shape[1:])
    return segment(torch.cat([activation, last]) if len(last) else activation)[:rows]


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
    images: Int[Tensor, " i"] | None = None,
    known: Ends | None = None,
    own: OwnWeight | None = None,
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
        images: which images; all of them where None.
        known: the targets at the ends of every image's path, where they are known.
        own: the weight of one's own, for weights=custom.

    Raises:
        NotFinite: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    images = torch.arange(len(curve.end), device=curve.end.device) if images is None else images
    nodes = nodes_of(rule, curve)
    at_ends = Ends(*(part[images] for part in known or ends(segment, layout, curve, clean, targets, rows)))
    weighing = Weighing(weights, phi, *at_ends, targets.present[images], own)
    windows = None if profile else windows_of(segment, layout, targets)
    found = (
        Profile(*(nodes.alpha.new_zeros(*at_ends.value.shape, len(nodes.alpha)) for _ in range(2))) if profile else None
    )
    if windows is None:
        total = _weighed(segment, layout, curve, clean, targets, nodes, rows, images, weighing, found)
    else:
        total = weighed_in_windows(segment, windows, curve, images, *nodes, rows, weighing)
    if not torch.stack([total.sum(), *(part.sum() for part in at_ends)]).isfinite().all():
        raise_not_finite(segment, layout, curve, clean, targets, nodes.alpha, images)
    shaped = total.transpose(0, 1).unflatten(3, curve.end.shape[1:]).unflatten(2, (len(weighing.kept), -1))
    gradients = weighing.finish(dict(zip(weighing.kept, shaped.unbind(2), strict=True)))
    return PathIntegral(
        gradients, *at_ends, weighing.moves, weighing.crosses, weighing.crossing, weighing.energy, found
    )


def _weighed(
    segment: Segment,
    layout: Layout,
    curve: Curve,
    clean: Tensor,
    targets: Targets,
    rule: Nodes,
    rows: int,
    images: Int[Tensor, " i"],
    weighing: Weighing,
    found: Profile | None,
) -> Float[Tensor, "t i m numbers"]:
    """Weighted sums of the gradients of every target that is present; M as in :func:`weighed_in_windows`."""
    nodes, steps = rule
    directions = [one.flatten(1) for one in curve.directions] if weighing.slopes else []
    speeds, index = curve.path.speeds(nodes), images.tolist()
    count = len(weighing.kept) * speeds.shape[1]
    # Targets first, so that those of neighbouring images lie together and sums grow in place.
    total = curve.end.new_zeros(targets.present.shape[1], len(images), count, curve.end[0].numel())
    for some, here, target, values, slope in pieces(segment, layout, curve, clean, targets, nodes, rows, images):
        flat, under = slope.flatten(2), weighing(some, target, nodes[here], steps[here], values)
        if directions:
            rows_of = zip(total[target, some], under, flat, index[some], strict=True)
            slopes = [
                _add(sums, weight, steps[here], speeds[here], part, [way[at] for way in directions])
                for sums, weight, part, at in rows_of
            ]
            weighing.climb(some, target, steps[here], torch.stack(slopes))
        else:
            total[target, some].baddbmm_((under[:, :, None] * speeds[here].T).flatten(1, 2), flat)
        if found is not None:
            found.values[some, target, here] = values
            found.norms[some, target, here] = flat.norm(dim=2)
    return total


def _add(
    sums: Float[Tensor, "m n"],
    under: Float[Tensor, "w s"],
    steps: Float[Tensor, " s"],
    speeds: Float[Tensor, "s d"],
    gradients: Float[Tensor, "s n"],
    directions: list[Float[Tensor, " n"]],
) -> Float[Tensor, " s"]:
    """Add one image's gradients to its sums, under the weights and under dg/dα, which is returned.

    A few nodes at a time, so that gradients are read twice while they stay in a CPU's cache.
    """
    block = max(1, CACHED_NUMBERS // gradients.shape[1]) if gradients.device.type == "cpu" else len(gradients)
    slopes = []
    for weight, step, speed, part in zip(
        under.split(block, 1), steps.split(block), speeds.split(block), gradients.split(block), strict=True
    ):
        along = [part @ way for way in directions]  # torch is slow at a matrix times few vectors
        slopes.append(along[0] * speed[:, 0] if len(along) == 1 else (torch.stack(along, 1) * speed).sum(1))
        weight = torch.cat([weight, (step * slopes[-1])[None]])
        sums.addmm_((weight[:, None] * speed.T).flatten(0, 1), part)
    return torch.cat(slopes)


def nodes_of(rule: Quadrature, curve: Curve) -> Nodes:
    """The rule as tensors of the curve's kind; converted before they are moved, as not every device knows float64."""
    return Nodes(*(torch.as_tensor(part, dtype=curve.end.dtype).to(curve.end.device) for part in rule))


def ends(segment: Segment, layout: Layout, curve: Curve, clean: Tensor, targets: Targets, rows: int) -> Ends:
    """The targets at the end of the path and at its start, for every image."""
    value, baseline = (values_at(alpha, segment, layout, curve, clean, targets, rows) for alpha in (1.0, 0.0))
    return Ends(value, baseline)


@torch.no_grad()
def values_at(
    alpha: float, segment: Segment, layout: Layout, curve: Points, clean: Tensor, targets: Targets, rows: int
) -> Float[Tensor, "b t"]:
    """The targets at one point of every image's path; zero for absent ones."""
    found = []
    for image in torch.arange(len(clean), device=clean.device).split(rows):
        points = curve.points(image, clean.new_tensor([alpha]))[:, 0]
        found.append(targets(_filled(segment, layout.activation(points, clean[image])), image))
    return torch.cat(found) * targets.present


@torch.no_grad()
def prefix_effect(
    segment: Segment,
    layout: Layout,
    curve: Points,
    clean: Tensor,
    before: Float[Tensor, "b m c"],
    targets: Targets,
    rows: int,
) -> Float[Tensor, "b t"]:
    """What the tokens before the patch tokens bring about of each target, while these are at the start of the path.

    ``g_j(F(b, c)) − g_j(F(b, c_b))`` with c the class token (registers, …) and b the patch tokens: along the path c
    keeps its value, so that the units' edges, the error and this sum to the change from (b, c_b) to the activation.

    Args:
        segment, layout, curve, clean, targets, rows: see :func:`integrate`.
        before: c_b, these tokens of the baseline.
    """
    bare = layout.begun_by(clean, before)
    given = segment, layout, curve
    return values_at(0.0, *given, clean, targets, rows) - values_at(0.0, *given, bare, targets, rows)


def raise_not_finite(
    segment: Segment,
    layout: Layout,
    curve: Curve,
    clean: Tensor,
    targets: Targets,
    nodes: Float[Tensor, " s"],
    images: Int[Tensor, " i"],
) -> None:
    """Find the first point of the path that is not finite, one at a time; only ever called to explain a failure."""
    for image in images[:, None]:
        for alpha in torch.cat([nodes.new_zeros(1), nodes, nodes.new_ones(1)]):
            with torch.enable_grad():
                point = curve.points(image, alpha[None])[:, 0].detach().requires_grad_()
                values = targets(segment(layout.activation(point, clean[image])), image) * targets.present[image]
                slope = torch.autograd.grad(values.sum(), point)[0]
            if not (values.isfinite().all() and slope.isfinite().all()):
                raise NotFinite(f"the path is not finite at α = {float(alpha):.6g}", int(image))
    raise NotFinite("the sum over the path is not finite though each of its points is")
