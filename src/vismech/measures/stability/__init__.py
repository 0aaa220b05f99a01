"""What comes back with other seeds, images and settings."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.store.settings import Settings


@dataclass(frozen=True)
class StabilityOptions(Settings):
    """Against which variants of the run."""

    against: list[str] = field(default_factory=lambda: ["seed=1"])
    """stability: variants of the run, each one or several key=value with spaces between, of seed, data, extract,
    dictionary, attribute and graph: "data.half=confirming", "dictionary.k_per_channel=4 seed=1"."""


LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["chance_cosine", "chance_graph_overlap", "chance_importance_overlap"])
"""Metrics that describe and do not rank."""
