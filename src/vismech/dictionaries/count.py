"""How many concepts a layer gets: as few as rebuild vectors that had no part in finding them.

Legend: i images, p vectors per image, c channels, k concepts.

What a code of k concepts leaves unexplained of new vectors falls with the logarithm of k without a bend that would tell
where to stop, so the goal is stated: the first k of a ladder at which the code leaves no more than `unexplained` of the
held-out vectors, ``‖X − U V‖² / ‖X‖²``. The ladder is ¼, ½, 1, 2, 4 and 8 concepts per channel (8: Kim et al. 2024),
as far as there are `vectors` of them for each concept: a concept that a few vectors share is one photograph's, not the
layer's. Where no k reaches the goal the last one is taken, and the record says so.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.dictionaries.base import Dictionary

PER_CHANNEL = (0.25, 0.5, 1, 2, 4, 8)
# Every so-manieth image is held out.
FOLDS = 5
# At most so many vectors choose, and so many are rebuilt, evenly from all images.
CHOOSING, HELD_OUT = 30_000, 4_000


class Count(NamedTuple):
    """What the number of concepts is chosen by: the share that may stay unexplained, and vectors for each concept."""

    unexplained: float
    vectors: int


def ladder(channels: int, available: int, wanted: Count, smallest: int, largest: int) -> list[int]:
    """The numbers of concepts to try, smallest first; one at least.

    Args:
        channels: c.
        available: vectors that the concepts are found in.
        wanted: how many vectors each concept needs.
        smallest: what the code needs at least.
        largest: what the method can give at most.
    """
    most = max(smallest, min(largest, available // wanted.vectors))
    steps = {max(smallest, round(share * channels)) for share in PER_CHANNEL}
    return sorted(step for step in steps if step <= most) or [most]


def choose(
    vectors: Float[Tensor, "i p c"],
    wanted: Count,
    smallest: int,
    largest: int,
    fit: Callable[[Tensor, int], Dictionary],
) -> dict[str, Any]:
    """Choose the number of concepts, and say how.

    Args:
        vectors: of all images; those of every fifth image are held out (of fewer than five images every fifth vector,
            whose neighbours in the image had their part, so that too little is found unexplained).
        wanted: the goal and its bounds.
        smallest: what the code needs at least.
        largest: what the method can give at most.
        fit: (vectors [n, c], k) → a dictionary with its code.

    Returns:
        `k`; `tried`, the numbers of concepts; what each left `unexplained` of the held-out vectors; the `goal`, and
        whether it was `reached`; `held_out`, how many vectors were rebuilt.
    """
    steps = ladder(vectors.shape[-1], vectors.shape[:2].numel(), wanted, smallest, largest)
    images = vectors if len(vectors) >= FOLDS else vectors.flatten(0, 1)[:, None]
    out = torch.arange(len(images)) % FOLDS == FOLDS // 2
    inside, per_image = (~out).nonzero()[:, 0], images.shape[1]
    rows = _evenly(torch.arange(len(inside) * per_image), CHOOSING)
    choosing = images[inside[rows // per_image], rows % per_image]
    held = images[_evenly(out.nonzero()[:, 0], max(1, HELD_OUT // per_image))]
    tried: list[int] = []
    missed: list[float] = []
    for k in steps:
        dictionary = fit(choosing, k)
        held = held.to(dictionary.atoms.device)
        error = (held - dictionary.decode(dictionary.encode(held))).square().sum(dtype=torch.float64)
        energy = held.square().sum(dtype=torch.float64)
        tried.append(k)
        missed.append((error / energy).item() if energy else 0.0)
        if missed[-1] <= wanted.unexplained:
            break
    return {
        "k": tried[-1],
        "tried": tried,
        "unexplained": missed,
        "goal": wanted.unexplained,
        "reached": missed[-1] <= wanted.unexplained,
        "held_out": held.shape[:2].numel(),
    }


def _evenly(rows: Int[Tensor, " n"], most: int) -> Int[Tensor, " m"]:
    return rows[:: -(-len(rows) // most)] if len(rows) > most else rows
