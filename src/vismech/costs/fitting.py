"""What it costs to find concepts, method by method.

Legend: n vectors, k concepts, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, log2
from typing import Any

from vismech.config.choices import Method
from vismech.costs.cost import Amount, Kind
from vismech.dictionaries.scratch import IN_MEMORY

TWO_MEANS = 11
"""Rounds of a 2-means: its ten iterations, and the assignment that follows."""
KMEANS = 30
"""Iterations after which flat k-means has mostly settled."""
MINIBATCH = 256
PER_VECTOR, PER_ATOM, BUFFERS = 200.0, 28.0, 16e6
"""Bytes of a bisection for each vector (orders and labels), for each number of an atom (all nodes' means, and what they
are normalised in), and of blocks that are worked on."""


def fitting(method: Method, n: int, k: int, c: int, options: Mapping[str, Any]) -> dict[Kind, Amount]:
    """Work of a method.

    Args:
        method: which.
        n: vectors.
        k: concepts.
        c: channels.
        options: of the method, as its settings have them.
    """
    iterations = int(options.get("iterations", 0))
    match method:
        case Method.bisecting:
            # On every level of the tree each vector is compared with two means.
            levels = max(1, ceil(log2(k))) if k > 1 else 0
            means = Amount(4.0 * TWO_MEANS * n * c * levels)
            return {Kind.bisecting: means, Kind.splits: Amount(max(0.0, k - 1.0))}
        case Method.kmeans:
            return {Kind.kmeans: Amount(2.0 * min(iterations or KMEANS, KMEANS) * n * k * c)}
        case Method.nmf | Method.semi_nmf:
            return {Kind.products: Amount(4.0 * iterations * n * k * c, launches=10.0 * iterations * k)}
        case Method.dictionary_learning:
            return {Kind.lasso: Amount(250.0 * iterations * MINIBATCH * k * c, launches=10.0 * iterations * k)}
        case Method.sae | Method.transcoder:
            rows = float(options.get("steps", 0)) * float(options.get("batch_size", 0))
            return {Kind.products: Amount(12.0 * rows * k * c, launches=60.0 * float(options.get("steps", 0)))}
        case Method.pca:
            return {Kind.products: Amount(doubles=2.0 * n * c * c)}
    return {Kind.products: Amount(traffic=4.0 * n * c)}


def holding(method: Method, n: int, k: int, c: int, center: bool) -> float:
    """Bytes that a method holds in memory, beside what is in files: pages of those the system takes back at need.

    The clusters of a bisection are found in two copies of the vectors, of those less their mean if they are centred.
    """
    if method is not Method.bisecting:
        return 20.0 * n * c
    size = 4.0 * n * c
    arrays = (2 + center) * size if size < IN_MEMORY else 0.0
    return arrays + PER_VECTOR * n + PER_ATOM * k * c + BUFFERS
