"""Edges of networks whose edges are known."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.store.settings import Settings


@dataclass(frozen=True)
class PlantedOptions(Settings):
    """Which planted networks."""

    networks: list[str] = field(default_factory=list)
    """planted: names of vismech.measures.planted.networks; empty: all."""
    seeds: int = 5
    """planted: so many networks of each name."""
    noise: list[float] = field(default_factory=lambda: [0.0, 0.1])
    """planted: standard deviations of what is added to the pixels; concepts have a strength of about 1."""
    training_images: int = 128
    """planted: images that dictionaries are learned from."""


LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset()
"""Metrics that describe and do not rank."""
