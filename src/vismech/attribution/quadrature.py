"""Quadrature rules on [0, 1] for path integrals; every rule's weights sum to one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vismech.config.choices import Rule
from vismech.errors import UserError

# Nodes of a doubled rule that the rule itself does not have; the others keep half of their weight.
NEW_NODES = {
    Rule.riemann_left: slice(1, None, 2),
    Rule.riemann_right: slice(0, None, 2),
    Rule.trapezoid: slice(1, None, 2),
}


class Quadrature(NamedTuple):
    """Nodes α_s and weights w_s, both [S] in float64, with ∫₀¹ f(α) dα ≈ Σ_s w_s f(α_s)."""

    nodes: np.ndarray
    weights: np.ndarray


def doubled(rule: Rule | str, steps: int) -> int:
    """Twice the steps; one less where both ends are nodes, so that intervals are halved."""
    return 2 * steps - (Rule(rule) in (Rule.trapezoid, Rule.simpson))


def added(rule: Rule | str, steps: int) -> Quadrature | None:
    """What doubling adds, ``Q_2S = Q_S / 2 + added``; None where the doubled rule does not keep the rule's nodes so."""
    new = NEW_NODES.get(Rule(rule))
    if new is None:
        return None
    fine = quadrature(rule, doubled(rule, steps))
    return Quadrature(fine.nodes[new], fine.weights[new])


def quadrature(rule: Rule | str, steps: int, power: int = 1) -> Quadrature:
    """Nodes and weights of ``rule`` with ``steps`` nodes, which a ``power`` p above 1 crowds towards zero:

        α = s^p,   ∫₀¹ f(α) dα = ∫₀¹ p s^(p−1) f(s^p) ds

    On networks of ReLUs every rule converges as O(1/S); on smooth ones ``gauss_legendre`` is exact for polynomials of
    degree 2S − 1. Layer norm forgets the length of what it is given, so along a path from zero all change happens near
    α = 0, which only crowded nodes see.

    Raises:
        UserError: fewer nodes than the rule needs, or an even number for Simpson's rule.
        ValueError: the rule auto, which has no nodes before :func:`~vismech.attribution.automatic.settle` chose them.
    """
    if power != 1:
        even = quadrature(rule, steps)
        # Gauss–Legendre integrates p s^(p−1) exactly; another rule's weights would miss that they sum to one.
        crowded = even.weights * even.nodes ** (power - 1)
        return Quadrature(even.nodes**power, crowded / crowded.sum())
    rule = Rule(rule)
    least = {Rule.trapezoid: 2, Rule.simpson: 3}.get(rule, 1)
    if steps < least:
        raise UserError(f"attribute.steps={steps} is too few for attribute.rule={rule}: give at least {least}")
    index = np.arange(steps, dtype=np.float64)
    equal = np.full(steps, 1 / steps)
    match rule:
        case Rule.riemann_left:
            return Quadrature(index / steps, equal)
        case Rule.riemann_right:
            return Quadrature((index + 1) / steps, equal)
        case Rule.midpoint:
            return Quadrature((index + 0.5) / steps, equal)
        case Rule.trapezoid:
            weights = np.full(steps, 1 / (steps - 1))
            weights[[0, -1]] /= 2
            return Quadrature(index / (steps - 1), weights)
        case Rule.simpson:
            if steps % 2 == 0:
                raise UserError(
                    f"attribute.steps={steps} is even, but Simpson's rule has an odd number of nodes: give {steps + 1}"
                )
            weights = np.where(index % 2 == 1, 4.0, 2.0)
            weights[[0, -1]] = 1.0
            return Quadrature(index / (steps - 1), weights / (3 * (steps - 1)))
        case Rule.gauss_legendre:
            nodes, weights = np.polynomial.legendre.leggauss(steps)
            return Quadrature((nodes + 1) / 2, weights / 2)
        case Rule.auto:
            raise ValueError("the rule auto has no nodes of its own: settle it for a segment first")
