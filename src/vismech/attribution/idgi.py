"""Important direction gradient integration (Yang, Wang & Bilgic, CVPR 2023), on any path and any source.

Between two nodes of the path the target changes by ΔF_j, and the gradient at the first of them shares it out:

    Σ_j ΔF_j · g_j² / ||g_j||²     elementwise over the numbers of a basis

The sum telescopes, so that its completeness is exact and says nothing, and it depends on the basis, which is named.

Legend: B images, T targets, Q units, S nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.gig import Segment, ends, nodes_of, pieces, raise_not_finite
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import Edges, Source
from vismech.attribution.targets import Targets
from vismech.config.choices import Rule
from vismech.network.pfv import Layout


class DirectionIntegral(NamedTuple):
    """What IDGI attributes, and what it loses.

    Attributes:
        edges: summed over each unit's own numbers.
        basis: the numbers that gradients are taken with respect to.
        value, baseline: g_j at the end of the path and at its start.
        present: targets that there are.
        lost: the change of g_j over the steps that start with no gradient; edges and this sum to the whole change.
        lost_steps: how many such steps there are, of S − 1.
    """

    edges: Edges
    basis: str
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    present: Bool[Tensor, "b t"]
    lost: Float[Tensor, "b t"]
    lost_steps: Int[Tensor, "b t"]


def idgi(
    segment: Segment,
    layout: Layout,
    source: Source,
    clean: Tensor,
    targets: Targets,
    steps: int = 33,
    rows: int = 256,
) -> DirectionIntegral:
    """IDGI with ``steps`` equally spaced nodes, both ends among them.

    Args:
        segment: F_ab, from the lower layer's activation to the upper layer's.
        layout: how the lower activation is read as PFVs.
        source: the lower activation in units.
        clean: the clean lower activation [B, …].
        targets: the functions that are explained.
        steps: nodes, at least two.
        rows: path points per pass; memory grows with it and not with the number of steps.

    Raises:
        UserError: fewer than two nodes.
        NotFinite: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    curve, present = source.curve, targets.present
    images = torch.arange(len(curve.end), device=curve.end.device)
    nodes = nodes_of(quadrature(Rule.trapezoid, steps), curve).alpha
    value, baseline = ends(segment, layout, curve, clean, targets, rows)
    units = value.new_zeros(*value.shape, source.count + 1)
    lost, lost_steps = torch.zeros_like(value), torch.zeros_like(present, dtype=torch.long)
    # A step ends at the next node, which may be in the next stretch: what its start was is kept for each pair.
    start, shares = torch.zeros_like(value), torch.zeros_like(units)
    for some, stretch, target, values, slope in pieces(segment, layout, curve, clean, targets, nodes, rows, images):
        for image, g, gradient in zip(range(some.start, some.stop), values, slope, strict=True):
            at = image, target
            squares = source.squares(gradient, image)
            norm = squares.sum(1, keepdim=True)
            share = torch.where(norm > 0, squares / norm, 0)
            if stretch.start:
                g, share = torch.cat([start[at][None], g]), torch.cat([shares[at][None], share])
            change, gone = g.diff(), ~share[:-1].any(1) & present[at]
            units[at] += change @ share[:-1]
            lost[at] += (change * gone).sum()
            lost_steps[at] += gone.sum()
            start[at], shares[at] = g[-1], share[-1]
    if not torch.stack([units.sum(), value.sum(), baseline.sum()]).isfinite().all():
        raise_not_finite(segment, layout, curve, clean, targets, nodes, images)
    edges = Edges(units[..., :-1].contiguous(), units[..., -1])
    return DirectionIntegral(edges, source.basis, value, baseline, present, lost, lost_steps)
