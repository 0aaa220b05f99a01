"""Room for arrays that grow with the number of vectors: in memory while they are small, else in a file without a name.

Pages of a mapped file are the system's to write out and take back, so that what must stay in memory does not grow with
the vectors. The file is removed as soon as it is made: nothing is left of it, however the process ends.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy import memmap
from torch import Tensor

IN_MEMORY = 16 << 20
"""Bytes below which an array is held in memory whatever else could hold it."""

BLOCK = 1 << 20
"""Bytes that are written at once."""


def room(*shape: int, folder: Path | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """An array with any values.

    It is in memory if it is small, if no folder is given, or if the folder's disk has no room for it.
    """
    empty = torch.empty(0, dtype=dtype).numpy().dtype
    size = empty.itemsize * int(np.prod(shape))
    if folder is None or size < IN_MEMORY:
        return torch.empty(*shape, dtype=dtype)
    try:
        with TemporaryFile(dir=folder) as file:
            # Zeros, or a full disk would end the process later, where it writes; and pages that are there are quick.
            for first in range(0, size, BLOCK):
                file.write(bytes(min(BLOCK, size - first)))
            file.flush()
            return torch.from_numpy(np.asarray(memmap(file, empty, "r+", shape=shape)))
    except OSError:
        return torch.empty(*shape, dtype=dtype)
