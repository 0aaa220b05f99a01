"""Covariance attribution: a witness that looks at no gradient (after FreeMCG, without its diffusion model).

    φ_q = Cov(x_q, t) over the M activations of the data that are nearest to an image's

Legend: N activations of the data, M of them, D numbers by which they are compared, Q units, T targets.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from vismech.dictionaries.search import nearest
from vismech.errors import UserError


def neighbours(data: Float[np.ndarray, "n d"], query: Float[np.ndarray, "b d"], count: int) -> Int[np.ndarray, "b m"]:
    """The ``count`` nearest of the data to each query by cosine, by FAISS.

    Raises:
        UserError: fewer than three activations, whose covariance says nothing.
    """
    count = min(count, len(data))
    if count < 3:
        raise UserError(f"covariance attribution needs at least 3 images, and there are {len(data)}: give more images")
    return nearest(query, [data], count).rows


def covariances(units: Float[Tensor, "m q"], targets: Float[Tensor, "m t"]) -> Float[Tensor, "t q"]:
    """Cov(x_q, t_j) over an ensemble, with the unbiased denominator M − 1."""
    units, targets = units - units.mean(0), targets - targets.mean(0)
    return targets.T @ units / (len(units) - 1)
