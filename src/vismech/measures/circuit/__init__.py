"""What the network answers when only some concepts of every layer are left as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.config.choices import CircuitErrors, CircuitOrder, EditValue
from vismech.store.settings import Settings, named


@dataclass(frozen=True)
class CircuitOptions(Settings):
    """Which circuits."""

    circuit_orders: list[CircuitOrder] = field(default_factory=lambda: list(CircuitOrder), metadata=named("orders"))
    """circuit: gig, u_x_gradient, magnitude (of codes), effect (what the class loses when the concept is edited),
    random."""
    edit: EditValue = EditValue.mean
    """circuit: what the codes outside of a circuit become: mean (over the layer's vectors), zero, or resample (those of
    an image of another class)."""
    errors: CircuitErrors = CircuitErrors.keep
    """circuit: what a dictionary leaves out goes on as it is then (keep), as it is in the clean network (node), or not
    at all (remove)."""


LOWER = frozenset(["cmd", "cmd_log", "smallest_concepts", "smallest_share", "smallest_complement"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["minimality_median", "minimality_least", "concepts_in_use", "circuit_left_out", "drawn_concepts"])
"""Metrics that describe and do not rank."""
