"""How far attributed edges agree with measured effects: within images, and over the links of a graph.

Legend: N images, T targets, Q sources, D resamples.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

LEAST = 3
"""Sources of a target that a correlation is taken over, at least."""


@functools.lru_cache(maxsize=8)
def resamples(count: int, draws: int, seed: int) -> Float[np.ndarray, "d n"]:
    """Weights of the cases in each resample (Efron 1979): the mean of a resample is its row times the cases."""
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws) / count


class Agreement(NamedTuple):
    """One number and its 95 % interval over images.

    Attributes:
        metric: rank_correlation, pearson, sign_agreement, each also over links (``link_…``), or slope.
        value, low, high: the number and its interval.
        n: images.
    """

    metric: str
    value: float
    low: float
    high: float
    n: int


def agreements(
    edges: Float[np.ndarray, "n t q"],
    effects: Float[np.ndarray, "n t q"],
    present: Bool[np.ndarray, "n t"],
    draws: int = 1000,
    seed: int = 0,
) -> Iterator[Agreement]:
    """Every agreement of edges with effects that the images can tell.

    Within an image a correlation is taken over the sources of one target that are active there, at least
    :data:`LEAST`, and averaged over its targets; over links it is that of the mean edges with the mean effects of all
    images. ``sign_agreement`` is the share of pairs of the same sign among those where neither is zero, ``slope`` the
    least squares fit Δ ≈ slope · edge through zero over all images and links. Intervals resample images.

    Args:
        edges: e_{q→j} of each image, zero where a source is absent.
        effects: Δ_j(q).
        present: whether an image has the target.
        draws: resamples.
        seed: of the resampling.
    """
    edges, effects = (np.where(present[..., None], part, 0).astype(np.float64) for part in (edges, effects))
    active = present[..., None] & ((edges != 0) | (effects != 0))
    rows = np.array([_within(*one) for one in zip(edges, effects, active, strict=True)])
    weights = resamples(len(edges), draws, seed)
    for metric, column in zip(("rank_correlation", "pearson", "sign_agreement"), rows.T, strict=True):
        defined = np.isfinite(column)
        if defined.any():
            shares = weights[:, defined]
            totals = shares.sum(1)
            again = shares[totals > 0] @ column[defined] / totals[totals > 0]
            yield Agreement(metric, float(column[defined].mean()), *_interval(again), int(defined.sum()))
    links = active.any(0)
    means = [part.mean(0)[links] for part in (edges, effects)]
    again = [weights @ part[:, links] for part in (edges, effects)]
    for name, of in (("rank_correlation", spearman), ("pearson", pearson), ("sign_agreement", same_sign)):
        value = of(*(part[None] for part in means))[0]
        if links.sum() >= LEAST and np.isfinite(value):
            yield Agreement(f"link_{name}", float(value), *_interval(of(*again)), len(edges))
    products, squares = (edges * effects).sum((1, 2)), np.square(edges).sum((1, 2))
    if squares.any():
        below = weights @ squares
        slopes = (weights @ products)[below > 0] / below[below > 0]
        yield Agreement("slope", float(products.sum() / squares.sum()), *_interval(slopes), len(edges))


def _within(
    edges: Float[np.ndarray, "t q"], effects: Float[np.ndarray, "t q"], active: Bool[np.ndarray, "t q"]
) -> tuple[float, float, float]:
    """Rank and Pearson correlation, means over targets; the share of pairs of the same sign. NaN where undefined."""
    told = [row for row in range(len(edges)) if active[row].sum() >= LEAST]
    ranks = [spearman(edges[row][None, active[row]], effects[row][None, active[row]])[0] for row in told]
    plain = [pearson(edges[row][None, active[row]], effects[row][None, active[row]])[0] for row in told]
    signs = same_sign(edges[active][None], effects[active][None])[0]
    return _mean(ranks), _mean(plain), float(signs)


def _mean(values: list[float]) -> float:
    defined = [value for value in values if np.isfinite(value)]
    return float(np.mean(defined)) if defined else float("nan")


def _interval(values: np.ndarray) -> tuple[float, float]:
    low, high = np.nanquantile(values, [0.025, 0.975]) if np.isfinite(values).any() else (np.nan, np.nan)
    return float(low), float(high)


def pearson(first: Float[np.ndarray, "d n"], second: Float[np.ndarray, "d n"]) -> Float[np.ndarray, " d"]:
    """Correlation of each row, NaN where one of the two is constant."""
    first, second = (part - part.mean(1, keepdims=True) for part in (first, second))
    below = np.sqrt(np.square(first).sum(1) * np.square(second).sum(1))
    above = (first * second).sum(1)
    return np.divide(above, below, out=np.full(len(first), np.nan), where=below > 0)


def spearman(first: Float[np.ndarray, "d n"], second: Float[np.ndarray, "d n"]) -> Float[np.ndarray, " d"]:
    """Rank correlation of each row, ties at their mean rank."""
    from scipy.stats import rankdata  # slow to import, and a plan needs it not

    return pearson(rankdata(first, axis=1), rankdata(second, axis=1))


def same_sign(first: Float[np.ndarray, "d n"], second: Float[np.ndarray, "d n"]) -> Float[np.ndarray, " d"]:
    """Share of pairs with the same sign among those without a zero, NaN where there are none."""
    both = (first != 0) & (second != 0)
    same = (both & (np.sign(first) == np.sign(second))).sum(1)
    return np.divide(same, both.sum(1), out=np.full(len(first), np.nan), where=both.sum(1) > 0)


class MeanEffect(NamedTuple):
    """Mean effect over a group's images and its 95 % interval, for each target and source."""

    value: Float[np.ndarray, "*t q"]
    low: Float[np.ndarray, "*t q"]
    high: Float[np.ndarray, "*t q"]


def mean_effects(effects: Float[np.ndarray, "n *t q"], draws: int = 1000, seed: int = 0) -> MeanEffect:
    """Means over images with percentile bootstrap intervals; an image without the concept counts as zero, as an edge
    does. A single image has no interval: its ends are NaN.
    """
    effects = effects.astype(np.float64)
    mean = effects.mean(0)
    if len(effects) == 1:
        return MeanEffect(mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan))
    again = np.tensordot(resamples(len(effects), draws, seed), effects, 1)
    low, high = np.quantile(again, [0.025, 0.975], axis=0)
    return MeanEffect(mean, low, high)


def contradicted(weight: float, low: float, high: float) -> bool:
    """Whether an effect's interval excludes zero on the side that an edge's sign excludes."""
    return bool((weight > 0 and high < 0) or (weight < 0 and low > 0))
