"""Agreement of edges with effects: SciPy's correlations, numbers worked out by hand, and intervals that resample."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from vismech.intervene.agreement import agreements, contradicted, mean_effects


def draws(images: int = 40, targets: int = 3, sources: int = 7, noise: float = 0.5):
    generator = np.random.default_rng(0)
    edges = generator.normal(size=(images, targets, sources)) * generator.integers(0, 2, (images, 1, sources))
    effects = 0.8 * edges + noise * generator.normal(size=edges.shape) * (edges != 0)
    return edges, effects, generator.random((images, targets)) < 0.8


def test_correlations_are_scipys() -> None:
    edges, effects, present = draws()
    found = {one.metric: one for one in agreements(edges, effects, present)}
    for metric, of in (("rank_correlation", stats.spearmanr), ("pearson", stats.pearsonr)):
        each = []
        for image in range(len(edges)):
            values = [
                of(edges[image, row][here], effects[image, row][here])[0]
                for row in range(edges.shape[1])
                if present[image, row] and (here := edges[image, row] != 0).sum() >= 3
            ]
            each += [np.mean(values)] if values else []
        assert found[metric].value == pytest.approx(np.mean(each))
        assert found[metric].n == len(each)
        assert found[metric].low < found[metric].value < found[metric].high
        masked = [(part * present[..., None]).mean(0).ravel() for part in (edges, effects)]
        assert found[f"link_{metric}"].value == pytest.approx(of(*masked)[0])
    masked = [part * present[..., None] for part in (edges, effects)]
    assert found["slope"].value == pytest.approx((masked[0] * masked[1]).sum() / np.square(masked[0]).sum())
    assert found["slope"].low < 0.8 < found["slope"].high


def test_equal_edges_agree_wholly_and_opposite_ones_not_at_all() -> None:
    edges, _, present = draws()
    for sign in (1, -1):
        found = {one.metric: one.value for one in agreements(edges, sign * edges, present)}
        assert found["rank_correlation"] == pytest.approx(sign)
        assert found["sign_agreement"] == (sign > 0)
        assert found["slope"] == pytest.approx(sign)


def test_random_edges_have_intervals_that_hold_zero() -> None:
    edges, effects, present = draws(images=200)
    shuffled = np.random.default_rng(1).permuted(edges, axis=2)
    found = {one.metric: one for one in agreements(shuffled, effects, present)}
    assert found["rank_correlation"].low < 0.05 and abs(found["rank_correlation"].value) < 0.1


def test_targets_that_are_absent_count_nowhere() -> None:
    edges, effects, present = draws()
    wrong = np.where(present[..., None], effects, 1e6)
    assert list(agreements(edges, wrong, present)) == list(agreements(edges, effects, present))


def test_mean_effects_have_the_intervals_of_a_bootstrap() -> None:
    effects = np.random.default_rng(2).normal(1.0, 2.0, (50, 2, 3))
    found = mean_effects(effects, draws=4000)
    np.testing.assert_allclose(found.value, effects.mean(0))
    error = effects.std(0) / np.sqrt(50)
    np.testing.assert_allclose((found.high - found.low) / 2, 1.96 * error, rtol=0.15)
    alone = mean_effects(effects[:1])
    assert np.isnan(alone.low).all() and (alone.value == effects[0]).all()


def test_a_sign_is_contradicted_by_an_interval_on_the_other_side() -> None:
    assert contradicted(1.0, -2.0, -0.1) and contradicted(-1.0, 0.1, 2.0)
    assert not contradicted(1.0, -2.0, 0.1) and not contradicted(1.0, 0.5, 2.0) and not contradicted(0.0, 1.0, 2.0)
