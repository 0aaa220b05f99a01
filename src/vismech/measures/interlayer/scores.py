"""Areas under the curves of inter-layer insertion and deletion, as shares of what the concepts do altogether.

    ratio     s / s_full                        (GIG §4, unbounded)
    recovery  (s − s_∅) / (s_full − s_∅)

A target whose denominator is small beside the median one of its pair of layers and read-out is skipped.

Legend: n images, T targets, O orders, S read-outs, M points of an axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from vismech.measures.insertion.scores import count_area, share_area
from vismech.measures.interlayer.orders import EARLY, SMALL

SCORES = ("ratio", "recovery")


class Scored(NamedTuple):
    """Curves of one pair of layers, read-out and score.

    Attributes:
        measured: targets that there are and that are not skipped; the others' curves are NaN.
        insertion, deletion: on the axis of shares.
        insertion_first, deletion_first: on the count axis.
    """

    measured: Bool[np.ndarray, "n t"]
    insertion: Float[np.ndarray, "n t o m"]
    deletion: Float[np.ndarray, "n t o m"]
    insertion_first: Float[np.ndarray, "n t o f"]
    deletion_first: Float[np.ndarray, "n t o f"]

    def areas(self) -> dict[str, Float[np.ndarray, "n o"]]:
        """Metric → mean over an image's measured targets; images without any are left out.

        ``auc_difference`` is insertion − deletion, ``auc_first_8`` the same over the first eight concepts.
        """
        first = count_area(self.insertion_first - self.deletion_first, EARLY, EARLY[-1])
        insertion, deletion = share_area(self.insertion), share_area(self.deletion)
        each = {"insertion": insertion, "deletion": deletion, "auc_difference": insertion - deletion}
        some = self.measured.any(1)
        return {name: np.nanmean(value[some], axis=1) for name, value in {**each, "auc_first_8": first}.items()}


def scored(curves: dict[str, Float[np.ndarray, "n t o m"]], present: Bool[np.ndarray, "n t"], score: str) -> Scored:
    """Raw scores of one read-out as shares.

    Args:
        curves: by the names of :class:`~vismech.measures.interlayer.orders.Curves`.
        present: targets that there are.
        score: ratio or recovery.
    """
    ends = curves["insertion"][:, :, 0].astype(np.float64)
    empty = ends[..., 0] if score == "recovery" else np.zeros_like(ends[..., 0])
    whole = ends[..., -1] - empty
    typical = np.median(np.abs(whole[present])) if present.any() else 0.0
    # Where the whole is below the empty, a better order would score less: such targets are skipped too.
    measured = present & (whole > SMALL * typical)
    divisor = np.where(measured, whole, np.nan)[..., None, None]
    return Scored(measured, **{name: (values - empty[..., None, None]) / divisor for name, values in curves.items()})
