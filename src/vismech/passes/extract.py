"""Extraction: one forward pass fills every missing layer, no further than the last layer that is needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vismech.config.choices import Positions
from vismech.errors import UserError
from vismech.network.layers import LOGITS
from vismech.network.pfv import Layout, uniform_positions, weighted_positions
from vismech.passes.loop import Columns, ImageLoop
from vismech.receptive_field import gradient_relevance, layer_relevance
from vismech.stages.settings import DrawOptions
from vismech.store.rows import Column
from vismech.store.settings import FLAT, UNUSED

CONTRIBUTION = (Positions.relevance, Positions.contrastive, Positions.gradient)


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(DrawOptions):
    """Which vectors of a layer are kept, or that the logits are.

    Attributes:
        source: the model and the images.
        layer: the layer, or ``logits``.
        seed: of the draw.
    """

    source: Mapping[str, Any] = field(metadata=FLAT)
    layer: str
    seed: int = UNUSED


def extract_columns(layout: Layout, extract: ExtractSettings) -> dict[str, Column]:
    """Arrays of one layer, per image.

    ``vectors`` PFVs [n, C]; ``positions`` the flat positions [n] they were taken at; and where positions are drawn in
    proportion to their contribution, ``uniform``: that none contributed, so that the draw was uniform.
    """
    count = layout.positions if extract.positions is Positions.all else extract.per_image
    columns = {"vectors": Column((count, layout.channels)), "positions": Column((count,), "int32")}
    return columns | ({"uniform": Column((), "bool")} if extract.positions in CONTRIBUTION else {})


class _Found(NamedTuple):
    """Activations of layers (and logits), and what each position adds to the logit [B, P], where that was asked for."""

    activations: dict[str, Tensor]
    contributions: dict[str, Tensor]


class ExtractLoop(ImageLoop):
    """Writes the PFVs of every layer in ``layouts``, and the logits if ``rows`` asks for them.

    Args:
        layouts: how each layer is read.
        how: which of its vectors are kept; positions are drawn in one way for all layers.
    """

    def __init__(
        self, *args, layouts: Mapping[str, Layout], how: Mapping[str, ExtractSettings] | None = None, **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layouts, self.how = dict(layouts), dict(how or {})
        positions = {each.positions for each in self.how.values()}
        assert len(positions) <= 1 and self.layouts.keys() == self.how.keys()
        self.positions = positions.pop() if positions else Positions.all

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return self.positions not in CONTRIBUTION

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        found = self._found(images, rows)
        self._check_finite(found.activations, images, rows)
        result: dict[str, Columns] = {}
        uniform: dict[int, Tensor] = {}  # layers of one size share an image's uniform draw
        for name in self.rows:
            activation = found.activations[name]
            if name == LOGITS:
                result[name] = {"logits": activation}
                continue
            layout, contribution = self.layouts[name], found.contributions.get(name)
            vectors = layout.vectors(activation)
            weights = None if contribution is None else contribution.clamp(min=0).cpu()
            if weights is None and layout.positions in uniform:
                positions = uniform[layout.positions]
            else:
                positions = torch.from_numpy(self._positions(name, rows, weights)).to(vectors.device)
            if weights is None:
                uniform[layout.positions] = positions
            if positions.shape[1] < layout.positions:
                vectors = vectors.gather(1, positions[:, :, None].expand(-1, -1, layout.channels))
            result[name] = {"vectors": vectors, "positions": positions}
            if weights is not None:
                result[name]["uniform"] = (weights == 0).all(1)
        return result

    def _found(self, images: Tensor, rows: list[int]) -> _Found:
        """One pass; the contributions are those to each image's predicted class."""
        match self.positions:
            case Positions.relevance | Positions.contrastive as positions if self.layouts:
                return self._relevance(images, rows, contrastive=positions is Positions.contrastive)
            case Positions.gradient if self.layouts:
                return self._gradient(images)
            case _:
                return _Found(self.network.activations(images, list(self.rows)), {})

    def _relevance(self, images: Tensor, rows: list[int], contrastive: bool) -> _Found:
        """Relevance of the logit in sharing ratio decomposition (SRD)."""
        try:
            found = layer_relevance(self.network, images, list(self.layouts), contrastive=contrastive)
        except ValueError as error:
            # Bad numbers are told from a missing rule by a plain pass, which names the image and the layer.
            self._check_finite(self.network.activations(images, [*self.layouts, LOGITS]), images, rows)
            raise UserError(f"{error}: set extract.positions=gradient") from error
        contributions = {layer: relevance.flatten(1) for layer, relevance in found.relevance.items()}
        return _Found({**found.activations, LOGITS: found.logits}, contributions)

    def _gradient(self, images: Tensor) -> _Found:
        """Gradient × activation of the logit, Σ_c x_pc · ∂logit/∂x_pc; a network of any kind has it."""
        found = gradient_relevance(self.network, images, list(self.layouts))
        contributions = {layer: relevance.flatten(1) for layer, relevance in found.relevance.items()}
        return _Found({**found.activations, LOGITS: found.logits}, contributions)

    def _positions(self, name: str, rows: list[int], weights: Tensor | None) -> np.ndarray:
        layout, extract = self.layouts[name], self.how[name]
        if extract.positions is Positions.all:
            return np.tile(np.arange(layout.positions), (len(rows), 1))
        draws = [
            uniform_positions(self.sample_id(row), extract.seed, layout.positions, extract.per_image)
            if weights is None
            else weighted_positions(self.sample_id(row), extract.seed, weights[index].numpy(), extract.per_image)
            for index, row in enumerate(rows)
        ]
        return np.stack(draws)

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
