"""Extraction: one forward pass fills every missing layer, no further than the last layer that is needed."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vismech.config import Positions
from vismech.errors import UserError
from vismech.lit.loop import Columns, ImageLoop
from vismech.network import LOGITS
from vismech.pfv import Layout, uniform_positions
from vismech.rows import Column


def extract_columns(layout: Layout, count: int) -> dict[str, Column]:
    """Arrays of one layer: PFVs [n, C] per image and the flat positions [n] they were taken at."""
    return {"vectors": Column((count, layout.channels)), "positions": Column((count,), "int32")}


class ExtractLoop(ImageLoop):
    """Writes the PFVs of every layer in ``layouts``, and the logits if ``rows`` asks for them."""

    def __init__(self, *args, layouts: dict[str, Layout], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.layouts = layouts

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        found = self.network.activations(images, list(self.rows))
        self._check_finite(found, images, rows)
        result: dict[str, Columns] = {}
        drawn: dict[int, Tensor] = {}  # layers of one size share an image's draw
        for name, activation in found.items():
            if name == LOGITS:
                result[name] = {"logits": activation}
                continue
            layout = self.layouts[name]
            vectors = layout.vectors(activation)
            if layout.positions not in drawn:
                drawn[layout.positions] = torch.from_numpy(self._positions(layout, rows)).to(vectors.device)
            positions = drawn[layout.positions]
            if positions.shape[1] < layout.positions:
                vectors = vectors.gather(1, positions[:, :, None].expand(-1, -1, layout.channels))
            result[name] = {"vectors": vectors, "positions": positions}
        return result

    def _positions(self, layout: Layout, rows: list[int]) -> np.ndarray:
        extract = self.config.extract
        if extract.positions is Positions.all:
            return np.tile(np.arange(layout.positions), (len(rows), 1))
        draws = (
            uniform_positions(self.sample_id(row), self.config.seed, layout.positions, extract.per_image)
            for row in rows
        )
        return np.stack(list(draws))

    def _check_finite(self, found: dict[str, Tensor], images: Tensor, rows: list[int]) -> None:
        # A sum is NaN or infinite when a part is, and needs no mask of the activation's size.
        finite = torch.stack([value.sum(tuple(range(1, value.ndim))).isfinite() for value in found.values()], 1)
        if finite.all():
            return
        bad = int((~finite.all(1)).nonzero()[0])
        everywhere = self.network.activations(images[bad : bad + 1], [*self.network.layers, LOGITS])
        # Containers end where their last part does, so the most deeply named of the first bad ones is the culprit.
        first = next(name for name, value in everywhere.items() if not value.isfinite().all())
        raise UserError(
            f"the activations of {self.sample_id(rows[bad])!r} are not finite from layer {first!r} on: "
            "check the checkpoint and the preprocessing (model.mean, model.std)"
        )
