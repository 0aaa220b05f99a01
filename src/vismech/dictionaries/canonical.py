"""Vectors in an order of their own, so that the order in which they came shows in no dictionary.

Legend: n vectors, m vectors kept, c channels.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError

# Rows that are normalised at once.
CHUNK = 2**14


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
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    if not bool(norms.isfinite().all()):
        raise UserError(f"{method}: the vectors hold values that are not finite: mend what produced them.")
    kept = norms.nonzero()[:, 0]
    # Normalised in float64, so that parallel vectors become equal; + 0 turns −0 into 0, which has other bytes.
    data = vectors.new_empty(len(kept), vectors.shape[1], dtype=torch.float32)
    for part, chosen in zip(data.split(CHUNK), kept.split(CHUNK), strict=True):
        part.copy_(vectors[chosen] / norms[chosen, None] if unit else vectors[chosen]).add_(0.0)
    data = data.numpy()
    as_bytes = data.view(np.dtype((np.void, data.itemsize * data.shape[1])))[:, 0]
    order = np.argsort(as_bytes, kind="stable")
    as_bytes = as_bytes[order]
    distinct = min(len(kept), 1) + int(np.count_nonzero(as_bytes[1:] != as_bytes[:-1]))
    data = as_bytes.view(np.float32).reshape(len(kept), vectors.shape[1])
    return Canonical(torch.from_numpy(data), kept[torch.from_numpy(order)], distinct)


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
