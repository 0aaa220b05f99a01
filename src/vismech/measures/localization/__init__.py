"""What survives of a concept in the pixels that its localisation maps point at."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.store.settings import Settings


@dataclass(frozen=True)
class LocalizationOptions(Settings):
    """Which concepts, and what share of the pixels."""

    concepts_per_image: int = 2
    """localization: the concepts of each image with the most energy in positive codes."""
    fractions: list[float] = field(default_factory=lambda: [0.2])
    """localization: shares of the pixels that are kept, the rest being set to the mean colour."""


LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["skipped"])
"""Metrics that describe and do not rank."""
