"""Planted circuits: structural equations between concepts, and how these occur in images.

A circuit is a list of structural equations between concept maps a_l [N, K_l, h, w],

    a_{l+1,j}(p) = Σ_u weight_u · relu(bias_u + Σ_{wires of u} w · a_{l,q}(p + offset)),

which :mod:`~vismech.measures.planted.models` turns into a convolutional network. :func:`simulate` follows them
without any convolution, so that what is known of a circuit owes nothing to the code that is judged by it.

Legend: N images, K concepts (of layer 1, unless said), T targets (concepts of the last layer), h × w positions.
"""

from __future__ import annotations

import itertools
import zlib
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

GRID = 10
"""Positions per side."""
PLACES = 2
"""Positions of an image at which each target is to occur."""
MARGIN = 2
"""How far these are from the edge, at the least."""
COHERENCE = 0.3
"""The largest |cosine| of two concepts in superposition."""

Offset = tuple[int, int]


class Wire(NamedTuple):
    """A read of one concept of the layer below, ``weight · a_source(p + offset)``."""

    source: int
    weight: float
    offset: Offset = (0, 0)


class Unit(NamedTuple):
    """A hidden unit, ``weight · relu(bias + Σ wires)``."""

    wires: tuple[Wire, ...]
    bias: float = 0.0
    weight: float = 1.0


Concept = tuple[Unit, ...]
"""A concept is the sum of its hidden units."""


class Source(NamedTuple):
    """How a concept of the first layer occurs in images.

    Attributes:
        low, high: its strength is uniform between them.
        chance: of being there where a target that reads it is to occur.
        twin: the concept that it always goes with, at the same position, if any.
    """

    low: float = 1.0
    high: float = 2.0
    chance: float = 0.8
    twin: int | None = None


@dataclass(frozen=True)
class Circuit:
    """The structural equations of a network and how its sources occur.

    Attributes:
        name, seed: what it was made of; frames and images are drawn from them too.
        sources: the concepts of the first layer; those without a wire are distractors.
        layers: the concepts of every further layer, as functions of those of the layer below.
        void: pairs (source, target) that are wired, but whose target never depends on the source on any image, alone or
            with other sources removed.
        oblique: concept directions are random unit vectors instead of an orthonormal frame.
        superposed: channels of the first layer, fewer than its concepts; then one concept at most is at each position.
    """

    name: str
    seed: int
    sources: tuple[Source, ...]
    layers: tuple[tuple[Concept, ...], ...]
    void: frozenset[tuple[int, int]] = frozenset()
    oblique: bool = False
    superposed: int | None = None

    def generator(self, purpose: str) -> np.random.Generator:
        """Draws for one purpose, which depend on nothing but name, seed and purpose."""
        return np.random.default_rng([zlib.crc32(f"{self.name}:{purpose}".encode()), self.seed])

    @property
    def widths(self) -> list[int]:
        """K of every layer."""
        return [len(self.sources), *(len(layer) for layer in self.layers)]

    def routes(self) -> list[list[list[Offset]]]:
        """Target → source → where the source stands relative to the target, once for each route that wires it."""
        reads: list[list[list[Offset]]] = [
            [[(0, 0)] if source == own else [] for source in range(len(self.sources))]
            for own in range(len(self.sources))
        ]
        for layer in self.layers:
            reads = [
                [
                    [
                        (wire.offset[0] + offset[0], wire.offset[1] + offset[1])
                        for unit in concept
                        for wire in unit.wires
                        for offset in reads[wire.source][source]
                    ]
                    for source in range(len(self.sources))
                ]
                for concept in layer
            ]
        return reads

    def edges(self) -> Bool[np.ndarray, "t q"]:
        """Which sources each concept of the last layer depends on: those wired to it, without the void ones."""
        wired = np.array([[bool(offsets) for offsets in row] for row in self.routes()])
        for source, target in self.void:
            wired[target, source] = False
        return wired


@torch.no_grad()
def simulate(circuit: Circuit, codes: Float[Tensor, "n k h w"]) -> list[Float[Tensor, "n _ h w"]]:
    """Concept maps of every layer from those of the first, by the structural equations; outside the map all is zero."""
    maps = [codes]
    for layer in circuit.layers:
        below, found = maps[-1], []
        for concept in layer:
            total = torch.zeros_like(below[:, 0])
            for unit in concept:
                inside = torch.full_like(total, unit.bias)
                for wire in unit.wires:
                    inside += wire.weight * _shifted(below[:, wire.source], wire.offset)
                total += unit.weight * inside.clamp(min=0)
            found.append(total)
        maps.append(torch.stack(found, 1))
    return maps


def _shifted(plane: Float[Tensor, "n h w"], offset: Offset) -> Float[Tensor, "n h w"]:
    """``plane(p + offset)``, zero outside."""
    out = torch.zeros_like(plane)
    height, width = plane.shape[1:]
    rows, columns = (
        (slice(max(0, -by), size - max(0, by)), slice(max(0, by), size - max(0, -by)))
        for by, size in zip(offset, (height, width), strict=True)
    )
    out[:, rows[0], columns[0]] = plane[:, rows[1], columns[1]]
    return out


def true_effects(circuit: Circuit, codes: Float[Tensor, "n k h w"]) -> Float[Tensor, "n t k"]:
    """``a_j(p*) − a_j(p*; source q removed)`` by the structural equations, p* where a_j is largest in the image.

    Zero for a target that is nowhere positive in the image.
    """
    last = simulate(circuit, codes)[-1].flatten(2)
    value, place = last.max(2)
    effects = []
    for source in range(codes.shape[1]):
        removed = codes.clone()
        removed[:, source] = 0
        without = simulate(circuit, removed)[-1].flatten(2).gather(2, place[..., None])[..., 0]
        effects.append((value - without) * (value > 0))
    return torch.stack(effects, 2)


def draw_codes(circuit: Circuit, count: int, purpose: str = "images") -> Float[Tensor, "n k h w"]:
    """Concept maps of the first layer: wherever a target is to occur, its sources at their places, and distractors.

    Each target has :data:`PLACES` occurrences per image, at random positions of its own; each source is there with its
    chance and a strength of its own, distractors at random neighbours. Another purpose draws other images.
    """
    draw, sources, routes = circuit.generator(purpose), circuit.sources, circuit.routes()
    anchors = list(itertools.product(range(MARGIN, GRID - MARGIN), repeat=2))
    wired = {source for row in routes for source, offsets in enumerate(row) if offsets}
    codes = np.zeros((count, len(sources), GRID, GRID))
    for image in codes:
        places = draw.choice(len(anchors), size=len(routes) * PLACES, replace=False)
        for row, place in zip(routes * PLACES, places, strict=True):
            for source, (about, offsets) in enumerate(zip(sources, row, strict=True)):
                if about.twin is not None or (source in wired and not offsets):
                    continue
                offset = offsets[0] if offsets else draw.integers(-1, 2, size=2)
                if draw.random() < about.chance:
                    y, x = np.add(anchors[place], offset)
                    image[source, y, x] = max(image[source, y, x], draw.uniform(about.low, about.high))
        for source, about in enumerate(sources):
            if about.twin is not None:
                image[source] = (image[about.twin] > 0) * draw.uniform(about.low, about.high, size=(GRID, GRID))
    if circuit.superposed is not None:
        codes *= codes == codes.max(1, keepdims=True)
    return torch.from_numpy(codes).float()
