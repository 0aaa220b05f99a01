"""Insertion and deletion in an order that other images gave."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.store.settings import Settings


@dataclass(frozen=True)
class TransferOptions(Settings):
    """Which images share an order; shared with circuits."""

    groups: dict[str, list[list[int]]] = field(default_factory=dict)
    """transfer, circuit: name → ranges [first, last] of the predicted classes whose images share an order; empty: each
    class."""


LOWER = frozenset()
"""Metrics of which less is better."""
NEUTRAL = frozenset(["concepts_in_use", "transfer_left_out"])
"""Metrics that describe and do not rank."""
