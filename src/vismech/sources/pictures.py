"""Images with stable sample ids, from the file on the disk to the network's input.

A sample id is the file's path below the root with ``/`` between its parts, so it depends neither on the disk's order
nor on the machine; samples are always in the order of their ids. An image file becomes 8-bit RGB, whatever its mode;
what cannot be read as that is one sentence.
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from PIL import Image

from vismech.config.choices import DataSource, Fingerprint
from vismech.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")
UNLABELLED = -1
"""The label of an image that the data knows no class of."""


class Sample(NamedTuple):
    """One image; ``label`` is a key of :attr:`ImageData.classes`, the data's own numbering, or :data:`UNLABELLED`.

    What the model calls that class, if it knows it, is told by :mod:`vismech.sources.labels`.
    """

    id: str
    label: int


@dataclass(frozen=True)
class ImageData:
    """The images of one run, in the order of their ids.

    Attributes:
        root: the folder that ids are paths below.
        samples: the images.
        classes: the data's own label → its name.
        source: how the data is laid out; where it is :attr:`~DataSource.published`, so is the numbering of classes.
    """

    root: Path
    samples: list[Sample]
    classes: dict[int, str]
    source: DataSource = DataSource.imagefolder

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        """Sample ids, ascending."""
        return [sample.id for sample in self.samples]

    @cached_property
    def place(self) -> dict[str, int]:
        """Sample id → its place among the samples."""
        return {sample: index for index, sample in enumerate(self.ids)}

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UserError: the file is not a readable image; the message names it.
        """
        return load_image(self.root / self.samples[index].id)

    def fingerprint(self, kind: Fingerprint = Fingerprint.listing) -> str:
        """Hash of ids, labels and sizes (``listing``) or of every byte too (``content``).

        Archives, whose ids are often numbers rather than names, are always told by every byte.

        A file that is not there or cannot be read counts with the size −1: reading it is refused or skipped later.
        """
        digest = hashlib.sha256()
        for sample in self.samples:
            path = self.root / sample.id
            digest.update(f"{sample.id}\t{sample.label}\t{_size(path)}\n".encode())
            if kind is Fingerprint.content:
                digest.update(content_of(path))
        return digest.hexdigest()[:20]


@dataclass(frozen=True)
class ArchiveData(ImageData):
    """Images that are no files of their own; :meth:`content` reads one."""

    def content(self, index: int) -> bytes:
        """The bytes of an image file.

        Raises:
            UserError: they cannot be read.
        """
        raise NotImplementedError

    def load(self, index: int) -> Image.Image:
        """The image as RGB."""
        return decode_image(self.content(index), f"{self.samples[index].id} of {self.root}")

    def fingerprint(self, kind: Fingerprint = Fingerprint.listing) -> str:
        """Hash of ids, labels and every byte; what cannot be read counts with the size −1."""
        digest = hashlib.sha256()
        for index, sample in enumerate(self.samples):
            try:
                content = self.content(index)
                size = len(content)
            except UserError:
                content, size = b"", -1
            digest.update(f"{sample.id}\t{sample.label}\t{size}\n".encode())
            digest.update(content)
        return digest.hexdigest()[:20]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def content_of(path: Path) -> bytes:
    """The bytes of a file, none of one that cannot be read."""
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


@dataclass(frozen=True)
class Preprocess:
    """From a PIL image to the model's input: resize the short side, crop the centre, scale to [0, 1], normalise."""

    resize: int | None = 256
    crop: int = 224
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise UserError(f"model.interpolation={self.interpolation} is not one of {', '.join(INTERPOLATIONS)}")
        for key, value in (("resize", self.resize), ("crop", self.crop)):
            if value is not None and value < 1:
                raise UserError(f"model.{key}={value} must be at least 1 pixel")
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or (key == "std" and min(values) <= 0):
                positive = "positive " if key == "std" else ""
                raise UserError(f"model.{key}={list(values)} must hold three {positive}numbers, one per colour channel")

    def __str__(self) -> str:
        resize = "no resizing" if self.resize is None else f"their short side at {self.resize} ({self.interpolation})"
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{resize}, the middle {self.crop} × {self.crop} pixels, mean {mean}, standard deviation {std}"

    def geometry(self, image: Image.Image) -> Image.Image:
        """The part of ``image`` that the model sees, crop × crop pixels."""
        F = _transforms()
        if self.resize is not None:
            image = F.resize(image, [self.resize], getattr(Image.Resampling, self.interpolation.upper()))
        return image if image.size == (self.crop, self.crop) else F.center_crop(image, [self.crop, self.crop])

    def __call__(self, image: Image.Image) -> Tensor:
        """RGB image → [3, crop, crop], normalised."""
        import torch

        F = _transforms()
        pixels = F.to_dtype(F.pil_to_tensor(self.geometry(image)), torch.float32, scale=True)
        return F.normalize(pixels, list(self.mean), list(self.std))


def _transforms() -> Any:
    """torchvision's functions; its annotations leave out the PIL images that they take."""
    from torchvision.transforms.v2 import functional

    return functional


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
