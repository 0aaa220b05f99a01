"""Insertion and deletion in an order that other images gave."""

LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["concepts_in_use", "transfer_left_out"])
"""Metrics that describe and do not rank."""
