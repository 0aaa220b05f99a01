"""How much of a concept survives in the few pixels that a localisation map points at, the rest in the mean colour.

Images are normalised with the model's mean, so zero is the mean colour. A concept's value in image a is a projection
``s(a) = <x_p(a), v>``, read at one position p (:class:`Place`).

Legend: B images, P positions, C channels, K concepts, H×W pixels; of a finished pass: n images, q concepts of each.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.network.cut import Network
from vismech.network.pfv import Layout
from vismech.receptive_field.gradient import finite, pixel_gradient

TOLERANCE = 0.1
"""A pair is skipped when a blank image reaches the clean projection to within this share of it."""


class Region(StrEnum):
    """What chooses the pixels that are kept: three maps of the concept, and three choices that know nothing of it.

    ``random`` and ``centre`` are squares; ``random_pixels`` are scattered, as the pixels of a noisy map are.
    """

    receptive_fields = "receptive_fields"
    upsampling = "upsampling"
    gradient_x_input = "gradient_x_input"
    random = "random"
    random_pixels = "random_pixels"
    centre = "centre"


class Place(StrEnum):
    """Where a concept is read: at the position of the clean image, or wherever it is now largest.

    ``same``: p* = argmax_p <x_p, v> on the clean image among positions of positive code, as targets of Generalized
    Integrated Gradients are read; ``any``: max over p, as insertion between layers is read (Kim et al. 2024), which the
    edges between kept pixels and the mean colour may satisfy too.
    """

    same = "same"
    any = "any"


def strongest_concepts(codes: Float[Tensor, "b p k"], count: int, mean_index: int | None = None) -> Int[Tensor, "b q"]:
    """The ``count`` concepts of largest ``Σ_p max(u_pk, 0)²`` in each image; −1 where fewer have a positive code.

    Only the positive part counts, since maps show where a concept is and not where it is taken away. The mean concept,
    ``mean_index``, has the same code everywhere, hence no place.
    """
    energy = codes.clamp(min=0).square().sum(1)
    if mean_index is not None:
        energy[:, mean_index] = 0
    order = energy.sort(dim=1, descending=True, stable=True)
    return order.indices[:, :count].masked_fill(order.values[:, :count] == 0, -1)


def pixel_count(fraction: float, size: tuple[int, int]) -> int:
    """``⌈fraction · H · W⌉``; a product that is whole but for its rounding stays what it is."""
    return math.ceil(fraction * size[0] * size[1] - 1e-9)


def top_pixels(maps: Float[Tensor, "b H W"], count: int) -> Bool[Tensor, "b H W"]:
    """The ``count`` largest pixels of each map; of equal ones those that come first in row-major order."""
    order = maps.flatten(1).sort(dim=1, descending=True, stable=True).indices[:, :count]
    return torch.zeros_like(maps, dtype=torch.bool).flatten(1).scatter_(1, order, True).view_as(maps)


def square(size: tuple[int, int], count: int, place: tuple[float, float] = (0.5, 0.5)) -> Bool[Tensor, "H W"]:
    """A square of ``count`` pixels inside an image that has room for it, but for what its last row lacks.

    Args:
        size: H, W.
        count: number of pixels.
        place: in [0, 1)², from the upper left to the lower right of all places where the square lies inside; ½, ½ is
            the centre.
    """
    rows = math.isqrt(count - 1) + 1
    columns = -(-count // rows)
    top, left = (
        int(part * (side - length + 1)) for part, side, length in zip(place, size, (rows, columns), strict=True)
    )
    found = torch.zeros(size, dtype=torch.bool)
    inside = torch.arange(rows * columns).view(rows, columns) < count
    found[top : top + rows, left : left + columns] = inside
    return found


def projections(
    network: Network, layer: str, layout: Layout, images: Float[Tensor, "b c H W"], atoms: Float[Tensor, "b k"]
) -> Float[Tensor, "b p"]:
    """``<x_p, v>`` at every position, for one concept vector v of each image.

    Raises:
        ValueError: a projection that is NaN or infinite.
    """
    vectors = layout.vectors(network.activations(images, [layer])[layer])
    found = torch.bmm(vectors, atoms[:, :, None])[:, :, 0]
    if not found.isfinite().all():
        raise ValueError(f"projections on concepts of layer {layer!r} are NaN or infinite: look at the activations")
    return found


def read(projection: Float[Tensor, "b p"], strongest: Int[Tensor, " b"]) -> Float[Tensor, "b 2"]:
    """The concept's value at each :class:`Place`, of which ``strongest`` is p* of the clean image."""
    return torch.stack([projection.gather(1, strongest[:, None])[:, 0], projection.amax(1)], 1)


def gradient_maps(
    network: Network,
    layer: str,
    layout: Layout,
    images: Float[Tensor, "b c H W"],
    codes: Float[Tensor, "b p"],
    atoms: Float[Tensor, "b k"],
) -> Float[Tensor, "b H W"]:
    """``max(Σ_c a_c ∂g/∂a_c, 0)`` of ``g = Σ_p max(u_p, 0) <x_p, v>``, the codes u held fixed: one backward pass.

    Gradient × input (Shrikumar et al. 2016) of a concept's projection, each position weighed by its positive code, for
    one concept vector v of each image a.

    Raises:
        ValueError: a gradient that is NaN or infinite.
    """
    seeds = codes.clamp(min=0)[..., None] * atoms[:, None]
    gradient = pixel_gradient(network, layer, layout, images, seeds)
    return finite((images * gradient).sum(1), layer).clamp(min=0)


class Survival(NamedTuple):
    """What is left of concepts, pair by pair.

    Attributes:
        measured: pairs of an image and a concept that count; the others' shares below are zero.
        projection: ``s(kept) / s(clean)``.
        recovery: ``(s(kept) − s(blank)) / (s(clean) − s(blank))``: 0 for a blank image, 1 for the clean one, beyond
            either where the pixels left out spoke for or against the concept.
    """

    measured: Bool[np.ndarray, "n q"]
    projection: Float[np.ndarray, "n q *regions"]
    recovery: Float[np.ndarray, "n q *regions"]


def survival(
    kept: Float[np.ndarray, "n q *regions"], clean: Float[np.ndarray, "n q"], blank: Float[np.ndarray, "n q"]
) -> Survival:
    """Shares of the projections ``s`` that survive in the kept pixels, in float64.

    A pair counts where ``s(clean) > 0`` and ``s(clean) − s(blank) > TOLERANCE · s(clean)``: what a blank image shows as
    well, or more strongly, lies nowhere in the image, and dividing by the little difference would drown every mean.
    """
    clean, blank = clean.astype(np.float64), blank.astype(np.float64)
    measured = (clean > 0) & (clean - blank > TOLERANCE * clean)
    shape = (*clean.shape, *[1] * (kept.ndim - 2))

    def over(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        divisor = np.where(measured, denominator, 1).reshape(shape)
        return np.where(measured.reshape(shape), numerator / divisor, 0)

    return Survival(measured, over(kept.astype(np.float64), clean), over(kept - blank.reshape(shape), clean - blank))


def image_means(values: Float[np.ndarray, "n q"], measured: Bool[np.ndarray, "n q"]) -> Float[np.ndarray, " m"]:
    """Mean over the measured pairs of each image that has any: the independent cases of a bootstrap."""
    some = measured.any(1)
    return (values * measured)[some].sum(1) / measured[some].sum(1)
