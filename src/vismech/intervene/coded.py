"""One layer as an intervention sees it: its activations as PFVs and as codes of its concepts.

Legend: B images, P positions, C channels, K concepts.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.dictionaries.base import Dictionary
from vismech.dictionaries.coding import BY_IMAGE
from vismech.network.pfv import Layout


class Coded(NamedTuple):
    """Activations of a batch, as PFVs and in concepts.

    Attributes:
        clean: the activations [B, …].
        vectors: X.
        codes: U.
    """

    clean: Tensor
    vectors: Float[Tensor, "b p c"]
    codes: Float[Tensor, "b p k"]

    def take(self, images: Int[Tensor, " i"]) -> Coded:
        """Some of the images, or one of them several times."""
        return Coded(*(part[images] for part in self))


class Layer(NamedTuple):
    """One layer and its concepts."""

    layout: Layout
    dictionary: Dictionary

    def code(self, activation: Tensor) -> Coded:
        """Activations [B, …] written in the layer's concepts."""
        assert self.dictionary.reads is None, "refused while planning: its codes are read elsewhere"
        vectors = self.layout.vectors(activation)
        return Coded(activation, vectors, self.dictionary.encode(vectors))

    def to(self, device: str | torch.device) -> Layer:
        """The same layer with its dictionary on a device."""
        return self._replace(dictionary=self.dictionary.to(device))

    @property
    def pointwise(self) -> bool:
        """Whether a vector's code is that of the vector alone, whatever else its image holds."""
        return self.dictionary.coding.code not in BY_IMAGE
