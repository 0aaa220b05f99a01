"""One thread for each piece of work: so that results, and speed, do not depend on how the pieces are cut finer."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.util import find_spec

import torch
from torch import Tensor

_allowed: ContextVar[int | None] = ContextVar("allowed", default=None)


def allowed_threads() -> int:
    """As many threads as torch may use, or might outside of :func:`one_thread`."""
    return _allowed.get() or torch.get_num_threads()


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch, and FAISS where installed, at one thread, and restore both counts on leaving.

    Sums split among threads round differently. The counts are the process's own, so Python threads share them.
    """
    torch_threads, faiss_threads = torch.get_num_threads(), None
    allowed = _allowed.set(allowed_threads())
    if find_spec("faiss") is not None:
        import faiss

        faiss_threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _allowed.reset(allowed)
        torch.set_num_threads(torch_threads)
        if faiss_threads is not None:
            faiss.omp_set_num_threads(faiss_threads)


def for_each_chunk(work: Callable[..., None], *columns: Sequence[Tensor]) -> None:
    """Call `work(*row)` for each row of the columns, on a CPU in as many Python threads as torch may use.

    Many small operations that each split among threads mostly wait for one another; whole chunks do not.
    """
    rows, workers = list(zip(*columns, strict=True)), torch.get_num_threads()
    if len(rows) < 2 or rows[0][0].device.type != "cpu":
        workers = 1
    inference = torch.is_inference_mode_enabled()

    def call(row: tuple[Tensor, ...]) -> None:
        # Both modes belong to the Python thread that set them.
        with torch.inference_mode(inference), torch.no_grad():
            work(*row)

    with one_thread():
        if workers == 1:
            for row in rows:
                call(row)
        else:
            with ThreadPoolExecutor(workers) as pool:
                list(pool.map(call, rows))
