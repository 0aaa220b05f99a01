"""Bisecting spherical k-means: a hierarchy of concepts (Steinbach et al. 2000; METHOD §3).

Legend: n vectors, c channels, k concepts, t nodes of the tree.

The 2-means of each node is FAISS's `Clustering` with unit centroids. It is told not to subsample (it would take 256
vectors per centroid) and runs on one thread, so that its sums round the same way everywhere; with two threads it is
slower besides. On a CPU a loop of two matrix-vector products would be about twice as fast as FAISS, which is used
because it also runs on GPUs and, as it is, beats scikit-learn (`experiments/benchmarks/bisecting.py`).
"""

import hashlib
import heapq
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.errors import UserError
from vismech.search import gpu_ordinal, inner_product_index, require_faiss
from vismech.threads import one_thread

# Unit vectors that are nearer to their mean than this (squared, on average) differ by the rounding of float32 only.
ROUNDING = 1e-13
# A 2-means ends early once an iteration improves its objective by less than this fraction.
EARLY_STOP = 1e-4
# Rows that are normalised at once.
CHUNK = 2**14
# Nodes of fewer vectors are split on the CPU, which is sooner done than the copy to a GPU.
GPU_NODE_SIZE = 50_000


class Tree(NamedTuple):
    """The hierarchy, one entry for each node in order of creation; node 0 is the root, -1 means none.

    The first nodes do not depend on K: a larger K only splits further.
    """

    parent: Int[ndarray, " t"]
    left: Int[ndarray, " t"]
    right: Int[ndarray, " t"]
    depth: Int[ndarray, " t"]
    size: Int[ndarray, " t"]
    sse: Float[ndarray, " t"]
    atom: Int[ndarray, " t"]
    centroid: Float[ndarray, "t c"]


class BisectingResult(NamedTuple):
    """Concept vectors (unit centroids of the leaves, left to right), labels (-1: all-zero vector) and the tree.

    `sse` is Σ‖x − mean of its cluster‖² over the unit vectors x; `stopped` says why splitting ended; `zero_vectors`
    were left out because they have no direction.
    """

    atoms: Float[Tensor, "k c"]
    labels: Int[Tensor, " n"]
    tree: Tree
    sse: float
    stopped: str
    zero_vectors: int


class _Node:
    """A cluster that is a leaf so far: its unit vectors, and their rows in canonical order."""

    def __init__(self, vectors: Tensor, rows: Tensor, seed: bytes, parent: int, depth: int):
        self.mean = vectors.mean(0)
        # From the deviations, not as n − ‖sum‖²/n: the difference would drown a tight cluster in rounding.
        self.sse = (vectors - self.mean).square_().sum().item()
        self.vectors, self.rows, self.seed, self.parent, self.depth = vectors, rows, seed, parent, depth
        self.size, self.left, self.right = len(rows), -1, -1
        if self.sse <= ROUNDING * self.size:
            self.sse = 0.0

    def children(self, first: Tensor, index: int) -> "tuple[_Node, _Node]":
        """Split by a mask; each child's seed is a hash of the parent's and its side, that is of (seed, path)."""
        left, right = (
            _Node(
                self.vectors.index_select(0, chosen),
                self.rows.index_select(0, chosen),
                hashlib.blake2b(self.seed + side, digest_size=8).digest(),
                index,
                self.depth + 1,
            )
            for chosen, side in ((first.nonzero()[:, 0], b"L"), ((~first).nonzero()[:, 0], b"R"))
        )
        return left, right


def bisecting_kmeans(
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    seed: int,
    min_size: int = 2,
    iterations: int = 10,
    restarts: int = 1,
    device: str | torch.device = "cpu",
    on_split: Callable[[], None] = lambda: None,
) -> BisectingResult:
    """Cluster directions by splitting, one at a time, the leaf with the largest SSE in two.

    `SSE = Σ ‖x − mean of its cluster‖²` over the unit vectors x. Vectors are first put into a canonical order and each
    node is seeded by (seed, path in the tree), so neither the order of the rows nor the number of threads shows in
    the result. Splitting ends at k leaves, or when every leaf has fewer than `min_size` vectors or zero SSE.
    `on_split` is called after each split.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions.
    """
    if k < 1 or min_size < 1 or iterations < 1 or restarts < 1:
        raise UserError(f"bisecting: k={k}, min_size, iterations={iterations} and restarts must be at least 1.")
    with one_thread():
        unit, rows, distinct = _canonical_unit_vectors(vectors)
        if k > distinct:
            raise UserError(
                f"bisecting: {k} concepts were asked of {distinct} distinct directions among {len(vectors)} vectors: "
                f"lower k to at most {distinct}, or sample more vectors."
            )
        nodes, stopped = _grow(unit, k, seed, min_size, iterations, restarts, gpu_ordinal(device), on_split)
    return _collect(nodes, rows, len(vectors), stopped)


def fit_bisecting(
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    seed: int,
    center: bool = False,
    device: str | torch.device = "cpu",
    **options: Any,
) -> Fitted:
    """Fit by `bisecting_kmeans` (its keyword options), in the contract of `vismech.dictionaries.METHODS`."""
    result = bisecting_kmeans(vectors, k, seed=seed, device=device, **options)
    info = {"sse": result.sse, "stopped": result.stopped, "zero_vectors": result.zero_vectors}
    return Fitted(result.atoms, {f"tree_{name}": array for name, array in result.tree._asdict().items()}, info)


def _canonical_unit_vectors(vectors: Tensor) -> tuple[Tensor, Tensor, int]:
    """Return the unit vectors sorted by their bytes, the row each came from, and how many are distinct."""
    vectors = vectors.detach().cpu()
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    if not bool(norms.isfinite().all()):
        raise UserError("bisecting: the vectors hold values that are not finite: mend what produced them.")
    kept = norms.nonzero()[:, 0]
    # Normalised in float64, so that parallel vectors become equal; + 0 turns −0 into 0, which has other bytes.
    unit = vectors.new_empty(len(kept), vectors.shape[1], dtype=torch.float32)
    for part, chosen in zip(unit.split(CHUNK), kept.split(CHUNK), strict=True):
        part.copy_(vectors[chosen] / norms[chosen, None]).add_(0.0)
    unit = unit.numpy()
    as_bytes = unit.view(np.dtype((np.void, unit.itemsize * unit.shape[1])))[:, 0]
    order = np.argsort(as_bytes, kind="stable")
    as_bytes = as_bytes[order]
    distinct = min(len(kept), 1) + int(np.count_nonzero(as_bytes[1:] != as_bytes[:-1]))
    unit = as_bytes.view(np.float32).reshape(len(kept), vectors.shape[1])
    return torch.from_numpy(unit), kept[torch.from_numpy(order)], distinct


def _grow(
    unit: Tensor,
    k: int,
    seed: int,
    min_size: int,
    iterations: int,
    restarts: int,
    ordinal: int | None,
    on_split: Callable[[], None],
) -> tuple[list[_Node], str]:
    """Return every node in order of creation and why splitting ended."""
    root_seed = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    nodes = [_Node(unit, torch.arange(len(unit)), root_seed, -1, 0)]
    heap: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        if nodes[index].sse > 0 and nodes[index].size >= max(min_size, 2):
            heapq.heappush(heap, (-nodes[index].sse, index))

    offer(0)
    while len(nodes) < 2 * k - 1 and heap:
        index = heapq.heappop(heap)[1]
        node = nodes[index]
        first = _two_means(node, iterations, restarts, ordinal if node.size >= GPU_NODE_SIZE else None)
        node.left, node.right = len(nodes), len(nodes) + 1
        nodes.extend(node.children(first, index))
        node.vectors = unit[:0]
        offer(node.left)
        offer(node.right)
        on_split()
    if len(nodes) == 2 * k - 1:
        return nodes, "reached k"
    small = any(node.left < 0 and node.sse > 0 for node in nodes)
    return nodes, "minimum size" if small else "zero SSE"


def _two_means(node: _Node, iterations: int, restarts: int, ordinal: int | None) -> Tensor:
    """Return which vectors of a node fall to the first of two unit centroids; neither side is empty."""
    faiss = require_faiss()
    data = node.vectors.numpy()
    clustering = faiss.Clustering(data.shape[1], 2)
    clustering.seed = 1 + int.from_bytes(node.seed, "big") % (2**31 - 1)
    clustering.niter, clustering.nredo = iterations, restarts
    clustering.spherical, clustering.early_stop_threshold = True, EARLY_STOP
    clustering.min_points_per_centroid, clustering.max_points_per_centroid = 1, len(data)
    index = inner_product_index(data.shape[1], ordinal)
    clustering.train(data, index)
    first = torch.from_numpy(index.search(data, 1)[1][:, 0] == 0)
    if 0 < int(first.count_nonzero()) < node.size:
        return first
    # Float32 cosines cannot tell these vectors apart: split off those on the far side of the one farthest out.
    deviations = node.vectors.double() - node.vectors.double().mean(0)
    farthest = deviations[deviations.square().sum(1).argmax()]
    return deviations @ farthest > 0.5 * (farthest @ farthest)


def _collect(nodes: list[_Node], rows: Tensor, n: int, stopped: str) -> BisectingResult:
    """Number the leaves from left to right and lay the tree out as arrays."""
    labels, atom, order, stack = torch.full((n,), -1), np.full(len(nodes), -1), [], [0]
    while stack:
        index = stack.pop()
        node = nodes[index]
        if node.left >= 0:
            stack += [node.right, node.left]
            continue
        atom[index] = len(order)
        labels[rows[node.rows]] = len(order)
        order.append(index)
    means = torch.stack([node.mean for node in nodes]).double()
    centroid = torch.nn.functional.normalize(means, eps=1e-300).float()
    integers = {name: np.array([getattr(node, name) for node in nodes]) for name in Tree._fields[:5]}
    tree = Tree(**integers, sse=np.array([node.sse for node in nodes]), atom=atom, centroid=centroid.numpy())
    sse = float(tree.sse[order].sum())
    return BisectingResult(centroid[order], labels, tree, sse, stopped, n - len(rows))
