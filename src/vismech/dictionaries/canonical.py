"""Vectors in an order of their own, so that the order in which they came shows in no dictionary.

Legend: n vectors, m vectors kept, c channels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError

# Numbers that are normalised at once: in float64 what a cache holds.
NUMBERS = 2**18
# Parts of eight bytes by which rows are told apart before all of their bytes are compared.
WORDS = 16


class Canonical(NamedTuple):
    """Vectors sorted by their bytes, the row each came from, and how many distinct ones there are."""

    vectors: Float[Tensor, "m c"]
    rows: Int[Tensor, " m"]
    distinct: int


def canonical(vectors: Float[Tensor, "n c"], method: str, *, unit: bool = True) -> Canonical:
    """Sort the vectors that are not zero (which have no direction), divided by their norms if `unit`.

    Raises:
        UserError: for values that are not finite.
    """
    vectors = vectors.detach().cpu()
    data = vectors.new_empty(*vectors.shape, dtype=torch.float32)
    kept, count = vectors.new_empty(len(vectors), dtype=torch.bool), 0
    for some, there in zip(*(each.split(max(1, NUMBERS // vectors.shape[1])) for each in (vectors, kept)), strict=True):
        # Normalised in float64, so that parallel vectors become equal; + 0 turns −0 into 0, which has other bytes.
        exact = some.to(torch.float64, copy=True)
        norms = torch.linalg.vector_norm(exact, dim=1)
        if not bool(norms.isfinite().all()):
            raise UserError(f"{method}: the vectors hold values that are not finite: mend what produced them.")
        torch.gt(norms, 0, out=there)
        if not bool(there.all()):
            exact, norms = exact[there], norms[there]
        data[count : count + len(exact)] = (exact.div_(norms[:, None]) if unit else exact).add_(0.0)
        count += len(exact)
    data, kept = data[:count], kept.nonzero()[:, 0]
    order, distinct = _sorted(data.numpy())
    rows = torch.from_numpy(order)
    return Canonical(data[rows], kept[rows], distinct)


def _sorted(data: Float[np.ndarray, "m c"]) -> tuple[Int[np.ndarray, " m"], int]:
    """The stable order of rows by their bytes, and how many distinct ones there are.

    Rows are compared by eight bytes at a time as long as that parts many of them, and at last by all of their bytes.
    """
    words = data.shape[1] // 2
    order, group = np.arange(len(data)), np.zeros(len(data), dtype=np.int64)
    tied = np.arange(len(data)) if len(data) > 1 else order[:0]  # places, not rows; those of a group are neighbours
    for word in range(min(words, WORDS)):
        if not len(tied):
            break
        rows = order[tied]
        keys = np.ascontiguousarray(data[rows, 2 * word : 2 * word + 2]).view(">u8")[:, 0].astype(np.uint64)
        better = np.lexsort((keys, group[tied]))
        order[tied], keys, of = rows[better], keys[better], group[tied]
        fresh = np.concatenate([[True], (of[1:] != of[:-1]) | (keys[1:] != keys[:-1])])
        group[tied] = tied[fresh][fresh.cumsum() - 1]
        alone = fresh & np.concatenate([fresh[1:], [True]])
        tied = tied[~alone]
    if len(tied):
        rest = np.ascontiguousarray(data[order[tied]])
        rest = rest.view(np.dtype((np.void, rest.itemsize * rest.shape[1])))[:, 0]
        better = np.argsort(rest, kind="stable")
        better = better[np.argsort(group[tied][better], kind="stable")]
        rest, of = rest[better], group[tied]
        order[tied] = order[tied][better]
        same = (of[1:] == of[:-1]) & (rest[1:] == rest[:-1])
        return order, len(data) - int(np.count_nonzero(same))
    return order, len(data)


def require_distinct(method: str, k: int, found: Canonical, n: int, what: str = "directions") -> None:
    """Refuse more concepts than there are distinct vectors or directions.

    Raises:
        UserError: for k below 1 or above their number.
    """
    if k < 1:
        raise UserError(f"{method}: k={k} concepts: ask for at least 1.")
    if k > found.distinct:
        raise UserError(
            f"{method}: {k} concepts were asked of {found.distinct} distinct {what} among {n} vectors: "
            f"lower k to at most {found.distinct}, or sample more vectors."
        )
