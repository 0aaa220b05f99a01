"""Vectors in an order of their own, so that the order in which they came shows in no dictionary.

Legend: n vectors, m vectors kept, c channels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.dictionaries.scratch import room
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


def canonical(
    vectors: Float[Tensor, "n c"], method: str, *, unit: bool = True, folder: Path | None = None
) -> Canonical:
    """Sort the vectors that are not zero (which have no direction), divided by their norms if `unit`.

    The result is in a file of `folder` where it is large; beside it some numbers are held for each vector.

    Raises:
        UserError: for values that are not finite.
    """
    vectors = vectors.detach().cpu()
    norms = vectors.new_empty(len(vectors), dtype=torch.float64)
    size = max(1, NUMBERS // vectors.shape[1])
    for some, there in zip(vectors.split(size), norms.split(size), strict=True):
        torch.linalg.vector_norm(some.to(torch.float64), dim=1, out=there)
    if not bool(norms.isfinite().all()):
        raise UserError(f"{method}: the vectors hold values that are not finite: mend what produced them.")
    kept = norms.nonzero()[:, 0]
    source, lengths, origin = vectors.numpy(), norms.numpy(), kept.numpy()

    def numbers(rows: Int[np.ndarray, " r"], columns: slice) -> Float[np.ndarray, "r s"]:
        """Some columns of rows as they are sorted and kept; normalised in float64, so that parallel vectors are equal.

        + 0 turns −0 into 0, which has other bytes.
        """
        rows = origin[rows]
        exact = source[rows, columns].astype(np.float64)
        if unit:
            exact /= lengths[rows, None]
        exact += 0.0
        return exact.astype(np.float32, order="C")

    order, distinct = _sorted(numbers, len(kept), vectors.shape[1])
    data = room(len(kept), vectors.shape[1], folder=folder)
    for first in range(0, len(kept), size):
        some = slice(first, first + size)
        data[some] = torch.from_numpy(numbers(order[some], slice(None)))
    return Canonical(data, kept[torch.from_numpy(order)], distinct)


def _sorted(
    numbers: Callable[[Int[np.ndarray, " r"], slice], Float[np.ndarray, "r s"]], m: int, c: int
) -> tuple[Int[np.ndarray, " m"], int]:
    """The stable order of m rows by their bytes, and how many distinct ones there are.

    Rows are compared by eight bytes at a time as long as that parts many of them, and at last by all of their bytes.

    Args:
        numbers: (rows, columns) → these numbers.
        m: rows.
        c: columns.
    """
    order, group = np.arange(m), np.zeros(m, dtype=np.int64)
    tied = np.arange(m) if m > 1 else order[:0]  # places, not rows; those of a group are neighbours
    for word in range(min(c // 2, WORDS)):
        if not len(tied):
            break
        rows = order[tied]
        keys = numbers(rows, slice(2 * word, 2 * word + 2)).view(">u8")[:, 0].astype(np.uint64)
        better = np.lexsort((keys, group[tied]))
        order[tied], keys, of = rows[better], keys[better], group[tied]
        fresh = np.concatenate([[True], (of[1:] != of[:-1]) | (keys[1:] != keys[:-1])])
        group[tied] = tied[fresh][fresh.cumsum() - 1]
        alone = fresh & np.concatenate([fresh[1:], [True]])
        tied = tied[~alone]
    if len(tied):
        rest = numbers(order[tied], slice(None))
        rest = rest.view(np.dtype((np.void, rest.itemsize * rest.shape[1])))[:, 0]
        better = np.argsort(rest, kind="stable")
        better = better[np.argsort(group[tied][better], kind="stable")]
        rest, of = rest[better], group[tied]
        order[tied] = order[tied][better]
        same = (of[1:] == of[:-1]) & (rest[1:] == rest[:-1])
        return order, m - int(np.count_nonzero(same))
    return order, m


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
