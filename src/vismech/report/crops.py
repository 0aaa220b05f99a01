"""Which part of an image a pointwise feature vector is shown by, and where it is lit.

A field is a signed map over the pixels of the image as the model sees it; only its positive part is shown. What is kept
of it is small and of no particular size on a screen: a box of the image, and the light in its cells.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from vismech.errors import UserError
from vismech.report.patches import as_picture, finite_map, lit

MASS = 0.8
CONTEXT, SQUARE_CONTEXT = 0.25, 1.0
CELLS = 16  # light is averaged over so many cells a side and smoothed: fields are speckled, and perforated by strides
SMOOTHING = 2
LEAST_PIXELS = 24
CROP_DIMMED, MAP_DIMMED = 0.45, 0.28
MAP_CELLS = 56
LIT = 0.5  # share of a localisation that its bright region holds


class Square(NamedTuple):
    """A square of whole pixels."""

    left: int
    top: int
    side: int


class Crop(NamedTuple):
    """A part of an image, and the light on it.

    Attributes:
        box: left, top, right, bottom in pixels of the image as the model sees it.
        light: 1 in full colour, 0 dimmed, in cells over the box.
    """

    box: tuple[float, float, float, float]
    light: Float[ndarray, "rows columns"]


def smallest_square(field: Float[ndarray, "height width"], mass: float = MASS) -> Square | None:
    """The smallest square inside the image that holds the share ``mass`` of the field's positive part.

    Of several of that size, the one that holds most. Where even the largest square holds less, the best of these; None
    where nothing is positive.

    Raises:
        UserError: a field that is no finite map, a share outside (0, 1].
    """
    if not 0 < mass <= 1:
        raise UserError(f"describe.mass={mass} must be above 0 and at most 1: it is a share of the receptive field")
    positive = np.maximum(finite_map(field), 0)
    height, width = positive.shape
    table = np.zeros((height + 1, width + 1))
    table[1:, 1:] = positive.cumsum(0).cumsum(1)
    total = table[-1, -1]
    if total <= 0:
        return None

    def held(side: int) -> Float[ndarray, "rows columns"]:
        return table[side:, side:] - table[:-side, side:] - table[side:, :-side] + table[:-side, :-side]

    # A square holds at least what any smaller one inside it does, so that the smallest can be found by halving.
    low, high, enough = 1, min(height, width), mass * total * (1 - 1e-9)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if held(middle).max() >= enough else (middle + 1, high)
    top, left = np.unravel_index(int(held(low).argmax()), held(low).shape)
    return Square(int(left), int(top), low)


def field_crop(
    field: Float[ndarray, "height width"], mass: float = MASS, context: float = CONTEXT, least: int = LEAST_PIXELS
) -> Crop:
    """The part of an image that a feature vector came from, bright in its context.

    The box is :func:`smallest_square` with a margin of ``context`` sides all round, at least ``least`` pixels (or a
    quarter of a small image), moved inside the image where it would reach over the edge. Bright is the smallest region
    that holds ``mass`` of what the box has, averaged over 16 × 16 cells and smoothed; outside, light fades with the
    field. Without a positive value the whole image is dimmed.

    Raises:
        UserError: a field that is no finite map, a share or margin out of range.
    """
    _check_context(context)
    height, width = np.shape(field) if np.ndim(field) == 2 else (0, 0)
    square = smallest_square(field, mass) or Square(0, 0, max(height, width))
    middle = (square.left + square.side / 2, square.top + square.side / 2)
    box = _box(middle, max(square.side * (1 + 2 * context), min(least, min(width, height) / 4)), (width, height))
    positive = Image.fromarray(np.maximum(np.asarray(field), 0).astype(np.float32))
    cells = np.asarray(positive.resize((CELLS, CELLS), Image.Resampling.BOX, box=box), dtype=np.float64)
    return Crop(box, _light(cells, mass))


def position_crop(
    position: tuple[int, int],
    grid: tuple[int, int],
    size: tuple[int, int],
    context: float = SQUARE_CONTEXT,
    least: int = LEAST_PIXELS,
) -> Crop:
    """The square that a position covers when its grid is laid over an image of ``size`` (width, height), all bright.

    That square is not what the position saw, which is usually larger. Its side is ``max(height/h, width/w)`` with a
    margin of ``context`` sides, at least ``least`` pixels (or a quarter of a small image); it is moved inside the
    image.

    Raises:
        UserError: the position is outside the grid, or context is negative.
    """
    (row, column), (h, w), (width, height) = position, grid, size
    if not (0 <= row < h and 0 <= column < w):
        raise UserError(f"position {position} is outside the grid {grid}; rows and columns count from 0.")
    _check_context(context)
    middle = ((column + 0.5) * width / w, (row + 0.5) * height / h)
    box = _box(middle, max(max(height / h, width / w) * (1 + 2 * context), min(least, min(size) / 4)), size)
    return Crop(box, np.ones((CELLS, CELLS)))


def map_light(
    map: Float[ndarray, "height width"], share: float = LIT, cells: int = MAP_CELLS
) -> Float[ndarray, "rows columns"]:
    """Light over a whole image: 1 in the smallest region that holds ``share`` of the map's positive part, then less.

    There are ``cells`` a side, or as many as pixels where these are fewer.

    Raises:
        UserError: the map is not two-dimensional or holds NaN or infinity.
    """
    height, width = finite_map(map).shape
    positive = Image.fromarray(np.maximum(np.asarray(map), 0).astype(np.float32))
    small = positive.resize((min(cells, width), min(cells, height)), Image.Resampling.BOX)
    return _light(np.asarray(small, dtype=np.float64), share)


def draw_crop(image: Image.Image | UInt8[ndarray, "height width 3"], crop: Crop, size: int) -> Image.Image:
    """The crop as ``size × size`` pixels."""
    part = as_picture(image).resize((size, size), Image.Resampling.LANCZOS, box=crop.box)
    return lit(part, _spread(crop.light, part.size), CROP_DIMMED)


def draw_light(
    image: Image.Image | UInt8[ndarray, "height width 3"],
    light: Float[ndarray, "rows columns"],
    size: tuple[int, int] | None = None,
) -> Image.Image:
    """The whole image under a light, as ``size`` (width, height) pixels; None: its own."""
    picture = as_picture(image)
    if size is not None and size != picture.size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return lit(picture, _spread(light, picture.size), MAP_DIMMED)


def _box(middle: tuple[float, float], side: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The square of ``side`` pixels around ``middle`` (x, y), at most the shorter side of the image of ``size`` (width,
    height) and moved inside it: left, top, right, bottom.
    """
    side = min(side, *size)
    left, top = (min(max(centre - side / 2, 0), length - side) for centre, length in zip(middle, size, strict=True))
    return left, top, left + side, top + side


def _check_context(context: float) -> None:
    if not context >= 0:
        raise UserError(f"describe.context={context} must not be negative: it is a margin in sides of the square")


def _light(cells: Float[ndarray, "rows columns"], mass: float) -> Float[ndarray, "rows columns"]:
    """Light of cells: 1 in the smallest region with ``mass`` of them after smoothing, then less."""
    for _ in range(SMOOTHING):
        for axis in (0, 1):
            padded = np.pad(cells, [(1, 1) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
            before, here, after = (padded.take(range(start, start + cells.shape[axis]), axis) for start in (0, 1, 2))
            cells = (before + 2 * here + after) / 4
    if cells.max() <= 0:
        return np.zeros(cells.shape)
    ordered = np.sort(cells, axis=None)[::-1]
    level = ordered[np.searchsorted(ordered.cumsum(), mass * ordered.sum() * (1 - 1e-9))]
    return (cells / level).clip(0, 1)


def _spread(light: Float[ndarray, "rows columns"], size: tuple[int, int]) -> Float[ndarray, "height width"]:
    """Light per pixel of a picture of ``size`` (width, height)."""
    spread = Image.fromarray(np.asarray(light, dtype=np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(spread, dtype=np.float64)
