"""Where along the path attributions come from."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.config.choices import SourceKind
from vismech.store.settings import Settings


@dataclass(frozen=True)
class UnitOptions(Settings):
    """Of which units, and how far; shared with the measure of attributions."""

    sources: list[SourceKind] = field(default_factory=lambda: [SourceKind.concepts])
    """saturation, attribution: concepts of each layer (to the next; the last to the class), pixels (to the class)."""
    sensitivity_images: int = 20
    """saturation, attribution: images of these whose max-sensitivity is measured: ten attributions each."""
    to_class: bool = False
    """saturation, attribution: concepts of every layer to the class, whatever lies between, not to the next layer's."""


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
