"""From edges of single images to edges and importances of the groups of images that a graph explains.

Legend: N images, T targets, K concepts, G groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int


class Selection(NamedTuple):
    """The concepts that a graph keeps in one layer.

    Attributes:
        concepts: kept concepts, ascending.
        chosen_for: concept → groups that it is among the most important for (none for a concept that is only shared).
        shared: the shared concepts of a pair.
    """

    concepts: list[int]
    chosen_for: dict[int, list[int]]
    shared: set[int]


def group_means(
    values: Float[np.ndarray, "n *rest"], groups: Int[np.ndarray, " n"], count: int
) -> Float[np.ndarray, "g *rest"]:
    """Mean over each group's images, in float64; absent concepts count as zero, as their edges are.

    Raises:
        ValueError: a group without images.
    """
    sizes = np.bincount(groups, minlength=count)
    if (sizes == 0).any():
        raise ValueError(f"group {int(np.flatnonzero(sizes == 0)[0])} has no images")
    return np.stack([values[groups == group].mean(0, dtype=np.float64) for group in range(count)])


def shared_scores(importance: Float[np.ndarray, "2 k"]) -> Float[np.ndarray, " k"]:
    """``min(s₁, s₂)`` with s = max(importance, 0) divided by its sum over the class; zeros when a class has none."""
    positive = np.maximum(importance, 0)
    totals = positive.sum(1, keepdims=True)
    return np.divide(positive, totals, out=np.zeros_like(positive), where=totals > 0).min(0)


def select_concepts(importance: Float[np.ndarray, "g k"], important: int, shared: int) -> Selection:
    """Concepts that a graph keeps: the ``important`` of largest |importance| per group, and of a pair the ``shared``.

    Ties go to the lower index; a concept of zero importance is never kept.
    """
    chosen_for: dict[int, list[int]] = {}
    for group, row in enumerate(importance):
        ranked = np.lexsort((np.arange(len(row)), -np.abs(row)))
        for concept in ranked[:important]:
            if row[concept] != 0:
                chosen_for.setdefault(int(concept), []).append(group)
    both: set[int] = set()
    if len(importance) == 2 and shared:
        scores = shared_scores(importance)
        ranked = np.lexsort((np.arange(len(scores)), -scores))
        both = {int(concept) for concept in ranked[:shared] if scores[concept] > 0}
    for concept in both:
        chosen_for.setdefault(concept, [])
    return Selection(sorted(chosen_for), chosen_for, both)
