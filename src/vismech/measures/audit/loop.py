"""What the class of every measured image loses when one concept of a layer is edited after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.intervene.coded import Coded, Layer
from vismech.intervene.edits import Edit
from vismech.intervene.effects import measured_effects
from vismech.measures.shortcut.loop import LayersLoop
from vismech.passes.loop import Columns
from vismech.receptive_field.localization import localization_maps, upsampled_maps
from vismech.receptive_field.measure import sharing_ratios
from vismech.store.rows import Column

NOT_LOOKED = -1.0


def audit_columns(concepts: int) -> dict[str, Column]:
    """Arrays of one layer, per image and concept [Q].

    ``probability``, ``logit`` and ``right``: what the image's own class loses; ``active``: whether the image has the
    concept; ``inside``: the share of its localisation that lies in the image's box, NaN where it has none, −1 where it
    was not looked for.
    """
    columns = {name: Column((concepts,)) for name in ("probability", "logit", "right", "inside")}
    return {**columns, "active": Column((concepts,), "bool")}


class AuditLoop(LayersLoop):
    """Writes :func:`audit_columns` of every layer.

    Args:
        edits: layer → its concepts and what they become.
        labels: class of each row.
        boxes: left, top, right and bottom of each row as shares of the photograph [n, 4]; None: concepts are not
            localised.
        looked: rows whose concepts are localised.
        mapped: layers that have sharing ratios; others are upsampled.
    """

    def __init__(
        self,
        *args: Any,
        edits: dict[str, Edit],
        labels: Int[np.ndarray, " n"],
        boxes: Float[np.ndarray, "n 4"] | None,
        looked: frozenset[int],
        mapped: frozenset[str],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.edits, self.labels, self.boxes, self.looked, self.mapped = edits, labels, boxes, looked, mapped

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        found = self.network.activations(images, list(self.there))
        labels = torch.from_numpy(self.labels[rows]).to(images.device).clamp(min=0)
        columns = {}
        for name, layer in self.there.items():
            coded = layer.code(found[name])
            effects = self._effects(name, layer, coded, labels)
            active = coded.codes[..., self.edits[name].index(coded.codes)].any(1)
            columns[name] = {
                **dict(zip(("probability", "logit", "right"), effects.unbind(1), strict=True)),
                "active": active,
                "inside": self._inside(name, layer, coded, images, rows),
            }
        return columns

    def _effects(self, name: str, layer: Layer, coded: Coded, labels: Tensor) -> Float[Tensor, "b 3 q"]:
        segment = self.segments[name]

        def read(activation: Tensor, image: Tensor) -> Tensor:
            logits, own = segment(activation), labels[image][:, None]
            right = (logits.argmax(1, keepdim=True) == own).to(logits)
            return torch.cat([logits.softmax(1).gather(1, own), logits.gather(1, own), right], 1)

        return measured_effects(read, layer, coded, self.edits[name], self.portions.paths)

    def _inside(self, name: str, layer: Layer, coded: Coded, images: Tensor, rows: list[int]) -> Float[Tensor, "b q"]:
        concepts = self.edits[name].index(coded.codes)
        found = coded.codes.new_full((len(images), len(concepts)), NOT_LOOKED)
        if self.boxes is None:
            return found
        for index, row in enumerate(rows):
            if row not in self.looked:
                continue
            box = self._box(row).to(images.device)
            grids = coded.codes[index][:, concepts].T.clamp(min=0).unflatten(1, layer.layout.grid)
            if name in self.mapped:
                ratios = sharing_ratios(self.network, images[index : index + 1], layers=[name])
                maps = torch.cat([localization_maps(ratios, name, grid[None]) for grid in grids])
            else:
                maps = upsampled_maps(grids, (images.shape[2], images.shape[3]))
            found[index] = (maps * box).sum((1, 2)) / maps.sum((1, 2))
        return found

    def _box(self, row: int) -> Float[Tensor, "h w"]:
        """The box as the network sees it: painted in a picture of the photograph's size, resized and cropped as it."""
        from PIL import Image, ImageDraw

        assert self.resources is not None and self.boxes is not None
        photograph = self.data.load(self.indices[row])
        width, height = photograph.size
        left, top, right, bottom = self.boxes[row] * (width, height, width, height)
        painted = Image.new("RGB", photograph.size)
        ImageDraw.Draw(painted).rectangle((left, top, right - 1, bottom - 1), fill="white")
        blank, white = Image.new("RGB", photograph.size), Image.new("RGB", photograph.size, "white")
        low, high, box = (self.resources.model.preprocess(image)[0] for image in (blank, white, painted))
        return (box - low) / (high - low)
