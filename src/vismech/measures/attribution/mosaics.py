"""Focus: how much of the positive relevance for a class lies on what is of that class (Arias-Duart et al. 2022).

A mosaic is four images in the quadrants of one, two of a class and two of others, so that where the class is is known
without boxes.

Legend: T targets, W attributions, P positions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.measures.attribution.scores import Measured, ratio


class Mosaic(NamedTuple):
    """One that is to be measured.

    Attributes:
        row: of the image, whose class it is about.
        targets: those that are measured.
        tiles: rows of its four images, the first two of the class.
        places: the quadrant of each.
        shuffled: an order of the positions, for the control.
    """

    row: int
    targets: Int[Tensor, " t"]
    tiles: list[int]
    places: tuple[int, ...]
    shuffled: Int[Tensor, " p"]


def mosaic(tiles: Float[Tensor, "4 c h w"], places: tuple[int, ...]) -> Float[Tensor, "c h w"]:
    """Four images at half their size; ``places`` says which quadrant (row-major) each goes to."""
    rows, columns = tiles.shape[2:]
    found = tiles.new_zeros(tiles.shape[1:])
    for tile, place in zip(tiles, places, strict=True):
        down, across = divmod(place, 2)
        up = slice(0, rows // 2) if down == 0 else slice(rows // 2, rows)
        along = slice(0, columns // 2) if across == 0 else slice(columns // 2, columns)
        size = (up.stop - up.start, along.stop - along.start)
        found[:, up, along] = torch.nn.functional.interpolate(tile[None], size, mode="bilinear", antialias=True)[0]
    return found


def quadrants(grid: tuple[int, int], places: tuple[int, ...]) -> tuple[Bool[Tensor, " p"], Bool[Tensor, " p"]]:
    """Positions in any of the quadrants, and positions in any at all: a middle row or column is in none."""
    down, across = ((torch.arange(size) * 2 + 1 - size).sign() for size in grid)
    inside = torch.zeros(grid, dtype=torch.bool)
    for place in places:
        row, column = divmod(place, 2)
        inside |= (down[:, None] == 2 * row - 1) & (across == 2 * column - 1)
    return inside.flatten(), ((down[:, None] != 0) & (across != 0)).flatten()


def focus(relevance: Float[Tensor, "t w p"], inside: Bool[Tensor, " p"], anywhere: Bool[Tensor, " p"]) -> Measured:
    """``Σ positive relevance inside / Σ positive relevance``; it does not exist where no relevance is positive."""
    positive = relevance.clamp(min=0)
    return ratio(positive[..., inside].sum(2), positive[..., anywhere].sum(2))
