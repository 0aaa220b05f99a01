"""ROAD: what removing pixels costs when they are filled in from their neighbours (Rong et al. 2022).

Removed pixels are the solution of ``x_i = Σ_j w_ij x_j / Σ_j w_ij`` over the eight neighbours, 1/6 for those at a side
and 1/12 for those at a corner, plus a little noise: no value tells any more that a pixel was removed. A known bias
stays: a map that is blurry removes whole patches, which cannot be filled in, and scores better than one that points at
single pixels just as right, whose pixels their neighbours give back.

Legend: M masks, H×W pixels, C channels.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NOISE = 0.01
KERNEL = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))


def imputed(
    image: Float[Tensor, "c h w"],
    removed: Bool[Tensor, "m h w"],
    generator: torch.Generator,
    tolerance: float = 1e-4,
    rounds: int = 500,
) -> Float[Tensor, "m c h w"]:
    """The image with the pixels of each mask filled in.

    The equations of all masks and channels are solved at once by conjugate gradients: with the neighbours' weights
    brought to one side the matrix is symmetric and positive. Where everything is removed there is nothing to fill in
    from, and pixels are the noise alone.

    Args:
        image: pixels, normalised.
        removed: masks.
        generator: of the noise.
        tolerance: relative residual at which a mask is done.
        rounds: the most of them.
    """
    gone = removed[:, None].to(image)
    known = image * (1 - gone)
    weights = _neighbours(torch.ones_like(known[:1, :1]))

    def times(x: Tensor) -> Tensor:
        return (weights * x - _neighbours(x)) * gone

    right = _neighbours(known) * gone
    found, residual = torch.zeros_like(known), right.clone()
    way, size = residual.clone(), _square(residual)
    least = tolerance**2 * size
    for _ in range(rounds):
        if (size <= least).all():
            break
        step = times(way)
        length = torch.where(size > least, size / _square(way, step).clamp(min=1e-30), 0)
        found, residual = found + length * way, residual - length * step
        new = _square(residual)
        way, size = residual + torch.where(size > 0, new / size.clamp(min=1e-30), 0) * way, new
    noise = torch.randn(image.shape, generator=generator).to(image) * NOISE
    return known + gone * (found + noise)


def _neighbours(x: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
    kernel = torch.tensor(KERNEL).to(x)[None, None]
    return torch.nn.functional.conv2d(x.flatten(0, 1)[:, None], kernel, padding=1)[:, 0].view_as(x)


def _square(x: Tensor, y: Tensor | None = None) -> Float[Tensor, "m 1 1 1"]:
    return (x * (x if y is None else y)).sum((1, 2, 3), keepdim=True)
