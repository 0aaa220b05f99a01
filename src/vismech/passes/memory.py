"""Memory that is freed is kept for the next array, and errors that say that there is none left are known."""

from __future__ import annotations

import ctypes
import re
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_… of malloc.h
_KEPT = 1 << 30
OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|MemoryError|out of memory|can't allocate memory|_ALLOC_FAILED")
"""In the words of PyTorch, of its CPU allocator, of CUDA's libraries and FAISS, or in another process's traceback."""


def keep_freed_memory() -> None:
    """Tell glibc not to return freed blocks below a gigabyte to the system; nothing elsewhere.

    A pass frees and asks for arrays of some megabytes all the time. By default each of them is mapped anew, and
    the page faults took more of a trace's time than its arithmetic.
    """
    if sys.platform != "linux":
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return
    mallopt(_TRIM_THRESHOLD, _KEPT)
    mallopt(_MMAP_THRESHOLD, _KEPT)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device, or the machine, has no memory left."""
    known = isinstance(error, (MemoryError, RuntimeError))
    return known and OUT_OF_MEMORY.search(f"{type(error).__name__}: {error}") is not None
