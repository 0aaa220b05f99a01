"""A Gaussian blur of images: what is left is the light and the colours of a photograph, without its edges.

Legend: B images, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import conv2d, pad

REACH = 3.0
"""Standard deviations after which the kernel ends."""


def blurred(images: Float[Tensor, "b c h w"], share: float) -> Float[Tensor, "b c h w"]:
    """Images under a Gaussian, its standard deviation being ``share`` of the shorter side; borders are continued.

    It is linear and keeps what is constant, so that blurred normalised images are normalised blurred ones.
    """
    deviation = share * min(images.shape[2:])
    reach = max(1, math.ceil(REACH * deviation))
    kernel = torch.arange(-reach, reach + 1, dtype=torch.float64).div(deviation).square().div(-2).exp()
    kernel = (kernel / kernel.sum()).to(images)
    flat = images.flatten(0, 1)[:, None]
    for way in (kernel[:, None], kernel[None, :]):
        rows, columns = way.shape[0] // 2, way.shape[1] // 2
        flat = conv2d(pad(flat, (columns, columns, rows, rows), mode="replicate"), way[None, None])
    return flat[:, 0].unflatten(0, images.shape[:2]).contiguous(memory_format=_format(images))


def _format(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
