"""How well attributions tell what units do."""

LOWER = frozenset(["completeness", "deletion", "mas_deletion", "infidelity", "infidelity_relative", "max_sensitivity"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["filter_kept"])
"""Metrics that describe and do not rank."""
