"""What comes back with other seeds, images and settings."""

LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["chance_cosine", "chance_graph_overlap", "chance_importance_overlap"])
"""Metrics that describe and do not rank."""
