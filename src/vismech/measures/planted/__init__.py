"""Edges of networks whose edges are known."""

LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset()
"""Metrics that describe and do not rank."""
