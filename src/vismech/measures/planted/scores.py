"""Scores of planted circuits: edges against the known ones, and learned concepts against the planted ones.

Legend: N images, T targets (concepts of the last layer), Q sources (concepts of layer 1), K planted and L learned
concepts, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.intervene.agreement import spearman

ROUNDING = 1e-5
"""Edges below this share of the largest are zero: they are the rounding of sums that cancel."""
RECOVERED = 0.9
"""A planted concept is recovered when its learned one has a larger cosine."""


class Scores(NamedTuple):
    """How a method's edges compare with the known ones; None where a score does not exist.

    Attributes:
        average_precision: of the known edges in the order of |mean edge|.
        average_precision_absolute: in the order of mean |edge|.
        rank_correlation: Spearman's, of the mean edges with the true mean effects of removal, with their signs; 0 for
            edges that are all equal.
        sign_agreement: share of the known edges with a mean effect whose sign the method finds.
    """

    average_precision: float
    average_precision_absolute: float
    rank_correlation: float
    sign_agreement: float | None


def score(edges: Float[Tensor, "n t q"], known: Bool[np.ndarray, "t q"], effects: Float[np.ndarray, "t q"]) -> Scores:
    """Score the edges of images against known edges and mean effects.

    Raises:
        FloatingPointError: an edge that is not finite.
    """
    if not bool(edges.isfinite().all()):
        raise FloatingPointError("an edge is not finite")
    signed, absolute = (_rounded(part.double().mean(0).numpy()) for part in (edges, edges.abs()))
    effects = _rounded(effects)
    constant = np.ptp(signed) == 0 or np.ptp(effects) == 0
    correlation = 0.0 if constant else float(spearman(signed.reshape(1, -1), effects.reshape(1, -1))[0])
    moved = known & (effects != 0)
    return Scores(
        average_precision(np.abs(signed).ravel(), known.ravel()),
        average_precision(absolute.ravel(), known.ravel()),
        correlation,
        float((np.sign(signed) == np.sign(effects))[moved].mean()) if moved.any() else None,
    )


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.where(np.abs(values) > ROUNDING * np.abs(values).max(), values, 0.0)


def average_precision(values: Float[np.ndarray, " n"], relevant: Bool[np.ndarray, " n"]) -> float:
    """``Σ_k (R_k − R_{k−1}) P_k`` over the distinct values in falling order, R recall and P precision down to there.

    Values that are equal share one threshold, so the order of ties does not matter.

    Raises:
        ValueError: nothing is relevant.
    """
    if not relevant.any():
        raise ValueError("average precision needs at least one known edge")
    order = np.argsort(-values, kind="stable")
    hits, last = np.cumsum(relevant[order]), np.append(np.diff(values[order]) != 0, True)
    precision, recall = (hits / np.arange(1, len(values) + 1))[last], hits[last] / relevant.sum()
    return float((np.diff(recall, prepend=0) * precision).sum())


class Match(NamedTuple):
    """Learned concepts beside the planted ones.

    Attributes:
        learned: which learned concept each planted one is matched with, −1 where too few were learned.
        cosine: of the two, 0 where there is no match.
    """

    learned: Int[np.ndarray, " k"]
    cosine: Float[np.ndarray, " k"]


def match(planted: Float[Tensor, "k c"], learned: Float[Tensor, "l c"]) -> Match:
    """The one-to-one matching of unit vectors with the largest total cosine (Kuhn 1955)."""
    from scipy.optimize import linear_sum_assignment  # as above

    cosine = (planted.double() @ learned.double().T).numpy()
    rows, columns = linear_sum_assignment(-cosine)
    found = Match(np.full(len(planted), -1), np.zeros(len(planted)))
    found.learned[rows], found.cosine[rows] = columns, cosine[rows, columns]
    return found


def matched_edges(edges: Float[Tensor, "n t q"], sources: Match, targets: Match) -> Float[Tensor, "n i j"]:
    """Edges between planted concepts, each that of the concepts they are matched with; zero where there is no match."""
    padded = torch.nn.functional.pad(edges, (0, 1, 0, 1))
    rows, columns = torch.from_numpy(targets.learned), torch.from_numpy(sources.learned)
    return padded[:, rows][:, :, columns]


class Recovery(NamedTuple):
    """How well the planted concept vectors of a layer were found.

    Attributes:
        matched_cosine: the mean.
        recovered: share of the concepts with a cosine above :data:`RECOVERED`.
    """

    matched_cosine: float
    recovered: float


def recovery(found: Match) -> Recovery:
    """Both numbers of one matching."""
    return Recovery(float(found.cosine.mean()), float((found.cosine > RECOVERED).mean()))
