"""Errors that become right, and right answers that become wrong, as concepts of the difference graph are removed."""

LOWER = frozenset(["damage_rate_t", "damage_rate_w"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["gig_ahead", "gig_ahead_damage_t", "gig_ahead_damage_w"])
"""Metrics that describe and do not rank."""
