"""Saturation along the path of every image, and how well its two parts tell what units do."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from vismech.attribution.engine import Attribution
from vismech.config.choices import PathWeight
from vismech.intervene.coded import Coded
from vismech.measures.attribution.scores import Measured, abpc, completeness
from vismech.measures.saturation.scores import RELATIONS, WEIGHTS, relation
from vismech.measures.unit_loop import Case, UnitLoop, score_columns
from vismech.network.layers import PIXELS
from vismech.network.pfv import Layout
from vismech.passes.loop import Columns
from vismech.store.rows import Column

LEFT, RIGHT, FULL = (WEIGHTS.index(side) for side in (PathWeight.left_ig, PathWeight.right_ig, PathWeight.ig))
MAP_SIDE = 56
"""Heat maps are kept in cells, at most so many a side."""


def saturation_columns(targets: int, steps: int, pixels: Layout | None) -> dict[str, Column]:
    """Arrays of one source and its targets, per image.

    ``outputs`` g_j at the nodes as ``(g_j − g_j(0)) / Δ`` [T, S], zero where nothing moves; ``norms`` of its gradient
    there [T, S]; ``crossing`` α* [T]; ``present``, ``moves`` and ``crosses`` [T]; the scores of SAT; of ``pixels`` also
    ``maps``, mean |φ| of left, right and full in the cells of a grid [3, h, w].
    """
    columns = {
        "outputs": Column((targets, steps)),
        "norms": Column((targets, steps)),
        "crossing": Column((targets,)),
        "present": Column((targets,), "bool"),
        "moves": Column((targets,), "bool"),
        "crosses": Column((targets,), "bool"),
        **score_columns(SaturationLoop.scores, targets),
    }
    return columns if pixels is None else columns | {"maps": Column((3, *_cells(pixels)))}


def _cells(layout: Layout) -> tuple[int, int]:
    rows, columns = layout.grid
    return min(rows, MAP_SIDE), min(columns, MAP_SIDE)


class SaturationLoop(UnitLoop):
    """Writes :func:`saturation_columns`; completeness is ig's, since idg is made complete and a part cannot be."""

    scores: ClassVar = {
        "completeness": (),
        **dict.fromkeys(RELATIONS, ()),
        **dict.fromkeys(("abpc", "sensitivity"), (4,)),
    }

    def batch(self, found: Attribution) -> Columns:
        """See :class:`UnitLoop`."""
        profile, change = found.profile, (found.value - found.baseline)[..., None]
        assert profile is not None
        moves = found.moves[..., None]
        share = (profile.values - found.baseline[..., None]) / torch.where(moves, change, torch.ones_like(change))
        columns = {
            "outputs": torch.where(moves, share, torch.zeros_like(share)),
            "norms": profile.norms,
            "crossing": found.crossing,
            "present": found.present,
            "moves": found.moves,
            "crosses": found.crosses,
        }
        return columns | ({"maps": self._maps(found)} if self.lower == PIXELS else {})

    def _maps(self, found: Attribution) -> Tensor:
        """Of the only target; |φ| first, since neighbours of opposite sign would cancel in a cell."""
        sides = [WEIGHTS[side] for side in (LEFT, RIGHT, FULL)]
        sizes = torch.stack([found.edges[side].units[:, 0].abs() for side in sides], 1)
        return torch.nn.functional.adaptive_avg_pool2d(sizes.unflatten(2, self.layout.grid), _cells(self.layout))

    def measure(self, coded: Coded, case: Case) -> dict[str, Measured]:
        """See :class:`UnitLoop`."""
        value, defined = completeness(case.attribution, case.ends)
        return {
            "completeness": Measured(value[:, FULL], defined[:, FULL]),
            **relation(case.attribution[:, LEFT], case.attribution[:, RIGHT]),
            "abpc": abpc(case.outputs, case.attribution, case.ends),
            "sensitivity": self.sensitivity(coded, case),
        }
