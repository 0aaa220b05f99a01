"""Nodes for a segment, chosen by how far a few images' edges are from complete.

Along a straight path from zero a network with layer norm makes all of its change near α = 0, where few evenly spaced
nodes are; a network of ReLUs and batch norms makes it everywhere, and crowded nodes are worse there. So the midpoint
rule is tried first and kept where it is complete enough, else Gauss–Legendre nodes crowded towards zero, else more
midpoints, as far as the model calls go.

Legend: M gaps of pairs of an image and a target.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from vismech.attribution.quadrature import doubled
from vismech.config.choices import Rule

VERSION = 1
"""Of the choice, for keys."""
PROBED = 4
"""Images that are tried, the first ones: the same however images are grouped."""
ENOUGH, TOO_MUCH = 0.01, 0.05
"""Median gap below which nodes are taken, and above which the best nodes deserve a warning."""
LIMIT = 4
"""Path points for each one of ``steps``, those of the tries included."""
TRIES = (
    (Rule.midpoint, 1, 1),
    (Rule.gauss_legendre, 1, 2),
    (Rule.gauss_legendre, 1, 4),
    (Rule.midpoint, 2, 1),
    (Rule.gauss_legendre, 2, 4),
    (Rule.midpoint, 3, 1),
)
"""Rule, how many times the steps, and power, in the order of trying."""


class Choice(NamedTuple):
    """Nodes, and the median gap of the images that they were tried on.

    Attributes:
        rule, steps, power: of :func:`~vismech.attribution.quadrature.quadrature`.
        gap: median completeness gap; 0 where nothing moves.
    """

    rule: Rule
    steps: int
    power: int = 1
    gap: float = 0.0


def candidates(steps: int, max_steps: int | None = None) -> Iterator[Choice]:
    """What is tried in turn; with a tolerance no more nodes than can be doubled once within ``max_steps``."""
    for rule, times, power in TRIES:
        if max_steps is None or doubled(rule, times * steps) <= max_steps:
            yield Choice(rule, times * steps, power)


def settle(
    gaps: Callable[[Choice], Float[Tensor, " m"]],
    steps: int,
    images: int,
    probed: int,
    max_steps: int | None = None,
) -> Choice:
    """The first candidate whose median gap is at most :data:`ENOUGH`, or the one of the smallest.

    A candidate whose trial and use would take more than :data:`LIMIT` × ``steps`` path points for each image is passed
    over, except the first.

    Args:
        gaps: gaps of the tried images with some nodes, of targets that move.
        steps: nodes to begin with.
        images: how many images the nodes are for.
        probed: on how many of them each candidate is tried.
        max_steps: the most steps that a tolerance may lead to, if there is one.
    """
    tried: list[Choice] = []
    points = 0
    for candidate in candidates(steps, max_steps):
        cost = probed * candidate.steps
        if tried and points + cost + images * candidate.steps > LIMIT * steps * images:
            continue
        points += cost
        found = gaps(candidate)
        tried.append(candidate._replace(gap=float(found.median()) if len(found) else 0.0))
        if tried[-1].gap <= ENOUGH:
            return tried[-1]
    return min(tried, key=lambda one: one.gap)
