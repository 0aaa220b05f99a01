"""How well attributions tell what units do to an output, each metric as its authors defined it.

Every function takes the output as a function of the units that are kept
(:data:`~vismech.measures.unit_scores.Outputs`), so that x is "all kept" and the baseline b "none kept", and
attributions φ of several methods to several targets at once. Methods that are compared meet the same random masks. With
Δ = F(x) − F(b), a unit speaks **for** the change when φ has Δ's sign: orders are by φ · sign Δ, so a target that falls
along the path is measured as one that rises.

The formulas are written here, not called, because libraries differ from them: quantus' Completeness asks for equal
floats, its Infidelity treats φ as a gradient and lets patches accumulate; captum's trapezoid weights sum to (n−1)/n;
xplique turns a correlation that does not exist into 0.

Legend: T targets, W attributions, Q units, M masks, S points of a curve.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.measures.unit_scores import Outputs

STEPS = 32
"""Units are revealed and removed in so many steps, the same for pixels and concepts."""
DRAWN_SETS = 100
"""Random sets of units of one size."""
ABPC_SHARES = tuple(step / 10 for step in range(1, 10))


class Change(NamedTuple):
    """The output with all units and with none, F(x) and F(b)."""

    value: Float[Tensor, " t"]
    baseline: Float[Tensor, " t"]

    @property
    def change(self) -> Float[Tensor, " t"]:
        """Δ."""
        return self.value - self.baseline


class Measured(NamedTuple):
    """A metric and where it exists; elsewhere the value is zero and means nothing."""

    value: Float[Tensor, "t *w"]
    defined: Bool[Tensor, "t *w"]


def ratio(numerator: Float[Tensor, "t *w"], denominator: Float[Tensor, "t *w"]) -> Measured:
    """A quotient, defined where the denominator is not zero."""
    defined = denominator != 0
    safe = torch.where(defined, denominator, torch.ones_like(denominator))
    return Measured(torch.where(defined, numerator / safe, torch.zeros_like(numerator)), defined)


def completeness(attribution: Float[Tensor, "t w q"], ends: Change) -> Measured:
    """``|Σ_q φ_q − Δ| / |Δ|`` (Sundararajan et al. 2017), undefined where Δ = 0."""
    change = ends.change[:, None].expand(attribution.shape[:2])
    return ratio((attribution.sum(2) - change).abs(), change.abs())


def abpc(outputs: Outputs, attribution: Float[Tensor, "t w q"], ends: Change) -> Measured:
    """Area between perturbation curves (Miglani et al., arXiv 2010.12697): 0 for a random order, larger is better.

    ``(1/10) Σ_{k = 0.1 … 0.9} max(0, low_k − high_k)``, low and high the output with the share k of least and of most
    attributed units at the baseline, as ``(F − F(b)) / Δ`` clipped to [0, 1]. Undefined where φ = 0 has no order.
    """
    count = attribution.shape[2]
    removed = torch.tensor([round(share * count) for share in ABPC_SHARES], device=attribution.device)
    rank = ranks(attribution, ends)[:, :, None]
    kept = torch.cat([rank < count - removed[:, None], rank >= removed[:, None]], 2)
    low, high = _normalised(outputs, kept, ends).clamp(0, 1).chunk(2, 2)
    return Measured((low - high).clamp(min=0).sum(2) / (len(ABPC_SHARES) + 1), attribution.any(2))


class Curves(NamedTuple):
    """Output and attribution as units are revealed (``insertion``) or removed (``deletion``), most attributed first.

    Attributes:
        share: of the units, revealed or removed, from 0 to 1.
        insertion, deletion: ``(F − F(b)) / Δ``, 0 for the baseline and 1 for x.
        mass: share of Σ|φ| among the units of that step; 1 − mass is left after their removal.
    """

    share: Float[Tensor, " s"]
    insertion: Float[Tensor, "t w s"]
    deletion: Float[Tensor, "t w s"]
    mass: Float[Tensor, "t w s"]


def curves(outputs: Outputs, attribution: Float[Tensor, "t w q"], ends: Change, steps: int = STEPS) -> Curves:
    """Reveal and remove units (Petsiuk et al. 2018) in ``steps`` equal steps, rounded to whole units."""
    count = attribution.shape[2]
    marks = torch.tensor([round(step * count / steps) for step in range(steps + 1)], device=attribution.device)
    rank = ranks(attribution, ends)
    first = rank[:, :, None] < marks[:, None]
    both = _normalised(outputs, torch.cat([first, ~first], 2), ends)
    size = attribution.abs()
    mass = ratio(torch.einsum("twq,twsq->tws", size, first.to(size)), size.sum(2, keepdim=True).expand(first.shape[:3]))
    insertion, deletion = both.chunk(2, 2)
    return Curves(marks / count, insertion, deletion, mass.value)


class Areas(NamedTuple):
    """Areas under curves of insertion and deletion, plain and magnitude-aligned (MAS)."""

    insertion: Float[Tensor, "t w"]
    deletion: Float[Tensor, "t w"]
    mas_insertion: Float[Tensor, "t w"]
    mas_deletion: Float[Tensor, "t w"]


def areas(found: Curves) -> Areas:
    """Trapezoid areas; insertion should be large and deletion small.

    Magnitude-aligned scoring (Walker et al. 2024) punishes the distance of the response r to the share of attribution d
    that should have caused it: r clipped to [0, 1] and made monotone, ``clip(r − |d − r|)`` for insertion,
    ``clip(r + |d − r|)`` for deletion, where d is what remains. Shares are of |φ|; the authors sum φ, of maps that are
    not negative.
    """
    up = found.insertion.clamp(0, 1).cummax(2).values
    down = found.deletion.clamp(0, 1).cummin(2).values
    remaining = 1 - found.mass
    aligned = (up - (found.mass - up).abs()).clamp(0, 1), (down + (remaining - down).abs()).clamp(0, 1)
    parts = (found.insertion, found.deletion, *aligned)
    return Areas(*(torch.trapezoid(part, found.share, dim=2) for part in parts))


class Removals(NamedTuple):
    """Random sets of units at the baseline, and the output that each costs, ``F(x) − F(x with the set at b)``."""

    removed: Bool[Tensor, "m q"]
    drop: Float[Tensor, "m t"]


def removals(
    outputs: Outputs, ends: Change, units: int, share: float, generator: torch.Generator, draws: int = DRAWN_SETS
) -> Removals:
    """Draw ``draws`` sets of ``share`` of the units, at least one and rounded to whole units."""
    size = max(1, round(share * units))
    device = ends.value.device
    order = torch.rand(draws, units, generator=generator).argsort(1).argsort(1)
    removed = (order < size).to(device)
    return Removals(removed, ends.value - outputs(~removed))


def infidelity(attribution: Float[Tensor, "t w q"], removals: Removals) -> Float[Tensor, "t w"]:
    """``E_m[(Σ_q m_q φ_q − (F(x) − F(x − m ⊙ (x − b))))²]`` (Yeh et al. 2019), m the random sets; in F's units squared.

    m multiplies x − b as well as φ, since φ already holds the unit's value (it is no gradient).
    """
    return (_sums(attribution, removals) - removals.drop.T[:, None]).square().mean(2)


def sensitivity_n(attribution: Float[Tensor, "t w q"], removals: Removals) -> Measured:
    """Pearson correlation over random sets of one size of Σ_S φ and what removing S costs (Ancona et al. 2018).

    It does not exist where either is the same for every set.
    """
    told = _sums(attribution, removals).double()
    true = removals.drop.T[:, None].double()
    told, true = (part - part.mean(2, keepdim=True) for part in (told, true))
    found = ratio((told * true).sum(2), told.norm(dim=2) * true.norm(dim=2))
    return Measured(found.value.to(attribution), found.defined)


def max_sensitivity(attribution: Float[Tensor, "t w q"], disturbed: Float[Tensor, "n t w q"]) -> Measured:
    """``max_n ‖φ(x + δ_n) − φ(x)‖ / ‖φ(x)‖`` over draws of noise δ (Yeh et al. 2019), undefined where φ(x) = 0."""
    return ratio((disturbed - attribution).norm(dim=3).amax(0), attribution.norm(dim=2))


def ranks(attribution: Float[Tensor, "t w q"], ends: Change) -> Int[Tensor, "t w q"]:
    """Place of each unit by descending φ · sign Δ; of equal ones the first unit comes first."""
    signed = attribution * ends.change.sign()[:, None, None]
    order = signed.sort(dim=2, descending=True, stable=True).indices
    return torch.empty_like(order).scatter_(
        2, order, torch.arange(order.shape[2], device=order.device).expand_as(order)
    )


def _normalised(outputs: Outputs, kept: Bool[Tensor, "t w m q"], ends: Change) -> Float[Tensor, "t w m"]:
    """``(F(mask) − F(b)) / Δ``, each target with its own masks.

    Raises:
        ValueError: a target without change, which has no normalised output.
    """
    if not (ends.change != 0).all():
        raise ValueError(f"outputs cannot be normalised by changes of {ends.change.tolist()}: leave out those of 0")
    each = outputs(kept.flatten(0, 2)).unflatten(0, kept.shape[:3])
    own = each.diagonal(dim1=0, dim2=3).movedim(-1, 0)
    return (own - ends.baseline[:, None, None]) / ends.change[:, None, None]


def _sums(attribution: Float[Tensor, "t w q"], removals: Removals) -> Float[Tensor, "t w m"]:
    return attribution @ removals.removed.to(attribution).T
