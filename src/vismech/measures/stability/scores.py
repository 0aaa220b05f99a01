"""How much of a layer's concepts and of the graph's edges comes back in another run.

Legend: k, l concepts of the two runs, m concepts of both together (each matched pair once), g groups of images, t and s
targets (concepts of the next layer that the graph keeps, or the class).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from vismech.measures.statistics import Interval, bootstrap

SAME = 0.9
"""A cosine above which two concept vectors are called the same."""
DRAWS = 100
"""Random matchings that chance is the mean of."""


class Pairing(NamedTuple):
    """The concepts of two runs side by side, −1 where one has none: matched pairs, then those that are left over."""

    first: Int[np.ndarray, " m"]
    second: Int[np.ndarray, " m"]


class Overlap(NamedTuple):
    """A share with its interval, the number of concepts behind it, and what a random matching gives on average."""

    value: float
    interval: Interval
    n: int
    chance: float


def pairing(partners: Int[np.ndarray, " k"], others: int) -> Pairing:
    """Every concept of two runs once.

    Args:
        partners: the second run's concept that each of the first is matched with, −1 for none.
        others: number of the second run's concepts.
    """
    left = np.setdiff1d(np.arange(others), partners)
    first = np.concatenate([np.arange(len(partners)), np.full(len(left), -1)])
    return Pairing(first, np.concatenate([partners, left]).astype(first.dtype))


def shuffled(pairs: Pairing, generator: np.random.Generator) -> Pairing:
    """A random matching of the same sizes: the second run's concepts dealt out anew to the matched of the first."""
    matched = (pairs.first >= 0) & (pairs.second >= 0)
    second = pairs.second.copy()
    second[matched] = generator.permutation(second[matched])
    return pairs._replace(second=second)


def traced(pairs: Pairing, targets: list[int], others: list[int]) -> Pairing:
    """Rows of two runs' edges side by side, −1 where one of them has none into that concept.

    Args:
        pairs: the concepts of the upper layer.
        targets: the concept of each row of the first run's edges.
        others: of the second's.
    """
    rows = [{concept: row for row, concept in enumerate(each)} for each in (targets, others)]
    found = [(rows[0].get(one, -1), rows[1].get(two, -1)) for one, two in zip(*pairs, strict=True)]
    both = np.array([each for each in found if max(each) >= 0], dtype=np.int64).reshape(-1, 2)
    return Pairing(both[:, 0], both[:, 1])


def graph_overlap(
    edges: Float[np.ndarray, "g t k"],
    others: Float[np.ndarray, "g s l"],
    targets: Pairing,
    sources: Pairing,
    seed: int,
    draws: int = DRAWS,
) -> Overlap | None:
    """Weighted Jaccard index of two sets of signed edges (Ružička 1958), positive and negative parts apart:

        Σ min(w⁺, w'⁺) + min(w⁻, w'⁻)  ÷  Σ max(w⁺, w'⁺) + max(w⁻, w'⁻)

    1 for the same edges, 0 for edges between other concepts or of the opposite sign. An edge that one run lacks,
    because one of its ends has no partner or is not kept in that run's graph, has weight zero there and counts below
    the line.
    The interval resamples sources that have an edge. Chance is the mean over random matchings of the sources alone,
    which leaves the targets matched: the more demanding level.

    Returns:
        None where neither run has an edge.
    """
    shared, union = _parts(edges, others, targets, sources)
    some = union > 0
    if not some.any():
        return None
    shared, union = shared[some], union[some]

    def ratio(rows: np.ndarray, axis: int) -> np.ndarray:
        chosen = rows.astype(np.int64)
        return shared[chosen].sum(axis) / union[chosen].sum(axis)

    generator = np.random.default_rng(seed)
    chances = [_parts(edges, others, targets, shuffled(sources, generator)) for _ in range(draws)]
    chance = float(np.mean([part.sum() / whole.sum() for part, whole in chances]))
    interval = bootstrap(np.arange(len(union), dtype=np.float64), statistic=ratio)
    return Overlap(float(shared.sum() / union.sum()), interval, len(union), chance)


def _parts(
    edges: np.ndarray, others: np.ndarray, targets: Pairing, sources: Pairing
) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
    """What of each source's edges is common to both runs, and what is in either."""
    one, two = (
        np.pad(each, ((0, 0), (0, 1), (0, 1)))[:, rows][:, :, columns]  # −1 is the zero at the end
        for each, rows, columns in zip((edges, others), targets, sources, strict=True)
    )
    parts = np.maximum([[one, two], [-one, -two]], 0)  # sign, run, group, target, source
    return parts.min(1).sum((0, 1, 2)), parts.max(1).sum((0, 1, 2))
