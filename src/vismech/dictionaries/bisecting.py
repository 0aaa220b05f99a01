"""Bisecting spherical k-means: a hierarchy of concepts (Steinbach et al. 2000).

Legend: n vectors, c channels, k concepts, t nodes of the tree.

The 2-means of each node is FAISS's on one thread; with two it is slower besides. FAISS is used because it also runs on
GPUs and beats scikit-learn. Most nodes hold a few vectors, where what surrounds FAISS costs more than its arithmetic:
so its objects are made once, and masks are numpy's. Tried, and no faster (`experiments/benchmarks/bisecting.py`): to
split nodes of one size together from products of their vectors; to split several in threads, of which Python lets one
run where nodes are small; to read large nodes once an iteration in blocks that a cache holds.
"""

import hashlib
import heapq
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.dictionaries.kmeans import TwoMeans, cluster, directions, one_by_one
from vismech.dictionaries.scratch import room
from vismech.dictionaries.search import gpu_ordinal
from vismech.errors import UserError
from vismech.passes.threads import one_thread

# Vectors nearer to their mean than this (squared, on average, relative to their mean square) differ by the rounding of
# float32 only.
ROUNDING = 1e-13
# Nodes of fewer vectors are split on the CPU, which is sooner done than the copy to a GPU.
GPU_NODE_SIZE = 50_000
# Means that are normalised at once.
CHUNK = 2**10


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

    `sse` is Σ‖x − mean of its cluster‖² over the clustered vectors x; `stopped` says why splitting ended;
    `zero_vectors` were left out because they have no direction.
    """

    atoms: Float[Tensor, "k c"]
    labels: Int[Tensor, " n"]
    tree: Tree
    sse: float
    stopped: str
    zero_vectors: int


class _Vectors:
    """The vectors in two arrays [n, c], and their rows in canonical order: each node's are neighbours in one of them.

    A split copies them to the same places of the other, the first cluster's before the second's. What no node uses of
    an array is room for the deviations from a mean: so nothing else grows with the vectors.
    """

    def __init__(self, vectors: Tensor, other: Tensor) -> None:
        self.arrays, self.rows = (vectors, other), np.arange(len(vectors))

    def split(self, node: "_Node", first: ndarray) -> int:
        """Sort a node's vectors by a mask, and return where the second cluster's begin."""
        here = slice(node.begin, node.begin + node.size)
        order = np.argsort(~first, kind="stable")
        source, target = self.arrays[node.side][here], self.arrays[1 - node.side][here]
        torch.index_select(source, 0, torch.from_numpy(order), out=target)
        self.rows[here] = self.rows[here][order]
        return node.begin + int(np.count_nonzero(first))


class _Node:
    """A cluster that is a leaf so far: its vectors are `size` from `begin` of the array number `side`.

    `rounding` is the mean squared distance from the mean below which the vectors count as equal.
    """

    __slots__ = (
        *("side", "begin", "size", "seed", "parent", "depth", "left", "right", "rounding"),
        *("vectors", "mean", "sse"),
    )

    def __init__(
        self, of: _Vectors, side: int, begin: int, end: int, seed: bytes, parent: int, depth: int, rounding: float
    ) -> None:
        self.side, self.begin, self.size, self.seed = side, begin, end - begin, seed
        self.parent, self.depth, self.left, self.right, self.rounding = parent, depth, -1, -1, rounding
        self.vectors = of.arrays[side][begin:end]
        if self.size == 1:
            self.mean, self.sse = self.vectors[0], 0.0
        else:
            self.mean = self.vectors.mean(0)
            # From the deviations, not as n − ‖sum‖²/n: the difference would drown a tight cluster in rounding.
            deviations = torch.sub(self.vectors, self.mean, out=of.arrays[1 - side][begin:end])
            self.sse = deviations.square_().sum().item()
        if self.sse <= rounding * self.size:
            self.sse = 0.0

    def children(self, of: _Vectors, first: ndarray, index: int) -> "tuple[_Node, _Node]":
        """Split by a mask; each child's seed is a hash of the parent's and its side, that is of (seed, path)."""
        middle = of.split(self, first)
        left, right = (
            _Node(
                of,
                1 - self.side,
                begin,
                end,
                hashlib.blake2b(self.seed + side, digest_size=8).digest(),
                index,
                self.depth + 1,
                self.rounding,
            )
            for begin, end, side in ((self.begin, middle, b"L"), (middle, self.begin + self.size, b"R"))
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
    unit: bool = True,
    device: str | torch.device = "cpu",
    scratch: Path | None = None,
    on_split: Callable[[], None] = lambda: None,
) -> BisectingResult:
    """Cluster directions by splitting, one at a time, the leaf with the largest SSE in two.

    `SSE = Σ ‖x − mean of its cluster‖²` over the unit vectors x, or (`unit=False`) over the vectors as they are, whose
    clusters are then Euclidean; either way a concept is the direction of its cluster's mean. Vectors are first put into
    a canonical order and each node is seeded by (seed, path in the tree), so neither the order of the rows nor the
    number of threads shows in the result. Splitting ends at k leaves, or when every leaf has fewer than `min_size`
    vectors or zero SSE. `on_split` is called after each split. Two copies of the vectors are made, in files of the
    folder `scratch` where they are large: then memory hardly grows with the vectors.

    Raises:
        UserError: for values that are not finite, or k above the number of distinct directions (or vectors).
    """
    if k < 1 or min_size < 1 or iterations < 1 or restarts < 1:
        raise UserError(f"bisecting: k={k}, min_size, iterations={iterations} and restarts must be at least 1.")
    with one_thread(), one_by_one():
        found = canonical(vectors, "bisecting", unit=unit, folder=scratch)
        require_distinct("bisecting", k, found, len(vectors), "directions" if unit else "values")
        how = {"spherical": unit, "iterations": iterations, "restarts": restarts}
        split = partial(_two_means, TwoMeans(len(found.vectors), vectors.shape[1], **how), gpu_ordinal(device), how)
        of = _Vectors(found.vectors, room(*found.vectors.shape, folder=scratch))
        nodes, stopped = _grow(of, k, seed, min_size, split, on_split)
    return _collect(nodes, found.rows[torch.from_numpy(of.rows)], len(vectors), stopped)


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


def _grow(
    of: _Vectors, k: int, seed: int, min_size: int, split: Callable[[_Node], ndarray], on_split: Callable[[], None]
) -> tuple[list[_Node], str]:
    """Return every node in order of creation and why splitting ended."""
    root_seed = hashlib.blake2b(str(seed).encode(), digest_size=8).digest()
    vectors, other = of.arrays
    scale = torch.square(vectors, out=other).sum().item() / len(vectors)
    nodes = [_Node(of, 0, 0, len(vectors), root_seed, -1, 0, ROUNDING * scale)]
    heap: list[tuple[float, int]] = []

    def offer(index: int) -> None:
        if nodes[index].sse > 0 and nodes[index].size >= max(min_size, 2):
            heapq.heappush(heap, (-nodes[index].sse, index))

    offer(0)
    while len(nodes) < 2 * k - 1 and heap:
        index = heapq.heappop(heap)[1]
        node = nodes[index]
        first = split(node)
        node.left, node.right = len(nodes), len(nodes) + 1
        nodes.extend(node.children(of, first, index))
        node.vectors = vectors[:0]  # whose places are the children's
        offer(node.left)
        offer(node.right)
        on_split()
    if len(nodes) == 2 * k - 1:
        return nodes, "reached k"
    small = any(node.left < 0 and node.sse > 0 for node in nodes)
    return nodes, "minimum size" if small else "zero SSE"


def _two_means(on_cpu: TwoMeans, ordinal: int | None, how: dict[str, Any], node: _Node) -> ndarray:
    """Return which vectors of a node fall to the first of two centroids; neither side is empty."""
    if node.size == 2:
        return np.array([True, False])
    seed = 1 + int.from_bytes(node.seed, "big") % (2**31 - 1)
    if ordinal is None or node.size < GPU_NODE_SIZE:
        first = on_cpu(node.vectors, seed)
    else:
        first = (cluster(node.vectors, 2, seed, ordinal=ordinal, **how).labels == 0).numpy()
    if 0 < np.count_nonzero(first) < node.size:
        return first
    # Float32 cosines cannot tell these vectors apart: split off those on the far side of the one farthest out.
    deviations = node.vectors.double() - node.vectors.double().mean(0)
    farthest = deviations[deviations.square().sum(1).argmax()]
    return (deviations @ farthest > 0.5 * (farthest @ farthest)).numpy()


def _collect(nodes: list[_Node], rows: Tensor, n: int, stopped: str) -> BisectingResult:
    """Number the leaves from left to right and lay the tree out as arrays."""
    atom, order, stack = np.full(len(nodes), -1), [], [0]
    while stack:
        index = stack.pop()
        node = nodes[index]
        if node.left >= 0:
            stack += [node.right, node.left]
            continue
        atom[index] = len(order)
        order.append(index)
    # Each leaf's vectors follow those of the leaf to its left.
    sizes, labels = torch.tensor([nodes[index].size for index in order]), torch.full((n,), -1)
    labels[rows] = torch.arange(len(order)).repeat_interleave(sizes)
    leaves, centroid = torch.from_numpy(atom >= 0), torch.empty(len(nodes), len(nodes[0].mean))
    for begin in range(0, len(nodes), CHUNK):
        some = slice(begin, begin + CHUNK)
        means = torch.stack([node.mean for node in nodes[some]]).double()
        norms = torch.linalg.vector_norm(means, dim=1, keepdim=True)
        if not bool((norms[leaves[some]] > 0).all()):
            directions(means[leaves[some]], "bisecting")  # which refuses a mean that is zero
        centroid[some] = means.div_(norms.clamp_(min=1e-300))
    integers = np.array([(node.parent, node.left, node.right, node.depth, node.size) for node in nodes]).T
    tree = Tree(*integers.copy(), sse=np.array([node.sse for node in nodes]), atom=atom, centroid=centroid.numpy())
    sse = float(tree.sse[order].sum())
    return BisectingResult(centroid[order], labels, tree, sse, stopped, n - len(rows))
