"""Pictures of pointwise feature vectors by plain upsampling of the activation grid, and their PNG bytes.

Symbols: an image has `height × width` pixels in the model's input geometry, a layer's grid has `h × w` positions;
position (row, col) covers the rectangle of `height/h × width/w` pixels that nearest-neighbour upsampling of the grid
gives it. That rectangle is not the effective receptive field, which is usually larger.
"""

from __future__ import annotations

import io
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image

from vismech.errors import UserError

THUMBNAIL = 96
LEAST_PIXELS = 24
DIMMED = 0.28
GREY = np.array([0.299, 0.587, 0.114])


class Patch(NamedTuple):
    """One small picture: its PNG bytes, what to write under it, the cosine to its concept, and the image it is from."""

    png: bytes
    caption: str
    cosine: float
    image: str


class Card(NamedTuple):
    """What is shown of one concept: its nearest patches, the share of sampled vectors it holds (0–1), and a remark."""

    patches: list[Patch]
    size: float
    note: str


def patch(
    image: Image.Image | UInt8[ndarray, "height width 3"],
    position: tuple[int, int],
    grid: tuple[int, int],
    context: float = 0.5,
    size: int = THUMBNAIL,
    least: int = LEAST_PIXELS,
) -> Image.Image:
    """The square of the image that a position covers, with a margin, as a thumbnail of `size × size` pixels.

    The square has side `max(height/h, width/w) · (1 + 2·context)` pixels, at least `least` and at most the image's
    shorter side, is centred on the position and is moved inside the image where it would reach over the edge.

    Raises:
        UserError: the image is not RGB of 8 bits, the position is outside the grid, or context is negative.
    """
    picture = as_picture(image)
    (row, col), (h, w) = position, grid
    if not (0 <= row < h and 0 <= col < w):
        raise UserError(f"position {position} is outside the grid {grid}; rows and columns count from 0.")
    if not context >= 0:
        raise UserError(f"context must be 0 or more cells of margin, got {context}.")
    width, height = picture.size
    middle = ((col + 0.5) * width / w, (row + 0.5) * height / h)
    box = square_box(middle, max(max(height / h, width / w) * (1 + 2 * context), least), picture.size)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=box)


def square_box(middle: tuple[float, float], side: float, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The square of ``side`` pixels around ``middle`` (x, y), at most the shorter side of the image of ``size`` (width,
    height) and moved inside it: left, top, right, bottom.
    """
    side = min(side, *size)
    left, top = (min(max(centre - side / 2, 0), length - side) for centre, length in zip(middle, size, strict=True))
    return left, top, left + side, top + side


def lit(picture: Image.Image, light: Float[ndarray, "height width"], dimmed: float = DIMMED) -> Image.Image:
    """The picture in full colour where ``light`` is 1, grey and dimmed to ``dimmed`` where it is 0."""
    pixels = np.asarray(picture, dtype=np.float64)
    shade = dimmed * (pixels @ GREY)[..., None]
    return Image.fromarray(np.rint(light[..., None] * pixels + (1 - light[..., None]) * shade).astype(np.uint8))


def finite_map(map: Float[ndarray, "h w"]) -> Float[ndarray, "h w"]:
    """A map in double precision.

    Raises:
        UserError: the map is not two-dimensional or holds NaN or infinity.
    """
    values = np.asarray(map, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise UserError(f"a map has shape [h, w], got {values.shape}.")
    if not np.isfinite(values).all():
        raise UserError(f"the map holds {int((~np.isfinite(values)).sum())} NaN or infinite values; mend its source.")
    return values


def heat_overlay(
    image: Image.Image | UInt8[ndarray, "height width 3"], map: Float[ndarray, "h w"], dimmed: float = DIMMED
) -> Image.Image:
    """The image lit by a map: in full colour where the map is largest, grey and dimmed to `dimmed` where it is zero.

    The negative part is dropped (METHOD §6), the rest divided by its largest value and upsampled bilinearly; a map
    without a positive value dims the whole image.

    Raises:
        UserError: the map is not two-dimensional or holds NaN or infinity.
    """
    picture = as_picture(image)
    positive = np.maximum(finite_map(map), 0)
    if positive.max() > 0:
        positive = positive / positive.max()
    layer = Image.fromarray(positive.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR)
    return lit(picture, np.asarray(layer, dtype=np.float64), dimmed)


def encode_png(image: Image.Image | UInt8[ndarray, "height width 3"]) -> bytes:
    """PNG bytes that depend on the pixels only: profiles, dates and comments of the image are left out."""
    clean = Image.fromarray(np.asarray(as_picture(image)))
    buffer = io.BytesIO()
    clean.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def as_picture(image: Image.Image | UInt8[ndarray, "height width 3"]) -> Image.Image:
    """An image or array as an RGB picture.

    Raises:
        UserError: an array of another shape or type.
    """
    if isinstance(image, Image.Image):
        return image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise UserError(f"an image has shape [height, width, 3] and type uint8, got {array.shape} of {array.dtype}.")
    return Image.fromarray(array)
