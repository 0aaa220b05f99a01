"""Arrays with one entry per image, filled in any order by several processes, and continued after a kill.

Files are preallocated .npy; an image's entry is written in place with ``pwrite`` (no memory map, so memory does not
grow with the number of images), then its batch is noted in a journal. What the journal does not name is computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from vismech.errors import UserError

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
        for name, column in self.columns.items():
            path = folder / f"{name}.npy"
            if not path.exists():
                _preallocate(path, (images, *column.shape), np.dtype(column.dtype))
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, kind = np.lib.format.read_array_header_1_0(file)
                self._offsets[name] = file.tell()
            if shape[1:] != column.shape or kind != np.dtype(column.dtype):
                raise UserError(
                    f"{path} holds {kind} {shape[1:]} for each image, of an earlier try, but {column.dtype} "
                    f"{column.shape} is wanted: delete {folder}, which is unfinished"
                )
        self._files: dict[str, int] = {}

    def done(self) -> dict[int, bool]:
        """Image index → whether it could be read, for every image that is finished."""
        finished: dict[int, bool] = {}
        for journal in self.folder.glob(f"{PROGRESS}*"):
            for line in journal.read_text().splitlines():
                try:
                    finished.update({int(index): ok for index, ok in json.loads(line)})
                except ValueError:  # a line cut off by a kill names nothing
                    continue
        return finished

    def write(self, indices: Sequence[int], readable: Sequence[bool], values: Mapping[str, np.ndarray]) -> None:
        """Write the entries of ``indices`` and note them as finished."""
        for name, column in self.columns.items():
            block = np.ascontiguousarray(values[name], dtype=column.dtype)
            assert block.shape == (len(indices), *column.shape), (name, block.shape, column.shape)
            size = block[0].nbytes
            for first, last in _stretches(indices):
                data = block[first:last].data.cast("B")
                offset, written = self._offsets[name] + indices[first] * size, 0
                while written < len(data):
                    written += os.pwrite(self._file(name), data[written:], offset + written)
        line = json.dumps([[int(index), bool(ok)] for index, ok in zip(indices, readable, strict=True)])
        # One journal per process. A kill or a full disk can cut off only its last line, which the next line ends.
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
                path = self.folder / f"{name}.npy"
                old = np.load(path, mmap_mode="r")
                if len(old) == len(kept):  # an earlier try came this far
                    continue
                partial = _partial(path)
                with partial.open("wb") as file:
                    _write_header(file, (len(kept), *old.shape[1:]), old.dtype)
                    for index in kept:
                        file.write(old[index].tobytes())
                partial.rename(path)
        return kept

    def _file(self, name: str) -> int:
        if name not in self._files:
            if name == PROGRESS:
                path, flags = self.folder / f"{PROGRESS}.{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND
            else:
                path, flags = self.folder / f"{name}.npy", os.O_WRONLY
            self._files[name] = os.open(path, flags, 0o644)
        return self._files[name]


def _stretches(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where ``indices`` are consecutive: first and last (exclusive) place of each stretch."""
    cuts = [place for place in range(1, len(indices)) if indices[place] != indices[place - 1] + 1]
    return pairwise([0, *cuts, len(indices)])


def _preallocate(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An .npy file of zeros, named only when its header is whole."""
    partial, size = _partial(path), int(np.prod(shape)) * dtype.itemsize
    with partial.open("wb") as file:
        _write_header(file, shape, dtype)
        end = file.tell() + size
        file.truncate(end)
        if hasattr(os, "posix_fallocate"):  # a full disk is then found now, not in the middle of the work
            os.posix_fallocate(file.fileno(), 0, end)
    partial.rename(path)


def _partial(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}")


def _write_header(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
