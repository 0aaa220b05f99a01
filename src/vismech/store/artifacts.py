"""Content-addressed artifacts: one immutable folder per result, named by the hash of all that determines it.

Layout below the root: ``<stage>/<key>/`` holds the payload, ``manifest.json`` (what it is, the hash of every file;
itself part of the byte-identity promise) and ``provenance.json`` (when, where and how fast; not hashed). A writer locks
the key, fills ``<stage>/<key>.partial``, writes the manifest last and renames. A reader believes only a folder with a
manifest, so a job killed at any moment leaves nothing that looks complete, and running it again continues it. Files
whose names start with a dot are a writer's own: no part of the payload, and removed after the commit. What is damaged
is never deleted by itself: ``vismech-store verify --repair`` moves it to ``quarantine/``.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Generic, TypeVar

from vismech.errors import UserError
from vismech.store.artifact import Artifact, hash_file
from vismech.store.disk import remove, writing
from vismech.store.in_use import Uses
from vismech.store.locks import held, tried
from vismech.store.manifest import MANIFEST, PROVENANCE, canonical_json, key_of
from vismech.store.settings import Settings

log = logging.getLogger(__name__)
QUARANTINE = "quarantine"
_KEY = re.compile(r"[0-9a-f]{20}")
_HELD: dict[Path, Callable[[], None] | None] = {}
"""Of each artifact that this process has locked what raises where the lock was lost; None where it is shared."""
S = TypeVar("S", bound="Settings | Mapping[str, Any]", covariant=True)


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
    return canonical_json(plain(value))


@dataclass(frozen=True)
class Spec(Generic[S]):
    """What one artifact is: everything that changes its numbers, and nothing else.

    Attributes:
        stage: the stage that computes it.
        version: the stage's version; a change of meaning raises it.
        unit: a layer, a pair of layers or the whole run, for people.
        settings: the choices and fingerprints that the result depends on.
        parents: name → spec of the artifacts it is computed from.
        code: hash of the code that computes it, where that is not of this package, whose stages have versions.
    """

    stage: str
    version: int
    unit: str
    settings: S
    parents: Mapping[str, Spec[Any]] = field(default_factory=dict)
    code: str = ""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """The settings as the key has them, with the code where there is one to tell."""
        found = self.settings.inputs() if isinstance(self.settings, Settings) else self.settings
        return {**found, "computed_by": self.code} if self.code else found

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
            cached = key_of(plain(self.describe()))
            object.__setattr__(self, "_key", cached)
        return cached

    @property
    def label(self) -> str:
        """``stage unit`` for people."""
        return f"{self.stage} {self.unit}".strip()


class Store:
    """Artifacts below one root folder, shared by all runs, processes and sweep jobs that name it."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.uses = Uses(self.root)

    def check(self) -> None:
        """Refuse a root that could not be made, without making it.

        Raises:
            UserError: the root and the reason.
        """
        with writing(self.root, "store.root", making=True):
            for place in (self.root, *self.root.absolute().parents):
                try:
                    found = place.stat()
                except FileNotFoundError:
                    if place.is_symlink():
                        raise OSError(errno.ENOENT, "its link leads nowhere", str(place)) from None
                    continue
                if not stat.S_ISDIR(found.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(self.root))
                if place != self.root and not os.access(place, os.W_OK | os.X_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self.root))
                return

    def folder(self, spec: Spec) -> Path:
        """Where the artifact of ``spec`` is or would be."""
        return self.root / spec.stage / spec.key

    def find(self, spec: Spec) -> Artifact | None:
        """The finished artifact of ``spec``, or None; one whose manifest is damaged is none, and the log names it."""
        self.uses.note(spec.key)
        folder = self.folder(spec)
        if not os.path.lexists(folder / MANIFEST):
            return None
        try:
            return Artifact(folder)
        except UserError as error:
            log.warning("%s: it is taken for missing", str(error).partition("; set it aside")[0])
            return None

    def open(self, spec: Spec) -> Artifact:
        """The finished artifact of ``spec``."""
        artifact = self.find(spec)
        if artifact is None and os.path.lexists(self.folder(spec) / MANIFEST):
            return Artifact(self.folder(spec))  # which says what is wrong with it
        if artifact is None:
            raise UserError(f"{spec.label} has not been computed yet: run the pipeline up to {spec.stage} first")
        return artifact

    @contextmanager
    def lock(self, spec: Spec, *, shared: bool = False) -> Iterator[None]:
        """Hold the key of ``spec`` against every other process; released by the system if this one dies.

        With ``shared`` only against those that do not share it: who fills rows beside others commits nothing.

        Raises:
            UserError: the store cannot be made or written, or its disk is full.
        """
        folder = self.folder(spec)

        def told(holder: str) -> None:
            log.info("%s is being computed by %s: waiting for it", spec.label, holder or "another run")

        with ExitStack() as lock:
            with writing(self.root, "store.root", making=True):
                folder.parent.mkdir(parents=True, exist_ok=True)
                still = lock.enter_context(held(_lock_of(folder), shared=shared, told=told))
            with writing(self.root, "store.root"):
                if not shared:
                    _recover(folder)
            _HELD[folder.absolute()] = None if shared else still
            try:
                yield
            finally:
                _HELD.pop(folder.absolute(), None)

    @contextmanager
    def writer(self, spec: Spec, *, resume: bool = False) -> Iterator[Path]:
        """The partial folder of ``spec``; committed on a clean exit, kept for the next try on an error.

        The caller holds :meth:`lock`. With ``resume`` the files that an earlier try left are kept, but neither links
        nor folders, which no try leaves; otherwise all is removed first.

        Raises:
            UserError: the store cannot be written, or its disk is full.
        """
        partial = self.folder(spec).with_name(spec.key + ".partial")
        with writing(self.root, "store.root"):
            kept = resume and partial.is_dir() and not partial.is_symlink()
            if os.path.lexists(partial) and not kept:
                remove(partial)
            partial.mkdir(parents=True, exist_ok=True)
            for path in [*partial.iterdir()]:
                if path.is_symlink() or not path.is_file():
                    remove(path)
            yield partial
            self._commit(spec, partial)

    def _commit(self, spec: Spec, partial: Path) -> None:
        still = _HELD.get(self.folder(spec).absolute(), _alone)
        assert still is not None, f"{spec.label} is being filled by others"
        files = {}
        for path in sorted(path for path in partial.rglob("*") if path.is_file()):
            name = path.relative_to(partial).as_posix()
            if name not in (MANIFEST, PROVENANCE) and not path.name.startswith("."):
                _flush(path)
                files[name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
        write_json(partial / MANIFEST, {**spec.describe(), "key": spec.key, "files": files})
        _flush(partial / MANIFEST)
        final = self.folder(spec)
        still()
        if os.path.lexists(final):  # forced, or damaged: the old one stays whole until the new one is in its place
            old = _aside(final)
            final.rename(old)
            partial.rename(final)
            with suppress(OSError):
                remove(old)
        else:
            partial.rename(final)
        for path in final.glob(".*"):
            path.unlink()

    def write_provenance(self, spec: Spec, facts: Mapping[str, Any]) -> None:
        """Note when, where and how fast the artifact of ``spec`` was made, whole or not at all."""
        place = self.folder(spec) / PROVENANCE
        with writing(self.root, "store.root"):
            partial = place.with_name(f".{PROVENANCE}")
            remove(partial)
            write_json(partial, facts)
            partial.rename(place)

    def set_aside(self, folder: Path, name: str | None = None) -> Path | None:
        """Move a damaged artifact, or one file of it, to the quarantine; None where a run is writing it."""
        with self.unless_busy(folder) as free, writing(self.root, "store.root"):
            if not free:
                return None
            place = self.root / QUARANTINE / folder.parent.name / (folder.name + (f".{name}" if name else ""))
            return _move(folder / name if name else folder, place)

    def artifacts(self) -> Iterator[Path]:
        """Folders of all finished artifacts, by stage and key."""
        for manifest in sorted(self.root.glob(f"*/*/{MANIFEST}")):
            folder = manifest.parent
            if not folder.name.endswith((".partial", ".replaced")) and folder.parent.name != QUARANTINE:
                yield folder

    def leftovers(self) -> Iterator[Path]:
        """What no living process is writing: partial folders, and those that lost their manifest to a killed gc."""
        bare = (path for path in self.root.glob("*/*") if _KEY.fullmatch(path.name))
        lost = [path for path in bare if not os.path.lexists(path / MANIFEST)]
        for folder in sorted([*self.root.glob("*/*.partial"), *self.root.glob("*/*.replaced"), *lost]):
            with self.unless_busy(folder) as free:
                if free and os.path.lexists(folder) and not (folder in lost and os.path.lexists(folder / MANIFEST)):
                    yield folder

    @contextmanager
    def unless_busy(self, folder: Path) -> Iterator[bool]:
        """Hold the key of ``folder`` if nobody does; False where a process is writing it."""
        with tried(_lock_of(folder.with_suffix(""))) as mine:
            yield mine


def _alone() -> None:
    """Who holds no lock has nobody to lose it to."""


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".lock")


def _move(path: Path, place: Path) -> Path:
    """Move ``path`` to ``place``, or beside it under the first number that is free."""
    place.parent.mkdir(parents=True, exist_ok=True)
    number, free = 1, place
    while os.path.lexists(free):
        number += 1
        free = place.with_name(f"{place.name}.{number}")
    return path.rename(free)


def _aside(folder: Path) -> Path:
    return folder.with_name(folder.name + ".replaced")


def _recover(folder: Path) -> None:
    """Undo a replacement that was killed half way, or finish it where the new artifact had come in."""
    old = _aside(folder)
    if os.path.lexists(folder):
        with suppress(OSError):
            remove(old)
    elif os.path.lexists(old):
        old.rename(folder)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON with sorted keys and a final newline; NaN is refused."""
    path.write_text(json.dumps(plain(value), indent=2, sort_keys=True, allow_nan=False) + "\n")
