"""Planted circuits as convolutional networks with hand-set weights, and the images that they read.

The activation of layer l at p is ``a_l(p) D_l``, concept maps a_l written in concept directions D_l [K_l, C_l]. A layer
is one 3×3 convolution, which reads its concepts back (with D's pseudo-inverse, or D itself where there are more
concepts than channels), a ReLU, and one 1×1 convolution, which writes. Layer 1 reads the textures of an image.

Legend: N images, K concepts, C channels, D numbers of a texture, h × w positions, y × x pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vismech.measures.planted.circuits import COHERENCE, Circuit, Concept

PATCH, COLOURS = 4, 3
"""Pixels per position and side, colours of a pixel."""


class PlantedNetwork(NamedTuple):
    """A circuit as a network.

    Attributes:
        circuit: its equations.
        model: images [N, 3, 40, 40] → the last layer's activation; children ``layer1`` … are the layers.
        frames: D_l as rows, one per layer.
        textures: how each source looks in an image.
    """

    circuit: Circuit
    model: nn.Sequential
    frames: list[Float[Tensor, "k c"]]
    textures: Float[Tensor, "k d"]

    def images(
        self, codes: Float[Tensor, "n k h w"], noise: float = 0.0, purpose: str = "noise"
    ) -> Float[Tensor, "n 3 y x"]:
        """Images in which every concept shows as its texture, times its strength; plus Gaussian noise per pixel."""
        patches = torch.einsum("nkhw,kd->nhwd", codes, self.textures).unflatten(3, (COLOURS, PATCH, PATCH))
        images = patches.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        if noise:
            drawn = self.circuit.generator(purpose).normal(size=tuple(images.shape))
            images = images + noise * torch.from_numpy(drawn).float()
        return images


def plant(circuit: Circuit) -> PlantedNetwork:
    """The network of a circuit; its frames and textures are random and depend on the circuit's name and seed only."""
    draw = circuit.generator("frames")
    textures = _orthonormal(draw, len(circuit.sources), COLOURS * PATCH**2)
    frames = []
    for layer, width in enumerate(circuit.widths):
        if layer == 0 and circuit.superposed is not None:
            frames.append(_incoherent(draw, width, circuit.superposed))
        elif circuit.oblique:
            frames.append(_normalised(draw.normal(size=(width, width + 2))))
        else:
            frames.append(_orthonormal(draw, width, width + 2))
    reader = nn.Conv2d(COLOURS, len(textures), PATCH, PATCH, bias=False)
    readers = [_filled(reader, textures.reshape(-1, COLOURS, PATCH, PATCH))]
    writers = [frames[0].T]
    for layer, below, own in zip(circuit.layers, frames, frames[1:], strict=False):
        readers.append(_reading(layer, below))
        writers.append(_writing(layer, own))
    stages: OrderedDict[str, nn.Module] = OrderedDict(
        (f"layer{place}", nn.Sequential(reading, nn.ReLU(), _pointwise(writing)))
        for place, (reading, writing) in enumerate(zip(readers, writers, strict=True), 1)
    )
    model = nn.Sequential(stages).eval().requires_grad_(False)
    return PlantedNetwork(circuit, model, [torch.from_numpy(frame).float() for frame in frames], _tensor(textures))


def _reading(layer: Sequence[Concept], frame: np.ndarray) -> nn.Conv2d:
    """The convolution that gives a layer's hidden units from the activation below, whose concepts are ``frame``."""
    read = frame if len(frame) > frame.shape[1] else np.linalg.pinv(frame).T
    units = [unit for concept in layer for unit in concept]
    kernel = np.zeros((len(units), frame.shape[1], 3, 3))
    for row, unit in zip(kernel, units, strict=True):
        for wire in unit.wires:
            row[:, 1 + wire.offset[0], 1 + wire.offset[1]] += wire.weight * read[wire.source]
    convolution = nn.Conv2d(frame.shape[1], len(units), 3, padding=1)
    return _filled(convolution, kernel, np.array([unit.bias for unit in units]))


def _writing(layer: Sequence[Concept], frame: np.ndarray) -> np.ndarray:
    return np.stack([unit.weight * frame[own] for own, concept in enumerate(layer) for unit in concept], 1)


def _pointwise(matrix: np.ndarray) -> nn.Conv2d:
    return _filled(nn.Conv2d(matrix.shape[1], len(matrix), 1, bias=False), matrix[:, :, None, None])


@torch.no_grad()
def _filled(convolution: nn.Conv2d, kernel: np.ndarray, bias: np.ndarray | None = None) -> nn.Conv2d:
    convolution.weight.copy_(_tensor(kernel))
    if bias is not None and convolution.bias is not None:
        convolution.bias.copy_(_tensor(bias))
    return convolution


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).float()


def _normalised(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _orthonormal(draw: np.random.Generator, count: int, channels: int) -> np.ndarray:
    return np.linalg.qr(draw.normal(size=(channels, count)))[0].T


def _incoherent(draw: np.random.Generator, count: int, channels: int) -> np.ndarray:
    """Unit vectors of small cosines: the Gram matrix is clipped and projected to its rank in turns (Tropp et al. 2005).

    Raises:
        ValueError: vectors that stay closer than :data:`COHERENCE`.
    """
    frame, off = _normalised(draw.normal(size=(count, channels))), ~np.eye(count, dtype=bool)
    for _ in range(2000):
        gram = frame @ frame.T
        if np.abs(gram[off]).max() <= COHERENCE:
            return frame
        gram[off] = np.clip(gram[off], -0.8 * COHERENCE, 0.8 * COHERENCE)
        values, vectors = np.linalg.eigh(gram)
        frame = _normalised(vectors[:, -channels:] * np.sqrt(np.maximum(values[-channels:], 0)))
    raise ValueError(f"{count} vectors in {channels} channels stay closer than a cosine of {COHERENCE}")
