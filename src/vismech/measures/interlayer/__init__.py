"""A concept's value in the next layer as concepts are inserted and deleted."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.config.choices import Order
from vismech.store.settings import Settings, named


@dataclass(frozen=True)
class InterlayerOptions(Settings):
    """Which concepts of the next layer, and which orders."""

    targets_per_image: int = field(default=5, metadata=named("targets"))
    """interlayer: the concepts of each layer whose strongest positive projections in an image are the largest."""
    orders: list[Order] = field(default_factory=lambda: list(Order))
    """interlayer: random (the negative control), magnitude (of codes), u_x_gradient (at the end of the path), gig,
    left_ig, idg, leave_one_out (what is lost without the concept), activation_patching (what the concept restores in
    the run of another image)."""


LOWER = frozenset(["deletion", "completeness_gap"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["skipped", "absent", "random_control", "gig_ahead", "gig_ahead_first_8"])
"""Metrics that describe and do not rank."""
