"""Shortcut removal (SCR of SAEBench, Karvonen et al. 2025) with its damage, chosen on one half and scored on the other.

An attribute s goes together with class t where it should not. On images that have s and are of another class, A is the
accuracy, A_edited that of the edited model, A_clean that of a twin trained without the correlation:
``SCR = (A_edited − A) / (A_clean − A)``, which can exceed 1, and is 0 where A_clean − A is below :data:`LEAST`.
``collateral`` is the accuracy that images without s lose; ``worst_group`` the lowest accuracy of a class with or
without s.

Legend: N images, E edits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vismech.intervene.agreement import resamples

LEAST = 0.001
MOST_DAMAGE = 0.005
"""An edit that loses more accuracy than this on the choosing half is not chosen."""


@dataclass(frozen=True)
class Answers:
    """What is answered for some images.

    Attributes:
        labels: the true class [n].
        attribute: whether an image has s.
        target: t.
        before: answers of the model [n].
        clean: those of the twin [n], where there is one.
    """

    labels: Int[np.ndarray, " n"]
    attribute: Bool[np.ndarray, " n"]
    target: int
    before: Int[np.ndarray, " n"]
    clean: Int[np.ndarray, " n"] | None

    def take(self, rows: Bool[np.ndarray, " n"] | Int[np.ndarray, " m"]) -> Answers:
        """Those of some images."""
        clean = None if self.clean is None else self.clean[rows]
        return Answers(self.labels[rows], self.attribute[rows], self.target, self.before[rows], clean)

    @property
    def contradicting(self) -> Bool[np.ndarray, " n"]:
        """Images that have s and are of another class."""
        return self.attribute & (self.labels != self.target)


class Removal(NamedTuple):
    """One edit's numbers, each with its 95 % interval over images; None without a twin.

    Attributes:
        contradicting: A_edited.
        scr: see the module.
        collateral: accuracy lost on images without s.
        worst_group: accuracy.
    """

    contradicting: tuple[float, float, float]
    scr: tuple[float, float, float] | None
    collateral: tuple[float, float, float]
    worst_group: float


def removal(images: Answers, after: Int[np.ndarray, " n"], draws: int = 1000, seed: int = 0) -> Removal:
    """The numbers of an edit that answers ``after``."""
    right = {"after": after == images.labels, "before": images.before == images.labels}
    if images.clean is not None:
        right["clean"] = images.clean == images.labels
    here, without = images.contradicting, ~images.attribute
    means = {name: _resampled(values[here], draws, seed) for name, values in right.items()}
    lost = right["before"][without].astype(float) - right["after"][without]
    scr = None
    if images.clean is not None:
        scr = _ends(_recovered(means["after"], means["before"], means["clean"]))
    groups = [
        right["after"][(images.labels == label) & (images.attribute == has)]
        for label in np.unique(images.labels)
        for has in (False, True)
    ]
    worst = min((float(group.mean()) for group in groups if len(group)), default=float("nan"))
    return Removal(_ends(means["after"]), scr, _ends(_resampled(lost, draws, seed + 1)), worst)


def _recovered(after: np.ndarray, before: np.ndarray, clean: np.ndarray) -> Float[np.ndarray, " d"]:
    whole = clean - before
    return np.divide(after - before, whole, out=np.zeros_like(whole), where=np.abs(whole) >= LEAST)


def _resampled(values: np.ndarray, draws: int, seed: int) -> Float[np.ndarray, " d"]:
    """The mean, and the means of resamples: the same images for the same number of values and seed."""
    if not len(values):
        return np.full(1 + draws, np.nan)
    return np.concatenate([[values.mean()], resamples(len(values), draws, seed) @ values.astype(np.float64)])


def _ends(means: Float[np.ndarray, " d"]) -> tuple[float, float, float]:
    low, high = np.nanquantile(means, [0.025, 0.975]) if np.isfinite(means).any() else (np.nan, np.nan)
    return float(means[0]), float(low), float(high)


class Choice(NamedTuple):
    """An edit by its place, and what it is chosen by: the accuracy that contradicting images gain less its damage."""

    place: int
    gain: float


def chosen(images: Answers, edits: Int[np.ndarray, "n e"]) -> Choice | None:
    """Of the edits that damage no more than :data:`MOST_DAMAGE` the one of most accuracy, on contradicting images
    and on those without s added up; the first of equals; None where every edit damages more."""
    here, without = images.contradicting, ~images.attribute
    right, before = edits == images.labels[:, None], images.before == images.labels
    lost = before[without].mean() - right[without].mean(0)
    gain = right[here].mean(0) - before[here].mean() - lost
    allowed = np.flatnonzero(lost <= MOST_DAMAGE)
    if not len(allowed):
        return None
    place = int(allowed[gain[allowed].argmax()])
    return Choice(place, float(gain[place]))


def by_attribute(codes: Float[np.ndarray, "n k"], attribute: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """``|Δ|`` of each concept's mean code between images with and without s."""
    return np.abs(codes[attribute].mean(0, dtype=np.float64) - codes[~attribute].mean(0, dtype=np.float64))


def told_apart(codes: Float[np.ndarray, "n k"], attribute: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    """How well each concept's mean code tells images with s from those without: the area under the ROC curve, above one
    half whatever its direction."""
    from scipy.stats import rankdata  # slow to import, and a plan needs it not

    has = int(attribute.sum())
    ranks = rankdata(codes, axis=0)[attribute].sum(0)
    area = (ranks - has * (has + 1) / 2) / (has * (len(codes) - has))
    return np.maximum(area, 1 - area)


def confusion(labels: Int[np.ndarray, " n"], answers: Int[np.ndarray, " n"], classes: int) -> Iterator[tuple]:
    """(true class, answer, share of the class's images)."""
    for label in np.unique(labels):
        shares = np.bincount(answers[labels == label], minlength=classes) / (labels == label).sum()
        yield from ((int(label), answer, float(shares[answer])) for answer in np.flatnonzero(shares))
