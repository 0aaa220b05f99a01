"""Inter-layer insertion and deletion: does an order of lower concepts find those that an upper concept is made of?

Of one image, ``X̃ = rest + Σ_q u_q v_q`` at layer a, and F_ab leads to layer b. The score of a partial reconstruction X
for the concept j of b is F_ab's output Y read on v_j, the largest projection over positions (GIG §4) or the mean:

    s_j(X) = max_p <Y_p, v_j>  or  mean_p <Y_p, v_j>,   Y = F_ab(X)

Insertion keeps the first m concepts of an order, deletion all but these; ``rest`` is always there: zero, or the mean
concept where it is kept. The position of the maximum is found anew for each X. The AUC difference is insertion −
deletion.

Insertion along an order is deletion along its reverse, read backwards (:func:`curves` sees to it), so the AUC
differences of the two cancel. Over uniformly random orders the expectation is therefore exactly zero, for every image,
network and score: one random order is a control that can fail, while its mean with its reverse never could.

Legend: B images, P positions, C channels and K concepts of a, Q of them active in an image and ranked, D channels of b,
T targets, O orders, N of them to be followed, M counts, R rows of a pass, S read-outs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.gig import ROW_MULTIPLE, Segment
from vismech.attribution.targets import anchors
from vismech.config.choices import Order, ReadOut
from vismech.dictionaries.base import Dictionary
from vismech.measures.insertion.scores import random_order, share_counts
from vismech.network.pfv import Layout

READOUTS = ("max", "mean")
EARLY = (0, 1, 2, 4, 8)
"""Points of the count axis."""
SMALL = 0.05
"""A denominator is small below this share of the median one of the pair of layers."""


@dataclass(frozen=True)
class ImageTargets:
    """Concepts of the upper layer, each image its own: ``g_j(Y) = <Y_{p*}, v_j>``, or the sum over positions, for
    attributions, and the read-outs.

    Attributes:
        atoms: v_j.
        anchors: p*, −1 where an image has fewer targets.
        layout: how the upper activation is read as PFVs.
        concepts: j, −1 likewise.
        readout: at p*, or the sum.
    """

    atoms: Float[Tensor, "b t d"]
    anchors: Int[Tensor, "b t"]
    layout: Layout
    concepts: Int[Tensor, "b t"]
    readout: ReadOut = ReadOut.max

    @property
    def column(self) -> int:
        """The read-out that an intervention is judged by: the one that attributions are of."""
        return READOUTS.index("max" if self.readout is ReadOut.max else "mean")

    @property
    def present(self) -> Bool[Tensor, "b t"]:
        """See :class:`~vismech.attribution.targets.Targets`."""
        return self.anchors >= 0

    def __call__(self, activation: Tensor, image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
        """Projections at p*, or summed over positions."""
        vectors, where = self.layout.vectors(activation), self.anchors[image].clamp(min=0)
        if self.readout is ReadOut.sum:
            return (vectors.sum(1)[:, None] * self.atoms[image]).sum(-1)
        rows = torch.arange(len(vectors), device=vectors.device)[:, None]
        return (vectors[rows, where] * self.atoms[image]).sum(-1)

    def take(self, image: Int[Tensor, " i"]) -> ImageTargets:
        """See :class:`~vismech.attribution.targets.Targets`."""
        return replace(self, atoms=self.atoms[image], anchors=self.anchors[image], concepts=self.concepts[image])

    def read(self, activation: Tensor, image: int) -> Float[Tensor, "r t s"]:
        """Both read-outs of one image's targets, all positions free."""
        vectors = self.layout.vectors(activation)
        # Few targets and many positions: positions last, several times faster.
        projections = (self.atoms[image] @ vectors.flatten(0, 1).T).unflatten(1, vectors.shape[:2])
        return torch.stack([projections.amax(2), projections.mean(2)], -1).transpose(0, 1)


def strongest_targets(
    vectors: Float[Tensor, "b p d"], codes: Float[Tensor, "b p k"], dictionary: Dictionary, layout: Layout, count: int
) -> ImageTargets:
    """The ``count`` concepts of each image with the largest positive projection at a position of positive code.

    The mean concept, which every position of every image has, is never a target.
    """
    where = anchors(vectors, codes, dictionary.atoms)
    rows = torch.arange(len(vectors), device=vectors.device)[:, None]
    values = torch.stack(
        [(one[at.clamp(min=0)] * dictionary.atoms).sum(-1) for one, at in zip(vectors, where, strict=True)]
    )
    values = values.masked_fill(where < 0, -torch.inf)
    if dictionary.mean_index is not None:
        values[:, dictionary.mean_index] = -torch.inf
    best, concepts = values.topk(min(count, values.shape[1]), dim=1)
    there, missing = best > 0, count - best.shape[1]
    padded = [torch.nn.functional.pad(part, (0, missing), value=-1) for part in (concepts, where[rows, concepts])]
    there = torch.nn.functional.pad(there, (0, missing), value=False)
    concepts, where = (part.masked_fill(~there, -1) for part in padded)
    return ImageTargets(dictionary.atoms[concepts.clamp(min=0)], where, layout, concepts)


@dataclass(frozen=True)
class Composition:
    """One image's reconstruction in its concepts, ``full = rest + Σ_q u_q v_q``.

    Attributes:
        units: q, the concepts that are ranked: active in the image, without the mean concept where it is kept.
        codes: u_q.
        atoms: v_q.
        rest: what is always there.
        full: U V, as the dictionary decodes it.
    """

    units: Int[Tensor, " q"]
    codes: Float[Tensor, "p q"]
    atoms: Float[Tensor, "q c"]
    rest: Float[Tensor, "p c"]
    full: Float[Tensor, "p c"]

    def part(self, which: slice) -> Float[Tensor, "n p c"]:
        """``u_q v_q`` of some concepts."""
        return self.codes.T[which, :, None] * self.atoms[which, None]

    def prefixes(self, orders: Int[Tensor, "n q"], counts: Int[np.ndarray, " m"]) -> Float[Tensor, "n m p c"]:
        """``Σ u_q v_q`` over the first ``counts`` of each order: one product for each stretch between two counts."""
        stretches = np.diff(counts, prepend=0)
        slots = np.arange(stretches.max())
        # Shorter stretches are filled up with a concept of code zero, number Q.
        place = np.where(slots < stretches[:, None], (counts - stretches)[:, None] + slots, orders.shape[1])
        filled = torch.nn.functional.pad(orders, (0, 1), value=orders.shape[1])
        chosen = filled[:, torch.from_numpy(place).to(orders.device)]
        codes = torch.nn.functional.pad(self.codes, (0, 1)).T[chosen]
        atoms = torch.nn.functional.pad(self.atoms, (0, 0, 0, 1))[chosen]
        # The running sum as a product, several times faster on a CPU than over an inner dimension.
        below = codes.new_ones(len(counts), len(counts)).tril()
        return (below @ (codes.mT @ atoms).flatten(2)).unflatten(2, self.full.shape)


def composition(codes: Float[Tensor, "p k"], dictionary: Dictionary, mean_kept: bool) -> Composition:
    """One image's reconstruction; ``mean_kept`` says whether the mean concept is always there and never ranked."""
    active, mean = codes.any(0), dictionary.mean_index
    full = dictionary.decode(codes)
    rest = torch.zeros_like(full)
    if mean_kept and mean is not None:
        active[mean] = False
        rest = codes[:, mean, None] * dictionary.atoms[mean]
    units = active.nonzero()[:, 0]
    return Composition(units, codes[:, units], dictionary.atoms[units], rest, full)


Scores = Callable[[Float[Tensor, "r p c"]], Float[Tensor, "r t s"]]
"""Both read-outs of one image's targets on partial reconstructions."""


def image_scores(
    segment: Segment, layout: Layout, clean: Tensor, targets: ImageTargets, image: int, rows: int
) -> Scores:
    """s_j of one image.

    Args:
        segment: F_ab.
        layout: how the lower activation is read as PFVs.
        clean: the clean lower activation [B, …]; what is no PFV keeps its value.
        targets: j.
        image: which of the B images.
        rows: reconstructions per forward pass.

    Raises:
        FloatingPointError: a score that is not finite.
    """
    held = clean[image : image + 1]

    def scores(vectors: Float[Tensor, "r p c"]) -> Float[Tensor, "r t s"]:
        found = []
        for some in vectors.split(rows):
            # A row's last digits depend on the number of rows in its pass.
            last = some[-1:].expand(-len(some) % ROW_MULTIPLE, -1, -1)
            output = segment(layout.activation(torch.cat([some, last]), held))
            found.append(targets.read(output, image)[: len(some)])
        values = torch.cat(found)
        if not values.isfinite().all():
            raise FloatingPointError("a score of a partial reconstruction is not finite")
        return values

    return scores


def leave_one_out(whole: Composition, scores: Scores, rows: int, column: int = 0) -> Float[Tensor, "t q"]:
    """``s_j(X̃) − s_j(X̃ − u_q v_q)``: what is lost without concept q at all positions, by one of the read-outs."""
    value = scores(whole.full[None])[..., column]
    changed = _of_each(whole, lambda which: scores(whole.full - whole.part(which))[..., column], rows)
    return (value - changed).T


def activation_patching(
    whole: Composition, donor: Float[Tensor, "p k"], dictionary: Dictionary, scores: Scores, rows: int, column: int = 0
) -> Float[Tensor, "t q"]:
    """What concept q alone restores in the run of another image (denoising; Meng et al. 2022, Zhang & Nanda 2024).

    With U' the other image's codes at layer a: ``s_j((U' with column q from U) V) − s_j(U' V)``. All positions of q
    are put in place at once; nothing else of the other image changes.

    Args:
        whole: the image's reconstruction.
        donor: U'.
        dictionary: of layer a.
        scores: the image's own targets.
        rows: concepts at once.
        column: which of the read-outs.
    """
    other, own = dictionary.decode(donor), replace(whole, codes=whole.codes - donor[:, whole.units])
    value = scores(other[None])[..., column]
    changed = _of_each(own, lambda which: scores(other + own.part(which))[..., column], rows)
    return (changed - value).T


def _of_each(whole: Composition, effect: Callable[[slice], Tensor], rows: int) -> Float[Tensor, "q t"]:
    """``effect`` of every concept, ``rows`` of them at once."""
    starts = range(0, len(whole.units), rows)
    return torch.cat([effect(slice(first, first + rows)) for first in starts])


def random_effects(count: int, *names: object) -> Float[Tensor, "1 q"]:
    """Numbers in random order, one order for all targets, drawn from a seed that the names spell."""
    return random_order(torch.ones(count, dtype=torch.bool), *names)[None].float()


def magnitudes(whole: Composition) -> Float[Tensor, "1 q"]:
    """``Σ_p |u_pq|``."""
    return whole.codes.abs().sum(0)[None]


class Curves(NamedTuple):
    """Scores as concepts are inserted and deleted, for every target and order.

    Attributes:
        insertion, deletion: on the axis of shares, of :data:`~vismech.measures.insertion.scores.GRID` points.
        insertion_first, deletion_first: on the count axis.
    """

    insertion: Float[Tensor, "t o s 33"]
    deletion: Float[Tensor, "t o s 33"]
    insertion_first: Float[Tensor, "t o s 5"]
    deletion_first: Float[Tensor, "t o s 5"]


def curves(whole: Composition, effects: Mapping[Order, Float[Tensor, "_ q"]], scores: Scores, rows: int) -> Curves:
    """Curves of one image along the concepts in the order of falling effect.

    Deletion at a share f leaves as many concepts as insertion at 1 − f holds. An image with fewer concepts than a
    count holds its last value there. Both ends are the scores of ``rest`` and of the full reconstruction themselves.

    Args:
        whole: the image's reconstruction.
        effects: order → effect of each concept on each target, or one row where all targets share it.
        scores: the targets' read-outs.
        rows: reconstructions per forward pass.
    """
    concepts = len(whole.units)
    (inserted, deleted), early = share_counts(concepts), np.minimum(EARLY, concepts)
    counts = np.unique(np.concatenate([inserted, deleted, early]))
    inner = counts[(counts > 0) & (counts < concepts)]
    ends = scores(torch.stack([whole.rest, whole.full]))
    ranked = torch.cat([effect.argsort(dim=1, descending=True, stable=True) for effect in effects.values()])
    kept = ends.new_empty(len(ranked), len(counts), *ends.shape[1:])
    kept[:, 0], kept[:, -1] = ends
    dropped = kept.flip(1)
    together = max(1, rows // max(1, 2 * len(inner)))
    for begin in range(0, len(ranked) if len(inner) else 0, together):
        some = slice(begin, begin + together)
        sums = whole.prefixes(ranked[some], inner)
        both = torch.stack([whole.rest + sums, whole.full - sums])
        kept[some, 1:-1], dropped[some, 1:-1] = scores(both.flatten(0, 2)).unflatten(0, both.shape[:3])
    total = ends.shape[1]
    starts = np.cumsum([0, *(len(effect) for effect in effects.values())])[:-1].tolist()
    own = torch.arange(total, device=ends.device)
    follows = [first + (own if len(one) > 1 else 0 * own) for first, one in zip(starts, effects.values(), strict=True)]

    def at(values: Tensor, wanted: Int[np.ndarray, " m"]) -> Tensor:
        place = torch.from_numpy(np.searchsorted(counts, wanted)).to(values.device)
        each = values[:, place]  # [n, m, t, s]
        return torch.stack([each[of, :, own].movedim(1, -1) for of in follows], 1)

    return Curves(at(kept, inserted), at(dropped, deleted), at(kept, early), at(dropped, early))
