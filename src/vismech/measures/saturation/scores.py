"""Where along the path an attribution comes from: before or after the output has settled.

Miglani et al. (SAT), arXiv 2010.12697: left_ig integrates until the target has made the share φ of its change, at α*,
right_ig from there on, and left + right = full (ig).

Legend: T targets, Q units, P positions, C channels.
"""

from __future__ import annotations

from itertools import combinations

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.config.choices import PathWeight
from vismech.draws import generator_of
from vismech.measures.attribution.scores import Measured, ratio

WEIGHTS = (PathWeight.ig, PathWeight.left_ig, PathWeight.right_ig, PathWeight.idg)
RELATIONS = ("norm_ratio", "sum_ratio", "cosine_left_right", "cosine_left_full", "cosine_right_full")
DRAWS, RADIUS = 10, 0.05
"""Max-sensitivity: draws of noise, and their radius in normalised pixels or in root mean squares of the activation."""


def relation(left: Float[Tensor, "t q"], right: Float[Tensor, "t q"]) -> dict[str, Measured]:
    """Right over left, in Euclidean norm and in sum over units, and cosines of the parts with each other and the whole.

    A target that never crosses has right = 0: its ratios are 0, its cosines with right do not exist; one that crosses
    at the first node has left = 0, and no ratios.
    """
    parts = {"left": left, "right": right, "full": left + right}

    def cosine(one: str, other: str) -> Measured:
        return ratio((parts[one] * parts[other]).sum(1), parts[one].norm(dim=1) * parts[other].norm(dim=1))

    return {
        "norm_ratio": ratio(right.norm(dim=1), left.norm(dim=1)),
        "sum_ratio": ratio(right.sum(1), left.sum(1)),
        **{f"cosine_{one}_{other}": cosine(one, other) for one, other in combinations(parts, 2)},
    }


def disturbances(
    vectors: Float[Tensor, "p c"], radius: float, sample_id: str, seed: int, draws: int = DRAWS
) -> Float[Tensor, "n p c"]:
    """``vectors + δ``, δ uniform in [−radius, radius], drawn from (seed, sample id) alone."""
    noise = generator_of(seed, sample_id).uniform(-radius, radius, (draws, *vectors.shape))
    return vectors + torch.from_numpy(noise).to(vectors)


def root_mean_square(vectors: Float[Tensor, "p c"]) -> float:
    """``√(mean x²)`` over positions and channels."""
    return float(vectors.square().mean().sqrt())
