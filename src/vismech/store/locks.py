"""Locks of files: the system's own, and leases where a file system has none.

The system takes its locks back when a process dies. Some network file systems know no locks at all; there a lease does:
a file ``<lock>.lease.<n>`` that is made exclusively, which its holder touches every few seconds, and which is marked
when it is given back. Whoever wants the lock looks for the largest n; where that lease is marked, or was not touched
while they watched it for :data:`STALE` seconds (by their own clock, so that clocks need not agree), they make n + 1,
which only one of them can. Leases are exclusive.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vismech.errors import UserError

log = logging.getLogger(__name__)
BEAT, STALE, LOOK = 5.0, 60.0, 0.5  # seconds
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
Told = Callable[[str], None]


def has_none(error: OSError) -> bool:
    """Whether a lock was refused because the file system has no locks."""
    return error.errno in _NO_LOCKS


@contextmanager
def held(path: Path, *, shared: bool = False, told: Told = lambda holder: None) -> Iterator[Callable[[], None]]:
    """Hold the lock at ``path``, waiting for it if need be; what is given raises where it was lost since.

    Args:
        path: a file of this lock's own; made where there is none, never followed where it is a link.
        shared: against those only that do not share it.
        told: called once, before waiting, with who holds it.

    Raises:
        UserError: ``shared`` where the file system has no locks.
        OSError: the file cannot be opened.
    """

    def kept() -> None:
        """The system's locks are never lost."""

    lock = _open(path, os.O_CREAT)
    try:
        leased = not _take(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, told)
        if leased and shared:
            raise UserError(
                f"the file system that holds {path.parent} has no file locks, so that runs cannot share their passes: "
                "leave out runtime.shard, or set store.root to another file system"
            )
        if leased:
            with _leased(path, told) as still:
                yield still
        else:
            if not shared:
                with suppress(OSError):  # for people only
                    os.truncate(lock, 0)
                    os.pwrite(lock, _name().encode(), 0)
            yield kept
    finally:
        os.close(lock)


@contextmanager
def tried(path: Path, *, make: bool = False) -> Iterator[bool]:
    """Whether this process got the lock at ``path``, which it holds inside.

    Args:
        path: as :func:`held` has it.
        make: make the file where there is none; else nobody can hold what cannot be opened, and it is free.
    """
    try:
        lock = _open(path, os.O_CREAT if make else 0)
    except OSError:
        if make:
            raise
        yield True
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        free = True
    except BlockingIOError:
        free = False
    except OSError as error:
        if not has_none(error):
            raise
        free = _Lease.living(path) is None
    try:
        yield free
    finally:
        os.close(lock)


def _take(lock: int, kind: int, told: Told) -> bool:
    """Wait for a lock of the system; False where it has none."""
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        told(os.pread(lock, 200, 0).decode(errors="replace"))
        fcntl.flock(lock, kind)
    except OSError as error:
        if not has_none(error):
            raise
        return False
    return True


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o666)


def _name() -> str:
    return f"process {os.getpid()} of {platform.node()}"


# Leases


class _Lease:
    """One lease at a lock's ``path``; the n-th of it."""

    def __init__(self, path: Path, number: int) -> None:
        self.lock, self.number = path, number
        self.path = path.with_name(f"{path.name}.lease.{number}")
        self.given_back = self.path.with_name(f"{self.path.name}.done")

    @staticmethod
    def last(path: Path) -> _Lease | None:
        """The newest."""
        numbers = _numbers(path)
        return _Lease(path, max(numbers)) if numbers else None

    @staticmethod
    def living(path: Path) -> _Lease | None:
        """The newest where it was not given back."""
        last = _Lease.last(path)
        return None if last is None or last.given_back.exists() else last

    def touched(self) -> tuple[str, int]:
        """Whose it is, and when it was touched last, in nanoseconds of the file system's clock."""
        try:
            return self.path.read_text(errors="replace"), self.path.stat().st_mtime_ns
        except FileNotFoundError:  # a newer one has come
            return "", 0

    def make(self) -> bool:
        """Whether it is this process's now."""
        try:
            file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            return False
        try:
            os.write(file, _name().encode())
        finally:
            os.close(file)
        if self.number != max(_numbers(self.lock)):  # others were here and left while this process slept
            self.path.unlink(missing_ok=True)
            return False
        for number in sorted(_numbers(self.lock) - {self.number}):
            old = _Lease(self.lock, number)
            for path in (old.path, old.given_back):  # the mark last: without it an old lease would look alive
                path.unlink(missing_ok=True)
        return True


def _numbers(path: Path) -> set[int]:
    found = (re.fullmatch(rf"{re.escape(path.name)}\.lease\.(\d+)", each.name) for each in path.parent.iterdir())
    return {int(match[1]) for match in found if match}


@contextmanager
def _leased(path: Path, told: Told) -> Iterator[Callable[[], None]]:
    lease = _wait(path, told)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with suppress(OSError):
                os.utime(lease.path)

    def still() -> None:
        if not lease.path.exists():
            raise UserError(
                f"another run has taken {path.name} over, as this one had said nothing for {STALE:.0f} seconds: "
                "run the same command again"
            )

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield still
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            if lease.path.exists():
                lease.given_back.touch()


def _wait(path: Path, told: Told) -> _Lease:
    seen: tuple[int, str, int] | None = None
    since, said = time.monotonic(), False
    while True:
        following, last = _Lease(path, 0), _Lease.last(path)
        free = last is None or last.given_back.exists()
        if last is not None:
            following = _Lease(path, last.number + 1)
            holder, touched = last.touched()
            if (now := (last.number, holder, touched)) != seen:
                seen, since = now, time.monotonic()
            if not free and time.monotonic() - since > STALE:
                log.warning("%s is taken over from %s, which has said nothing for %.0f s", path.name, holder, STALE)
                free = True
        if free and following.make():
            return following
        if not said:
            told(seen[1] if seen else "")
            said = True
        time.sleep(LOOK)
