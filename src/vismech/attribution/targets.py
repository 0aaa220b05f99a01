"""What a path integral explains: class logits, or concepts of an upper layer.

Legend: B images, R path points (image-major: all points of an image stand together), T targets, P positions,
C channels, K concepts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.config import ReadOut
from vismech.pfv import Layout


@runtime_checkable
class Targets(Protocol):
    """A vector of scalar functions g_j of the upper layer's activation, one set per image."""

    @property
    def present(self) -> Bool[Tensor, "b t"]:
        """Whether image b has target j at all; an absent target is skipped and its attribution is zero."""
        ...

    def __call__(self, activation: Tensor, image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
        """Values g_j at ``activation`` [R, …], whose row r belongs to image ``image[r]``."""
        ...


@dataclass(frozen=True)
class LogitTargets:
    """One class logit per image: T = 1."""

    classes: Int[Tensor, " b"]

    @property
    def present(self) -> Bool[Tensor, "b 1"]:
        """Every image has its logit."""
        return torch.ones(len(self.classes), 1, dtype=torch.bool, device=self.classes.device)

    def __call__(self, activation: Float[Tensor, "r n"], image: Int[Tensor, " r"]) -> Float[Tensor, "r 1"]:
        """The logit of each row's own class."""
        return activation.gather(1, self.classes[image][:, None])


@dataclass(frozen=True)
class ConceptTargets:
    """Projections on concept vectors, ``g_j(Y) = <Y_{p*}, v_j>`` or summed over positions (METHOD §5).

    Attributes:
        atoms: v_j as rows.
        anchors: p* per image and target, −1 where the concept has no positive code in the image.
        layout: how the upper activation is read as PFVs.
        readout: at p*, or the sum over positions.
    """

    atoms: Float[Tensor, "t c"]
    anchors: Int[Tensor, "b t"]
    layout: Layout
    readout: ReadOut = ReadOut.max

    @property
    def present(self) -> Bool[Tensor, "b t"]:
        """Concepts with a positive code somewhere in the image."""
        return self.anchors >= 0

    def __call__(self, activation: Tensor, image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
        """Projections of the rows' PFVs."""
        vectors = self.layout.vectors(activation)
        if self.readout is ReadOut.sum:
            return vectors.sum(1) @ self.atoms.T
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        chosen = vectors[rows, self.anchors[image].clamp(min=0)]
        return (chosen * self.atoms).sum(-1)


def anchors(
    vectors: Float[Tensor, "b p c"], codes: Float[Tensor, "b p k"], atoms: Float[Tensor, "k c"]
) -> Int[Tensor, "b k"]:
    """Position of each concept's largest projection among those where its code is positive; −1 where there is none."""
    projections = (vectors @ atoms.T).masked_fill(codes <= 0, -torch.inf)
    best, position = projections.max(1)
    return position.masked_fill(best == -torch.inf, -1)
