"""A network's layers by name, without the network: what can be named, and in which order. It needs no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from vismech.errors import UserError

if TYPE_CHECKING:
    from vismech.network.pfv import Layout

LOGITS, PIXELS = "logits", "pixels"


class Layers:
    """The layers of a model.

    Attributes:
        layers: module paths that can be cut, in the order in which their outputs are computed.
        calls: how often one pass calls each module.
        prefixes: tokens before the patch tokens, of the layers where the graph tells how many these are.
        prefix_tokens: how many the user says that there are, wherever a layer has tokens.
        inputs: layer → the layer whose output is all that its module takes in, where the graph tells that there is one.
    """

    layers: list[str]
    calls: Mapping[str, int]
    prefixes: Mapping[str, int] = MappingProxyType({})
    prefix_tokens: int | None = None
    inputs: Mapping[str, str] = MappingProxyType({})

    def shape(self, layer: str) -> tuple[int, ...]:
        """Shape of one image's activation at ``layer``, without the batch axis."""
        raise NotImplementedError

    def layout(self, layer: str) -> Layout:
        """How a layer is read as PFVs.

        Raises:
            UserError: an unknown layer, or a shape that is no map and no grid of tokens.
        """
        from vismech.network.pfv import layout_of  # loads torch

        asked = self.prefix_tokens
        return layout_of(self.shape(layer), layer, self.prefixes.get(layer) if asked is None else asked)

    def resolve(self, patterns: Sequence[str]) -> list[str]:
        """Layer names for ``patterns``, names or shell patterns, each once; what a pattern fits is in network order.

        Raises:
            UserError: a name or pattern that fits no layer (the nearest names are given), or layers out of order.
        """
        if not patterns:
            raise UserError(f"extract.layers is empty: name at least one layer, such as {self.layers[-1]}")
        chosen: list[str] = []
        for pattern in patterns:
            # A pattern such as layer3.* names siblings, so it stops at the dots that it spells out.
            siblings = [name for name in self.layers if name.count(".") == pattern.count(".")]
            fits = [name for name in siblings if fnmatchcase(name, pattern)]
            if not fits:
                raise self._no_layer(pattern)
            chosen += [name for name in fits if name not in chosen]
        for lower, upper in pairwise(chosen):
            self._check_pair(lower, upper)
        return chosen

    def _check_pair(self, lower: str, upper: str) -> None:
        order = [PIXELS, *self.layers, LOGITS]
        for name in (lower, upper):
            if name not in order:
                raise self._no_layer(name)
        if order.index(upper) <= order.index(lower):
            raise UserError(f"layer {upper!r} does not come after {lower!r}: name the earlier layer first")

    def _no_layer(self, name: str) -> UserError:
        calls = self.calls.get(name, 0)
        if calls > 1:
            return UserError(f"layer {name!r} is called {calls} times in one pass: name the block around it")
        if calls:
            return UserError(
                f"layer {name!r} does not hand on one tensor with a row per image: name a layer inside or around it"
            )
        near = difflib.get_close_matches(name, self.layers, n=4, cutoff=0.4)
        some = f"{', '.join(self.layers[:8])}{' …' if len(self.layers) > 8 else ''}"
        return UserError(
            f"the model has no layer {name!r}; {'nearest: ' + ', '.join(near) if near else 'it has ' + some}"
        )
