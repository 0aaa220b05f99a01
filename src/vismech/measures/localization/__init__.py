"""What survives of a concept in the pixels that its localisation maps point at."""

LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["skipped"])
"""Metrics that describe and do not rank."""
