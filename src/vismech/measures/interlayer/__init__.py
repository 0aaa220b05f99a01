"""A concept's value in the next layer as concepts are inserted and deleted."""

LOWER = frozenset(["deletion", "completeness_gap"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["skipped", "absent", "random_control", "gig_ahead", "gig_ahead_first_8"])
"""Metrics that describe and do not rank."""
