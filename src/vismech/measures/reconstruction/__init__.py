"""How much of a layer its concepts rebuild."""

LOWER = frozenset(["relative_error", "loss_increase", "loss_spliced", "dead", "dense"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["l0", "distinct_concepts", "accuracy_clean", "loss_clean", "loss_ablated"])
"""Metrics that describe and do not rank."""
