"""Pictures of pointwise feature vectors by their effective receptive fields (METHOD §2, §6).

A field is a signed map over the pixels of the image as the model sees it; only its positive part is shown.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, ImageDraw, ImageFont

from vismech.errors import UserError
from vismech.report.patches import LEAST_PIXELS, THUMBNAIL, as_picture, finite_map, lit, square_box

MASS = 0.8
CONTEXT = 0.25
CELLS = 16  # light is averaged over so many cells a side and smoothed: fields are speckled, and perforated by strides
SMOOTHING = 2
DIMMED = 0.45
MAP_CELLS = 56
LIT = 0.5  # share of a localisation that its bright region holds
LINE = 16


class Square(NamedTuple):
    """A square of whole pixels."""

    left: int
    top: int
    side: int


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


def field_patch(
    image: Image.Image | UInt8[ndarray, "height width 3"],
    field: Float[ndarray, "height width"],
    mass: float = MASS,
    context: float = CONTEXT,
    size: int = THUMBNAIL,
    least: int = LEAST_PIXELS,
) -> Image.Image:
    """The part of the image that a feature vector came from, bright in dimmed context: a thumbnail of ``size`` pixels.

    The crop is :func:`smallest_square` with a margin of ``context`` sides all round, at least ``least`` pixels, moved
    inside the image where it would reach over the edge. Bright is the smallest region that holds ``mass`` of what the
    crop has, averaged over 16 × 16 cells and smoothed; outside, light fades with the field. Without a positive value
    all is dimmed.

    Raises:
        UserError: no RGB image of 8 bits, a field of another size, not finite, a share or margin out of range.
    """
    picture = as_picture(image)
    width, height = picture.size
    if np.shape(field) != (height, width):
        raise UserError(
            f"the field has shape {np.shape(field)}, the image {(height, width)}: give both as the model sees them"
        )
    if not context >= 0:
        raise UserError(f"describe.context={context} must not be negative: it is a margin in sides of the square")
    square = smallest_square(field, mass) or Square(0, 0, max(height, width))
    middle = (square.left + square.side / 2, square.top + square.side / 2)
    box = square_box(middle, max(square.side * (1 + 2 * context), least), picture.size)
    crop = picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
    positive = Image.fromarray(np.maximum(np.asarray(field), 0).astype(np.float32))
    cells = np.asarray(positive.resize((CELLS, CELLS), Image.Resampling.BOX, box=box), dtype=np.float64)
    return lit(crop, _light(cells, mass, (size, size)), DIMMED)


def _light(cells: Float[ndarray, "rows columns"], mass: float, size: tuple[int, int]) -> Float[ndarray, "height width"]:
    """Light of ``size`` (width, height): 1 in the smallest region with ``mass`` of the smoothed cells, then less."""
    for _ in range(SMOOTHING):
        for axis in (0, 1):
            padded = np.pad(cells, [(1, 1) if axis == each else (0, 0) for each in (0, 1)], mode="edge")
            before, here, after = (padded.take(range(start, start + cells.shape[axis]), axis) for start in (0, 1, 2))
            cells = (before + 2 * here + after) / 4
    if cells.max() <= 0:
        return np.zeros(size[::-1])
    ordered = np.sort(cells, axis=None)[::-1]
    level = ordered[np.searchsorted(ordered.cumsum(), mass * ordered.sum() * (1 - 1e-9))]
    light = Image.fromarray((cells / level).clip(0, 1).astype(np.float32)).resize(size, Image.Resampling.BILINEAR)
    return np.asarray(light, dtype=np.float64)


def card_picture(patches: Sequence[bytes], captions: Sequence[str], title: str, columns: int = 5) -> Image.Image:
    """A card of its own: a title over the PNG patches in rows, each with a caption below."""
    width, height = THUMBNAIL + 8, THUMBNAIL + LINE + 8
    rows = -(-len(patches) // columns)
    card = Image.new("RGB", (columns * width + 8, rows * height + LINE + 8), "white")
    draw, font = ImageDraw.Draw(card), ImageFont.load_default(size=12)
    draw.text((8, 4), title, "black", font)
    for index, (png, caption) in enumerate(zip(patches, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = 8 + column * width, LINE + 8 + row * height
        card.paste(Image.open(io.BytesIO(png)), (left, top))
        draw.text((left, top + THUMBNAIL), caption, "grey", font)
    return card


def localization_picture(
    image: Image.Image, maps: Mapping[str, Float[ndarray, "height width"]], title: str
) -> Image.Image:
    """The image, and for each map the image bright in the smallest region that holds half of its positive part."""
    width, height = image.size
    shown = {title: image}
    for name, map in maps.items():
        cells = min(MAP_CELLS, width), min(MAP_CELLS, height)
        positive = Image.fromarray(np.maximum(finite_map(map), 0).astype(np.float32))
        coarse = np.asarray(positive.resize(cells, Image.Resampling.BOX), dtype=np.float64)
        shown[name] = lit(image, _light(coarse, LIT, image.size))
    picture = Image.new("RGB", (len(shown) * (width + 8) + 8, height + LINE + 16), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=12)
    for index, (name, part) in enumerate(shown.items()):
        left = 8 + index * (width + 8)
        draw.text((left, 4), name, "black", font)
        picture.paste(part, (left, LINE + 8))
    return picture
