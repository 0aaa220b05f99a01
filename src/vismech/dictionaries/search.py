"""Exact nearest neighbours by cosine: with FAISS on the CPU, on a GPU with products of matrices (`device_search`).

Legend: q queries, n vectors of one shard, c channels, k neighbours.
"""

from collections.abc import Iterable, Iterator
from functools import cache, partial
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple
from warnings import warn

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from vismech.dictionaries.device_search import FLOAT32_MARGIN, MORE, Found, merged, nearest_in_shard
from vismech.errors import UserError


class Neighbours(NamedTuple):
    """The k nearest rows of each query, best first; cosine -inf and row -1 where there are fewer than k."""

    scores: Float[ndarray, "q k"]
    rows: Int[ndarray, "q k"]


def require_faiss() -> ModuleType:
    """Return the module faiss.

    Raises:
        UserError: when it is not installed.
    """
    if find_spec("faiss") is None:
        raise UserError(
            "the module faiss is not installed: install exactly one of the extras cpu, gpu or gpu-cuvs, "
            "for example `pip install vismech[cpu]`."
        )
    import faiss

    return faiss


def gpu_ordinal(device: str | torch.device) -> int | None:
    """Return the number of the one GPU that FAISS is to use for a device, or None for the CPU."""
    device = torch.device(device)
    if device.type != "cuda":
        return None
    faiss = require_faiss()
    if getattr(faiss, "get_num_gpus", lambda: 0)() == 0:
        warn(f"device {device}: this FAISS has no GPU support and runs on the CPU instead.", stacklevel=2)
        return None
    return device.index or 0


@cache
def _gpu_resources(ordinal: int) -> Any:
    # Scratch memory of a gigabyte or more: made once for each GPU, not once for each index.
    return require_faiss().StandardGpuResources()


def release_scratch() -> None:
    """Give the GPUs' scratch memory back."""
    _gpu_resources.cache_clear()


def exact_index(channels: int, ordinal: int | None = None, *, inner_product: bool = True) -> Any:
    """Return an empty exact index, of inner products or distances, on one GPU if an ordinal is given (never on all)."""
    faiss = require_faiss()
    index = faiss.IndexFlatIP(channels) if inner_product else faiss.IndexFlatL2(channels)
    return index if ordinal is None else faiss.index_cpu_to_gpu(_gpu_resources(ordinal), ordinal, index)


def nearest(
    queries: Float[ndarray, "q c"],
    shards: Iterable[Float[ndarray, "_ _"]],
    k: int,
    *,
    device: str | torch.device = "cpu",
) -> Neighbours:
    """Find the k rows of largest cosine `<x, y> / (||x|| ||y||)` for each query.

    Shards are read one at a time and rows are counted through all of them. Float32 proposes candidates; the scores are
    recomputed in float64, and equal scores are ordered by row, so neither the cut into shards nor the device shows in
    the result. An all-zero vector has no direction and is nobody's neighbour, though it keeps its row number.

    Raises:
        UserError: for k below 1, an all-zero query, a shard of another width, or a value that is not finite.
    """
    if k < 1:
        raise UserError(f"nearest: k is {k}: ask for at least one neighbour.")
    unit_queries, kept = _unit_rows(queries, "queries")
    if len(kept) < len(queries):
        zero = np.setdiff1d(np.arange(len(queries)), kept)[0]
        raise UserError(f"nearest: query {zero} is all zero and has no direction: leave it out.")
    search = _on_cpu if torch.device(device).type == "cpu" else partial(_on_device, torch.device(device))
    best = search(unit_queries, _same_width(shards, queries.shape[1]), k)
    missing = k - best.rows.shape[1]
    scores = np.pad(best.scores, ((0, 0), (0, missing)), constant_values=-np.inf)
    return Neighbours(scores.astype(np.float32), np.pad(best.rows, ((0, 0), (0, missing)), constant_values=-1))


def _same_width(shards: Iterable[Float[ndarray, "_ _"]], channels: int) -> Iterator[Float[ndarray, "_ c"]]:
    for shard in shards:
        if shard.shape[1] != channels:
            raise UserError(f"nearest: a shard has {shard.shape[1]} channels, the queries {channels}.")
        yield shard


def _on_cpu(queries: Float[ndarray, "q c"], shards: Iterable[Float[ndarray, "_ c"]], k: int) -> Neighbours:
    best, start = Neighbours(np.empty((len(queries), 0)), np.empty((len(queries), 0), np.int64)), 0
    for shard in shards:
        unit_shard, kept = _unit_rows(shard, f"shard from row {start}")
        if len(kept):
            found = _nearest_in_shard(queries, unit_shard, k)
            rows = start + kept[found.rows]
            best = _best(np.hstack([best.scores, found.scores]), np.hstack([best.rows, rows]), k)
        start += len(shard)
    return best


def _on_device(
    device: torch.device, queries: Float[ndarray, "q c"], shards: Iterable[Float[ndarray, "_ c"]], k: int
) -> Neighbours:
    there, start = torch.from_numpy(queries).to(device), 0
    best = Found(there.new_empty(len(there), 0), there.new_empty(len(there), 0, dtype=torch.int64))
    for shard in shards:
        rows = torch.from_numpy(np.ascontiguousarray(shard)).to(device).double()
        norms = torch.linalg.vector_norm(rows, dim=1)
        if not bool(norms.isfinite().all()):
            raise _not_finite(f"shard from row {start}")
        kept = norms.nonzero()[:, 0]
        if len(kept):
            found = nearest_in_shard(there, rows[kept] / norms[kept, None], k)
            best = merged(best, Found(found.scores, start + kept[found.rows]), k)
        start += len(shard)
    return Neighbours(best.scores.cpu().numpy(), best.rows.cpu().numpy())


def _unit_rows(vectors: Float[ndarray, "n c"], name: str) -> tuple[Float[ndarray, "m c"], Int[ndarray, " m"]]:
    """Return the non-zero rows scaled to length 1, in float64, and which rows they are."""
    vectors = np.array(vectors, np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    if not np.isfinite(norms).all():
        raise _not_finite(name)
    kept = np.flatnonzero(norms)
    if len(kept) < len(norms):
        vectors, norms = vectors[kept], norms[kept]
    vectors /= norms[:, None]
    return vectors, kept


def _not_finite(name: str) -> UserError:
    return UserError(f"nearest: {name} holds values that are not finite: mend what produced them.")


def _nearest_in_shard(queries: Float[ndarray, "q c"], shard: Float[ndarray, "n c"], k: int) -> Neighbours:
    """Return the k nearest rows of one shard, exact and with ties by row."""
    index = exact_index(shard.shape[1])
    index.add(shard.astype(np.float32))
    k, wanted = min(k, len(shard)), min(k + MORE, len(shard))
    while True:
        scores, rows = index.search(queries.astype(np.float32), wanted)
        # Whatever FAISS left out is below its last score: enough once that is clearly below the k-th.
        if wanted == len(shard) or (scores[:, -1] < scores[:, k - 1] - FLOAT32_MARGIN).all():
            break
        wanted = min(2 * wanted, len(shard))
    exact = np.stack([np.einsum("nc,c->n", shard[found], query) for found, query in zip(rows, queries, strict=True)])
    return _best(exact, rows, k)


def _best(scores: Float[ndarray, "q n"], rows: Int[ndarray, "q n"], k: int) -> Neighbours:
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Neighbours(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))
