"""A file lock that is tried, not waited for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def tried(lock: int) -> Iterator[bool]:
    """Whether this process got the lock of an open file, which it holds inside; the file is closed after it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        yield False
    else:
        yield True
    finally:
        os.close(lock)
