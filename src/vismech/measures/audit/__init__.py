"""What every class loses without the concepts that carry it, and who else uses them."""

LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(
    [
        *("class_effect", "logit_effect", "accuracy", "importance", "rank", "active", "used_by", "conflicts"),
        *("entropy", "inside"),
    ]
)
"""Metrics that describe and do not rank."""
