"""The class as concepts are inserted and deleted in the order of their attribution."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.store.settings import Settings


@dataclass(frozen=True)
class InsertionOptions(Settings):
    """What is inserted and deleted, and by which controls."""

    budgets: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    """insertion: also with so many concepts per image, those of the most energy, on which the image is coded anew."""
    budget_l0_per_channel: float | None = None
    """insertion: with each budget also the code of so many of its concepts per channel in a vector (orthogonal
    matching pursuit), where the other is of all of them (least squares): both budgets at once; null: without."""
    residual: bool = True
    """insertion: also with what the concepts miss of the layer always there."""
    random_images: int | None = 200
    """insertion: images of these on which concepts are also taken in a random order, the negative control; null: all;
    0: none."""
    greedy_images: int = 0
    """insertion: images of these on which concepts are also chosen one by one, each by what it does to the output."""


LOWER = frozenset(["c_deletion"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["l0", "distinct_concepts", "probability_clean", "random_control"])
"""Metrics that describe and do not rank."""
