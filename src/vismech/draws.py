"""Draws that names alone decide, such as (seed, sample id): no order, grouping or number of processes shows in them."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np


def digest_of(*names: object) -> bytes:
    """SHA-256 of the names, colons between them."""
    return hashlib.sha256(":".join(map(str, names)).encode()).digest()


def seed_of(*names: object, byteorder: Literal["big", "little"] = "big") -> int:
    """A seed of 64 bits."""
    return int.from_bytes(digest_of(*names)[:8], byteorder)


def generator_of(*names: object) -> np.random.Generator:
    """A generator seeded with all 256 bits."""
    import numpy as np  # not where only digests are wanted

    return np.random.default_rng(np.frombuffer(digest_of(*names), dtype=np.uint32))
