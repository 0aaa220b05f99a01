"""What the network answers when only some concepts of every layer are left as they are."""

LOWER = frozenset(["cmd", "cmd_log", "smallest_concepts", "smallest_share", "smallest_complement"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["minimality_median", "minimality_least", "concepts_in_use", "circuit_left_out", "drawn_concepts"])
"""Metrics that describe and do not rank."""
