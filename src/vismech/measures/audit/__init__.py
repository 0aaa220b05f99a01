"""What every class loses without the concepts that carry it, and who else uses them."""

from __future__ import annotations

from dataclasses import dataclass

from vismech.store.settings import Settings


@dataclass(frozen=True)
class AuditOptions(Settings):
    """Which concepts are edited, and what counts as an effect."""

    candidates: int = 10
    """audit: so many concepts of each layer and class are edited, those that do most for it."""
    threshold: float = 0.01
    """audit: a class effect above this counts, and one below its negative as a conflict."""


LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(
    [
        *("class_effect", "logit_effect", "accuracy", "importance", "rank", "active", "used_by", "conflicts"),
        *("entropy", "inside"),
    ]
)
"""Metrics that describe and do not rank."""
