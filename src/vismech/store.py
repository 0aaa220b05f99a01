"""Content-addressed artifacts: one immutable folder per result, named by the hash of all that determines it.

Layout below the root: ``<stage>/<key>/`` holds the payload, ``manifest.json`` (what it is, the hash of every file;
itself part of the byte-identity promise) and ``provenance.json`` (when, where and how fast; not hashed). A writer locks
the key, fills ``<stage>/<key>.partial``, writes the manifest last and renames. A reader believes only a folder with a
manifest, so a job killed at any moment leaves nothing that looks complete, and running it again continues it. Files
whose names start with a dot are a writer's own: no part of the payload, and removed after the commit.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from vismech.errors import UserError

MANIFEST, PROVENANCE = "manifest.json", "provenance.json"
_FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR}


def plain(value: Any) -> Any:
    """``value`` as JSON knows it: dataclasses and enums by content, mappings with sorted string keys."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, Path):
        return value.as_posix()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"{type(value).__name__} cannot be part of a key")


def canonical(value: Any) -> str:
    """The one JSON text of ``value``; NaN is refused."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True)
class Spec:
    """What one artifact is: everything that changes its numbers, and nothing else.

    Attributes:
        stage: the stage that computes it.
        version: the stage's version; a change of meaning raises it.
        unit: a layer, a pair of layers or the whole run, for people.
        inputs: the slice of the configuration and the fingerprints that the result depends on.
        parents: name → spec of the artifacts it is computed from.
    """

    stage: str
    version: int
    unit: str
    inputs: Mapping[str, Any]
    parents: Mapping[str, Spec] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """The content that the key is the hash of."""
        return {
            "stage": self.stage,
            "version": self.version,
            "unit": self.unit,
            "inputs": plain(self.inputs),
            "parents": {name: parent.key for name, parent in sorted(self.parents.items())},
        }

    @property
    def key(self) -> str:
        """Twenty hexadecimal digits of SHA-256."""
        cached = self.__dict__.get("_key")
        if cached is None:
            cached = hashlib.sha256(canonical(self.describe()).encode()).hexdigest()[:20]
            object.__setattr__(self, "_key", cached)
        return cached

    @property
    def label(self) -> str:
        """``stage unit`` for people."""
        return f"{self.stage} {self.unit}".strip()


class Artifact:
    """A finished artifact, read only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
            self._files: dict[str, dict[str, Any]] = self.manifest["files"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise _corrupted(folder, f"{MANIFEST} cannot be read ({error})") from error
        self._checked: set[str] = set()

    @property
    def key(self) -> str:
        """The artifact's key."""
        return self.folder.name

    def path(self, name: str) -> Path:
        """Path of a payload file, its hash checked the first time.

        Raises:
            UserError: the file is missing or not the one that was written.
        """
        path = self.folder / name
        if name not in self._checked:
            problem = self._problem(name)
            if problem:
                raise _corrupted(self.folder, problem)
            self._checked.add(name)
        return path

    def json(self, name: str) -> Any:
        """Content of a JSON payload file."""
        return json.loads(self.path(name).read_bytes())

    def array(self, name: str) -> Any:
        """A .npy payload file, memory-mapped read-only."""
        import numpy as np

        return np.load(self.path(name), mmap_mode="r")

    def problems(self) -> list[str]:
        """Every payload file that is missing or differs from the manifest."""
        return [problem for name in self._files if (problem := self._problem(name))]

    @property
    def bytes(self) -> int:
        """Size of the payload."""
        return sum(entry["bytes"] for entry in self._files.values())

    def _problem(self, name: str) -> str | None:
        entry, path = self._files.get(name), self.folder / name
        if entry is None:
            return f"{name} is not in its manifest"
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, not {entry['bytes']}"
        if hash_file(path) != entry["sha256"]:
            return f"{name} has another content than was written"
        return None


def _corrupted(folder: Path, problem: str) -> UserError:
    return UserError(
        f"the artifact {folder.parent.name}/{folder.name} is corrupted: {problem}; "
        f"remove it with `vismech-store gc --corrupted --delete` or recompute it with force=[{folder.parent.name}]"
    )


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """Artifacts below one root folder, shared by all runs, processes and sweep jobs that name it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    def folder(self, spec: Spec) -> Path:
        """Where the artifact of ``spec`` is or would be."""
        return self.root / spec.stage / spec.key

    def find(self, spec: Spec) -> Artifact | None:
        """The finished artifact of ``spec``, or None."""
        folder = self.folder(spec)
        return Artifact(folder) if (folder / MANIFEST).is_file() else None

    def open(self, spec: Spec) -> Artifact:
        """The finished artifact of ``spec``."""
        artifact = self.find(spec)
        if artifact is None:
            raise UserError(f"{spec.label} has not been computed yet: run the pipeline up to {spec.stage} first")
        return artifact

    @contextmanager
    def lock(self, spec: Spec) -> Iterator[None]:
        """Hold the key of ``spec`` against every other process; released by the system if this one dies."""
        folder = self.folder(spec)
        with _disk(self.root):
            folder.parent.mkdir(parents=True, exist_ok=True)
            lock = folder.with_name(folder.name + ".lock").open("w")
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _disk(self.root):
                _recover(folder)
            yield

    @contextmanager
    def writer(self, spec: Spec, *, resume: bool = False) -> Iterator[Path]:
        """The partial folder of ``spec``; committed on a clean exit, kept for the next try on an error.

        The caller holds :meth:`lock`. With ``resume`` what an earlier try left is kept, otherwise it is removed first.

        Raises:
            UserError: the disk is full.
        """
        partial = self.folder(spec).with_name(spec.key + ".partial")
        with _disk(self.root):
            if partial.exists() and not resume:
                shutil.rmtree(partial)
            partial.mkdir(parents=True, exist_ok=True)
            yield partial
            self._commit(spec, partial)

    def _commit(self, spec: Spec, partial: Path) -> None:
        files = {}
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            name = path.relative_to(partial).as_posix()
            if name not in (MANIFEST, PROVENANCE) and not path.name.startswith("."):
                _flush(path)
                files[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        write_json(partial / MANIFEST, {**spec.describe(), "key": spec.key, "files": files})
        _flush(partial / MANIFEST)
        final = self.folder(spec)
        if final.exists():  # forced: the old one stays whole until the new one is in its place
            old = _aside(final)
            final.rename(old)
            partial.rename(final)
            shutil.rmtree(old, ignore_errors=True)
        else:
            partial.rename(final)
        for path in final.glob(".*"):
            path.unlink()

    def artifacts(self) -> Iterator[Path]:
        """Folders of all finished artifacts, by stage and key."""
        for manifest in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            if not manifest.parent.name.endswith((".partial", ".replaced")):
                yield manifest.parent

    def leftovers(self) -> Iterator[Path]:
        """Partial folders that no living process is writing."""
        for folder in sorted([*self.root.glob("*/*.partial"), *self.root.glob("*/*.replaced")]):
            lock = folder.with_suffix(".lock")
            if not lock.exists():
                yield folder
                continue
            with lock.open("r") as file, suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield folder


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".replaced")


def _recover(folder: Path) -> None:
    """Undo a replacement that was killed half way, or finish it where the new artifact had come in."""
    old = _aside(folder)
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.rename(folder)


@contextmanager
def _disk(root: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        number = _system_error(error)
        if number in _FULL_DISK:
            raise UserError(
                f"the disk that holds {root} is full: free some space or set store.root to another disk, "
                "then run the same command again; finished artifacts are kept"
            ) from error
        if number in _NO_ACCESS:
            raise UserError(
                f"{root} cannot be written ({os.strerror(number)}): set store.root to another folder"
            ) from error
        raise


def _system_error(error: Exception) -> int | None:
    """The system's error number, also from writers that tell it in words only: safetensors and numpy's tofile."""
    if isinstance(error, OSError) and error.errno is None and "requested and" in str(error):
        return errno.ENOSPC
    told = re.search(r"\(os error (\d+)\)", str(error))
    return error.errno if isinstance(error, OSError) else int(told[1]) if told else None


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys and a final newline; NaN is refused."""
    path.write_text(json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n")
