"""How much of a class a graph accounts for: the influence of its nodes, its scores, and which concepts carry it.

A is the matrix of absolute edges into each node, every node's inflow normalised to sum 1, and a node's influence its
entry in the class's row of Σ_k A^k. Edges lead from layer to layer only, so the sum is one sweep from the class down.

Legend: G groups, T targets of a layer, K concepts of the layer below it, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Inflow(NamedTuple):
    """What comes into the kept concepts of a layer, or into the class (T = 1), from all of the layer below.

    Attributes:
        concepts: edges from every concept, kept or not.
        offset: from the start of the path.
        error: from what the concepts miss; None where the path leads to what they rebuild.
    """

    concepts: Float[np.ndarray, "g t k"]
    offset: Float[np.ndarray, "g t"]
    error: Float[np.ndarray, "g t"] | None = None


class Influence(NamedTuple):
    """Influence on the class, whose own is 1, and what it is made of. Lists begin with the earliest layer.

    A concept that is kept nowhere has no traced inputs. In the earliest layer no concept has any; further up, what such
    concepts bring about is untraced, as is what a kept concept without any inflow brings about. So the earliest layer's
    concepts, all offsets, all errors and ``untraced`` sum to 1.

    Attributes:
        shares: A's rows by layer [T, K + 2], the offset's and the error's columns last; the class has a row per group.
        concepts: influence of every concept, by layer [K].
        offset: of each layer's offset node [L].
        error: of each layer's error node [L]; None where there are none.
        untraced: share of the class that ends at concepts without traced inputs.
        completeness: influence-weighted mean over the nodes with inflow of 1 − the error's share of it; None without
            error nodes.
    """

    shares: list[Float[np.ndarray, "t s"]]
    concepts: list[Float[np.ndarray, " k"]]
    offset: Float[np.ndarray, " l"]
    error: Float[np.ndarray, " l"] | None
    untraced: float
    completeness: float | None

    @property
    def replacement(self) -> float | None:
        """Influence of the earliest layer's concepts ÷ (that + influence of all error nodes).

        None without error nodes, and where both are zero.
        """
        if self.error is None:
            return None
        concepts, error = self.concepts[0].sum(), self.error.sum()
        return float(concepts / (concepts + error)) if concepts + error > 0 else None


def influence(inflows: Sequence[Inflow], kept: Sequence[Sequence[int]], groups: Float[np.ndarray, " g"]) -> Influence:
    """Sweep from the class down.

    Args:
        inflows: absolute edges, from those into the second layer to those into the class.
        kept: kept concepts of each layer, the targets of the inflows from below it.
        groups: weight of each group, summing to 1. A class is reached only by its own group's images; concepts by the
            weighted mean over groups.
    """
    shares, concepts = [], []
    offset, error = np.zeros(len(inflows)), np.zeros(len(inflows))
    reach, untraced, explained, weighed = groups, 0.0, 0.0, 0.0
    for level in reversed(range(len(inflows))):
        rows = _rows(inflows[level], groups, into_class=level == len(inflows) - 1)
        total = rows.sum(1)
        share = np.divide(rows, total[:, None], out=np.zeros_like(rows), where=total[:, None] > 0)
        untraced += reach[total == 0].sum()
        weighed += reach[total > 0].sum()
        explained += (reach * (1 - share[:, -1]))[total > 0].sum()
        onto = reach @ share
        onto, offset[level], error[level] = onto[:-2], onto[-2], onto[-1]
        shares.insert(0, share)
        concepts.insert(0, onto)
        reach = onto[list(kept[level])]
        if level:
            untraced += onto.sum() - reach.sum()
    errors = inflows[-1].error is not None
    complete = float(explained / weighed) if errors and weighed > 0 else None
    return Influence(shares, concepts, offset, error if errors else None, float(max(untraced, 0.0)), complete)


def _rows(inflow: Inflow, groups: np.ndarray, into_class: bool) -> Float[np.ndarray, "t s"]:
    error = np.zeros_like(inflow.offset) if inflow.error is None else inflow.error
    size = np.concatenate([inflow.concepts, inflow.offset[..., None], error[..., None]], 2)
    return size[:, 0] if into_class else np.einsum("g,gts->ts", groups, size)


def fewest(values: Float[np.ndarray, " n"], share: float) -> list[int]:
    """Places of the fewest values whose sum reaches ``share`` of the whole, ascending; ties go to the earlier."""
    ranked = np.argsort(-values, kind="stable")
    reached = np.cumsum(values[ranked])
    # Rounding must not ask for one value more.
    count = int(np.searchsorted(reached, share * reached[-1] * (1 - 1e-12))) + 1 if reached.size and reached[-1] else 0
    return sorted(ranked[:count].tolist())
