"""Passes over the measured images: how strong each concept is, and what is answered when sets of them are edited."""

from __future__ import annotations

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from vismech.intervene.coded import Layer
from vismech.intervene.effects import answers_without
from vismech.network.layers import LOGITS
from vismech.passes.loop import Columns, ImageLoop
from vismech.store.rows import Column


class LayersLoop(ImageLoop):
    """A pass that reads several layers' codes.

    Args:
        layers: name → layout and dictionary.
    """

    def __init__(self, *args: Any, layers: dict[str, Layer], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layers = layers

    def on_predict_start(self) -> None:
        """Move the dictionaries, once per process."""
        self.there = {name: layer.to(self.device) for name, layer in self.layers.items()}
        self.segments = {name: self.network.segment(name, LOGITS) for name in self.layers}

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return list(self.segments.values())

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes, and float64 beside them while they are solved for."""
        return 3 * max(layer.layout.positions * layer.dictionary.k for layer in self.layers.values())


def strength_columns(concepts: int) -> dict[str, Column]:
    """Arrays of one layer, per image: ``mean`` code of each concept over positions [K]."""
    return {"mean": Column((concepts,))}


class StrengthLoop(LayersLoop):
    """Writes :func:`strength_columns` of every layer."""

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        found = self.network.activations(images, list(self.there))
        return {name: {"mean": layer.code(found[name]).codes.mean(1)} for name, layer in self.there.items()}


def answer_columns(edits: int) -> dict[str, Column]:
    """Arrays of one layer, per image: ``before`` the class answered, and ``after`` each edit [E]."""
    return {"before": Column((), "int32"), "after": Column((edits,), "int32")}


class EditedLoop(LayersLoop):
    """Writes :func:`answer_columns` of every layer.

    Args:
        sets: layer → the concepts of each edit [E, Q], −1 where it has fewer.
        into: layer → for each edit the codes that concepts are set to [E, K].
    """

    def __init__(
        self, *args: Any, sets: dict[str, Int[Tensor, "e q"]], into: dict[str, Float[Tensor, "e k"]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sets, self.into = sets, into

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        found = self.network.activations(images, [*self.there, LOGITS])
        before = found[LOGITS].argmax(1)
        columns = {}
        for name, layer in self.there.items():
            segment, coded = self.segments[name], layer.code(found[name])
            sets = self.sets[name].to(images.device).expand(len(images), -1, -1)
            into = self.into[name].to(images.device)
            logits = answers_without(
                lambda activation, _, segment=segment: segment(activation),
                layer,
                coded,
                sets,
                self.portions.paths,
                into,
            )
            columns[name] = {"before": before, "after": logits.argmax(2)}
        return columns
