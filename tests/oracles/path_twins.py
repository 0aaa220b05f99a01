"""Slow twins of path attributions: one node, one target and one unit at a time, each straight from its formula.

A path is a function α ↦ point [P, C], a unit's share of it a function α ↦ point whose sum over the units (and the
error) is the path, and derivatives along α are taken by automatic differentiation of these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]
Along = Callable[[Tensor], Tensor]


def velocity(curve: Along, alpha: float) -> Tensor:
    """dγ/dα."""
    at = torch.tensor(alpha, dtype=torch.float64)
    return torch.autograd.functional.jvp(curve, at, torch.ones_like(at))[1]


def gradient(value: Value, point: Tensor) -> Tensor:
    """∂g/∂X."""
    point = point.detach().requires_grad_()
    return torch.autograd.grad(value(point), point)[0]


def at(curve: Along, alpha: float) -> Tensor:
    return curve(torch.tensor(alpha, dtype=torch.float64)).detach()


def ig(value: Value, path: Along, unit: Along, nodes: Sequence[float], steps: Sequence[float]) -> float:
    """∫ <∂g/∂X(γ(α)), d unit/dα> dα."""
    return weighted(value, path, unit, nodes, steps, lambda alpha: 1.0)


def weighted(value: Value, path: Along, unit: Along, nodes, steps, weight: Callable[[float], float]) -> float:
    total = 0.0
    for alpha, step in zip(nodes, steps, strict=True):
        total += step * weight(alpha) * float((gradient(value, at(path, alpha)) * velocity(unit, alpha)).sum())
    return total


def crossing(value: Value, path: Along, nodes: Sequence[float], phi: float) -> float:
    """The first node where the target has made the share φ of its change; infinite where there is none."""
    start, end = float(value(at(path, 0.0))), float(value(at(path, 1.0)))
    for alpha in nodes:
        if (float(value(at(path, alpha))) - start) * math.copysign(1, end - start) > phi * abs(end - start):
            return alpha
    return math.inf


def left_ig(value: Value, path: Along, unit: Along, nodes, steps, phi: float) -> float:
    star = crossing(value, path, nodes, phi)
    return weighted(value, path, unit, nodes, steps, lambda alpha: float(alpha < star))


def right_ig(value: Value, path: Along, unit: Along, nodes, steps, phi: float) -> float:
    star = crossing(value, path, nodes, phi)
    return weighted(value, path, unit, nodes, steps, lambda alpha: float(alpha >= star))


def idg(value: Value, path: Along, unit: Along, nodes, steps) -> float:
    """``Δ / ∫ g'² · ∫ g' <∂g/∂X, d unit/dα> dα``."""

    def slope(alpha: float) -> float:
        return float((gradient(value, at(path, alpha)) * velocity(path, alpha)).sum())

    energy = sum(step * slope(alpha) ** 2 for alpha, step in zip(nodes, steps, strict=True))
    change = float(value(at(path, 1.0))) - float(value(at(path, 0.0)))
    return change / energy * weighted(value, path, unit, nodes, steps, slope)
