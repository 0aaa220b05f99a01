"""Concept insertion and deletion: what the network answers with some of an image's concepts only.

    insertion(m) = F(nothing + Σ_{i ≤ m} u_i v_i)        deletion(m) = F(whole − Σ_{i ≤ m} u_i v_i)

over the first m concepts of an order, at all positions; F is the probability of the class that the network predicts.
Two axes: the share of the image's active concepts, on a fixed grid of 33, and the count of concepts, 0, 1, 2, 4 …

In a random order the expected difference of the two areas on the axis of shares is exactly zero, whatever the network:
inserting the first m of an order leaves what deleting the first n − m of the reversed order leaves, an order is as
likely as its reverse, and the grid of deletion is the mirror image of that of insertion. On the axis of counts it is
not zero: the first 8 of 100 are then few for insertion and few for deletion.

Legend: P positions, C channels, K concepts, A of them in the order, J counts, M rows, B images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.dictionaries.pursuit import least_squares, orthogonal_matching_pursuit
from vismech.draws import seed_of
from vismech.measures.statistics import Interval

GRID = 33
FIRST = (8, 32)
CANDIDATES = 64
"""Concepts that the greedy oracle tries in one pass."""

Read = Callable[[Float[Tensor, "m p c"]], Float[Tensor, " m"]]
"""PFVs of the layer → probability of the class."""


class Extent(NamedTuple):
    """PFVs of an image with none of its ranked concepts, and with all of them."""

    nothing: Float[Tensor, "p c"]
    whole: Float[Tensor, "p c"]


class Curves(NamedTuple):
    """Insertion and deletion on both axes.

    Attributes:
        share: over the grid of :data:`GRID` shares.
        count: over :func:`count_axis`.
    """

    share: Float[Tensor, "2 g"]
    count: Float[Tensor, "2 j"]


def count_axis(budgets: Sequence[int] = ()) -> list[int]:
    """Counts 0, 1, 2, 4 … up to the largest of 32 and ``budgets``, which are all on it."""
    last = max(*FIRST, *budgets)
    return sorted({0, *(2**power for power in range(last.bit_length()) if 2**power <= last), *FIRST, *budgets})


def share_counts(active: int) -> Int[np.ndarray, "2 g"]:
    """Concepts inserted, and concepts deleted, at each share of ``active``: a share rounded, and its mirror image."""
    inserted = np.rint(np.linspace(0, 1, GRID) * active).astype(np.int64)
    return np.stack([inserted, active - inserted[::-1]])


def share_area(values: Float[np.ndarray, "*n g"]) -> Float[np.ndarray, "*n"]:
    """Area under curves over the shares, by the trapezoid rule, whose weights sum to one."""
    return np.asarray(np.trapezoid(values, dx=1 / (GRID - 1), axis=-1))


def count_area(values: Float[np.ndarray, "*n j"], axis: Sequence[int], first: int) -> Float[np.ndarray, "*n"]:
    """Area under curves over the first ``first`` concepts of a count axis, divided by ``first``."""
    stop = list(axis).index(first) + 1
    return np.asarray(np.trapezoid(values[..., :stop], np.asarray(axis[:stop]), axis=-1) / first)


def ranked_orders(edges: Float[Tensor, "b k"], ranked: Bool[Tensor, "b k"]) -> list[Int[Tensor, " a"]]:
    """Each image's ranked concepts by signed attribution, largest first; equal ones by their number."""
    order = edges.masked_fill(~ranked, -torch.inf).argsort(dim=1, descending=True, stable=True)
    return [own[:count] for own, count in zip(order, ranked.sum(1).tolist(), strict=True)]


def random_order(ranked: Bool[Tensor, " k"], *names: object) -> Int[Tensor, " a"]:
    """The ranked concepts in an order drawn from a seed that the names spell."""
    places = ranked.nonzero()[:, 0]
    order = np.random.default_rng(seed_of(*names)).permutation(len(places))
    return places[torch.from_numpy(order).to(places.device)]


def partial_sums(
    codes: Float[Tensor, "p k"], atoms: Float[Tensor, "k c"], order: Int[Tensor, " a"], counts: Sequence[int]
) -> Float[Tensor, "j p c"]:
    """``Σ_{i ≤ count} u_i v_i`` over the first concepts of an order, for ascending counts from 0: one decode in all."""
    sizes = np.diff(counts).tolist()
    some = order[: counts[-1]]
    pairs = zip(codes[:, some].split(sizes, 1), atoms[some].split(sizes), strict=True)
    sums = codes.new_zeros(len(counts), len(codes), atoms.shape[1])
    for step, (code, atom) in enumerate(pairs, 1):
        torch.addmm(sums[step - 1], code, atom, out=sums[step])
    return sums


def curves(
    codes: Float[Tensor, "p k"],
    atoms: Float[Tensor, "k c"],
    order: Int[Tensor, " a"],
    ends: Extent,
    at_ends: Float[Tensor, " 2"],
    read: Read,
    axis: Sequence[int],
) -> Curves:
    """Insertion and deletion of one image's concepts in one order, on both axes; arguments as for :func:`values_at`."""
    grids = [share_counts(len(order)), np.tile(axis, (2, 1))]
    return Curves(*values_at(codes, atoms, order, ends, at_ends, read, grids))


def values_at(
    codes: Float[Tensor, "p k"],
    atoms: Float[Tensor, "k c"],
    order: Int[Tensor, " a"],
    ends: Extent,
    at_ends: Float[Tensor, " 2"],
    read: Read,
    grids: Sequence[Int[np.ndarray, "2 _"]],
) -> list[Float[Tensor, "2 _"]]:
    """The probability with so many concepts inserted (row 0) and deleted (row 1), for each of several grids of counts.

    Args:
        codes: u of the image.
        atoms: V.
        order: concepts; a count beyond their number holds the last value.
        ends: the PFVs at both ends, which are not summed up from parts.
        at_ends: the probability at both ends.
        read: the probability from PFVs.
        grids: counts, 0 among them.
    """
    active = len(order)
    counts = np.unique(np.concatenate([np.minimum(grid, active).ravel() for grid in grids]))
    # Where all of the order is among the counts, it is the last column.
    values = at_ends.flip(0)[:, None].repeat(1, len(counts))
    values[:, 0] = at_ends
    if between := counts[(counts > 0) & (counts < active)].tolist():
        parts = partial_sums(codes, atoms, order, [0, *between])[1:]
        found = read(torch.cat([ends.nothing + parts, ends.whole - parts]))
        values[:, 1 : 1 + len(between)] = found.view(2, -1)
    places = [torch.from_numpy(np.searchsorted(counts, np.minimum(grid, active))) for grid in grids]
    return [values.gather(1, place.to(values.device)) for place in places]


def greedy_curves(
    codes: Float[Tensor, "p k"],
    atoms: Float[Tensor, "k c"],
    ranked: Bool[Tensor, " k"],
    ends: Extent,
    at_ends: Float[Tensor, " 2"],
    read: Read,
    axis: Sequence[int],
) -> Float[Tensor, "2 j"]:
    """The greedy oracle: insert the concept that raises the probability most, and delete the one that lowers it most.

    It tries every concept left at every step, up to the last count of ``axis``, so it is for a few images only.
    """
    found = []
    for start, sign in ((0, 1.0), (1, -1.0)):
        current, left, values = ends[start], ranked.nonzero()[:, 0], [at_ends[start]]
        while len(left) and len(values) <= axis[-1]:
            tried = [read(current + sign * _parts(codes, atoms, some)) for some in left.split(CANDIDATES)]
            best, place = (sign * torch.cat(tried)).max(0)
            current = current + sign * _parts(codes, atoms, left[place, None])[0]
            left = torch.cat([left[:place], left[place + 1 :]])
            values.append(sign * best if len(left) else at_ends[1 - start])
        steps = torch.stack(values)
        found.append(steps[torch.tensor(axis, device=steps.device).clamp(max=len(steps) - 1)])
    return torch.stack(found)


def _parts(codes: Float[Tensor, "p k"], atoms: Float[Tensor, "k c"], some: Int[Tensor, " s"]) -> Float[Tensor, "s p c"]:
    return codes[:, some].T[..., None] * atoms[some][:, None]


def matched_codes(
    vectors: Float[Tensor, "b p c"],
    codes: Float[Tensor, "b p k"],
    atoms: Float[Tensor, "k c"],
    ranked: Bool[Tensor, "b k"],
    budget: int,
    l0: int | None = None,
) -> Float[Tensor, "b p k"]:
    """Codes in each image's ``budget`` ranked concepts of largest energy ``Σ_p u_pk²`` alone.

    By least squares in all of them; more than C of them span the space many times over, so that later concepts cancel
    earlier ones. With ``l0``, by orthogonal matching pursuit: budgets of concepts per image and per vector at once.

    Args:
        vectors: X, without what is always kept.
        codes: u.
        atoms: V.
        ranked: concepts that an image may keep; one with fewer keeps these.
        budget: m.
        l0: concepts of each vector, at most C.
    """
    energy = codes.square().sum(1).masked_fill(~ranked, -1)
    chosen = energy.topk(min(budget, energy.shape[1]), dim=1).indices
    there = ranked.gather(1, chosen)
    found = torch.zeros_like(codes)
    if l0 is not None:
        # In the order of their numbers, those that are not there last.
        ordered = chosen.masked_fill(~there, len(atoms)).sort(1).values
        for image, own, count, out in zip(vectors, ordered, there.sum(1).tolist(), found, strict=True):
            if count:
                some = own[:count]
                out[:, some] = orthogonal_matching_pursuit(image, atoms[some], min(l0, count))
        return found
    solved = least_squares(vectors, atoms[chosen] * there[..., None])
    places = chosen[:, None].expand_as(solved)
    return found.scatter_(2, places, solved * there[:, None])


def random_control(differences: Float[np.ndarray, " n"], level: float = 0.999, draws: int = 20_000) -> Interval:
    """The interval in which the mean AUC difference of random orders has to hold zero (the negative control).

    Each image's difference is symmetric about zero, so the quantile of ``|mean|`` under random signs is exact for any
    number of images (Fisher's randomisation test), where a bootstrap of few images would be too narrow.
    """
    values = np.asarray(differences, dtype=np.float64)
    generator, found = np.random.default_rng(0), []
    for first in range(0, draws, 1000):
        signs = generator.integers(0, 2, size=(min(1000, draws - first), len(values))) * 2 - 1
        found.append(np.abs(signs @ values) / len(values))
    reach, mean = float(np.quantile(np.concatenate(found), level)), float(values.mean())
    return Interval(mean - reach, mean + reach)
