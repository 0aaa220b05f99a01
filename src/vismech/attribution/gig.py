"""Generalized Integrated Gradients between two layers (Kim et al., arXiv 2409.01610, Eq. 5).

``GIG_{pq→j} = u_pq · <Ḡ_p, v_q>`` with Ḡ the mean over the path α·X̃, α ∈ [0, 1], of ∂g_j(F_ab(α X̃))/∂X. One backward
pass per (image, target, step) serves every source concept, so cost does not grow with their number.

Legend: B images, S steps, R = path points in one pass, P positions, C channels, K concepts, T targets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.attribution.quadrature import Quadrature
from vismech.attribution.targets import Targets
from vismech.pfv import Layout

CACHED_NUMBERS = 2**18


class PathIntegral(NamedTuple):
    """Mean gradients along the path, and the targets at its ends.

    Attributes:
        gradient: Ḡ, zero for absent targets.
        value: g_j at the end of the path, α = 1.
        baseline: g_j at its start, α = 0; the offset node's share.
    """

    gradient: Float[Tensor, "b t p c"]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]


def integrate(
    segment: Callable[[Tensor], Tensor],
    layout: Layout,
    vectors: Float[Tensor, "b p c"],
    clean: Tensor,
    targets: Targets,
    rule: Quadrature,
    *,
    rows: int = 256,
) -> PathIntegral:
    """Mean gradients of every target along the straight path from zero to ``vectors``.

    Args:
        segment: F_ab, from the lower layer's activation to the upper layer's.
        layout: how the lower activation is read as PFVs.
        vectors: the end of the path, X̃ or X.
        clean: the clean lower activation [B, …]; what is no PFV (a class token) keeps its value along the path.
        targets: the functions that are explained.
        rule: nodes and weights of the quadrature.
        rows: path points per forward pass; memory grows with it and not with the number of steps.

    Raises:
        FloatingPointError: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    device, images, steps = vectors.device, len(vectors), len(rule.nodes)
    nodes = torch.as_tensor(rule.nodes, device=device).to(vectors)
    weights = torch.as_tensor(rule.weights, device=device).to(vectors)
    present = targets.present
    gradient = vectors.new_zeros(images, present.shape[1], *vectors.shape[1:])
    value, baseline = (_values(segment, layout, alpha * vectors, clean, targets, rows) for alpha in (1.0, 0.0))
    together = max(1, rows // steps)
    stride = min(steps, rows)
    with torch.enable_grad():
        for first in range(0, images, together):
            image = torch.arange(first, min(first + together, images), device=device)
            wanted = present[image].any(0).tolist()
            for begin in range(0, steps, stride):
                alpha, weight = nodes[begin : begin + stride], weights[begin : begin + stride]
                points = (alpha[:, None, None] * vectors[image][:, None]).flatten(0, 1).detach().requires_grad_()
                owner = image.repeat_interleave(len(alpha))
                values = targets(segment(layout.activation(points, clean[image])), owner)
                values = values * present[owner]
                last = max((target for target, want in enumerate(wanted) if want), default=-1)
                for target, want in enumerate(wanted):
                    if want:
                        slope = torch.autograd.grad(values[:, target].sum(), points, retain_graph=target != last)[0]
                        slope = slope.unflatten(0, (len(image), len(alpha)))
                        gradient[image, target] += torch.einsum("s,bspc->bpc", weight, slope)
    result = PathIntegral(gradient, value, baseline)
    if not torch.stack([part.isfinite().all() for part in result]).all():
        _raise_not_finite(segment, layout, vectors, clean, targets, nodes)
    return result


@torch.no_grad()
def _values(
    segment, layout: Layout, vectors: Tensor, clean: Tensor, targets: Targets, rows: int
) -> Float[Tensor, "b t"]:
    found = []
    for image in torch.arange(len(vectors), device=vectors.device).split(rows):
        found.append(targets(segment(layout.activation(vectors[image], clean[image])), image))
    return torch.cat(found) * targets.present


def _raise_not_finite(segment, layout: Layout, vectors: Tensor, clean: Tensor, targets: Targets, nodes: Tensor) -> None:
    """Find the first point of the path that is not finite, one at a time; only ever called to explain a failure."""
    for index in range(len(vectors)):
        image = torch.tensor([index], device=vectors.device)
        for alpha in torch.cat([nodes.new_zeros(1), nodes, nodes.new_ones(1)]):
            with torch.enable_grad():
                point = (alpha * vectors[image]).detach().requires_grad_()
                values = targets(segment(layout.activation(point, clean[image])), image) * targets.present[image]
                slope = torch.autograd.grad(values.sum(), point)[0]
            if not (values.isfinite().all() and slope.isfinite().all()):
                raise FloatingPointError(f"image {index}: the path is not finite at α = {float(alpha):.6g}")
    raise FloatingPointError("the sum over the path is not finite though each of its points is")


@torch.no_grad()
def concept_edges(
    codes: Float[Tensor, "b p k"], gradient: Float[Tensor, "b t p c"], atoms: Float[Tensor, "k c"]
) -> Float[Tensor, "b t k"]:
    """Edges of an image, ``e_{q→j} = Σ_p u_pq <Ḡ_p, v_q>``: GIG summed over positions."""
    targets, positions, channels = gradient.shape[1:]
    edges = codes.new_zeros(len(codes), targets, len(atoms))
    # One image and some of its concepts at a time, so that what lies between the products stays in a CPU's cache.
    some = max(1, CACHED_NUMBERS // (targets * channels))
    for code, slopes, row in zip(codes, gradient, edges, strict=True):
        slopes = slopes.transpose(0, 1).reshape(positions, targets * channels)
        for active in code.any(0).nonzero()[:, 0].split(some):
            carried = (code[:, active].T @ slopes).view(len(active), targets, channels)
            row[:, active] = (carried * atoms[active, None]).sum(2).T
    return edges


def completeness_gap(
    attributed: Float[Tensor, "b t"], value: Float[Tensor, "b t"], baseline: Float[Tensor, "b t"]
) -> Float[Tensor, "b t"]:
    """``|Σ GIG − (g(F(X̃)) − g(F(0)))| / |g(F(X̃)) − g(F(0))|`` per image and target; 0/0 is 0."""
    change = value - baseline
    miss = (attributed - change).abs()
    return torch.where(miss == 0, miss, miss / change.abs())
