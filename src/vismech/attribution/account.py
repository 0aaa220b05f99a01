"""What the drawn concepts of a layer account for: the class's own value, divided into what a graph shows and what not.

For the images of a group and one layer, with all means in the unit of the class (logits, or its probability)::

    value = drawn + other + offset + error + lost + rest

``value`` is what the network itself says of the photographs; ``drawn`` and ``other`` the edges to the class of the
concepts that the graph keeps and of those that it does not; ``offset`` the class's value where the path starts;
``error`` the error node's part (along the activation); ``lost`` what the class loses when the layer is replaced by what
its concepts rebuild (along the reconstruction, whose edges explain the rebuilt network only); ``rest`` what quadrature
leaves, or the other part of the path.

Legend: G groups, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

PARTS = ("value", "drawn", "other", "offset", "error", "lost", "rest")
TRUSTED = 0.5
"""The share of the class's value below which what is drawn is no explanation of it."""


class ClassValues(NamedTuple):
    """A class's values on the way through one layer, means over each group's images.

    Attributes:
        value: of the network on the photographs.
        rebuilt: at the end of the path.
        offset: at its start.
        error: the error node's edge, zero where there is none.
    """

    value: Float[np.ndarray, " g"]
    rebuilt: Float[np.ndarray, " g"]
    offset: Float[np.ndarray, " g"]
    error: Float[np.ndarray, " g"]


def account(
    values: ClassValues, importance: Float[np.ndarray, "g k"], kept: Sequence[int], keys: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Group → the parts of its class's value, :data:`PARTS`.

    Args:
        values: of the class.
        importance: edges of every concept to the class.
        kept: the concepts that are drawn.
        keys: the groups' keys.
    """
    found = {}
    for group, key in enumerate(keys):
        value, rebuilt, offset, error = (float(part[group]) for part in values)
        whole, drawn = float(importance[group].sum()), float(importance[group][list(kept)].sum())
        parts = (value, drawn, whole - drawn, offset, error, value - rebuilt, rebuilt - offset - error - whole)
        found[key] = dict(zip(PARTS, parts, strict=True))
    return found


class Shares(NamedTuple):
    """An account as shares of the class's value; None where that is zero, so that nothing can be said.

    Attributes:
        drawn: what the drawn concepts carry.
        rebuilt: what the layer's concepts, drawn or not, rebuild of it together with the error node.
    """

    drawn: float | None
    rebuilt: float | None


def shares(parts: Mapping[str, float]) -> Shares:
    """Shares of one account."""
    value = parts["value"]
    if value == 0:
        return Shares(None, None)
    return Shares(parts["drawn"] / value, (value - parts["lost"]) / value)


class Answered(NamedTuple):
    """How many images the network answers rightly, of those whose class is known."""

    right: int
    known: int

    @property
    def share(self) -> float | None:
        """Top-1 accuracy; None where no class is known."""
        return self.right / self.known if self.known else None


def misleads(share: float | None) -> bool:
    """Whether so small a share, or one so far above the whole that other things must take it back, explains nothing."""
    return share is None or not TRUSTED <= share <= 1 / TRUSTED


def absences(
    edges: Float[np.ndarray, "n k"], present: np.ndarray, groups: np.ndarray, count: int
) -> Float[np.ndarray, "g k"]:
    """Share of each concept's absolute edges that stems from images in which its code is nowhere positive.

    A signed code can act where its concept is not: a negative code times a negative gradient speaks for the class just
    as a present concept does, but by the concept's absence.

    Args:
        edges: to the class, per image.
        present: whether the code is positive at some position of the image [N, K].
        groups: group of each image [N].
        count: G.
    """
    sizes = np.abs(edges).astype(np.float64)
    found = np.zeros((count, edges.shape[1]))
    for group in range(count):
        mine = groups == group
        whole = sizes[mine].sum(0)
        gone = np.where(present[mine], 0.0, sizes[mine]).sum(0)
        np.divide(gone, whole, out=found[group], where=whole > 0)
    return found


def is_absence(node: Mapping[str, Any]) -> bool:
    """Whether a concept acts by its absence rather than its presence, over the groups that it was kept for."""
    found = node.get("absent") or {}
    kept_for = [str(key) for key in node.get("selected_for") or found]
    values = [found[key] for key in kept_for if key in found]
    return bool(values) and sum(values) / len(values) > 0.5
