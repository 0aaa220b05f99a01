"""Intervals for what evaluations report."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

BOOTSTRAPPED = 2000
"""Resamples of an interval."""


class Interval(NamedTuple):
    """A confidence interval."""

    low: float
    high: float


def wilson(share: float, count: int) -> Interval:
    """Wilson's 95 % interval of a proportion observed on ``count`` cases (Wilson 1927), by SciPy."""
    from scipy.stats import binomtest  # slow to import, and a plan needs it not

    return Interval(*map(float, binomtest(round(share * count), count).proportion_ci(0.95, "wilson")))


def bootstrap(
    values: Float[np.ndarray, " n"], level: float = 0.95, draws: int = BOOTSTRAPPED, seed: int = 0, statistic=np.mean
) -> Interval:
    """Percentile bootstrap of a statistic (Efron 1979), resampling the n cases, which must be independent.

    Pass one value per image, not per (image, target), where images hold several. For a paired comparison of two
    methods pass their differences.

    Args:
        values: one number per case.
        level: coverage.
        draws: resamples.
        seed: of the resampling; the same values and seed give the same interval.
        statistic: called with ``axis=1`` on resamples [draws, n].
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one case")
    generator = np.random.default_rng(seed)
    values = np.asarray(values, dtype=np.float64)
    some = max(1, 2**22 // len(values))  # resamples at a time, so that memory stays flat
    found = [
        statistic(values[generator.integers(len(values), size=(min(some, draws - first), len(values)))], axis=1)
        for first in range(0, draws, some)
    ]
    low, high = np.quantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def clustered_bootstrap(
    values: Float[np.ndarray, " n"],
    clusters: Int[np.ndarray, " n"],
    level: float = 0.95,
    draws: int = BOOTSTRAPPED,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the mean of cases that share something, such as one ranking: whole clusters are drawn.

    Where cases of a cluster go up and down together, :func:`bootstrap` takes them for independent and is too narrow.

    Args:
        values: one number per case.
        clusters: the cluster of each case.
        level: coverage.
        draws: resamples.
        seed: of the resampling.
    """
    if len(values) == 0:
        raise ValueError("an interval needs at least one case")
    _, place = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(place, weights=np.asarray(values, dtype=np.float64)), np.bincount(place)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(draws, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


class Difference(NamedTuple):
    """A mean difference of paired cases and its confidence interval."""

    value: float
    low: float
    high: float


def paired_difference(
    first: Float[np.ndarray, " n"],
    second: Float[np.ndarray, " n"],
    level: float = 0.95,
    draws: int = BOOTSTRAPPED,
    seed: int = 0,
    clusters: Int[np.ndarray, " n"] | None = None,
) -> Difference:
    """Mean of ``first − second`` over the n cases that both have, with :func:`bootstrap`'s interval over these cases.

    What two methods share of an image's difficulty cancels, so this is narrower than two intervals apart.

    Args:
        first: one number per case.
        second: of the same cases in the same order.
        level: coverage.
        draws: resamples.
        seed: of the resampling.
        clusters: of the cases, where these share something: then :func:`clustered_bootstrap`'s interval.
    """
    assert len(first) == len(second)
    change = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    if clusters is not None:
        return Difference(float(change.mean()), *clustered_bootstrap(change, clusters, level, draws, seed))
    return Difference(float(change.mean()), *bootstrap(change, level, draws, seed))
