"""What a path integral explains: class logits or probabilities, how far one is ahead of another, or concepts of an
upper layer.

Legend: B images, R path points (image-major: all points of an image stand together), T targets, P positions,
C channels, K concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.config.choices import Code, Output, ReadOut
from vismech.dictionaries.base import Dictionary
from vismech.dictionaries.coding import BY_IMAGE
from vismech.errors import UserError
from vismech.network.pfv import Layout


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

    def take(self, image: Int[Tensor, " i"]) -> Targets:
        """The targets of some of the images."""
        ...


@dataclass(frozen=True)
class LogitTargets:
    """Class logits of each image, or their probabilities.

    Attributes:
        classes: one class per image, or T of them.
        output: logit, or the softmax over all classes.
    """

    classes: Int[Tensor, "b *t"]
    output: Output = Output.logit

    @property
    def present(self) -> Bool[Tensor, "b t"]:
        """Every image has its logits."""
        return torch.ones_like(self._classes, dtype=torch.bool)

    @property
    def _classes(self) -> Int[Tensor, "b t"]:
        return self.classes if self.classes.ndim == 2 else self.classes[:, None]

    def __call__(self, activation: Float[Tensor, "r n"], image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
        """The logits of each row's own classes."""
        values = activation if self.output is Output.logit else activation.softmax(1)
        return values.gather(1, self._classes[image])

    def take(self, image: Int[Tensor, " i"]) -> LogitTargets:
        """See :class:`Targets`."""
        return replace(self, classes=self.classes[image])


@dataclass(frozen=True)
class MarginTargets:
    """How far one class is ahead of another in each image: ``logit_w − logit_t``, or the difference of probabilities.

    Attributes:
        classes: w and t of each image.
        output: logit, or the softmax over all classes.
    """

    classes: Int[Tensor, "b 2"]
    output: Output = Output.logit

    @property
    def present(self) -> Bool[Tensor, "b 1"]:
        """Every image has its difference."""
        return torch.ones_like(self.classes[:, :1], dtype=torch.bool)

    def __call__(self, activation: Float[Tensor, "r n"], image: Int[Tensor, " r"]) -> Float[Tensor, "r 1"]:
        """The difference of each row's own two classes."""
        first, second = LogitTargets(self.classes, self.output)(activation, image).unbind(1)
        return (first - second)[:, None]

    def take(self, image: Int[Tensor, " i"]) -> MarginTargets:
        """See :class:`Targets`."""
        return replace(self, classes=self.classes[image])


def class_targets(classes: Int[Tensor, "b *two"], output: Output = Output.logit) -> LogitTargets | MarginTargets:
    """Each image's own class, or of two classes how far the first is ahead of the second."""
    return LogitTargets(classes, output) if classes.ndim == 1 else MarginTargets(classes, output)


@dataclass(frozen=True)
class ConceptTargets:
    """Concepts of the upper layer: projections ``g_j(Y) = <Y_{p*}, v_j>``, their sum over positions, or codes at p*.

    Attributes:
        atoms: v_j as rows.
        anchors: p* per image and target, −1 where the target is absent from the image.
        layout: how the upper activation is read as PFVs.
        readout: at p*, the sum, or the code.
        dictionary: the upper layer's, for codes.
        concepts: the targets' numbers in it.
    """

    atoms: Float[Tensor, "t c"]
    anchors: Int[Tensor, "b t"]
    layout: Layout
    readout: ReadOut = ReadOut.max
    dictionary: Dictionary | None = None
    concepts: tuple[int, ...] = ()

    @property
    def present(self) -> Bool[Tensor, "b t"]:
        """Concepts with a positive code somewhere in the image."""
        return self.anchors >= 0

    def __call__(self, activation: Tensor, image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
        """Projections or codes of the rows' PFVs."""
        vectors = self.layout.vectors(activation)
        if self.readout is ReadOut.sum:
            return vectors.sum(1) @ self.atoms.T
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        chosen = vectors[rows, self.anchors[image].clamp(min=0)]
        if self.readout is ReadOut.max:
            return (chosen * self.atoms).sum(-1)
        assert self.dictionary is not None
        return codes_of(chosen, self.dictionary, self.concepts)

    def take(self, image: Int[Tensor, " i"]) -> ConceptTargets:
        """See :class:`Targets`."""
        return replace(self, anchors=self.anchors[image])


@runtime_checkable
class AtPositions(Protocol):
    """Concepts of the upper layer that are read at one position each, if ``readout`` is max."""

    @property
    def atoms(self) -> Float[Tensor, "*b t c"]:
        """v_j, the same for all images or each image's own."""
        ...

    @property
    def anchors(self) -> Int[Tensor, "b t"]:
        """p*, −1 where an image has not the target."""
        ...

    @property
    def layout(self) -> Layout:
        """How the upper activation is read as PFVs."""
        ...

    @property
    def readout(self) -> ReadOut:
        """At p*, or otherwise."""
        ...


def codes_of(vectors: Float[Tensor, "r t c"], dictionary: Dictionary, concepts: Sequence[int]) -> Float[Tensor, "r t"]:
    """Code of concept j at its own vector, differentiable: both lasso and matching pursuit solve least squares on their
    active atoms A, so that with A held ``∂u_A/∂x = (V_A V_Aᵀ)⁻¹ V_A``; a concept outside A has no slope.

    Raises:
        UserError: for other codes, whose slopes are others.
    """
    if dictionary.coding.code in (Code.encoder, *BY_IMAGE):
        raise UserError(
            f"attribute.readout=code has no slope for dictionary.code={dictionary.coding.code}: give readout=max or "
            "sum, or a lasso or omp code"
        )
    return _Codes.apply(vectors, dictionary, tuple(concepts))  # type: ignore[return-value]


class _Codes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, vectors: Tensor, dictionary: Dictionary, concepts: tuple[int, ...]) -> Tensor:
        codes = dictionary.encode(vectors.detach())
        each = torch.tensor(concepts, device=codes.device)
        own = codes.gather(2, each.expand(len(codes), -1)[..., None])[..., 0]
        if dictionary.mean_index is not None:  # its code is a constant
            codes[..., dictionary.mean_index] = 0
        ctx.save_for_backward(codes != 0, dictionary.atoms, each)
        return own

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = gradients
        active, atoms, each = ctx.saved_tensors
        count = max(1, int(active.sum(-1).max()))
        chosen = active.int().topk(count, dim=-1).indices
        there = active.gather(-1, chosen)
        some = atoms[chosen] * there[..., None]  # [r, t, a, c], zero rows where fewer are active
        gram = some @ some.transpose(-1, -2) + torch.diag_embed((~there).to(some))
        own = (chosen == each[:, None]) & there
        solved = torch.linalg.solve(gram, own.to(some)[..., None])
        return slope[..., None] * (solved * some).sum(-2), None, None


def anchors(
    vectors: Float[Tensor, "b p c"], codes: Float[Tensor, "b p k"], atoms: Float[Tensor, "k c"]
) -> Int[Tensor, "b k"]:
    """Position of each concept's largest projection among those where its code is positive; −1 where there is none."""
    projections = (vectors @ atoms.T).masked_fill(codes <= 0, -torch.inf)
    best, position = projections.max(1)
    return position.masked_fill(best == -torch.inf, -1)
