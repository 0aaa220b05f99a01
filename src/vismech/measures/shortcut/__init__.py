"""What a model does without the concepts of something that it should not use."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.config.choices import EditOrder, EditValue
from vismech.store.settings import Settings


@dataclass(frozen=True)
class ShortcutOptions(Settings):
    """Which concepts are edited, and how."""

    attribute: str | None = None
    """shortcut: the column of data.groups; null: its only one."""
    present: str = "1"
    """shortcut: its value where an image has the attribute."""
    target: int | str | None = None
    """shortcut: the class that goes together with the attribute where it should not, its index or name."""
    orders: list[EditOrder] = field(
        default_factory=lambda: [EditOrder.attribute, EditOrder.gig, EditOrder.effect, EditOrder.random]
    )
    """shortcut: attribute (concepts that differ most between images with and without it, in the choosing half), gig and
    effect (what does most for the class, attributed or measured, without the attribute), random, given."""
    counts: list[int] = field(default_factory=lambda: [1, 2, 3, 5, 10, 20, 50])
    """shortcut: so many concepts of an order are edited together."""
    values: list[EditValue] = field(default_factory=lambda: [EditValue.zero, EditValue.mean])
    """shortcut: what their codes become, zero or mean; each is tried."""
    concepts: list[str] = field(default_factory=list)
    """shortcut: concepts of your own choice, layer/number: another order, given."""
    twin: str | None = None
    """shortcut: weights of the same architecture that were trained without the correlation, for SCR; null: without."""


LOWER = frozenset(["collateral"])
"""Metrics of which less is better."""
NEUTRAL = frozenset(["rank_of_attribute", "share_of_attribute", "auc_of_first", "concepts_removed"])
"""Metrics that describe and do not rank."""
