"""A pass over images whose results go to rows of artifacts, image by image; Lightning runs it on devices.

A pass is a plain object: which images, what is opened once per process, what one batch becomes. Planning and reading
results load no Lightning for it; :mod:`vismech.passes.start` does, when there is something to compute.

The same images meet in the same batch whatever the number of processes: some CPU and GPU kernels give another last bit
when the batch has another size, so the last batch is padded and a batch is never divided between processes. Results
then depend on neither.
"""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from vismech.config.choices import Unreadable
from vismech.errors import NotFinite, UserError
from vismech.network.layers import LOGITS, PIXELS
from vismech.passes.capacity import BYTES, SHARE, available_bytes, numbers_per_row
from vismech.passes.devices import quiet, set_rounding
from vismech.passes.memory import keep_freed_memory, out_of_memory
from vismech.passes.portions import Columns, Portions, concurrent_size, in_portions, release, smaller
from vismech.passes.resources import Resources, resources_of
from vismech.passes.site import Site
from vismech.passes.threads import allowed_threads, one_thread
from vismech.sources.pictures import ImageData, Preprocess
from vismech.store.rows import Rows

__all__ = ["Columns", "ImageLoop"]


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


class ImageLoop:
    """Maps batches of images to columns of one or more artifacts.

    Args:
        site: model and runtime.
        data: the images.
        indices: which of them, in the order of the artifacts' rows.
        rows: artifact name → its arrays; all have ``len(indices)`` entries.
        title: what the progress bar says.
    """

    def __init__(
        self, site: Site, data: ImageData, indices: Sequence[int], rows: Mapping[str, Rows], title: str
    ) -> None:
        self.site, self.data, self.indices, self.rows, self.title = site, data, list(indices), dict(rows), title
        self.look()
        self.share: tuple[int, int] = (0, 1)
        self.resources: Resources | None = None
        self.device = torch.device("cpu")
        self._portions: Portions | None = None
        self._workers: int | None = None

    def __getstate__(self) -> dict[str, Any]:
        # As plain bytes: torch would hand tensors to spawned processes through shared memory, of which a container
        # has 64 MB.
        return {"plain": pickle.dumps(self.__dict__)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(pickle.loads(state["plain"]))

    def look(self) -> None:
        """Find the rows that are finished by now in all artifacts."""
        self.done = frozenset.intersection(*(frozenset(part.done()) for part in self.rows.values()))

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """Columns of every artifact for a batch of images [B, 3, H, W]; ``rows`` are their rows, padding included."""
        raise NotImplementedError

    def setup(self) -> None:
        """Open the network, in the process that will use it."""
        runtime = self.site.runtime
        quiet()  # all three again, where this is a process of its own
        keep_freed_memory()
        set_rounding(runtime.tf32, runtime.tf32)
        self.resources = resources_of(self.site.model, runtime.channels_last)
        self.resources.network.prefix_tokens = self.site.prefix_tokens

    def on_predict_start(self) -> None:
        """Whatever is opened once per process, when the network is on its device."""

    @property
    def network(self):
        """The network as named layers, on this process's device."""
        assert self.resources is not None
        return self.resources.network

    def batches(self, rank: int, world: int) -> Any:
        """The share of process ``rank`` of ``world``, without the batches that an earlier try finished."""
        assert self.resources is not None
        runtime = self.site.runtime
        images = ImageFiles(self.data, self.indices, self.resources.model.preprocess)
        return loader(images, self.sampler(rank, world), runtime.workers, self.device.type == "cuda")

    def sampler(self, rank: int, world: int) -> PaddedBatches:
        """The rows of :meth:`batches`."""
        size = self.site.runtime.batch_size
        return PaddedBatches(len(self.indices), size, rank, world, self.done, self.share)

    def predict_step(self, batch: Batch) -> dict[str, Columns]:
        """Columns for one batch; gradients are available to :meth:`step`."""
        rows = batch.rows.tolist()
        if self.site.unreadable is Unreadable.fail:
            for row, readable in zip(rows, batch.readable.tolist(), strict=True):
                if not readable:
                    self.data.load(self.indices[row])  # raises, naming the file
        images = batch.images
        if self.site.runtime.channels_last:
            images = images.to(memory_format=torch.channels_last)
        if self._workers is None:
            self._workers = self.workers()
        # As in the pipeline's own process, for a process that was spawned.
        with torch.no_grad(), one_thread():
            return self._in_portions(images, rows)

    def workers(self) -> int:
        """How many portions of a batch are taken at once: on a CPU as many as torch has threads and as memory holds.

        The last is an estimate. Results do not depend on it.
        """
        if self.device.type != "cpu" or not self.concurrent or not self.network.concurrent:
            return 1
        runtime, (per_image, per_path) = self.site.runtime, self._numbers()
        threads, free = allowed_threads(), available_bytes()
        each = BYTES * (per_path * runtime.path_batch_size + per_image * runtime.batch_size)
        return threads if free is None else max(1, min(threads, int(SHARE * free / max(1, each))))

    def _numbers(self) -> tuple[int, int]:
        """Numbers that a pass computes for an image and, at the most, for a path point."""
        per_image = numbers_per_row(self.network.segment(PIXELS, LOGITS)) + self.held_per_image()
        return per_image, max(map(numbers_per_row, self.cuts()), default=1)

    def _in_portions(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """The step's columns, again with less at once as long as that is too much for the memory."""
        while True:
            try:
                size = min(self.portions.images, concurrent_size(rows, self._workers or 1))
                if size >= len(rows):
                    return self.step(images, rows)
                return in_portions(self.step, images, rows, size, self._workers or 1)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                self._portions = smaller(self.portions, error, self.title)
            release()  # not in the handler, where the traceback still holds what the step had made

    @property
    def portions(self) -> Portions:
        """How much is taken at once: as configured, or what the free memory holds, or what was left after an error."""
        if self._portions is None:
            wanted = Portions(self.site.runtime.batch_size, self.site.runtime.path_batch_size)
            self._portions = Portions.that_fit(wanted, *self._numbers(), self.device, self.title)
        return self._portions

    def cuts(self) -> list[nn.Module]:
        """The segments that path points go through."""
        return []

    @property
    def concurrent(self) -> bool:
        """Whether steps may run at once, each on a portion of a batch: whether they change nothing that they share."""
        return False

    def held_per_image(self) -> int:
        """Numbers that a step holds for each image beside the network's own, such as codes."""
        return 0

    @contextmanager
    def telling(self, way: str, rows: list[int]) -> Iterator[None]:
        """Name the image whose path is not finite on the ``way`` between two layers; ``rows`` are the batch's.

        Raises:
            UserError: instead of the engine's NotFinite, which knows the image's place in the batch.
        """
        try:
            yield
        except NotFinite as error:
            whose = "" if error.image is None else f"{self.sample_id(rows[error.image])!r}: "
            raise UserError(f"{way}, {whose}{error.said}") from error

    def sample_id(self, row: int) -> str:
        """Sample id of a row."""
        return self.data.samples[self.indices[row]].id
