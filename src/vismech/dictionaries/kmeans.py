"""Flat k-means: spherical (Hornik et al. 2012), that is of directions, or Euclidean, of the vectors as they are.

Legend: n vectors, c channels, k concepts.

The clustering is FAISS's. It is told not to subsample (it would take 256 vectors per centroid) and runs on one thread,
so that its sums round the same way everywhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.dictionaries.search import exact_index, gpu_ordinal, require_faiss
from vismech.errors import UserError
from vismech.passes.threads import one_thread

# A clustering ends early once an iteration improves its objective by less than this fraction.
EARLY_STOP = 1e-4


class Clusters(NamedTuple):
    """Centroids, and the nearest one of each vector."""

    centroids: Float[Tensor, "k c"]
    labels: Int[Tensor, " n"]


def cluster(
    vectors: Float[Tensor, "n c"],
    k: int,
    seed: int,
    *,
    spherical: bool,
    iterations: int,
    restarts: int = 1,
    ordinal: int | None = None,
) -> Clusters:
    """Alternate between nearest centroids and means, from k vectors drawn by the seed; `spherical`: unit centroids.

    `restarts` draws are tried and the best clustering is kept; `ordinal` is the GPU to use.
    """
    faiss = require_faiss()
    data = vectors.numpy()
    clustering = _clustering(data.shape[1], k, len(data), spherical, iterations, restarts)
    clustering.seed = seed
    index = exact_index(data.shape[1], ordinal, inner_product=spherical)
    clustering.train(data, index)
    labels = torch.from_numpy(index.search(data, 1)[1][:, 0])
    return Clusters(torch.from_numpy(faiss.vector_to_array(clustering.centroids).reshape(k, -1)), labels)


@contextmanager
def one_by_one() -> Iterator[None]:
    """Let FAISS compare vectors with centroids one by one, not as products of matrices, for all of the process.

    A product with two columns costs BLAS five times as much as reading the vectors does. Cosines round otherwise, which
    shows where a vector is as near to one centroid as to the other within a part in 10⁷.
    """
    limits = require_faiss().cvar
    before, limits.distance_compute_blas_threshold = limits.distance_compute_blas_threshold, 2**31 - 1
    try:
        yield
    finally:
        limits.distance_compute_blas_threshold = before


class TwoMeans:
    """As :func:`cluster` with k = 2 on the CPU, again and again for up to n vectors of c channels."""

    def __init__(self, n: int, c: int, *, spherical: bool, iterations: int, restarts: int = 1) -> None:
        self._faiss = require_faiss()
        self._index = exact_index(c, inner_product=spherical)
        self._clustering = _clustering(c, 2, n, spherical, iterations, restarts)
        self._nearest, self._scores = np.empty(n, np.int64), np.empty(n, np.float32)
        self._found = tuple(self._faiss.swig_ptr(array) for array in (self._scores, self._nearest))

    def __call__(self, vectors: Float[Tensor, "m c"], seed: int) -> Bool[ndarray, " m"]:
        """Which vectors fall to the first centroid."""
        clustering, count = self._clustering, len(vectors)
        clustering.seed = seed
        clustering.centroids.resize(0)  # or they would be begun with
        clustering.iteration_stats.clear()
        data = vectors.contiguous().numpy()
        pointer = self._faiss.swig_ptr(data)
        clustering.train_c(count, pointer, self._index)
        self._index.search_c(count, pointer, 1, *self._found)
        return self._nearest[:count] == 0


def _clustering(c: int, k: int, n: int, spherical: bool, iterations: int, restarts: int) -> Any:
    clustering = require_faiss().Clustering(c, k)
    clustering.niter, clustering.nredo = iterations, restarts
    clustering.spherical, clustering.early_stop_threshold = spherical, EARLY_STOP
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, n
    clustering.check_input_data_for_NaNs = False  # `canonical` has refused them
    return clustering


def fit_kmeans(
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    seed: int,
    center: bool = False,
    device: str | torch.device = "cpu",
    iterations: int = 200,
    unit: bool = True,
) -> Fitted:
    """Fit k clusters; a concept is the direction of its cluster's mean, ``v_j = Σ_{x in j} x / ‖Σ_{x in j} x‖``.

    `unit` clusters directions by cosine, otherwise the vectors themselves by distance. Vectors are first put into a
    canonical order, so that the order of the rows does not show. An empty cluster keeps the centroid it had.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions (or vectors).
    """
    with one_thread():
        found = canonical(vectors, "kmeans", unit=unit)
        require_distinct("kmeans", k, found, len(vectors), "directions" if unit else "values")
        clusters = cluster(
            found.vectors,
            k,
            1 + seed % (2**31 - 1),
            spherical=unit,
            iterations=iterations,
            ordinal=gpu_ordinal(device),
        )
        counts = torch.bincount(clusters.labels, minlength=k)
        exact = found.vectors.double()
        means = torch.zeros(k, vectors.shape[1], dtype=torch.float64).index_add_(0, clusters.labels, exact)
        means = torch.where(counts[:, None] > 0, means / counts.clamp_min(1)[:, None], clusters.centroids)
        sse = (exact - means[clusters.labels]).square_().sum().item()
    info: dict[str, Any] = {"sse": sse, "empty": int((counts == 0).sum()), "zero_vectors": len(vectors) - len(exact)}
    return Fitted(directions(means, "kmeans").float(), {"cluster_size": counts.numpy()}, info)


def directions(means: Float[Tensor, "k c"], method: str) -> Float[Tensor, "k c"]:
    """Return the means divided by their norms.

    Raises:
        UserError: where a mean is zero and has none.
    """
    norms = torch.linalg.vector_norm(means, dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise UserError(
            f"{method}: the mean of cluster {int(norms.argmin())} is zero and has no direction: change k or the seed."
        )
    return means / norms
