"""Drawing positions in proportion to their contribution: the frequencies, and what a draw may not depend on."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np
import pytest

from vismech.errors import UserError
from vismech.pfv import uniform_positions, weighted_positions

WEIGHTS = np.array([0.0, 3.0, 1.0, 0.5, -2.0, 5.5])


def test_one_draw_has_the_weights_as_frequencies() -> None:
    draws = 20_000
    counts = Counter(int(weighted_positions(f"image {n}", 0, WEIGHTS, 1)[0]) for n in range(draws))
    expected = WEIGHTS.clip(0) / WEIGHTS.clip(0).sum()
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(np.array([counts[p] for p in range(6)]) / draws - expected) <= 4 * deviation).all()


def test_several_draws_follow_the_weights_of_what_is_left() -> None:
    """Sets of two against the sum over both orders of w_a/Σw · w_b/(Σw − w_a)."""
    draws, weights = 20_000, WEIGHTS.clip(0)
    counts = Counter(tuple(weighted_positions(f"image {n}", 1, WEIGHTS, 2).tolist()) for n in range(draws))
    expected: Counter = Counter()
    for a, b in permutations(np.flatnonzero(weights).tolist(), 2):
        expected[min(a, b), max(a, b)] += weights[a] * weights[b] / (weights.sum() * (weights.sum() - weights[a]))
    assert counts.keys() <= expected.keys()
    for both, chance in expected.items():
        assert abs(counts[both] / draws - chance) <= 4 * (chance * (1 - chance) / draws) ** 0.5


def test_a_draw_is_of_seed_and_image_alone_and_ignores_scale_and_last_bits() -> None:
    weights = np.random.default_rng(0).exponential(size=196)
    for n in range(200):
        drawn = weighted_positions(f"image {n}", 3, weights, 5)
        noise = 1 + 1e-7 * np.random.default_rng(n).normal(size=196)
        assert (weighted_positions(f"image {n}", 3, 1e-30 * weights * noise, 5) == drawn).all()
        assert (np.diff(drawn) > 0).all()
    others = [weighted_positions("image 0", seed, weights, 5).tolist() for seed in range(20)]
    assert len({tuple(each) for each in others}) > 15


def test_positions_without_weight_come_last_and_uniformly() -> None:
    only = np.array([0.0, 0.0, 2.0, 0.0, -1.0])
    firsts = Counter()
    for n in range(5000):
        drawn = set(weighted_positions(f"image {n}", 0, only, 2).tolist())
        assert 2 in drawn
        firsts[(drawn - {2}).pop()] += 1
    assert all(abs(firsts[p] / 5000 - 0.25) < 0.03 for p in (0, 1, 3, 4))
    nothing = Counter(int(weighted_positions(f"image {n}", 0, np.zeros(4), 1)[0]) for n in range(5000))
    assert all(abs(nothing[p] / 5000 - 0.25) < 0.03 for p in range(4))


@pytest.mark.parametrize(
    "draw", [lambda n: uniform_positions("a", 0, 4, n), lambda n: weighted_positions("a", 0, np.ones(4), n)]
)
def test_all_positions_can_be_drawn_and_no_more(draw) -> None:
    assert draw(4).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"extract\.per_image=5"):
        draw(5)


def test_weights_that_are_no_numbers_name_the_image() -> None:
    with pytest.raises(ValueError, match=r"'cat\.png'"):
        weighted_positions("cat.png", 0, np.array([1.0, np.nan]), 1)
