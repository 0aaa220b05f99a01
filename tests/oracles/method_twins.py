"""Slow twins of paths that look at the model: one image, target and coordinate at a time, from the published steps.

Numbers are a flat vector of coordinates, ``value`` a function of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Value = Callable[[Tensor], Tensor]


def gradient(value: Value, at: Tensor) -> Tensor:
    at = at.detach().clone().requires_grad_()
    return torch.autograd.grad(value(at), at)[0]


def guided_ig(value: Value, start: Tensor, end: Tensor, steps: int, fraction: float, max_dist: float) -> Tensor:
    """As ``guided_ig.py`` of the saliency library goes, coordinates without a way left out, one by one."""
    where = [index for index in range(len(end)) if start[index] != end[index]]
    x, found = start.clone(), torch.zeros_like(start)
    total = sum(abs(float(end[i] - start[i])) for i in where)
    for step in range(steps):
        slope = gradient(value, x)
        alpha = (step + 1) / steps
        low, high = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
        wanted = total * (1 - alpha)
        before = x.clone()
        share = {i: float((x[i] - start[i]) / (end[i] - start[i])) for i in where}
        for i in where:
            share[i] = max(share[i], low)
        while True:
            left = sum(abs(float(end[i] - start[i])) * (1 - share[i]) for i in where)
            open_ = [i for i in where if share[i] < high - 1e-13]
            if left - wanted <= 1e-12 * total or not open_:
                break
            sizes = sorted(abs(float(slope[i])) if i in open_ else math.inf for i in where)
            limit = sizes[int((len(where) - 1) * fraction)]
            some = [i for i in open_ if abs(float(slope[i])) <= limit]
            room = sum(abs(float(end[i] - start[i])) * (high - share[i]) for i in some)
            part = min(1.0, (left - wanted) / room)
            for i in some:
                share[i] += part * (high - share[i])
        for i in where:
            x[i] = start[i] + share[i] * (end[i] - start[i])
        if step == steps - 1:
            x = end.clone()
        found += (x - before) * slope
    return found


def ig2(
    value: Value,
    representation: Value,
    reference: Tensor,
    start: Tensor,
    end: Tensor,
    steps: int,
    step: float,
    clip: bool,
) -> tuple[Tensor, Tensor]:
    """What each coordinate does, and where the path ends."""
    z, found = end.clone(), torch.zeros_like(end)
    differs = (start != end).to(end)
    for _ in range(steps):
        down = gradient(lambda at: ((representation(at) - reference) ** 2).sum(), z) * differs
        new = z - step * down / down.norm()
        if clip:
            new = torch.where(differs > 0, new.clamp(end.min(), end.max()), z)
        found += (z - new) * gradient(value, z)
        z = new
    return found, z


def spectral_ig(
    value: Value, start: Tensor, end: Tensor, nodes: Sequence[float], weights: Sequence[float], window: float
) -> Tensor:
    """``start`` and ``end`` are matrices here."""
    left, sizes, right = torch.linalg.svd(end - start, full_matrices=False)

    def at(alpha: float) -> Tensor:
        found = start.clone()
        for k in range(len(sizes)):
            gate = (alpha - (1 - window) * (1 - float(sizes[k] / sizes[0]))) / window
            found = found + min(1.0, max(0.0, gate)) * sizes[k] * torch.outer(left[:, k], right[k])
        return found

    found, begin = torch.zeros_like(end), 0.0
    for node, weight in zip(nodes, weights, strict=True):
        found += (at(begin + weight) - at(begin)) * gradient(value, at(node))
        begin += weight
    return found


def polygon(value: Value, corners: Sequence[Tensor]) -> Tensor:
    """The line integral along straight sides, gradients at their middles."""
    found = torch.zeros_like(corners[0])
    for first, second in zip(corners[:-1], corners[1:], strict=True):
        found += (second - first) * gradient(value, (first + second) / 2)
    return found


def smooth_grad_variance(value: Value, end: Tensor, differs: Tensor, noises: Sequence[Tensor]) -> Tensor:
    """Of each number the mean square less the squared mean of its slopes, noise on the numbers that differ."""
    slopes = [gradient(value, end + noise * differs) for noise in noises]
    found = torch.zeros_like(end)
    for number in range(len(end)):
        each = [float(slope[number]) for slope in slopes]
        middle = sum(each) / len(each)
        found[number] = sum((one - middle) ** 2 for one in each) / len(each) * float(differs[number])
    return found


def expected_gradients(
    values: Sequence[Value], starts: Sequence[Tensor], ends: Sequence[Tensor], alphas: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Mean and variance of each number's draws, references in turn."""
    draws = []
    for turn, alpha in enumerate(alphas):
        value, start, end = (each[turn % len(each)] for each in (values, starts, ends))
        draws.append((end - start) * gradient(value, start + alpha * (end - start)))
    middle = sum(draws) / len(draws)
    return middle, sum((one - middle) ** 2 for one in draws) / len(draws)
