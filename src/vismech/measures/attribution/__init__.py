"""How well attributions tell what units do."""

_LOWER = ["completeness", "deletion", "mas_deletion", "infidelity", "infidelity_relative", "max_sensitivity"]
LOWER = frozenset([*_LOWER, *(f"{name}_minus_ig" for name in _LOWER)])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["filter_kept"])
"""Metrics that describe and do not rank."""
