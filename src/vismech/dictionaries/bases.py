"""Dictionaries that take no search: orthonormal bases, which are at most as many as channels, and random controls.

Legend: n vectors, c channels, k concepts.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.errors import UserError


def fit_pca(vectors: Float[Tensor, "n c"], k: int, *, seed: int, **_: Any) -> Fitted:
    """The k leading right singular vectors of the vectors: principal components if they come centred.

    The eigenvectors of ``Σ x xᵀ``, largest eigenvalue first, each signed so that its largest entry is positive.

    Raises:
        UserError: for k above the number of channels.
    """
    exact = vectors.detach().cpu().double()
    _require_basis("pca", k, exact)
    energy, axes = torch.linalg.eigh(exact.T @ exact)
    axes = axes.T.flip(0)[:k]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    energy = energy.clamp_min(0).flip(0)
    return Fitted((axes * largest.sign()).float(), {}, {"energy": (energy[:k].sum() / energy.sum()).item()})


def fit_channels(vectors: Float[Tensor, "n c"], k: int, *, seed: int, **_: Any) -> Fitted:
    """The raw channels, in their order; of fewer concepts than channels, those with the largest mean square.

    Raises:
        UserError: for k above the number of channels.
    """
    _require_basis("channels", k, vectors)
    energy = vectors.detach().cpu().double().square().sum(0)
    kept = energy.argsort(descending=True, stable=True)[:k].sort().values
    return Fitted(torch.eye(vectors.shape[1])[kept], {}, {})


def fit_rotation(vectors: Float[Tensor, "n c"], k: int, *, seed: int, **_: Any) -> Fitted:
    """The first k rows of a random orthogonal matrix, evenly distributed over all of them (Stewart 1980).

    Q of the QR decomposition of a Gaussian matrix, its signs set so that R has a positive diagonal.

    Raises:
        UserError: for k above the number of channels.
    """
    _require_basis("rotation", k, vectors)
    c = vectors.shape[1]
    q, r = torch.linalg.qr(torch.randn(c, c, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)))
    return Fitted((q * r.diagonal().sign()).T[:k].float().contiguous(), {}, {})


def fit_random(vectors: Float[Tensor, "n c"], k: int, *, seed: int, **_: Any) -> Fitted:
    """Unit vectors evenly distributed over the sphere."""
    if k < 1:
        raise UserError(f"random: k={k} concepts: ask for at least 1.")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(k, vectors.shape[1], dtype=torch.float64, generator=generator)
    return Fitted(torch.nn.functional.normalize(drawn, dim=1).float(), {}, {})


def fit_random_pfv(vectors: Float[Tensor, "n c"], k: int, *, seed: int, **_: Any) -> Fitted:
    """The directions of k vectors of the layer, drawn evenly among its distinct directions.

    The draw does not depend on the order of the rows. Centred vectors give directions from the mean.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions.
    """
    found = canonical(vectors, "random_pfv")
    require_distinct("random_pfv", k, found, len(vectors))
    distinct = torch.unique_consecutive(found.vectors, dim=0)
    drawn = torch.randperm(len(distinct), generator=torch.Generator().manual_seed(seed))[:k]
    return Fitted(distinct[drawn], {}, {"zero_vectors": len(vectors) - len(found.vectors)})


def encode_projection(
    vectors: Float[Tensor, "*b n c"],
    atoms: Float[Tensor, "k c"],
    encoder: dict[str, Tensor],
    info: dict[str, Any],
) -> Float[Tensor, "*b n k"]:
    """Project onto orthonormal atoms: ``u = x Vᵀ``, the least-squares code."""
    return vectors @ atoms.T


def _require_basis(method: str, k: int, vectors: Tensor) -> None:
    channels = vectors.shape[1]
    if not 1 <= k <= channels:
        raise UserError(f"{method}: {k} concepts were asked of {channels} channels: use 1 … {channels}.")
