"""Images in tar files as webdataset has them: members of one key belong together, such as ``k.jpg`` and ``k.cls``.

The files are indexed once by where the bytes of each member are, and any image is then read by itself. A key is a
member's name up to the first dot of its last part; a sample id is the tar file's name and the key.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from vismech.errors import UserError
from vismech.sources.data import Columns, numbered
from vismech.sources.folders import SUFFIXES
from vismech.sources.pictures import UNLABELLED, ArchiveData, Sample


class Member(NamedTuple):
    """Bytes of a file: where they begin in it, and how many."""

    file: Path
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            UserError: the file is gone or shorter than it was.
        """
        try:
            with self.file.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except OSError as error:
            raise UserError(f"{self.file} cannot be read ({error.strerror or error})") from error
        if len(content) < self.size:
            raise UserError(f"{self.file} is cut off: it ends before byte {self.offset + self.size}")
        return content


@dataclass(frozen=True)
class ShardData(ArchiveData):
    """Images in tar files; ``members`` tells where each is."""

    members: dict[str, Member] = field(default_factory=dict, compare=False, repr=False)

    def content(self, index: int) -> bytes:
        """The bytes of an image file, without a look at the rest of its tar file."""
        return self.members[self.samples[index].id].read()


def open_shards(root: Path, columns: Columns) -> ShardData:
    """The images of a tar file, or of all below a folder.

    A label is what ``.cls`` holds, else what the object in ``.json`` calls ``columns.label``; without either there is
    none.

    Raises:
        UserError: no tar file, one that is damaged or compressed, a key twice, several images of a key, or a label that
            is none.
    """
    shards = [root] if root.is_file() else sorted(path for path in root.rglob("*") if _is_tar(path))
    packed = next((path for path in shards if path.suffix != ".tar"), None)
    if packed is not None:
        raise UserError(f"{packed} is compressed or no tar file: images are read by their place in a plain .tar")
    members: dict[str, Member] = {}
    labels: dict[str, str | None] = {}
    for shard in shards:
        name = shard.relative_to(root).with_suffix("").as_posix() if root.is_dir() else shard.stem
        for key, parts in _samples(shard):
            image = _image(shard, key, parts, columns.image)
            if image is not None:
                sample = f"{name}/{key}"
                members[sample], labels[sample] = image, _label(shard, key, parts, columns.label)
    ranks = numbered(label for label in labels.values() if label is not None)
    samples = [Sample(sample, UNLABELLED if label is None else ranks[label]) for sample, label in labels.items()]
    return ShardData(root, samples, {rank: name for name, rank in ranks.items()}, members=members)


def _is_tar(path: Path) -> bool:
    return not path.name.startswith(".") and (".tar" in path.suffixes or path.suffix == ".tgz")


def _samples(shard: Path) -> Iterator[tuple[str, dict[str, Member]]]:
    """Key and members by ending, in the order of the file."""
    found: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                path = PurePosixPath(info.name)
                if not info.isfile() or info.issparse() or path.name.startswith("."):
                    continue
                stem, _, ending = path.name.partition(".")
                parts = found.setdefault(path.with_name(stem).as_posix(), {})
                if ending.lower() in parts:
                    raise UserError(f"{shard} has {info.name} twice: each key may be there once")
                parts[ending.lower()] = Member(shard, info.offset_data, info.size)
    except (OSError, tarfile.TarError) as error:
        said = getattr(error, "strerror", None) or error
        raise UserError(f"{shard} is no tar file that can be read ({said})") from error
    yield from found.items()


def _image(shard: Path, key: str, parts: dict[str, Member], wanted: str | None) -> Member | None:
    """The image of a sample; None where it has none."""
    if wanted is not None:
        return parts.get(wanted.lower())
    images = [ending for ending in parts if f".{ending.rpartition('.')[2]}" in SUFFIXES]
    if len(images) > 1:
        raise UserError(
            f"{shard} has several images of {key} ({', '.join(images)}): give data.image_column={images[0]}"
        )
    return parts[images[0]] if images else None


def _label(shard: Path, key: str, parts: dict[str, Member], name: str | None) -> str | None:
    if name is None:
        return None
    try:
        if "cls" in parts:
            label = parts["cls"].read().decode().strip()
        elif "json" in parts:
            label = json.loads(parts["json"].read()).get(name)
        else:
            return None
    except (ValueError, AttributeError) as error:
        raise UserError(f"{shard} has a label of {key} that cannot be read ({error})") from error
    if label is None or label == "":
        return None
    if not isinstance(label, (str, int)) or isinstance(label, bool):
        raise UserError(f"{shard}: {name!r} of {key}.json is {label!r}, neither a name nor a number")
    return str(label)
