"""Edits of codes: ``do(u_q := a_q)`` is ``X' = X + Σ_q (a_q − u_q) v_q``.

The residual ``X − U V`` stays: replacing X by U' V would count what the dictionary does not rebuild as an effect of the
edit. A code that changes by nothing changes no bit of the activation.

Legend: B images, P positions, C channels, K concepts, Q edited concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.config.choices import EditValue
from vismech.errors import UserError
from vismech.intervene.coded import Layer


@dataclass(frozen=True)
class Edit:
    """What some concepts of one layer are set to, at all positions.

    Attributes:
        concepts: q, in any order, each once.
        value: zero; mean, a number for each concept; resample, the codes of another image; or scale, ``s · u_q``.
        scale: s of ``value=scale``: 0 removes, 1 changes nothing, more amplifies.
        means: a_q of ``value=mean``.

    Raises:
        UserError: a concept twice, or means that are not one for each concept.
    """

    concepts: tuple[int, ...]
    value: EditValue = EditValue.zero
    scale: float = 0.0
    means: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len({*self.concepts}) < len(self.concepts):
            raise UserError(f"an edit names a concept twice: {[*self.concepts]}")
        if self.value is EditValue.mean and len(self.means) != len(self.concepts):
            raise UserError(
                f"an edit towards the mean has {len(self.means)} means for {len(self.concepts)} concepts: give one each"
            )

    def index(self, like: Tensor) -> Int[Tensor, " q"]:
        """The concepts as an index of tensors on the device of ``like``."""
        return torch.tensor(self.concepts, dtype=torch.long, device=like.device)

    def changes(
        self, codes: Float[Tensor, "b p k"], donors: Float[Tensor, "b p k"] | None = None
    ) -> Float[Tensor, "b p q"]:
        """``a_q − u_q``.

        Args:
            codes: U.
            donors: codes of the images that each is resampled from, for ``value=resample``.
        """
        place = self.index(codes)
        own = codes[..., place]
        match self.value:
            case EditValue.zero:
                return -own
            case EditValue.scale:
                return (self.scale - 1) * own
            case EditValue.mean:
                return own.new_tensor(self.means) - own
            case EditValue.resample:
                if donors is None:
                    raise UserError("an edit that resamples codes needs the codes of other images")
                return donors[..., place] - own

    def check(self, layer: Layer, name: str) -> None:
        """Refuse concepts that the layer does not have.

        Raises:
            UserError: the concept, and the layer by its ``name``.
        """
        for concept in self.concepts:
            if not 0 <= concept < layer.dictionary.k:
                raise UserError(
                    f"{name}/{concept}: {name} has {layer.dictionary.k} concepts, numbered from 0: "
                    f"give 0 to {layer.dictionary.k - 1}"
                )


def apply(layer: Layer, activation: Tensor, edits: Sequence[Edit], donors: Tensor | None = None) -> Tensor:
    """The activation [B, …] with edits done to the codes that it has now.

    Args:
        layer: its layout and concepts.
        activation: X, [B, …].
        edits: of different concepts.
        donors: see :meth:`Edit.changes`.
    """
    coded = layer.code(activation)
    vectors = edited(coded.vectors, coded.codes, layer.dictionary.atoms, edits, donors)
    return layer.layout.activation(vectors, activation)


def edited(
    vectors: Float[Tensor, "b p c"],
    codes: Float[Tensor, "b p k"],
    atoms: Float[Tensor, "k c"],
    edits: Sequence[Edit],
    donors: Float[Tensor, "b p k"] | None = None,
) -> Float[Tensor, "b p c"]:
    """The PFVs ``X + Σ_q (a_q − u_q) v_q`` of vectors X whose codes are known, edits of different concepts."""
    for edit in edits:
        vectors = vectors + edit.changes(codes, donors) @ atoms[edit.index(atoms)]
    return vectors


def mean_codes(codes: Sequence[Float[Tensor, "b p k"]]) -> Float[Tensor, " k"]:
    """Each concept's mean code over positions and images, in float64 as summed."""
    total = torch.stack([part.double().sum((0, 1)) for part in codes]).sum(0)
    return total / sum(part.shape[0] * part.shape[1] for part in codes)
