"""Faithfulness of circuits and what is made of it (Marks et al. 2024; MIB, Mueller et al. 2025).

A circuit C keeps some concepts of every layer as they are; all others are edited. With m the mean over images of the
class's value, ``f(C) = (m(C) − m(∅)) / (m(M) − m(∅))``, M everything; ``f(M ∖ C)`` is what is left without the circuit.
``CPR = ∫ f(C_k) dk`` and ``CMD = ∫ |1 − f(C_k)| dk`` over the share k of each layer's concepts, from the strongest on;
the same over log k, where half of the axis is not spent on circuits of most concepts.

Legend: N images, S sizes of circuits, D resamples, H halves.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""k: of each layer's concepts, rounded up."""
FAITHFUL = 0.9


def counts(concepts: int) -> Int[np.ndarray, " s"]:
    """How many of a layer's concepts each circuit keeps."""
    return np.ceil(np.array(SHARES) * concepts - 1e-9).astype(int)


def faithfulness(
    values: Float[np.ndarray, "*d s"], empty: Float[np.ndarray, "*e"], clean: Float[np.ndarray, "*e"]
) -> Float[np.ndarray, "*d s"]:
    """f from means over images, both ends the same for every circuit; NaN where removing everything changes nothing."""
    whole = (clean - empty)[..., None]
    return np.divide(values - empty[..., None], whole, out=np.full(np.shape(values), np.nan), where=whole != 0)


def areas(found: Float[np.ndarray, "*d s"]) -> dict[str, np.ndarray]:
    """CPR and CMD by the trapezoid rule, over k from nothing on, and over log k from the smallest size on."""
    shares = np.array(SHARES)
    linear = np.concatenate([[0.0], shares])
    whole = np.concatenate([np.zeros((*found.shape[:-1], 1)), found], -1)
    logs = np.log(shares / shares[0]) / np.log(shares[-1] / shares[0])
    return {
        "cpr": _area(whole, linear),
        "cmd": _area(np.abs(1 - whole), linear),
        "cpr_log": _area(found, logs),
        "cmd_log": _area(np.abs(1 - found), logs),
    }


def _area(values: Float[np.ndarray, "*d s"], at: Float[np.ndarray, " s"]) -> np.ndarray:
    return np.asarray(((values[..., 1:] + values[..., :-1]) / 2 * np.diff(at)).sum(-1))


def smallest(found: Float[np.ndarray, " s"]) -> int | None:
    """The place of the smallest circuit that is faithful, with all larger ones; None where not even the largest is."""
    good = found >= FAITHFUL
    place = len(good)
    while place and good[place - 1]:
        place -= 1
    return place if place < len(good) else None


def resampled(halves: Int[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> Float[np.ndarray, "d n"]:
    """Weights of the images in each resample: whole halves are drawn, as all images of a half share their circuits."""
    _, place = np.unique(halves, return_inverse=True)
    count = place.max() + 1
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    weights = drawn[:, place].astype(np.float64)
    return weights / weights.sum(1, keepdims=True)


def ranked(strength: Float[np.ndarray, " k"], usable: Int[np.ndarray, " a"]) -> Int[np.ndarray, " k"]:
    """All concepts, the strongest first: those that are ``usable`` by falling |strength|, then the others by number."""
    first = usable[np.argsort(-np.abs(strength[usable]), kind="stable")]
    return np.concatenate([first, np.setdiff1d(np.arange(len(strength)), usable)])
