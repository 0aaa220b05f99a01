"""An image file as 8-bit RGB, whatever its mode; what cannot be read as that is one sentence."""

from __future__ import annotations

import warnings
from io import BytesIO
from pathlib import Path
from typing import cast

from PIL import Image

from vismech.errors import UserError


def load_image(path: Path) -> Image.Image:
    """Read ``path`` as an 8-bit RGB image; 16-bit grey is scaled, transparency is laid on white.

    Raises:
        UserError: the file is missing, truncated, not an image, or one of more pixels than Pillow takes for safe.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path} is not a readable image (it is no file)")
    return _decoded(path, path)


def decode_image(content: bytes, name: str) -> Image.Image:
    """The bytes of an image file as :func:`load_image` reads them from a path.

    Raises:
        UserError: they are no image; the message calls it ``name``.
    """
    return _decoded(BytesIO(content), name)


def _decoded(file: Path | BytesIO, name: str | Path) -> Image.Image:
    try:
        with warnings.catch_warnings(), _opened(file) as image:
            image.load()
            return as_rgb(image, name)
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise UserError(f"{name} is not a readable image ({error})") from error


def as_rgb(image: Image.Image, name: str | Path) -> Image.Image:
    """An image as an 8-bit RGB image; 16-bit grey is scaled, transparency is laid on white.

    Raises:
        UserError: pixels of a kind whose range is not known; the message calls the image ``name``.
    """
    if image.mode.startswith("I") or image.mode == "F":
        low, high = cast(tuple[float, float], image.getextrema())
        if image.mode == "F" or low < 0 or high > 65_535:
            raise UserError(f"{name} has pixels of mode {image.mode}: convert it to 8-bit RGB first")
        return image.convert("I").point(lambda value: value / 257 + 0.5).convert("L").convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _opened(file: Path | BytesIO) -> Image.Image:
    # Pillow warns of large images and refuses those of twice its limit; only the refusal tells a user anything.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image.open(file)
