"""Quadrature rules: weights, degrees of exactness, order of convergence, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vismech.attribution.quadrature import quadrature
from vismech.config.choices import Rule
from vismech.errors import UserError

RULES = [rule for rule in Rule if rule is not Rule.auto]


def allowed(rule: Rule, steps: int) -> int:
    """The nearest number of steps, not below ``steps``, that ``rule`` takes."""
    least = {Rule.trapezoid: 2, Rule.simpson: 3}.get(rule, 1)
    steps = max(steps, least)
    return steps + 1 if rule is Rule.simpson and steps % 2 == 0 else steps


def monomial(rule: Rule, steps: int, degree: int) -> float:
    """The rule's value of ∫₀¹ α^degree dα, whose true value is 1 / (degree + 1)."""
    nodes, weights = quadrature(rule, steps)
    return float((weights * nodes**degree).sum())


@given(st.sampled_from(RULES), st.integers(1, 200))
def test_weights_are_positive_and_sum_to_one(rule, steps) -> None:
    nodes, weights = quadrature(rule, allowed(rule, steps))
    assert len(nodes) == len(weights) == allowed(rule, steps)
    assert nodes.dtype == weights.dtype == np.float64
    assert abs(weights.sum() - 1) < 1e-12
    assert (weights > 0).all()
    assert (np.diff(nodes) > 0).all() and nodes[0] >= 0 and nodes[-1] <= 1


@pytest.mark.parametrize(
    ("rule", "first", "last"),
    [
        (Rule.riemann_left, 0.0, 0.75),
        (Rule.riemann_right, 0.25, 1.0),
        (Rule.midpoint, 0.125, 0.875),
        (Rule.trapezoid, 0.0, 1.0),
    ],
)
def test_ends_of_four_nodes(rule, first, last) -> None:
    nodes, _ = quadrature(rule, 4)
    assert (nodes[0], nodes[-1]) == (first, last)


def test_simpson_by_hand() -> None:
    nodes, weights = quadrature(Rule.simpson, 5)
    np.testing.assert_allclose(nodes, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(weights, np.array([1, 4, 2, 4, 1]) / 12, rtol=1e-15)


DEGREE = {
    Rule.riemann_left: 0,
    Rule.riemann_right: 0,
    Rule.midpoint: 1,
    Rule.trapezoid: 1,
    Rule.simpson: 3,
    Rule.gauss_legendre: 2 * 7 - 1,
}


@pytest.mark.parametrize("rule", RULES)
def test_degree_of_exactness(rule) -> None:
    degree = DEGREE[rule]
    for power in range(degree + 1):
        assert abs(monomial(rule, 7, power) - 1 / (power + 1)) < 1e-14, power
    # The next power that the rule's symmetry does not give for nothing is missed.
    assert abs(monomial(rule, 7, degree + 1) - 1 / (degree + 2)) > 1e-10


@pytest.mark.parametrize(
    ("rule", "order"),
    [(Rule.riemann_left, 1), (Rule.riemann_right, 1), (Rule.midpoint, 2), (Rule.trapezoid, 2), (Rule.simpson, 4)],
)
def test_order_of_convergence_on_a_smooth_function(rule, order) -> None:
    def error(steps: int) -> float:
        nodes, weights = quadrature(rule, steps)
        return abs(float((weights * np.exp(nodes)).sum()) - (np.e - 1))

    # 17 and 33 nodes have 16 and 32 intervals where the ends are nodes.
    ends = rule in (Rule.trapezoid, Rule.simpson)
    ratio = error(16 + ends) / error(32 + ends)
    assert abs(np.log2(ratio) - order) < 0.1


def test_gauss_legendre_reaches_machine_precision() -> None:
    nodes, weights = quadrature(Rule.gauss_legendre, 33)
    assert abs(float((weights * np.exp(nodes)).sum()) - (np.e - 1)) < 1e-14


def test_left_and_right_are_mirror_images() -> None:
    left, right = quadrature(Rule.riemann_left, 9), quadrature(Rule.riemann_right, 9)
    np.testing.assert_allclose(left.nodes, 1 - right.nodes[::-1], atol=1e-15)


@pytest.mark.parametrize(
    ("rule", "steps", "least"),
    [(rule, 0, 1) for rule in (Rule.riemann_left, Rule.riemann_right, Rule.midpoint, Rule.gauss_legendre)]
    + [(Rule.midpoint, -3, 1), (Rule.trapezoid, 1, 2), (Rule.simpson, 1, 3), (Rule.simpson, 2, 3)],
)
def test_too_few_steps_are_refused(rule, steps, least) -> None:
    with pytest.raises(UserError, match=rf"attribute.steps={steps} .* attribute.rule={rule}: give at least {least}"):
        quadrature(rule, steps)


def test_simpson_refuses_an_even_number() -> None:
    with pytest.raises(UserError, match=r"attribute.steps=32 is even.*give 33"):
        quadrature(Rule.simpson, 32)


@given(st.sampled_from(RULES), st.integers(2, 64), st.sampled_from([2, 3, 4, 6]))
def test_crowded_nodes_ascend_and_their_weights_sum_to_one(rule, steps, power) -> None:
    nodes, weights = quadrature(rule, allowed(rule, steps), power)
    assert np.allclose(nodes, quadrature(rule, allowed(rule, steps)).nodes ** power, rtol=1e-14, atol=0)
    assert abs(weights.sum() - 1) < 1e-12 and (weights >= 0).all() and (np.diff(nodes) > 0).all()


@pytest.mark.parametrize("power", [2, 4])
def test_crowded_gauss_legendre_is_exact_for_polynomials_and_sees_a_change_near_zero(power) -> None:
    nodes, weights = quadrature(Rule.gauss_legendre, 16, power)
    for degree in range(32 // power):  # α^d · dα/ds is of degree p·d + p − 1 in s, at most 2S − 1
        assert abs((weights * nodes**degree).sum() - 1 / (degree + 1)) < 1e-12
    # What layer norm does to a straight path from zero: x / √(x² + ε²), whose slope is near zero from α = 10 ε on.
    small = 1e-3

    def change(rule: Rule, steps: int, power: int) -> float:
        at, of = quadrature(rule, steps, power)
        return float((of * small**2 / (at**2 + small**2) ** 1.5).sum()) * (1 + small**2) ** 0.5

    assert abs(change(Rule.gauss_legendre, 64, 4) - 1) < 1e-3 < 0.5 < abs(change(Rule.midpoint, 32, 1) - 1)


def test_auto_has_no_nodes_of_its_own() -> None:
    with pytest.raises(ValueError, match="settle it for a segment first"):
        quadrature(Rule.auto, 32)
