"""Where along the path attributions come from."""

LOWER = frozenset(["completeness", "sensitivity"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(
    [
        "alpha_star",
        "norm_ratio",
        "sum_ratio",
        "cosine_left_right",
        "cosine_left_full",
        "cosine_right_full",
        "absent",
        "still",
        "uncrossed",
        "at_once",
    ]
)
"""Metrics that describe and do not rank."""
