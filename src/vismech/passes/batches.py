"""Images in fixed batches: the same images meet in the same batch whatever the number of processes.

Some CPU and GPU kernels give another last bit when the batch has another size, so the last batch is padded and a batch
is never divided between processes. Results then depend on neither.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vismech.errors import UserError
from vismech.sources.data import ImageData
from vismech.sources.models import Preprocess


class Batch(NamedTuple):
    """Preprocessed images [B, 3, H, W], their rows in the loop's list [B], and whether each could be read [B]."""

    images: Tensor
    rows: Tensor
    readable: Tensor


class ImageFiles(Dataset):
    """Preprocessed images of ``data`` at ``indices``; an unreadable one is blank and marked."""

    def __init__(self, data: ImageData, indices: Sequence[int], preprocess: Preprocess) -> None:
        self.data, self.indices, self.preprocess = data, list(indices), preprocess

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, row: int) -> tuple[Tensor, int, bool]:
        try:
            return self.preprocess(self.data.load(self.indices[row])), row, True
        except UserError:
            side = self.preprocess.crop
            return torch.zeros(3, side, side), row, False


class PaddedBatches(Sampler[list[int]]):
    """Consecutive rows in batches of one size, the last padded with its last row; process r of w gets every w-th batch
    of its run's share, which is every n-th from the k-th on.

    Args:
        rows: number of rows.
        batch_size: rows per batch, at most ``rows``.
        rank: this process.
        world: number of processes.
        done: rows that an earlier try finished; a batch of nothing else is left out.
        share: the run's share (k, n).
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        done: frozenset[int] = frozenset(),
        share: tuple[int, int] = (0, 1),
    ) -> None:
        size = min(batch_size, rows)
        batches = [list(range(first, min(first + size, rows))) for first in range(0, rows, size)]
        first, parts = share
        mine = [batch for batch in batches[first::parts][rank::world] if not done.issuperset(batch)]
        self.batches = [batch + batch[-1:] * (size - len(batch)) for batch in mine]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


def distinct(rows: Tensor) -> int:
    """Number of rows of a batch before its padding."""
    return len(rows.unique())


def loader(images: ImageFiles, sampler: PaddedBatches, workers: int, pinned: bool) -> DataLoader:
    """A loader of :class:`Batch` in the sampler's order."""
    return DataLoader(
        images,
        batch_sampler=sampler,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=False,
        collate_fn=_collate,
        worker_init_fn=_silent,
    )


def _silent(worker: int) -> None:
    """Let a worker's threads say nothing: its own errors reach the loader, and a signal that ends both is told once."""
    sys.excepthook = threading.excepthook = lambda *_: None


def _collate(items: list[tuple[Tensor, int, bool]]) -> Batch:
    images, rows, readable = zip(*items, strict=True)
    return Batch(torch.stack(images), torch.tensor(rows), torch.tensor(readable))
