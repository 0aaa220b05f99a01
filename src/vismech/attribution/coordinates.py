"""The numbers in which a path that is no straight line runs: codes of concepts at positions, or an activation's own.

An increment of a path belongs to a concept only where the path runs in codes, so a source of concepts gives its codes
as coordinates, and of what they miss (along the activation) one more number at each position, along its own direction.

Legend: B images, I of them, R rows (pairs of an image and a target), T targets, P positions, N numbers of a position,
C channels, M coordinates of an image that differ between the two ends, Q units.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.paths import Straight
from vismech.attribution.sources import ConceptSource, Edges, Source, UnitSource
from vismech.config.choices import SourceKind
from vismech.errors import UserError


class Moving(NamedTuple):
    """The coordinates that differ between the ends, of each row as many as the row with the most has.

    Attributes:
        place: of each among the P · N coordinates.
        there: False for those that only fill a row up.
    """

    place: Int[Tensor, "r m"]
    there: Bool[Tensor, "r m"]


@dataclass(frozen=True)
class Coordinates:
    """A source's two ends in numbers.

    Attributes:
        start, end: the numbers of the baseline and of the activation.
        atoms: what a number is worth in channels; None where numbers are the channels.
        offset: what no number holds, the same all along the path; None: nothing.
        missed: unit vectors along what the concepts miss, whose length is the last number; None: nothing is missed.
        kind: which numbers are summed to one unit.
    """

    start: Float[Tensor, "b p n"]
    end: Float[Tensor, "b p n"]
    atoms: Float[Tensor, "k c"] | None = None
    offset: Float[Tensor, "b p c"] | None = None
    missed: Float[Tensor, "b p c"] | None = None
    kind: SourceKind = SourceKind.concepts

    def vectors(self, numbers: Float[Tensor, "r p n"], image: Int[Tensor, " r"]) -> Float[Tensor, "r p c"]:
        """The PFVs that numbers stand for."""
        if self.atoms is None:
            return numbers
        found = numbers[..., : len(self.atoms)] @ self.atoms
        if self.missed is not None:
            found = found + numbers[..., -1:] * self.missed[image]
        return found if self.offset is None else found + self.offset[image]

    def slopes(self, gradient: Float[Tensor, "r p c"], image: Int[Tensor, " r"]) -> Float[Tensor, "r p n"]:
        """Derivatives with respect to the numbers, from those with respect to PFVs."""
        if self.atoms is None:
            return gradient
        found = gradient @ self.atoms.T
        if self.missed is None:
            return found
        return torch.cat([found, (gradient * self.missed[image]).sum(-1, keepdim=True)], -1)

    def edges(self, parts: Float[Tensor, "*i p n"]) -> Edges:
        """What each unit and the error bring about, from what each number does."""
        error = parts.new_zeros(parts.shape[:-2])
        if self.missed is not None:
            parts, error = parts[..., :-1], parts[..., -1].sum(-1)
        by_number = self.kind in (SourceKind.concepts, SourceKind.channels)
        return Edges(parts.sum(-2 if by_number else -1), error)

    @property
    def units(self) -> int:
        """Q."""
        if self.kind is SourceKind.concepts:
            return self.end.shape[2] - (self.missed is not None)
        return self.end.shape[2] if self.kind is SourceKind.channels else self.end.shape[1]

    @cached_property
    def differs(self) -> Bool[Tensor, "b pn"]:
        """Which coordinates differ between the ends."""
        return (self.end != self.start).flatten(1)

    def moving(self, image: Int[Tensor, " r"]) -> Moving:
        """The coordinates of rows that a path has to move, in their order."""
        differs = self.differs[image]
        most = max(1, int(differs.sum(1).max()))
        there, place = differs.int().sort(dim=1, descending=True, stable=True)
        return Moving(place[:, :most], there[:, :most].bool())

    def placed(self, values: Float[Tensor, "r m"], moving: Moving, image: Int[Tensor, " r"]) -> Float[Tensor, "r p n"]:
        """All numbers of rows, those that do not move at their value."""
        whole = self.end[image].flatten(1)
        own = torch.where(moving.there, values, whole.gather(1, moving.place))
        return whole.scatter(1, moving.place, own).unflatten(1, self.end.shape[1:])

    def spread(self, parts: Float[Tensor, "r m"], moving: Moving) -> Float[Tensor, "r p n"]:
        """What each moving coordinate does, zero for the others."""
        whole = parts.new_zeros(len(parts), self.differs.shape[1])
        return whole.scatter(1, moving.place, parts * moving.there).unflatten(1, self.end.shape[1:])


def coordinates_of(source: Source) -> Coordinates:
    """The numbers of a source.

    Raises:
        UserError: a source that has a path of its own, or is none of ours.
    """
    if type(source.curve.path) is not Straight:
        raise UserError(
            f"{type(source.curve.path).__name__} is a path already: leave attribute.curve empty for a path that is "
            "found by looking at the model"
        )
    if isinstance(source, UnitSource):
        start = torch.zeros_like(source.vectors) if source.baseline_vectors is None else source.baseline_vectors
        return Coordinates(start, source.vectors, kind=source.kind)
    if not isinstance(source, ConceptSource):
        raise UserError(f"{type(source).__name__} has no coordinates: give a ConceptSource or a UnitSource")
    end = source.codes
    start = torch.zeros_like(end) if source.baseline_codes is None else source.baseline_codes
    residuals = source.residual_directions
    if not residuals:
        return Coordinates(start, end, source.atoms)
    length = residuals[0].norm(dim=2, keepdim=True)
    end, start = torch.cat([end, length], 2), torch.cat([start, torch.zeros_like(length)], 2)
    offset = None if source.baseline_vectors is None else source.baseline_vectors - start[..., :-1] @ source.atoms
    missed = torch.nn.functional.normalize(residuals[0], dim=2)
    return Coordinates(start, end, source.atoms, offset, missed)
