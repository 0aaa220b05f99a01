"""How much of a layer its dictionary keeps, and what the network makes of the reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from vismech.dictionaries.base import Dictionary
from vismech.lit.loop import Columns, ImageLoop
from vismech.network import LOGITS
from vismech.pfv import Layout
from vismech.rows import Column


def reconstruct_columns(channels: int, concepts: int) -> dict[str, Column]:
    """Sums over each image's positions, in float64, from which every metric follows in any grouping of images.

    ``error`` Σ(x − x̃)² [C], ``total`` Σx [C], ``square`` Σx² [C], ``active`` positions where a concept is non-zero [K],
    ``predicted`` top-1 class of the clean and of the spliced network [2].
    """
    sums = Column((channels,), "float64")
    return {
        "error": sums,
        "total": sums,
        "square": sums,
        "active": Column((concepts,), "int32"),
        "predicted": Column((2,), "int32"),
    }


class ReconstructLoop(ImageLoop):
    """Codes every position of every image at ``layer`` and splices the reconstruction back into the network."""

    def __init__(self, *args, layer: str, layout: Layout, dictionary: Dictionary, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.layer, self.layout, self.dictionary = layer, layout, dictionary

    def on_predict_start(self) -> None:
        """Move the dictionary once and cut the segment."""
        self.dictionary = self.dictionary.to(self.device)
        self.segment = self.network.segment(self.layer, LOGITS)

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        clean = self.network.activations(images, [self.layer])[self.layer]
        vectors = self.layout.vectors(clean)
        codes = self.dictionary.encode(vectors.flatten(0, 1))
        rebuilt = self.dictionary.decode(codes).view_as(vectors)
        logits = [self.segment(activation) for activation in (clean, self.layout.activation(rebuilt, clean))]
        exact = vectors.double()
        columns = {
            "error": (exact - rebuilt.double()).square().sum(1),
            "total": exact.sum(1),
            "square": exact.square().sum(1),
            "active": (codes != 0).unflatten(0, vectors.shape[:2]).sum(1),
            "predicted": torch.stack([value.argmax(1) for value in logits], 1),
        }
        return {"evaluate": columns}
