"""Weights under a path integral, as the nodes of the path go by.

    ig        1
    left_ig   1[α < α*]    (Miglani et al., arXiv 2010.12697), α* the first node where the target has made the share φ
    right_ig  1[α ≥ α*]    of its change: s·(g(α) − g(0)) > φ·|Δ|, s = sign Δ, Δ = g(1) − g(0)
    idg       dg/dα        (Walker et al. 2024), before it is rescaled by Δ / ∫ (dg/dα)² dα
    custom    w(α, (g(α) − g(0)) / Δ)    one's own, zero where the target does not move

Legend: B images, T targets, N pairs of an image and a target, S nodes, W weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.config.choices import PathWeight
from vismech.errors import UserError

STILL = 1e-6  # a target whose change is less than this share of its own size does not move
SIDES = (PathWeight.left_ig, PathWeight.right_ig)
OwnWeight = Callable[[Float[Tensor, " s"], Float[Tensor, "n s"]], Float[Tensor, "n s"]]
"""A weight of one's own, from α and from the share of its change that each target has made there."""


def changes(value: Float[Tensor, "b t"], baseline: Float[Tensor, "b t"]) -> Bool[Tensor, "b t"]:
    """Whether the change of each target along the path is more than rounding."""
    return (value - baseline).abs() > STILL * torch.maximum(value.abs(), baseline.abs())


class Weighing:
    """What to multiply gradients by, and what the path told on the way.

    Left and right are kept apart, and ig is their sum where either is wanted: so the two add up to it exactly.

    Args:
        weights: the weights that are wanted.
        phi: share of the change at which left_ig ends.
        value: g at the end of the path.
        baseline: g at its start.
        present: targets that there are.
        own: the weight of one's own, where ``custom`` is wanted.

    Attributes:
        kept: the weights whose sums are kept, W of them.
        moves: whether a present target's change is more than rounding; the others have no left, right or idg part.
        crosses: whether a target that moves has made the share φ of its change at some node; found where left_ig or
            right_ig is wanted.
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
        own: OwnWeight | None = None,
    ) -> None:
        self.own = own
        self.wanted = list(dict.fromkeys(PathWeight(weight) for weight in weights))
        self.split, self.slopes = any(side in self.wanted for side in SIDES), PathWeight.idg in self.wanted
        plain = (PathWeight.ig,) if PathWeight.ig in self.wanted else ()
        mine = (PathWeight.custom,) if PathWeight.custom in self.wanted else ()
        self.kept = [*(SIDES if self.split else plain), *mine, *([PathWeight.idg] if self.slopes else [])]
        self.baseline, self.change, self.phi = baseline, value - baseline, phi
        self.moves = present & changes(value, baseline)
        self.crosses = torch.zeros_like(present)
        self.crossing, self.energy = torch.ones_like(value), torch.zeros_like(value)

    def __call__(
        self,
        image: slice | int | Int[Tensor, " n"],
        target: int | Int[Tensor, " n"],
        nodes: Float[Tensor, " s"],
        steps: Float[Tensor, " s"],
        values: Float[Tensor, "n s"],
    ) -> Float[Tensor, "n w s"]:
        """Weights of a stretch of nodes but for idg, the quadrature's ``steps`` included; stretches come in order.

        Args:
            image, target: which pairs: one target of several images, several targets of one, or one of each.
            nodes, steps: nodes and weights of the quadrature there.
            values: g at the nodes.
        """
        pairs = image, target
        if not self.split:
            under = [steps.expand_as(values)] if self.kept and self.kept[0] is PathWeight.ig else []
        else:
            change, earlier, moves = self.change[pairs][:, None], self.crosses[pairs], self.moves[pairs][:, None]
            over = moves & ((values - self.baseline[pairs][:, None]) * change.sign() > self.phi * change.abs())
            right = earlier[:, None] | (over.cumsum(1) > 0)
            crosses = right[:, -1]
            first = nodes[right.int().argmax(1)]
            self.crossing[pairs] = torch.where(crosses & ~earlier, first, self.crossing[pairs])
            self.crosses[pairs] = crosses
            under = [steps * ~right, steps * right]
        if PathWeight.custom in self.kept:
            under.append(steps * self._mine(pairs, nodes, values))
        return torch.stack(under, 1) if under else values.new_zeros(len(values), 0, len(nodes))

    def _mine(self, pairs: Any, nodes: Float[Tensor, " s"], values: Float[Tensor, "n s"]) -> Float[Tensor, "n s"]:
        assert self.own is not None
        moves, change = self.moves[pairs][:, None], self.change[pairs][:, None]
        progress = (values - self.baseline[pairs][:, None]) / torch.where(moves, change, torch.ones_like(change))
        found = self.own(nodes, progress).to(values)
        if found.shape != values.shape:
            raise UserError(f"attribute.weight must return one weight for each of {list(values.shape)} values")
        return found * moves

    def climb(
        self,
        image: slice | int | Int[Tensor, " n"],
        target: int | Int[Tensor, " n"],
        steps: Float[Tensor, " s"],
        slopes: Float[Tensor, "n s"],
    ) -> None:
        """Take note of dg/dα at the nodes of a stretch."""
        self.energy[image, target] += (steps * slopes.square()).sum(1)

    def finish(
        self, sums: dict[PathWeight, Float[Tensor, "b t *rest"]]
    ) -> dict[PathWeight, Float[Tensor, "b t *rest"]]:
        """The wanted weights from the kept sums; zero for left, right and idg where nothing moves."""
        self.energy = self.energy * self.moves
        parts = dict(sums)
        if self.split and PathWeight.ig in self.wanted:
            parts[PathWeight.ig] = parts[PathWeight.left_ig] + parts[PathWeight.right_ig]
        for weight in (PathWeight.left_ig, PathWeight.idg):  # of what is still, nothing has crossed
            if weight in parts:
                parts[weight].masked_fill_(~self.moves.view(*self.moves.shape, *[1] * (parts[weight].ndim - 2)), 0)
        return {weight: parts[weight] for weight in self.wanted}
