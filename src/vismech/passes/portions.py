"""A batch in portions that the device's memory holds: chosen beforehand, and halved when that was still too much."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor

from vismech.attribution.windows import ROW_MULTIPLE
from vismech.errors import UserError
from vismech.passes.capacity import free_bytes, rows_that_fit

log = logging.getLogger(__name__)

Columns = dict[str, Tensor]
Step = Callable[[Tensor, list[int]], dict[str, Columns]]


class Portions(NamedTuple):
    """How much a pass takes at once.

    Attributes:
        images: images of a batch.
        paths: path points of a segment, or variants of an image.
    """

    images: int
    paths: int

    @classmethod
    def that_fit(cls, wanted: Portions, per_image: int, per_path: int, device: torch.device, title: str) -> Portions:
        """``wanted``, or fewer where free memory does not hold them; the numbers of each are estimates."""
        found = cls(
            rows_that_fit(wanted.images, per_image, device),
            rows_that_fit(wanted.paths, per_path, device),
        )
        if found != wanted:
            told = f"{title}: {found.images} images (of {wanted.images}), {found.paths} path points (of {wanted.paths})"
            log.info("%s at a time: %.1f GB are free on %s", told, (free_bytes(device) or 0) / 1e9, device)
        return found

    def halved(self) -> Portions | None:
        """Half of both; None where nothing is left to halve. Two path points: some kernels differ for one."""
        smaller = Portions(max(1, self.images // 2), min(self.paths, max(2, self.paths // 2)))
        return None if smaller == self else smaller


def in_portions(step: Step, images: Tensor, rows: Sequence[int], size: int, workers: int = 1) -> dict[str, Columns]:
    """Columns of the distinct rows of a batch, whose padding repeats its last row, from ``size`` images at a time.

    So many ``workers`` take portions at once, each in a thread of its own and with one thread of torch's.
    """
    portions: list[tuple[Tensor, list[int], int]] = []
    seen: set[int] = set()
    for first in range(0, len(rows), size):
        some = list(rows[first : first + size])
        fresh = len(set(some) - seen)
        if fresh:
            portions.append((images[first : first + size], some, fresh))
        seen.update(some)

    def made(portion: tuple[Tensor, list[int], int]) -> dict[str, Columns]:
        some, own, fresh = portion
        with torch.no_grad():  # a mode of the thread that set it
            found = step(some, own)
        return {name: {key: value[:fresh] for key, value in part.items()} for name, part in found.items()}

    if workers == 1:
        each = list(map(made, portions))
    else:
        with ThreadPoolExecutor(workers, initializer=partial(torch.set_num_threads, 1)) as pool:
            each = list(pool.map(made, portions))
    return {name: _joined([one[name] for one in each]) for name in each[0]}


def concurrent_size(rows: Sequence[int], workers: int) -> int:
    """Images of a portion, so that each worker has one; a multiple of :data:`ROW_MULTIPLE`, as the batch must be too.

    All of them where there is one worker, or the batch is no multiple: a row's last digits depend on their number.
    """
    if workers == 1 or len(rows) % ROW_MULTIPLE:
        return len(rows)
    return ceil(len(set(rows)) / workers / ROW_MULTIPLE) * ROW_MULTIPLE


def _joined(parts: list[Columns]) -> Columns:
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def smaller(portions: Portions, error: BaseException, title: str) -> Portions:
    """What to try after ``error``, which said that memory ran out.

    Raises:
        UserError: when single images and pairs of path points were too much already.
    """
    found = portions.halved()
    if found is None:
        raise no_memory(title) from error
    log.warning("%s: out of memory; going on with %d images, %d path points at a time", title, *found)
    return found


def release() -> None:
    """Give memory that nothing refers to back to the device."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def no_memory(title: str) -> UserError:
    """The sentence of a pass, or of a stage, that ran out of memory."""
    return UserError(
        f"{title}: out of memory: lower runtime.batch_size or runtime.path_batch_size, free the device of other work, "
        "or ask for fewer concepts (dictionary.k_per_channel)"
    )
