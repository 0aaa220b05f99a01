"""How well attributions tell what units do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import AttributionMethod
from vismech.store.settings import Settings, named


@dataclass(frozen=True)
class AttributionOptions(Settings):
    """Which methods are measured, and what of them."""

    methods: list[AttributionMethod] = field(default_factory=list, metadata=named("names"))
    """attribution: measured beside ig, left_ig, right_ig and idg, with as many steps: paths of attribute.path, and
    covariance (of codes or pixels with the class, over `neighbours` images; to the class only)."""
    method_options: dict[str, Any] = field(default_factory=dict, metadata=named("options"))
    """attribution: method → its attribute.options, such as {guided_ig: {max_dist: 0.1}}."""
    filter: float | None = None
    """attribution of pixels: measure every method's map also with its low frequencies alone, up to this share of the
    side (FORGrad's is 15/224 = 0.067); null: as it is."""
    neighbours: int = 50
    """attribution: images whose covariance is taken, the nearest to each."""
    mosaics: bool = False
    """attribution: also Focus, on a mosaic of each image, one more of its class and two others (to the class only)."""


_LOWER = ["completeness", "deletion", "mas_deletion", "infidelity", "infidelity_relative", "max_sensitivity"]
LOWER = frozenset([*_LOWER, *(f"{name}_minus_ig" for name in _LOWER)])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["filter_kept"])
"""Metrics that describe and do not rank."""
