"""One thread for the work whose result must not depend on how many the machine has."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Hold torch, and FAISS where installed, at one thread, and restore both counts on leaving.

    Sums split among threads round differently. The counts are the process's own, so Python threads share them.
    """
    torch_threads, faiss_threads = torch.get_num_threads(), None
    if find_spec("faiss") is not None:
        import faiss

        faiss_threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(torch_threads)
        if faiss_threads is not None:
            faiss.omp_set_num_threads(faiss_threads)
