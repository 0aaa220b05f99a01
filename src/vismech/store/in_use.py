"""Which artifacts the runs at work have looked up, so that cleaning up leaves them alone.

A run keeps one file below ``<root>/.uses``, locked as long as its process lives, and appends each key before it looks
whether the artifact is there. Who removes artifacts reads these files and takes the manifest away behind one gate, so
that a run either finds its artifact kept or finds none and computes it.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vismech.errors import UserError
from vismech.store.locks import has_none

FOLDER, GATE = ".uses", "gate"


class Uses:
    """The keys that runs use below one store's root."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER
        self._file: int | None = None
        self._gate: int | None = None
        self._noted: set[str] = set()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Note every key that is looked up inside; nothing where the store may only be read, as then nobody cleans."""
        path = self.folder / uuid.uuid4().hex
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._gate = _open(self.folder / GATE)
            fcntl.flock(self._gate, fcntl.LOCK_SH)  # or a cleaner takes the file for a dead run's before it is locked
            self._file = _open(path)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(self._gate, fcntl.LOCK_UN)
        except OSError:
            self._close()
        try:
            yield
        finally:
            if self._file is not None:
                path.unlink(missing_ok=True)
            self._close()

    def note(self, key: str) -> None:
        """Say that this run uses ``key``, if its uses are recorded."""
        if self._file is None or self._gate is None or key in self._noted:
            return
        with suppress(OSError):  # a full disk stops the run where it writes results, not here
            fcntl.flock(self._gate, fcntl.LOCK_SH)
            try:
                os.write(self._file, f"{key}\n".encode())
                self._noted.add(key)
            finally:
                fcntl.flock(self._gate, fcntl.LOCK_UN)

    @contextmanager
    def gated(self) -> Iterator[set[str]]:
        """The keys of all runs at work; none can add another inside. What dead runs left is removed.

        Raises:
            UserError: the file system has no locks, so that nobody knows who is at work.
        """
        if not self.folder.is_dir():
            yield set()
            return
        gate = _open(self.folder / GATE)
        try:
            try:
                fcntl.flock(gate, fcntl.LOCK_EX)
            except OSError as error:
                if not has_none(error):
                    raise
                raise UserError(
                    f"the file system that holds {self.folder.parent} has no file locks, so that nobody can tell which "
                    "artifacts the runs at work use: remove folders by hand when none is at work"
                ) from error
            yield self._living()
        finally:
            os.close(gate)

    def _living(self) -> set[str]:
        found: set[str] = set()
        for path in self.folder.iterdir():
            if path.name == GATE or path.is_symlink() or not path.is_file():
                continue
            file = _open(path)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            except BlockingIOError:
                found.update(path.read_text(errors="replace").split())
            finally:
                os.close(file)
        return found

    def _close(self) -> None:
        for file in (self._file, self._gate):
            if file is not None:
                os.close(file)
        self._file = self._gate = None
        self._noted.clear()


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o666)
