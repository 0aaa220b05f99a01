"""Images with stable sample ids: what is listed, in which order, and a fingerprint of it.

A sample id is the file's path below the root with ``/`` between its parts, so it depends neither on the disk's order
nor on the machine; samples are always in the order of their ids.
"""

from __future__ import annotations

import csv
import hashlib
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple, cast

from PIL import Image

from vismech.config.choices import DataSource, Fingerprint, Half
from vismech.draws import digest_of
from vismech.errors import UserError
from vismech.sources.own import load_own

log = logging.getLogger(__name__)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".gif"}
# What operating systems and archivers leave beside photographs; whatever starts with a dot is left out, too.
LITTER = {"__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information"}
SAMPLE_NAMES = "imagenet_*.jpg"
CIFAR10: tuple[str, ...] = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class Sample(NamedTuple):
    """One image file; ``label`` is a key of :attr:`ImageData.classes`, the data's own numbering.

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
        source: how the folder is laid out; of all but ``imagefolder`` labels are a published numbering of classes.
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

        A file that is not there or cannot be read counts with the size −1: reading it is refused or skipped later.
        """
        digest = hashlib.sha256()
        for sample in self.samples:
            path = self.root / sample.id
            digest.update(f"{sample.id}\t{sample.label}\t{_size(path)}\n".encode())
            if kind is Fingerprint.content:
                digest.update(_content(path))
        return digest.hexdigest()[:20]


def open_data(
    source: DataSource,
    root: str | Path | None = None,
    limit: int | None = None,
    classes: Sequence[int] = (),
    half: Half = Half.all,
    key: str = "data.root",
    folders: Sequence[str] = (),
    target: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> ImageData:
    """List the images of ``source`` below ``root``.

    Args:
        source: how the folder is laid out; ``samples`` needs no root (the photographs that ship with foolbox).
        root: the folder of class folders.
        limit: at most so many images, taken round robin over the classes in the order of their names, so that a small
            number still holds many classes.
        classes: class indices to keep; empty keeps all.
        half: of the images that are left, all or about half of them: those of this :func:`half_of`.
        key: the configuration's key that ``root`` comes from, for sentences.
        folders: names of class folders to keep; empty keeps all.
        target, options: of ``custom``, the function package.module:open and its keyword arguments.

    Raises:
        UserError: a missing, empty or unreadable folder, a class folder that the source does not know, a class without
            images, a name that is not UTF-8.
    """
    source = DataSource(source)
    if limit is not None and limit < 1:
        raise UserError(f"data.limit={limit} must be at least 1")
    if source is DataSource.samples:
        found = _samples()
        root = found.root
    elif source is DataSource.custom:
        found = load_own(target, "data.target", options)(root, **(options or {}))
        if not isinstance(found, ImageData):
            raise UserError(
                f"data.target={target} returned {type(found).__name__}, not a vismech.sources.data.ImageData"
            )
        root = found.root
    else:
        if root is None:
            raise UserError(f"data={source} needs data.root=FOLDER, the folder that holds one folder per class")
        root = Path(root).expanduser()
        if not root.is_dir():
            raise UserError(f"{key}={root} is not a folder")
        found = _folders(source, root, folders)
    by_class: dict[int, list[Sample]] = {}
    for sample in sorted(found.samples, key=lambda sample: sample.id):
        if not classes or sample.label in classes:
            by_class.setdefault(sample.label, []).append(sample)
    if not by_class:
        wanted = f" of the classes {list(folders or classes)}" if folders or classes else ""
        raise UserError(f"there is no image{wanted} below {root}: data={source} expects ROOT/<class>/<image file>")
    for name in folders:
        if not any(sample.id.startswith(f"{name}/") for sample in found.samples):
            raise UserError(f"{key}={root} has no image of the class {name!r}, which data.classes asks for")
    absent = sorted(set(classes) - by_class.keys())
    if absent:
        raise UserError(f"data.classes={list(classes)}: there is no image of class {absent[0]} below {root}")
    rounds = chain.from_iterable(zip_longest(*by_class.values()))
    samples = [sample for sample in rounds if sample is not None][:limit]
    kept = [sample for sample in samples if half is Half.all or half_of(sample.id) is half]
    if not kept:
        raise UserError(f"data.half={half.value}: none of the {len(samples)} images is in it: use more images")
    kept = sorted(kept, key=lambda sample: sample.id)
    if source is DataSource.custom:
        return replace(found, samples=kept)
    return ImageData(root, kept, found.classes, source)


def half_of(sample: str) -> Half:
    """The half that an image belongs to, by a hash of its id alone: with the run's seed in it, images that chose under
    one seed would confirm under the next."""
    odd = digest_of("half", sample)[0] % 2
    return Half.confirming if odd else Half.choosing


def class_folders(root: Path) -> list[str]:
    """Names of the class folders below ``root``, sorted: no hidden ones, and none that a system leaves there.

    Raises:
        UserError: a folder that cannot be read, or a name that is not UTF-8.
    """
    try:
        with os.scandir(root) as entries:
            found = [entry for entry in entries if not _is_litter(entry.name)]
    except OSError as error:
        raise _no_access(error) from error
    names = sorted(entry.name for entry in found if entry.is_dir())
    for name in names:
        _check_name(root, name)
    for entry in found:
        if entry.is_symlink() and not os.path.exists(root / entry.name):
            log.warning("%s is a link to nothing and is left out", _shown(root / entry.name))
    return names


def _is_litter(name: str) -> bool:
    return name.startswith(".") or name in LITTER


def _check_name(folder: Path, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{_shown(folder / name)} has a name that is not UTF-8, which no sample id can hold: rename it"
        ) from error


def _shown(path: Path) -> str:
    """The path for a sentence; bytes of it that are no text are written as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _no_access(error: OSError) -> UserError:
    where = _shown(Path(error.filename)) if error.filename else "a folder of images"
    return UserError(f"{where} cannot be read ({error.strerror}): give yourself access to it or move it away")


def image_files(folder: Path) -> Iterator[Path]:
    """Every image file below ``folder``, links to nothing included: those are unreadable images, not absent ones."""

    def refuse(error: OSError) -> None:
        raise _no_access(error) from error

    for path, inner, files in os.walk(folder, onerror=refuse):
        inner[:] = [name for name in inner if not _is_litter(name)]
        for name in files:
            if Path(name).suffix.lower() in SUFFIXES and not _is_litter(name):
                _check_name(Path(path), name)
                yield Path(path) / name
        for name in inner:
            _check_name(Path(path), name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def _folders(source: DataSource, root: Path, only: Sequence[str]) -> ImageData:
    names = class_folders(root)
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
    samples = [
        Sample(path.relative_to(root).as_posix(), labels[name])
        for name in names
        if not only or name in only
        for path in image_files(root / name)
    ]
    return ImageData(root, samples, classes)


def _samples() -> ImageData:
    """The 20 ImageNet photographs in foolbox; the class index is the last part of the file's name."""
    root = samples_folder()
    samples = [Sample(path.name, int(path.stem.split("_")[-1])) for path in root.glob(SAMPLE_NAMES)]
    return ImageData(root, samples, dict(enumerate(imagenet_names())))


def samples_folder() -> Path:
    """The folder of the photographs that ship with foolbox.

    Raises:
        UserError: the package is not installed.
    """
    spec = find_spec("foolbox")
    if spec is None or not spec.submodule_search_locations:
        raise UserError("data=samples needs the extra 'samples': pip install 'vismech[samples]'")
    return Path(spec.submodule_search_locations[0]) / "data"


def imagenet_wnids() -> dict[str, int]:
    """WordNet id → class index of ImageNet-1k."""
    return {wnid: index for index, (wnid, _) in enumerate(_imagenet())}


def imagenet_names() -> list[str]:
    """Class names of ImageNet-1k in index order, as torchvision has them."""
    return [name for _, name in _imagenet()]


@lru_cache(maxsize=1)
def _imagenet() -> list[tuple[str, str]]:
    """WordNet id and name of each class: a table of our own, since the libraries that know them load for seconds."""
    with (Path(__file__).parent / "imagenet_classes.csv").open(newline="", encoding="utf-8") as file:
        return [(row["wnid"], row["name"]) for row in csv.DictReader(file)]


def load_image(path: Path) -> Image.Image:
    """Read ``path`` as an 8-bit RGB image; 16-bit grey is scaled, transparency is laid on white.

    Raises:
        UserError: the file is missing, truncated, not an image, or one of more pixels than Pillow takes for safe.
    """
    if path.exists() and not path.is_file():  # opening a pipe would wait for ever
        raise UserError(f"{path} is not a readable image (it is no file)")
    try:
        with warnings.catch_warnings(), _opened(path) as image:
            image.load()
            return as_rgb(image, path)
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds
        raise UserError(f"{path} is not a readable image ({error})") from error


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


def _opened(path: Path) -> Image.Image:
    # Pillow warns of large images and refuses those of twice its limit; only the refusal tells a user anything.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image.open(path)
