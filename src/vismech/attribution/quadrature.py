"""Quadrature rules on [0, 1] for path integrals; every rule's weights sum to one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vismech.config import Rule
from vismech.errors import UserError


class Quadrature(NamedTuple):
    """Nodes α_s and weights w_s, both [S] in float64, with ∫₀¹ f(α) dα ≈ Σ_s w_s f(α_s)."""

    nodes: np.ndarray
    weights: np.ndarray


def quadrature(rule: Rule | str, steps: int) -> Quadrature:
    """Nodes and weights of ``rule`` with ``steps`` nodes.

    On networks of ReLUs every rule converges as O(1/S); on smooth ones ``gauss_legendre`` is exact for polynomials of
    degree 2S − 1.

    Raises:
        UserError: fewer nodes than the rule needs, or an even number for Simpson's rule.
    """
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
