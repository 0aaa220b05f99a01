"""Transfer insertion and deletion: whether a concept does in other images what it did in those that ranked it (ours).

A group's images are cut into two halves. The concepts are ranked by their mean attribution over one half, and inserted
and deleted in this one order in every image of the other half, and the other way round: no image has a part in the
order that it is scored by. A concept of the order that an image does not have still counts as a step.

The score of few concepts, insertion less deletion, favours poor reconstructions: were the answer additive in the
concepts, it would be ``2 A − (whole − nothing)``, A the mean answer to the first concepts alone, and all concepts of a
poor dictionary rebuild no class (whole ≈ nothing). ``transfer_gain`` is the lead of the ranked order over a random
order of the same concepts, where the second term is gone: 0 where a ranking says nothing about other images.

Legend: N images, K concepts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from vismech.draws import digest_of, seed_of
from vismech.errors import UserError

SMALLEST = 4
"""Images of a group below which it is left out."""


class Halves(NamedTuple):
    """The halves of all groups, numbered so that 2g and 2g + 1 are those of group g.

    Attributes:
        names: of the groups with enough images.
        half: of each image, −1 where its group is left out or it has none.
    """

    names: list[str]
    half: Int[np.ndarray, " n"]


def check_groups(groups: Mapping[str, Sequence[Sequence[int]]]) -> None:
    """Refuse ranges that are none, and classes in two groups.

    Raises:
        UserError: the range and the remedy.
    """
    taken: dict[int, str] = {}
    for name, ranges in groups.items():
        for one in ranges:
            if len(one) != 2 or not 0 <= one[0] <= one[1]:
                raise UserError(f"evaluate.groups.{name}: {list(one)} is no range [first, last] of class indices")
            for label in range(one[0], one[1] + 1):
                if label in taken:
                    raise UserError(
                        f"evaluate.groups: class {label} is in {taken[label]} and in {name}: keep it in one"
                    )
                taken[label] = name


def split(
    predicted: Int[np.ndarray, " n"], ids: Sequence[str], groups: Mapping[str, Sequence[Sequence[int]]], seed: int
) -> Halves:
    """Groups by predicted class, or by ranges of it, each cut into halves by a hash of (seed, sample id).

    Raises:
        UserError: when no group has enough images.
    """
    ranges = groups or {str(label): [[int(label), int(label)]] for label in np.unique(predicted)}
    hashes = [digest_of(seed, "transfer", sample) for sample in ids]
    names, half = [], np.full(len(ids), -1)
    for name, each in ranges.items():
        inside = np.any([(first <= predicted) & (predicted <= last) for first, last in each], axis=0)
        members = sorted(np.flatnonzero(inside).tolist(), key=hashes.__getitem__)
        if len(members) >= SMALLEST:
            middle = len(members) // 2
            half[members[:middle]], half[members[middle:]] = 2 * len(names), 2 * len(names) + 1
            names.append(name)
    if not names:
        raise UserError(
            f"evaluate.kinds=transfer: no group has {SMALLEST} of the {len(ids)} images: give more evaluate.images, or "
            "evaluate.groups of several classes"
        )
    return Halves(names, half)


def fixed_orders(
    edges: Float[np.ndarray, "n k"],
    ranked: Bool[np.ndarray, "n k"],
    half: Int[np.ndarray, " n"],
    rankable: Bool[np.ndarray, " k"],
    name: str,
    seed: int,
) -> Int[np.ndarray, "h 2 a"]:
    """For the images of each half: the order that its sister half gives, and a random one.

    Concepts that the sister half has come first, by their mean attribution over it (zero where one is absent) or at
    random; the others follow by their number.

    Args:
        edges: GIG to the predicted class's logit.
        ranked: concepts that an image has.
        half: of :func:`split`.
        rankable: concepts that an order holds: all but a mean concept that is kept.
        name: of the layer, for the seed.
        seed: of the random orders.
    """
    orders = []
    for here in range(int(half.max()) + 1):
        sister = half == here ^ 1
        used = np.flatnonzero(ranked[sister].any(0) & rankable)
        others = np.setdiff1d(np.flatnonzero(rankable), used)
        mean = np.where(ranked[sister], edges[sister], 0).mean(0, dtype=np.float64)[used]
        generator = np.random.default_rng(seed_of(seed, "transfer", name, here))
        both = (used[np.argsort(-mean, kind="stable")], generator.permutation(used))
        orders.append([np.concatenate([first, others]) for first in both])
    return np.array(orders)
