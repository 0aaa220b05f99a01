"""Gradients at random points, which SmoothGrad and the variances take; as many draws in a pass as fit into it.

Legend: I images, P positions, N numbers of a position, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.coordinates import Coordinates
from vismech.attribution.model_calls import Problem, slopes
from vismech.draws import generator_of


class Drawn(NamedTuple):
    """Gradients of some images at one draw, for each target that is wanted."""

    draw: int
    gradients: list[Float[Tensor, "i p c"]]


def drawn_slopes(
    problem: Problem,
    images: Int[Tensor, " i"],
    draws: int,
    rows: int,
    wanted: list[int],
    point: Callable[[int], Float[Tensor, "i p c"]],
) -> Iterator[Drawn]:
    """Gradients at ``point(draw)`` of all the images, draw by draw, as many draws in a pass as fit into it.

    Args:
        problem: segment, clean activations and targets.
        images: at most ``rows`` of them.
        draws: how many; each is asked for once, in their order.
        rows: points in a pass.
        wanted: targets.
        point: PFVs of the images at a draw.
    """
    for some in torch.arange(draws if wanted else 0).split(max(1, rows // len(images))):
        points = torch.cat([point(draw) for draw in some.tolist()])
        told = slopes(problem, points, images.repeat(len(some)), wanted)
        each = zip(*(gradient.split(len(images)) for gradient in told.gradients), strict=True)
        for draw, gradients in zip(some.tolist(), each, strict=True):
            yield Drawn(draw, list(gradients))


def noise_of(
    numbers: Coordinates, images: Int[Tensor, " i"], noise: float, seed: int
) -> Callable[[int], Float[Tensor, "i p n"]]:
    """Noisy ends of SmoothGrad, ``noise`` times the range of each image's numbers; each call is one more draw."""
    shape, end = numbers.end.shape[1:], numbers.end[images]
    flat = end.flatten(1)
    scale = noise * (flat.amax(1) - flat.amin(1))[:, None, None]
    differs = numbers.differs[images].unflatten(1, shape)
    generator = generator_of(seed, "smooth_grad", *shape)

    def noisy(draw: int) -> Float[Tensor, "i p n"]:
        drawn = torch.from_numpy(generator.standard_normal(tuple(shape), dtype="float32")).to(end)
        return end + scale * drawn * differs

    return noisy
