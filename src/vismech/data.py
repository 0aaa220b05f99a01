"""Images with stable sample ids: what is listed, in which order, and a fingerprint of it.

A sample id is the file's path below the root with ``/`` between its parts, so it depends neither on the disk's order
nor on the machine; samples are always in the order of their ids.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple, cast

from PIL import Image

from vismech.choices import DataSource, Fingerprint, Half
from vismech.errors import UserError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Sample(NamedTuple):
    """One image file; ``label`` is the class index, equal to the model's where the source says so."""

    id: str
    label: int


@dataclass(frozen=True)
class ImageData:
    """The images of one run, in the order of their ids."""

    root: Path
    samples: list[Sample]
    classes: dict[int, str]

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def ids(self) -> list[str]:
        """Sample ids, ascending."""
        return [sample.id for sample in self.samples]

    def load(self, index: int) -> Image.Image:
        """The image as RGB.

        Raises:
            UserError: the file is not a readable image; the message names it.
        """
        return load_image(self.root / self.samples[index].id)

    def fingerprint(self, kind: Fingerprint = Fingerprint.listing) -> str:
        """Hash of ids, labels and sizes (``listing``) or of every byte too (``content``)."""
        digest = hashlib.sha256()
        for sample in self.samples:
            path = self.root / sample.id
            digest.update(f"{sample.id}\t{sample.label}\t{path.stat().st_size}\n".encode())
            if kind is Fingerprint.content:
                digest.update(path.read_bytes())
        return digest.hexdigest()[:20]


def open_data(
    source: DataSource,
    root: str | Path | None = None,
    limit: int | None = None,
    classes: Sequence[int] = (),
    half: Half = Half.all,
) -> ImageData:
    """List the images of ``source`` below ``root``.

    Args:
        source: how the folder is laid out; ``samples`` needs no root (the photographs that ship with foolbox).
        root: the folder of class folders.
        limit: at most so many images, taken round robin over the classes in the order of their names, so that a small
            number still holds many classes.
        classes: class indices to keep; empty keeps all.
        half: of the images that are left, all or about half of them: those of this :func:`half_of`.

    Raises:
        UserError: a missing or empty folder, a class folder that the source does not know, a class without images.
    """
    source = DataSource(source)
    if limit is not None and limit < 1:
        raise UserError(f"data.limit={limit} must be at least 1")
    if source is DataSource.samples:
        found = _samples()
        root = found.root
    else:
        if root is None:
            raise UserError(f"data={source} needs data.root=FOLDER, the folder that holds one folder per class")
        root = Path(root).expanduser()
        if not root.is_dir():
            raise UserError(f"data.root={root} is not a folder")
        found = _folders(source, root)
    by_class: dict[int, list[Sample]] = {}
    for sample in sorted(found.samples, key=lambda sample: sample.id):
        if not classes or sample.label in classes:
            by_class.setdefault(sample.label, []).append(sample)
    if not by_class:
        wanted = f" of the classes {list(classes)}" if classes else ""
        raise UserError(f"there is no image{wanted} below {root}: data={source} expects ROOT/<class>/<image file>")
    absent = sorted(set(classes) - by_class.keys())
    if absent:
        raise UserError(f"data.classes={list(classes)}: there is no image of class {absent[0]} below {root}")
    rounds = chain.from_iterable(zip_longest(*by_class.values()))
    samples = [sample for sample in rounds if sample is not None][:limit]
    kept = [sample for sample in samples if half is Half.all or half_of(sample.id) is half]
    if not kept:
        raise UserError(f"data.half={half.value}: none of the {len(samples)} images is in it: use more images")
    return ImageData(root, sorted(kept, key=lambda sample: sample.id), found.classes)


def half_of(sample: str) -> Half:
    """The half that an image belongs to, by a hash of its id alone: with the run's seed in it, images that chose under
    one seed would confirm under the next."""
    odd = hashlib.sha256(f"half:{sample}".encode()).digest()[0] % 2
    return Half.confirming if odd else Half.choosing


def _folders(source: DataSource, root: Path) -> ImageData:
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    match source:
        case DataSource.imagenet:
            labels, classes = imagenet_wnids(), dict(enumerate(imagenet_names()))
        case DataSource.cifar10:
            labels, classes = {name: index for index, name in enumerate(CIFAR10)}, dict(enumerate(CIFAR10))
        case _:
            labels, classes = {name: index for index, name in enumerate(names)}, dict(enumerate(names))
    unknown = [name for name in names if name not in labels]
    if unknown:
        raise UserError(
            f"{root / unknown[0]} is not a class folder of {source}: use data=imagefolder for your own classes"
        )
    samples = []
    for name in names:
        for folder, _, files in os.walk(root / name):
            below = Path(folder).relative_to(root)
            samples += [
                Sample((below / file).as_posix(), labels[name])
                for file in files
                if Path(file).suffix.lower() in SUFFIXES
            ]
    return ImageData(root, samples, classes)


def _samples() -> ImageData:
    """The 20 ImageNet photographs in foolbox; the class index is the last part of the file's name."""
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data=samples needs the extra 'samples': pip install 'vismech[samples]'")
    root = Path(spec.submodule_search_locations[0]) / "data"
    samples = [Sample(path.name, int(path.stem.split("_")[-1])) for path in root.glob("imagenet_*.jpg")]
    return ImageData(root, samples, dict(enumerate(imagenet_names())))


def imagenet_wnids() -> dict[str, int]:
    """WordNet id → class index of ImageNet-1k."""
    from timm.data.imagenet_info import ImageNetInfo

    return {wnid: index for index, wnid in enumerate(ImageNetInfo("imagenet-1k").label_names())}


def imagenet_names() -> list[str]:
    """Class names of ImageNet-1k in index order."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.IMAGENET1K_V1.meta["categories"])


def load_image(path: Path) -> Image.Image:
    """Read ``path`` as an 8-bit RGB image; 16-bit grey is scaled, transparency is laid on white.

    Raises:
        UserError: the file is missing, truncated or not an image.
    """
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode.startswith("I") or image.mode == "F":
                low, high = cast(tuple[float, float], image.getextrema())
                if image.mode == "F" or low < 0 or high > 65_535:
                    raise UserError(f"{path} has pixels of mode {image.mode}: convert it to 8-bit RGB first")
                return image.convert("I").point(lambda value: value / 257 + 0.5).convert("L").convert("RGB")
            if image.has_transparency_data:
                image = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            return image.convert("RGB")
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise UserError(f"{path} is not a readable image ({error})") from error
