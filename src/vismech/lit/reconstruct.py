"""How much of a layer its dictionary keeps, and what the network makes of the reconstruction."""

from __future__ import annotations

import torch
from torch import Tensor

from vismech.dictionaries import Dictionary
from vismech.evaluation.reconstruction import Moments, moments
from vismech.lit.loop import Columns, ImageLoop
from vismech.network import LOGITS
from vismech.pfv import Layout
from vismech.rows import Column


def reconstruct_columns(channels: int, concepts: int) -> dict[str, Column]:
    """Each image's :class:`Moments` over its positions, and the top-1 class, clean and spliced [2]."""
    sums = Column((channels,), "float64")
    columns = {name: sums for name in Moments._fields if name not in ("active", "count")}
    return {**columns, "active": Column((concepts,), "int32"), "predicted": Column((2,), "int32")}


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
        codes = self.dictionary.encode(vectors)
        rebuilt = self.dictionary.decode(codes)
        logits = [self.segment(activation) for activation in (clean, self.layout.activation(rebuilt, clean))]
        parts = [moments(*each)._asdict() for each in zip(vectors, codes, rebuilt, strict=True)]
        columns = {name: torch.stack([part[name] for part in parts]) for name in parts[0] if name != "count"}
        return {"evaluate": {**columns, "predicted": torch.stack([value.argmax(1) for value in logits], 1)}}
