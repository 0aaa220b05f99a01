"""What a model does without the concepts of something that it should not use."""

LOWER = frozenset(["collateral"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["rank_of_attribute", "share_of_attribute", "auc_of_first", "concepts_removed"])
"""Metrics that describe and do not rank."""
