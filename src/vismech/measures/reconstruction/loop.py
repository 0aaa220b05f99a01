"""How much of each layer its dictionary keeps, and what the network makes of the reconstruction, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.measures.insertion.loop import ConceptLoop
from vismech.measures.reconstruction.scores import Moments, moments
from vismech.passes.loop import Columns
from vismech.store.rows import Column


def reconstruct_columns(channels: int, concepts: int) -> dict[str, Column]:
    """Each image's :class:`Moments` over its positions; the top-1 class, clean and spliced [2]; ``distinct`` concepts;
    and the cross-entropy clean, spliced and ablated [3]."""
    sums = Column((channels,), "float64")
    columns = {name: sums for name in Moments._fields if name not in ("active", "count")}
    columns |= {"active": Column((concepts,), "int32"), "predicted": Column((2,), "int32")}
    return columns | {"distinct": Column((), "int32"), "losses": Column((3,))}


class ReconstructLoop(ConceptLoop):
    """Codes every position of every image and splices the reconstruction, and the mean, back into the network.

    Args:
        means: layer → mean PFV, which an ablated layer has at every position.
        labels: the network's class of each row, −1 where it is unknown.
    """

    def __init__(
        self, *args: Any, means: dict[str, Float[Tensor, " c"]], labels: Int[np.ndarray, " n"], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.means, self.labels = means, labels

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        wanted = [name for name in self.layers if name in self.rows]
        found = self.found(images, *wanted)
        labels = torch.from_numpy(self.labels[rows]).to(images.device)
        return {name: self._layer(name, found, labels) for name in wanted}

    def _layer(self, name: str, found: Mapping[str, Tensor], labels: Int[Tensor, " b"]) -> Columns:
        layout, coded, clean = self.layers[name].layout, self.coded(name, found), found[name]
        rebuilt = self.layers[name].dictionary.decode(coded.codes)
        ablated = self.means[name].to(rebuilt).expand_as(rebuilt)
        spliced = [clean, *(layout.activation(vectors, clean) for vectors in (rebuilt, ablated))]
        logits = torch.stack([self.segments[name](activation) for activation in spliced], 1)
        # An image of unknown class has a loss, too, against what the clean network says; no table counts it.
        known = torch.where(labels >= 0, labels, logits[:, 0].argmax(1))
        losses = -logits.log_softmax(2).gather(2, known[:, None, None].expand(-1, 3, 1))[..., 0]
        parts = [moments(*each)._asdict() for each in zip(coded.vectors, coded.codes, rebuilt, strict=True)]
        columns = {key: torch.stack([part[key] for part in parts]) for key in parts[0] if key != "count"}
        predicted = logits[:, :2].argmax(2)
        return {**columns, "predicted": predicted, "distinct": coded.ranked.sum(1), "losses": losses}
