"""Arrays with one entry per image, filled in any order by several processes, and continued after a kill.

Files are preallocated .npy; an image's entry is written in place with ``pwrite`` (no memory map, so memory does not
grow with the number of images), then its batch is noted in a journal. What the journal does not name is computed again.

Nothing that an earlier try left is trusted: a journal's line carries its checksum and names rows that there are and the
checksums of what was written there, an array has the very header and size that it was made with, and both are files of
this folder, no links. What differs is dropped, and computed again.
"""

from __future__ import annotations

import io
import json
import logging
import os
import platform
import re
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vismech.store.disk import remove
from vismech.store.locks import held

log = logging.getLogger(__name__)
PROGRESS = ".progress.jsonl"


class Column(NamedTuple):
    """One array: the shape of an image's entry, its type, and what marks an unread image's entry."""

    shape: tuple[int, ...]
    dtype: str = "float32"


class Rows:
    """Arrays ``<name>.npy`` of shape [images, *shape] in one folder.

    Args:
        folder: the partial folder of an artifact.
        columns: name → column.
        images: number of images.

    The journals stay until the store has committed the folder, so that a kill after :meth:`finish` costs nothing.
    """

    def __init__(self, folder: Path, columns: Mapping[str, Column], images: int) -> None:
        self.folder, self.columns, self.images = folder, dict(columns), images
        self._offsets: dict[str, int] = {}
        self._files: dict[str, int] = {}
        self._known: dict[int, int] = {}  # image → the checksum of its entries, as they were when they were looked at
        for name, column in self.columns.items():
            header = _header((images, *column.shape), np.dtype(column.dtype))
            self._offsets[name] = len(header)
        with held(folder / ".making"):  # whoever else is to fill the same arrays waits until they are there
            self._prepare()

    def _prepare(self) -> None:
        """Make the arrays that are not there, and drop what cannot be believed."""
        counts = {self.images, len(_kept(self._noted(), self.images))}  # as it was made, or as :meth:`finish` left it
        if broken := [name for name in self.columns if self._exists(name) and not self._whole(name, counts)]:
            told = "%s: %s of an earlier try cannot be believed; its rows are computed again"
            log.warning(told, self.folder, broken[0])
            self._forget()  # an image is finished when all of its entries are
            for name in broken:
                remove(self._path(name))
        if not broken and min(counts) < self.images == len(self._noted()) and len(self.done()) < self.images:
            self._forget()  # there is no room any more for what has to be written again
            for name in self.columns:
                remove(self._path(name))
        for name, column in self.columns.items():
            if not self._exists(name):
                self._forget()
                _preallocate(self._path(name), (self.images, *column.shape), np.dtype(column.dtype))

    def done(self) -> dict[int, bool]:
        """Image index → whether it could be read, for every image that is finished and whose entries are as written."""
        noted = self._noted()
        doubted = [at for at, said in noted.items() if {each.checksum for each in said} != {self._known.get(at)}]
        if doubted:
            self._look(doubted, noted)
        return {
            index: each.readable
            for index, said in noted.items()
            for each in said
            if each.checksum == self._known[index]
        }

    def _noted(self) -> dict[int, list[_Entry]]:
        """What the journals say of each image, whether it is so or not."""
        noted: dict[int, list[_Entry]] = {}
        for journal in sorted(self.folder.glob(f"{PROGRESS}*")):
            if not _regular(journal):
                remove(journal)
                continue
            for line in journal.read_bytes().splitlines():
                for index, entry in _entries(line, self.images):
                    noted.setdefault(index, []).append(entry)
        return noted

    def _look(self, images: Iterable[int], noted: Mapping[int, list[_Entry]]) -> None:
        """Read what is there of ``images`` and keep its checksums."""
        kept, left_out = {index: place for place, index in enumerate(_kept(noted, self.images))}, False
        with ExitStack() as files:
            columns: list[tuple[int, int, int, bool]] = []
            for name, column in self.columns.items():
                whole = self._whole(name, (self.images,))
                left_out |= not whole
                file = os.open(self._path(name), os.O_RDONLY | os.O_NOFOLLOW)
                files.callback(os.close, file)
                dtype = np.dtype(column.dtype)
                header = _header((self.images if whole else len(kept), *column.shape), dtype)
                columns.append((file, len(header), _bytes(column.shape, dtype), whole))
            for index in images:
                if left_out and index not in kept:  # nothing of it is a part of the payload any more
                    self._known[index] = noted[index][-1].checksum
                    continue
                found = 0
                for file, first, size, whole in columns:
                    found = zlib.crc32(os.pread(file, size, first + (index if whole else kept[index]) * size), found)
                self._known[index] = found

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _exists(self, name: str) -> bool:
        return os.path.lexists(self._path(name))

    def _forget(self) -> None:
        for journal in self.folder.glob(f"{PROGRESS}*"):
            remove(journal)

    def _whole(self, name: str, counts: Iterable[int]) -> bool:
        """Whether an array has the header and the size of so many images, or of another of these ``counts``."""
        path, column = self._path(name), self.columns[name]
        if not _regular(path):
            return False
        with path.open("rb") as file:
            for count in counts:
                header = _header((count, *column.shape), np.dtype(column.dtype))
                size = len(header) + _bytes((count, *column.shape), np.dtype(column.dtype))
                file.seek(0)
                if os.fstat(file.fileno()).st_size == size and file.read(len(header)) == header:
                    return True
        return False

    def write(self, indices: Sequence[int], readable: Sequence[bool], values: Mapping[str, np.ndarray]) -> None:
        """Write the entries of ``indices`` and note them as finished."""
        checksums = [0] * len(indices)
        for name, column in self.columns.items():
            block = np.ascontiguousarray(values[name], dtype=column.dtype)
            assert block.shape == (len(indices), *column.shape), (name, block.shape, column.shape)
            size = block[0].nbytes
            checksums = [zlib.crc32(each.tobytes(), so_far) for each, so_far in zip(block, checksums, strict=True)]
            for first, last in _stretches(indices):
                data = block[first:last].data.cast("B") if size else b""
                offset, written = self._offsets[name] + indices[first] * size, 0
                while written < len(data):
                    written += os.pwrite(self._file(name), data[written:], offset + written)
        self._known |= {int(index): checksum for index, checksum in zip(indices, checksums, strict=True)}
        entries = zip(indices, readable, checksums, strict=True)
        line = _line([[int(index), bool(ok), checksum] for index, ok, checksum in entries])
        # One journal per process of any machine. A kill or a full disk can cut off only its last line, which the next
        # line ends.
        data = f"\n{line}\n".encode()
        while data:
            data = data[os.write(self._file(PROGRESS), data) :]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def finish(self, names: Iterable[str] | None = None) -> list[int]:
        """Leave out the entries of images that could not be read; the readable images' indices are returned."""
        self.close()
        finished = self.done()
        assert len(finished) == self.images, f"{self.images - len(finished)} images are missing"
        kept = [index for index in range(self.images) if finished[index]]
        if len(kept) < self.images:
            for name in self.columns if names is None else names:
                path = self._path(name)
                old = np.load(path, mmap_mode="r")
                if len(old) == len(kept):  # an earlier try came this far
                    continue
                partial = _partial(path)
                with _create(partial) as file:
                    file.write(_header((len(kept), *old.shape[1:]), old.dtype))
                    for index in kept:
                        file.write(old[index].tobytes())
                partial.rename(path)
        return kept

    def _file(self, name: str) -> int:
        if name not in self._files:
            if name == PROGRESS:
                path, flags = self.folder / f"{PROGRESS}.{writer_name()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND
            else:
                path, flags = self._path(name), os.O_WRONLY
            self._files[name] = os.open(path, flags | os.O_NOFOLLOW, 0o644)
        return self._files[name]


def _stretches(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where ``indices`` are consecutive: first and last (exclusive) place of each stretch."""
    cuts = [place for place in range(1, len(indices)) if indices[place] != indices[place - 1] + 1]
    return pairwise([0, *cuts, len(indices)])


def _line(entries: list[list]) -> str:
    text = json.dumps(entries)
    return f"{text} {zlib.crc32(text.encode()):08x}"


def _kept(noted: Mapping[int, list[_Entry]], images: int) -> list[int]:
    """The readable images where all are noted, which is when :meth:`Rows.finish` leaves the others out; else all."""
    return [index for index in range(images) if len(noted) < images or noted[index][-1].readable]


class _Entry(NamedTuple):
    """What a journal says of one image: whether it could be read, and the checksum of its entries."""

    readable: bool
    checksum: int


def _entries(line: bytes, images: int) -> list[tuple[int, _Entry]]:
    """What one line of a journal says of rows that there are; nothing where it is not as it was written."""
    text, _, checksum = line.rpartition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):  # cut off by a kill, or damaged
        return []
    try:
        found = [(index, _Entry(ok, crc)) for index, ok, crc in json.loads(text) if _is_entry(index, ok, crc)]
    except (ValueError, TypeError, RecursionError):
        return []
    return [(index, entry) for index, entry in found if index < images]


def _is_entry(index: object, ok: object, checksum: object) -> bool:
    numbers = all(isinstance(each, int) and not isinstance(each, bool) and each >= 0 for each in (index, checksum))
    return numbers and isinstance(ok, bool)


def _regular(path: Path) -> bool:
    return stat.S_ISREG(path.lstat().st_mode)


def _preallocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An .npy file of zeros, named only when its header is whole."""
    partial = _partial(path)
    with _create(partial) as file:
        header = _header(shape, dtype)
        file.write(header)
        end = len(header) + _bytes(shape, dtype)
        file.truncate(end)
        if hasattr(os, "posix_fallocate"):  # a full disk is then found now, not in the middle of the work
            os.posix_fallocate(file.fileno(), 0, end)
    partial.rename(path)


def _create(path: Path) -> BinaryIO:
    """A new file, whatever stood there, and never one that a link leads to."""
    remove(path)
    return path.open("xb")


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{writer_name()}")


def writer_name() -> str:
    """What names this process among those of all machines that write to a store."""
    return f"{re.sub('[^0-9A-Za-z-]', '_', platform.node())}.{os.getpid()}"


def _bytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


def _header(shape: tuple[int, ...], dtype: np.dtype) -> bytes:
    header, file = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}, io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()
