"""Weights under a path integral, as the nodes of the path go by.

    ig        1
    left_ig   1[α < α*]    (Miglani et al., arXiv 2010.12697), α* the first node where the target has made the share φ
    right_ig  1[α ≥ α*]    of its change: s·(g(α) − g(0)) > φ·|Δ|, s = sign Δ, Δ = g(1) − g(0)
    idg       dg/dα        (Walker et al. 2024), before it is rescaled by Δ / ∫ (dg/dα)² dα

Legend: B images, T targets, N pairs of an image and a target, S nodes, W weights.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.config import PathWeight

STILL = 1e-6  # a target whose change is less than this share of its own size does not move
SIDES = (PathWeight.left_ig, PathWeight.right_ig)


class Weighing:
    """What to multiply gradients by, and what the path told on the way.

    Left and right are kept apart, and ig is their sum where either is wanted: so the two add up to it exactly.

    Args:
        weights: the weights that are wanted.
        phi: share of the change at which left_ig ends.
        value: g at the end of the path.
        baseline: g at its start.
        present: targets that there are.

    Attributes:
        kept: the weights whose sums are kept, W of them.
        moves: whether a present target's change is more than rounding; the others have no left, right or idg part.
        crossing: α*, 1 where no node has crossed.
        energy: ∫ (dg/dα)² dα, what idg sums to before it is rescaled.
    """

    def __init__(
        self,
        weights: Sequence[PathWeight],
        phi: float,
        value: Float[Tensor, "b t"],
        baseline: Float[Tensor, "b t"],
        present: Bool[Tensor, "b t"],
    ) -> None:
        self.wanted = list(dict.fromkeys(PathWeight(weight) for weight in weights))
        self.split, self.slopes = any(side in self.wanted for side in SIDES), PathWeight.idg in self.wanted
        self.kept = [*(SIDES if self.split else (PathWeight.ig,)), *([PathWeight.idg] if self.slopes else [])]
        self.baseline, self.change, self.phi = baseline, value - baseline, phi
        self.moves = present & (self.change.abs() > STILL * torch.maximum(value.abs(), baseline.abs()))
        self.crossing, self.energy = torch.ones_like(value), torch.zeros_like(value)
        self._crossed = torch.zeros_like(present)

    def __call__(
        self,
        image: Int[Tensor, " n"],
        target: int | Int[Tensor, " n"],
        nodes: Float[Tensor, " s"],
        steps: Float[Tensor, " s"],
        values: Float[Tensor, "n s"],
        slopes: Float[Tensor, "n s"] | None,
    ) -> Float[Tensor, "n w s"]:
        """Weights of a stretch of nodes, the quadrature's ``steps`` included; stretches come in ascending order.

        Args:
            image, target: which pairs.
            nodes, steps: nodes and weights of the quadrature there.
            values: g at the nodes.
            slopes: dg/dα at the nodes, if :attr:`slopes`.
        """
        change = self.change[image, target][:, None]
        under = [steps.expand_as(values)]
        if self.split:
            over = (values - self.baseline[image, target][:, None]) * change.sign() > self.phi * change.abs()
            right = self._crossed[image, target][:, None] | (over.cumsum(1) > 0)
            fresh = right.any(1) & ~self._crossed[image, target]
            first = nodes[right.int().argmax(1)]
            self.crossing[image, target] = torch.where(fresh, first, self.crossing[image, target])
            self._crossed[image, target] |= fresh
            under = [steps * ~right, steps * right]
        if slopes is not None:
            under.append(steps * slopes)
            self.energy[image, target] += (steps * slopes.square()).sum(1)
        return torch.stack(under, 1)

    def finish(self, sums: Float[Tensor, "b t w *rest"]) -> dict[PathWeight, Float[Tensor, "b t *rest"]]:
        """The wanted weights from the kept sums; zero for left, right and idg where nothing moves."""
        self.crossing = torch.where(self.moves, self.crossing, torch.ones_like(self.crossing))
        self.energy = self.energy * self.moves
        parts = dict(zip(self.kept, sums.unbind(2), strict=True))
        if self.split:
            parts[PathWeight.ig] = parts[PathWeight.left_ig] + parts[PathWeight.right_ig]
        for weight in {*SIDES, PathWeight.idg} & parts.keys():
            parts[weight] = parts[weight] * self.moves.view(*self.moves.shape, *[1] * (sums.ndim - 3))
        return {weight: parts[weight] for weight in self.wanted}
