"""Measured effects of concepts on the class and on concepts of the next layer, of every layer in one pass over images.

Legend: B images, T targets in the upper layer, Q edited concepts of the lower layer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vismech.attribution.engine import Settings as Integral
from vismech.attribution.engine import attribute
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import Targets, class_targets
from vismech.config.choices import Along, EditValue, Mode, Output, PathWeight, ReadOut, Rule
from vismech.intervene.coded import Coded, Layer
from vismech.intervene.edits import Edit
from vismech.intervene.effects import achieved, measured_effects
from vismech.network.layers import LOGITS
from vismech.passes.donors import donor_images
from vismech.passes.loop import Columns, ImageLoop
from vismech.passes.trace import NOT_CHECKED, UpperConcepts
from vismech.store.rows import Column

AT_END = Integral(rule=Rule.riemann_right, steps=1, mode=Mode.reverse)
"""One node, α = 1: ig's edges are then u × gradient there."""


@dataclass(frozen=True)
class Edited:
    """One layer, whose concepts are edited one by one.

    Attributes:
        layer: its layout and dictionary.
        edit: its concepts, and what each is set to.
        upper: the next layer's name, or ``logits``.
        concepts: the targets there; None where the class is the only target.
    """

    layer: Layer
    edit: Edit
    upper: str
    concepts: UpperConcepts | None


def effect_columns(targets: int, concepts: int) -> dict[str, Column]:
    """Arrays of one layer, per image.

    ``effect`` Δ_j(q) on the upper layer's targets [T, Q], and ``own`` on the class [Q]; ``gradient`` [T, Q] and
    ``own_gradient`` [Q] u × gradient for the same; ``size`` Σ_p |u_pq| [Q]; ``achieved`` the share of each edit that
    arrives when it is encoded again [Q], NaN where nothing changes, −1 where not checked.
    """
    return {
        "effect": Column((targets, concepts)),
        "own": Column((concepts,)),
        "gradient": Column((targets, concepts)),
        "own_gradient": Column((concepts,)),
        "size": Column((concepts,)),
        "achieved": Column((concepts,)),
    }


class EffectsLoop(ImageLoop):
    """Writes :func:`effect_columns` of every layer.

    Args:
        edited: each layer.
        classes: class index per row.
        output: what is read of the class.
        readout: how concepts are read.
        checked: the share that arrives is measured on so many of the first images.
        seed: of the images that codes are resampled from.
    """

    def __init__(
        self,
        *args,
        edited: Mapping[str, Edited],
        classes: np.ndarray,
        output: Output,
        readout: ReadOut,
        checked: int,
        seed: int,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.edited, self.classes, self.output, self.readout = dict(edited), classes, output, readout
        self.checked, self.seed = checked, seed

    def on_predict_start(self) -> None:
        """Move the dictionaries and cut the segments, once per process."""
        self.layers = {name: one.layer.to(self.device) for name, one in self.edited.items()}
        self.upper = {name: one.concepts and one.concepts.to(self.device) for name, one in self.edited.items()}
        self.next = {name: self.network.segment(name, one.upper) for name, one in self.edited.items()}
        middle = {one.upper for one in self.edited.values()} - {LOGITS}
        self.last = {name: self.network.segment(name, LOGITS) for name in middle | {*self.edited}}

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return True

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return list(self.last.values())

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes, those of donors, and float64 beside them."""
        return 4 * max(layer.layout.positions * layer.dictionary.k for layer in self.layers.values())

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        names = list(self.edited)
        clean = self.network.activations(images, names)
        resampled = [name for name, one in self.edited.items() if one.edit.value is EditValue.resample]
        others = {}
        if resampled:
            donors = donor_images(
                self, list(dict.fromkeys(rows)), self.seed, images, self.classes if self.classes.ndim == 1 else None
            )
            others = self.network.activations(donors, resampled)
        return {name: self._measure(name, clean[name], others.get(name), rows) for name in names}

    def _measure(self, name: str, clean: Tensor, other: Tensor | None, rows: list[int]) -> Columns:
        layer, edit, upper = self.layers[name], self.edited[name].edit, self.upper[name]
        coded = layer.code(clean)
        donors = None if other is None else layer.code(other).codes
        own = class_targets(torch.from_numpy(self.classes[rows]).to(self.device), self.output)
        above = None if upper is None else upper.targets(rows, self.readout)

        def read(activation: Tensor, image: Tensor) -> Tensor:
            following = self.next[name](activation)
            if above is None:
                return own(following, image)
            answer = own(self.last[self.edited[name].upper](following), image)
            return torch.cat([answer, above(following, image) * above.present[image]], 1)

        with self.telling(name, rows):
            effects = measured_effects(read, layer, coded, edit, self.portions.paths, donors)
            slope = self._gradient(self.last[name], layer, coded, own, edit)
            slopes = slope if above is None else self._gradient(self.next[name], layer, coded, above, edit)
        share = torch.full_like(effects[:, 0], NOT_CHECKED)
        if count := sum(row < self.checked for row in rows):
            first = Coded(*(part[:count] for part in coded))
            given = None if donors is None else donors[:count]
            share[:count] = achieved(layer, first, edit, self.portions.paths, given)
        return {
            "effect": effects if above is None else effects[:, 1:],
            "own": effects[:, 0],
            "gradient": slopes,
            "own_gradient": slope[:, 0],
            "size": coded.codes[..., edit.index(coded.codes)].abs().sum(1),
            "achieved": share,
        }

    def _gradient(self, segment: nn.Module, layer: Layer, coded: Coded, targets: Targets, edit: Edit) -> Tensor:
        """u × gradient of the edited concepts [B, T, Q]."""
        source: Any = ConceptSource(layer.dictionary.atoms, coded.codes, coded.vectors, Along.activation)
        found = attribute(segment, layer.layout, source, coded.clean, targets, AT_END)
        return found.edges[PathWeight.ig].units[..., edit.index(coded.codes)]
