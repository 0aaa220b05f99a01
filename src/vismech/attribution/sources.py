"""What is attributed to: the units that an activation is written in, and how mean gradients become their edges.

Legend: B images, I of them, S points of a curve, P positions, C channels, K concepts, T targets, D directions of a
curve, Q units.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.paths import STRAIGHT, Curve, Path, Straight
from vismech.config.choices import Along, SourceKind
from vismech.errors import UserError

CACHED_NUMBERS = 2**18


class Edges(NamedTuple):
    """What units and the error node bring about of each target.

    Attributes:
        units: e_{q→j}.
        error: the part of what the units miss, zero where they miss nothing.
    """

    units: Float[Tensor, "i t q"]
    error: Float[Tensor, "i t"]


@runtime_checkable
class Source(Protocol):
    """An activation and a baseline, written in units."""

    @property
    def curve(self) -> Curve:
        """The path between the two."""
        ...

    def edges(self, gradient: Float[Tensor, "i t d p c"], images: Int[Tensor, " i"]) -> Edges:
        """Mean gradients of some images, one per direction of the curve, as edges."""
        ...

    @property
    def count(self) -> int:
        """Q, without the error."""
        ...

    def active(self, image: int) -> Int[Tensor, " n"]:
        """Units that move along one image's curve; Q stands for the error."""
        ...

    def parts(self, image: int, units: Int[Tensor, " n"]) -> Float[Tensor, "d n p c"]:
        """What these units contribute to each direction of one image's curve."""
        ...

    @property
    def basis(self) -> str:
        """What :meth:`squares` takes squares of."""
        ...

    def squares(self, gradient: Float[Tensor, "s p c"], image: int) -> Float[Tensor, "s n"]:
        """At points of one image's curve, squared derivatives summed over each unit's own numbers, and the error's."""
        ...


@dataclass(frozen=True)
class ConceptSource:
    """Concepts of a dictionary: ``X = U V + residual`` at the end, and the same of the baseline.

    Along ``reconstruction`` the path runs from U_b V to U V and there is no error; along ``activation`` from b to X,
    and the residuals' part is the error node's.

    Attributes:
        atoms: V.
        codes: U at the end.
        vectors: X, PFVs at the end.
        along: which of the two paths.
        baseline_codes, baseline_vectors: the same of the baseline; zero where None.
        path: the shape of the path.

    Raises:
        UserError: a path whose anchors are not linear.
    """

    atoms: Float[Tensor, "k c"]
    codes: Float[Tensor, "b p k"]
    vectors: Float[Tensor, "b p c"]
    along: Along = Along.reconstruction
    baseline_codes: Float[Tensor, "b p k"] | None = None
    baseline_vectors: Float[Tensor, "b p c"] | None = None
    path: Path = STRAIGHT

    def __post_init__(self) -> None:
        if type(self.path) is Straight:
            return
        for codes, vectors in zip(self.code_directions, self._reconstructed.directions, strict=True):
            if not torch.allclose(codes @ self.atoms, vectors, rtol=1e-3, atol=1e-4 * float(vectors.abs().max())):
                raise UserError(
                    f"attribute.curve: an anchor of {type(self.path).__name__} is not linear in the baseline and "
                    "the end: its codes do not rebuild it"
                )

    @cached_property
    def _reconstructed(self) -> Curve:
        baseline = None if self.baseline_codes is None else self.baseline_codes @ self.atoms
        return Curve(baseline, self.codes @ self.atoms, self.path)

    @cached_property
    def curve(self) -> Curve:
        """See :class:`Source`."""
        if self.along is Along.reconstruction:
            return self._reconstructed
        return Curve(self.baseline_vectors, self.vectors, self.path)

    @cached_property
    def code_directions(self) -> list[Float[Tensor, "b p k"]]:
        """The curve's directions in codes."""
        if self.baseline_codes is None and type(self.path) is Straight:
            return [self.codes]
        start = torch.zeros_like(self.codes) if self.baseline_codes is None else self.baseline_codes
        return list(self.path.directions(start, self.codes))

    @cached_property
    def residual_directions(self) -> list[Float[Tensor, "b p c"]]:
        """What the concepts miss of the curve's directions; empty along the reconstruction, where nothing is missed."""
        if self.along is Along.reconstruction:
            return []
        pairs = zip(self.curve.directions, self._reconstructed.directions, strict=True)
        return [whole - rebuilt for whole, rebuilt in pairs]

    def edges(self, gradient: Float[Tensor, "i t d p c"], images: Int[Tensor, " i"]) -> Edges:
        """``e_{q→j} = Σ_d Σ_p u_d,pq <Ḡ_d,p, v_q>``; the error ``Σ_d Σ_p <Ḡ_d,p, x_d,p − (u_d V)_p>``."""
        parts = gradient.unbind(2)
        pairs = zip(self.code_directions, parts, strict=True)
        units = _sum(concept_edges(codes[images], part, self.atoms) for codes, part in pairs)
        error = units.new_zeros(units.shape[:2])
        for residual, part in zip(self.residual_directions, parts):  # noqa: B905 (there may be no residual)
            error += torch.einsum("ipc,itpc->it", residual[images], part)
        return Edges(units, error)

    @property
    def count(self) -> int:
        """K."""
        return len(self.atoms)

    def active(self, image: int) -> Int[Tensor, " n"]:
        """See :class:`Source`."""
        units = self._moving(image).any(0).nonzero()[:, 0]
        return torch.cat([units, units.new_tensor([self.count])]) if self.residual_directions else units

    def _moving(self, image: int) -> Bool[Tensor, "p k"]:
        return torch.stack([codes[image] != 0 for codes in self.code_directions]).any(0)

    def parts(self, image: int, units: Int[Tensor, " n"]) -> Float[Tensor, "d n p c"]:
        """See :class:`Source`."""
        concepts = units.clamp(max=self.count - 1)
        codes = torch.stack([codes[image][:, concepts] for codes in self.code_directions])
        parts = codes.transpose(1, 2)[..., None] * self.atoms[concepts][:, None]
        for row in (units == self.count).nonzero()[:, 0]:
            parts[:, row] = torch.stack([residual[image] for residual in self.residual_directions])
        return parts

    @property
    def basis(self) -> str:
        """See :class:`Source`; what the concepts miss of a position is one more number, along its own direction."""
        return "codes of concepts at positions"

    def squares(self, gradient: Float[Tensor, "s p c"], image: int) -> Float[Tensor, "s n"]:
        """See :class:`Source`: ``<G_p, v_q>²`` over the positions where the concept's code moves along the curve."""
        squares = gradient.new_zeros(len(gradient), self.count + 1)
        moving = self._moving(image)
        units = moving.any(0).nonzero()[:, 0]
        atoms, moving = self.atoms[units].T, moving[:, units].to(gradient)
        # A few nodes at a time, so that what lies between the products stays in a CPU's cache.
        some = max(1, CACHED_NUMBERS // max(1, moving.numel()))
        for rows, slopes in zip(squares.split(some), gradient.split(some), strict=True):
            rows[:, units] = torch.einsum("spn,pn->sn", (slopes @ atoms).square_(), moving)
        for residual in self.residual_directions:
            along = torch.nn.functional.normalize(residual[image], dim=1)
            squares[:, -1] += (gradient * along).sum(2).square().sum(1)
        return squares


@dataclass(frozen=True)
class UnitSource:
    """The activation's own numbers: by channel, by position, or pixel by pixel, with no error.

    Attributes:
        kind: channels (summed over positions), positions or pixels (summed over channels).
        vectors: X, PFVs at the end; for pixels the image's.
        baseline_vectors: the same of the baseline; zero where None.
        path: the shape of the path.
    """

    kind: SourceKind
    vectors: Float[Tensor, "b p c"]
    baseline_vectors: Float[Tensor, "b p c"] | None = None
    path: Path = STRAIGHT

    def __post_init__(self) -> None:
        assert self.kind is not SourceKind.concepts, "concepts need a dictionary: ConceptSource"

    @cached_property
    def curve(self) -> Curve:
        """See :class:`Source`."""
        return Curve(self.baseline_vectors, self.vectors, self.path)

    def edges(self, gradient: Float[Tensor, "i t d p c"], images: Int[Tensor, " i"]) -> Edges:
        """``e_{pc→j} = Σ_d x_d,pc Ḡ_d,pc``, summed over positions or channels."""
        pairs = zip(self.curve.directions, gradient.unbind(2), strict=True)
        units = _sum((direction[images][:, None] * part).sum(self._summed) for direction, part in pairs)
        return Edges(units, units.new_zeros(units.shape[:2]))

    @property
    def count(self) -> int:
        """C or P."""
        return self.vectors.shape[2 if self.kind is SourceKind.channels else 1]

    @property
    def _summed(self) -> int:
        """The axis that a unit is summed over."""
        return -2 if self.kind is SourceKind.channels else -1

    def active(self, image: int) -> Int[Tensor, " n"]:
        """See :class:`Source`."""
        moving = torch.stack([part[image].any(self._summed) for part in self.curve.directions])
        return moving.any(0).nonzero()[:, 0]

    def parts(self, image: int, units: Int[Tensor, " n"]) -> Float[Tensor, "d n p c"]:
        """See :class:`Source`."""
        whole = torch.stack([direction[image] for direction in self.curve.directions])[:, None]
        mask = torch.nn.functional.one_hot(units, self.count).to(whole)
        return whole * (mask[:, None] if self.kind is SourceKind.channels else mask[..., None])

    @property
    def basis(self) -> str:
        """See :class:`Source`."""
        return "numbers of the activation"

    def squares(self, gradient: Float[Tensor, "s p c"], image: int) -> Float[Tensor, "s n"]:
        """See :class:`Source`: every number, whether it moves along the curve or not, as published."""
        return torch.nn.functional.pad(gradient.square().sum(self._summed), (0, 1))


def _sum(parts: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


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
