"""The class as concepts are inserted and deleted in the order of their attribution."""

LOWER = frozenset(["c_deletion"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["l0", "distinct_concepts", "probability_clean", "random_control"])
"""Metrics that describe and do not rank."""
