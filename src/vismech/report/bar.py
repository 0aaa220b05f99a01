"""The bar of truth: a class's own value at the last layer as one stacked bar, what is drawn beside what is not.

Parts that add lie end to end on the right of zero, parts that take away on its left, all groups on one scale, so that a
bar's right end less its left one is the value that the network itself has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from vismech.attribution.account import PARTS
from vismech.report.verdict import amount

WORDS = {
    "drawn": "drawn concepts",
    "other": "concepts not drawn",
    "offset": "offset",
    "error": "error",
    "lost": "lost by rebuilding",
    "rest": "left by quadrature",
}
assert tuple(WORDS) == PARTS[1:]
# What is less of the bar cannot be seen; the table says it.
LEAST = 0.0002


class Piece(NamedTuple):
    """One part of the value: its key among the parts, in words, and where it lies in per cent of the bar's width."""

    part: str
    words: str
    value: float
    left: float
    width: float


class TruthBar(NamedTuple):
    """One group's bar; ``zero`` and ``end``, the network's own value, in per cent of its width; all of it as a text."""

    name: str
    value: float
    unit: str
    pieces: list[Piece]
    zero: float
    end: float
    spoken: str


def truth_bars(graph: Mapping[str, Any], probability: bool = False) -> list[TruthBar]:
    """A bar for each group from the account of the last layer; none for a graph without one, or where all is zero."""
    if not graph.get("account"):
        return []
    last = graph["layers"][-1]
    accounts = graph["account"][last]
    below = max(_reach(parts, -1) for parts in accounts.values())
    whole = below + max(_reach(parts, 1) for parts in accounts.values())
    if whole == 0:
        return []
    names = {str(group["key"]): str(group["name"]) for group in graph["groups"]}
    unit = "probability" if probability else "logits"
    bars = []
    for key, parts in accounts.items():
        pieces = _pieces(parts, below, whole)
        value = float(parts["value"])
        told = ", ".join(f"{piece.words} {amount(piece.value)}" for piece in pieces) or "nothing"
        spoken = f"{names[key]} at {last}: {amount(value)} {unit}, of which {told}."
        end = _percent(below + value, whole)
        bars.append(TruthBar(names[key], value, unit, pieces, _percent(below, whole), end, spoken))
    return bars


def _reach(parts: Mapping[str, float], sign: int) -> float:
    """How far the parts of one sign reach from zero."""
    return sum(max(sign * float(parts[part]), 0.0) for part in WORDS)


def _pieces(parts: Mapping[str, float], below: float, whole: float) -> list[Piece]:
    """The parts that can be seen, each beginning where the one before of its sign ends."""
    ends = {True: below, False: below}
    pieces = []
    for part, words in WORDS.items():
        value = float(parts[part])
        if abs(value) < LEAST * whole:
            continue
        start = ends[value > 0]
        ends[value > 0] = start + value
        left = min(start, start + value)
        pieces.append(Piece(part, words, value, _percent(left, whole), _percent(abs(value), whole)))
    return pieces


def _percent(size: float, whole: float) -> float:
    return round(100 * size / whole, 3)
