"""Class effects of concepts (sparse concept diagnostics, 2026): whom a concept serves, and whom it harms.

``D(y, c)`` is the mean over images of class y in which c is active of ``p_y − p_y(do c)``, for at least
:data:`LEAST_IMAGES` of them and ``|D| > LEAST_EFFECT``. A *conflict* is a concept with D(y, c) > τ and D(y', c) < −τ.
With groups of images, the entropy of |D| over the groups divided by its largest value says whether a concept serves all
of them alike (1) or one alone (0).

Legend: N images, Q concepts, Y classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vismech.intervene.agreement import mean_effects

LEAST_IMAGES = 30
LEAST_EFFECT = 1e-4


class ClassEffects(NamedTuple):
    """Of every class that has images, in ascending order; NaN where a number does not exist.

    Attributes:
        classes: y.
        images: how many images of y have the concept [Y, Q].
        effect, low, high: D and its 95 % interval [Y, Q].
        logit: mean loss of the class's logit over all images of y [Y, Q].
        accuracy: mean loss of accuracy over all images of y [Y, Q].
        active: share of the images of y that have the concept [Y, Q].
    """

    classes: Int[np.ndarray, " y"]
    images: Int[np.ndarray, "y q"]
    effect: Float[np.ndarray, "y q"]
    low: Float[np.ndarray, "y q"]
    high: Float[np.ndarray, "y q"]
    logit: Float[np.ndarray, "y q"]
    accuracy: Float[np.ndarray, "y q"]
    active: Float[np.ndarray, "y q"]


def class_effects(
    labels: Int[np.ndarray, " n"],
    probability: Float[np.ndarray, "n q"],
    logit: Float[np.ndarray, "n q"],
    right: Float[np.ndarray, "n q"],
    active: Bool[np.ndarray, "n q"],
) -> ClassEffects:
    """From what each image's own class loses.

    Args:
        labels: class of each image; below zero: unknown, left out.
        probability, logit: loss of the own class's.
        right: 1 where an answer stops being right, −1 where it becomes right.
        active: whether the image has the concept.
    """
    classes = np.unique(labels[labels >= 0])
    found = []
    for label in classes:
        own = labels == label
        here = active[own]
        count = here.sum(0)
        # Means over the images that have the concept: those of all images, divided by the share that has it.
        share = np.where(count > 0, count / max(1, own.sum()), np.nan)
        whole = mean_effects(probability[own] * here)
        told = [np.where(count >= LEAST_IMAGES, part / share, np.nan) for part in whole]
        found.append([count, *told, logit[own].mean(0), right[own].mean(0), here.mean(0)])
    return ClassEffects(classes, *(np.stack(part) for part in zip(*found, strict=True)))


def counts_as_effect(effect: Float[np.ndarray, "*y q"]) -> Bool[np.ndarray, "*y q"]:
    """Whether D exists and is more than rounding."""
    return np.abs(np.nan_to_num(effect)) > LEAST_EFFECT


def conflicts(effect: Float[np.ndarray, "y q"], threshold: float) -> Int[np.ndarray, "y q"]:
    """For each class that a concept serves, how many classes it harms."""
    known = np.nan_to_num(effect)
    return np.where(known > threshold, (known < -threshold).sum(0), 0)


def used_by(effect: Float[np.ndarray, "y q"], threshold: float) -> Int[np.ndarray, "y q"]:
    """How many other classes a concept serves."""
    serves = np.nan_to_num(effect) > threshold
    return serves.sum(0) - serves


def group_entropy(
    probability: Float[np.ndarray, "n q"], active: Bool[np.ndarray, "n q"], groups: Int[np.ndarray, " n"]
) -> Float[np.ndarray, " q"]:
    """Entropy of |D| over the groups of one class's images, over log of their number; NaN with fewer than two."""
    parts = []
    for group in np.unique(groups):
        here = active & (groups == group)[:, None]
        count = here.sum(0)
        total = (probability * here).sum(0)
        parts.append(np.abs(np.divide(total, count, out=np.zeros(len(count)), where=count > 0)))
    if len(parts) < 2:
        return np.full(probability.shape[1], np.nan)
    sizes = np.stack(parts)
    whole = sizes.sum(0)
    shares = np.divide(sizes, whole, out=np.zeros_like(sizes), where=whole > 0)
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    return np.where(whole > 0, -(shares * logs).sum(0) / np.log(len(parts)), np.nan)
