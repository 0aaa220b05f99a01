"""Exact nearest neighbours by cosine where the tensors are: one product of matrices, its largest numbers, and a merge.

A GPU needs no index for it, and none of FAISS's builds. Of a million vectors of 2,048 channels in shards it holds one.

Legend: q queries, n vectors of one shard, c channels, k neighbours.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.passes.devices import rounding

# Float32 products: two cosines closer than this may come in either order.
FLOAT32_MARGIN = 1e-5
# Numbers that are held at once beside the shard: cosines, or candidates in float64.
BLOCK = 2**25
# Candidates beyond the neighbours that are asked for.
MORE = 8


class Found(NamedTuple):
    """The nearest rows of each query, best first; fewer than k where there are not so many. Scores are in float64."""

    scores: Float[Tensor, "q k"]
    rows: Int[Tensor, "q k"]


def nearest_in_shard(queries: Float[Tensor, "q c"], shard: Float[Tensor, "n c"], k: int) -> Found:
    """The k rows of largest product with each query, exact and with ties by row.

    Products in float32 propose candidates, more of them until whatever is left out is clearly below the k-th; their
    scores are computed in float64. So this is what :func:`vismech.dictionaries.search.nearest` finds on the CPU, but
    for scores whose last bits in float64 differ.

    Args:
        queries: unit vectors in float64.
        shard: unit vectors in float64.
        k: how many.
    """
    k, single, parts = min(k, len(shard)), shard.float().T, []
    with rounding(tf32=False):
        for some in queries.split(max(1, BLOCK // max(1, len(shard)))):
            rows = _candidates(some.float() @ single, k).sort(1).values
            each = max(1, BLOCK // (rows.shape[1] * shard.shape[1]))
            # Not a product of matrices, whose sums could depend on where a row stands.
            exact = [
                (shard[at] * query[:, None]).sum(2)
                for query, at in zip(some.split(each), rows.split(each), strict=True)
            ]
            parts.append(_best(torch.cat(exact), rows, k))
    return Found(*(torch.cat(each) for each in zip(*parts, strict=True)))


def merged(one: Found, other: Found, k: int) -> Found:
    """The k best of both; of equal scores those of ``one`` come first, whose rows are the earlier ones."""
    return _best(torch.cat([one.scores, other.scores], 1), torch.cat([one.rows, other.rows], 1), k)


def _candidates(scores: Float[Tensor, "q n"], k: int) -> Int[Tensor, "q m"]:
    wanted, n = min(k + MORE, scores.shape[1]), scores.shape[1]
    while True:
        values, rows = scores.topk(wanted)
        if wanted == n or bool((values[:, -1] < values[:, k - 1] - FLOAT32_MARGIN).all()):
            return rows
        wanted = min(2 * wanted, n)


def _best(scores: Float[Tensor, "q m"], rows: Int[Tensor, "q m"], k: int) -> Found:
    order = scores.sort(dim=1, descending=True, stable=True)
    return Found(order.values[:, :k], rows.gather(1, order.indices[:, :k]))
