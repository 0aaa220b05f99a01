"""Small pictures of concepts as the page and the figure take them: PNG bytes, and what is said of them."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from PIL import Image, features

from vismech.errors import UserError

THUMBNAIL = 96
WEBP_QUALITY = 90
NEAR = 0.5
"""The cosine below which a vector is far from a concept: it shares less than a quarter of its square."""
GREY = np.array([0.299, 0.587, 0.114])


class Patch(NamedTuple):
    """One small picture: its PNG bytes, what to write under it, the cosine to its concept, and the image it is from."""

    png: bytes
    caption: str
    cosine: float
    image: str


class Presence(NamedTuple):
    """Where a concept is in a photograph: its light in cells, 0–255, and its edge to the class there."""

    light: UInt8[ndarray, "rows columns"]
    edge: float


def is_far(patch: Patch) -> bool:
    """Whether a patch is among the nearest only because nothing is near."""
    return patch.cosine < NEAR


def portrait(photographs: Sequence[Patch], mistaken: Collection[str]) -> Patch | None:
    """The photograph that stands for a class: the first that the network takes for its own class, or else the first."""
    right = (one for one in photographs if one.image not in mistaken)
    return next(right, next(iter(photographs), None))


class Card(NamedTuple):
    """What is shown of one concept.

    Attributes:
        patches: its nearest vectors, best first.
        share: its members among the sampled vectors, 0–1.
        note: a remark, or nothing.
        top: the image of the nearest vector, lit where the concept is; None without one.
        facts: name → value in words, in order: tightness, entropy, place in the tree.
        classes: the classes of its members and how many each has, most frequent first.
    """

    patches: list[Patch]
    share: float
    note: str
    top: Patch | None
    facts: dict[str, str]
    classes: list[tuple[str, int]]


def lit(picture: Image.Image, light: Float[ndarray, "height width"], dimmed: float) -> Image.Image:
    """The picture in full colour where ``light`` is 1, grey and dimmed to ``dimmed`` where it is 0."""
    pixels = np.asarray(picture, dtype=np.float32)
    light = light.astype(np.float32)[..., None]
    shade = dimmed * (pixels @ GREY.astype(np.float32))[..., None]
    return Image.fromarray(np.rint(light * pixels + (1 - light) * shade).astype(np.uint8))


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


def encode_png(image: Image.Image | UInt8[ndarray, "height width 3"]) -> bytes:
    """PNG bytes that depend on the pixels only: profiles, dates and comments of the image are left out."""
    clean = Image.fromarray(np.asarray(as_picture(image)))
    buffer = io.BytesIO()
    clean.save(buffer, format="PNG", compress_level=6)  # as small as optimised to 1 %, four times as fast
    return buffer.getvalue()


@lru_cache(maxsize=4096)
def encode_small(png: bytes) -> tuple[str, bytes]:
    """A PNG's picture as WebP, and the format's name; the PNG itself where Pillow was built without WebP."""
    if not features.check("webp"):
        return "png", png
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.convert("RGB").save(buffer, format="WEBP", quality=WEBP_QUALITY, method=2)
    return "webp", buffer.getvalue()


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
