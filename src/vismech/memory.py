"""Freed memory is kept for the next array, where the C library would hand it back to the system each time."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # M_… of malloc.h
_KEPT = 1 << 30


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
