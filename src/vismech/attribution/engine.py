"""The attribution engine: edges from the units of a source to a vector of targets, along any path, under any weight.

Legend: B images, T targets, Q units, E baselines, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vismech.attribution.forward import integrate_forward
from vismech.attribution.gig import Profile, Segment, integrate
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import Edges, Source
from vismech.attribution.targets import ConceptTargets, Targets
from vismech.config import Mode, PathWeight, ReadOut, Rule
from vismech.pfv import Layout

# Cost of one path point in forward passes: 1 + REVERSE·T backward, FORWARD·Q forward (experiments/benchmarks/modes.py).
REVERSE, FORWARD = 1.0, 2.5


@dataclass(frozen=True)
class Settings:
    """How the integral is taken.

    Attributes:
        rule, steps: quadrature.
        weights: which weights to put under the integral.
        phi: share of the change that left_ig ends at.
        mode: reverse, forward, or the cheaper of the two.
        rows: path points per pass; memory grows with it and not with the number of steps.
        profile: keep values and gradient norms at the nodes too; needs reverse mode and a single baseline.
    """

    rule: Rule = Rule.midpoint
    steps: int = 32
    weights: tuple[PathWeight, ...] = (PathWeight.ig,)
    phi: float = 0.9
    mode: Mode = Mode.auto
    rows: int = 256
    profile: bool = False


class Attribution(NamedTuple):
    """Edges of every weight, and what the path told of each target.

    Attributes:
        edges: weight → what each unit and the error node bring about; idg is rescaled to be complete.
        value: g_j at the end of the path.
        baseline: g_j at its start, the mean over baselines; the offset node's share.
        present: targets that there are.
        moves: targets whose change is more than rounding along every baseline's path.
        crossing: α* of left_ig, the mean over baselines; 1 where the target never crosses.
        energy: ∫ (dg/dα)² dα, what idg sums to before it is rescaled.
        profile: values and gradient norms at the nodes, if asked for.
    """

    edges: dict[PathWeight, Edges]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    present: Bool[Tensor, "b t"]
    moves: Bool[Tensor, "b t"]
    crossing: Float[Tensor, "b t"]
    energy: Float[Tensor, "b t"]
    profile: Profile | None = None


def attribute(
    segment: Segment,
    layout: Layout,
    sources: Source | Sequence[Source],
    clean: Tensor,
    targets: Targets,
    settings: Settings = Settings(),
) -> Attribution:
    """Edges from a source's units to ``targets``; the mean over several sources, which differ in their baselines.

    The mean over baselines that are activations of other images is expected gradients (Erion et al. 2021).

    Args:
        segment: F_ab, from the lower layer's activation to the upper layer's.
        layout: how the lower activation is read as PFVs.
        sources: the lower activation in units, from one baseline or from several.
        clean: the clean lower activation [B, …].
        targets: the functions that are explained.
        settings: how.

    Raises:
        FloatingPointError: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    each = list(sources) if isinstance(sources, Sequence) else [sources]
    found = [_one(segment, layout, source, clean, targets, settings) for source in each]
    if len(found) == 1:
        return found[0]

    def mean(parts: list[Tensor]) -> Tensor:
        return torch.stack(parts).mean(0)

    edges = {
        weight: Edges(*(mean(list(parts)) for parts in zip(*(one.edges[weight] for one in found), strict=True)))
        for weight in found[0].edges
    }
    return Attribution(
        edges,
        found[0].value,
        mean([one.baseline for one in found]),
        found[0].present,
        torch.stack([one.moves for one in found]).all(0),
        mean([one.crossing for one in found]),
        mean([one.energy for one in found]),
    )


def _one(
    segment: Segment, layout: Layout, source: Source, clean: Tensor, targets: Targets, settings: Settings
) -> Attribution:
    rule = quadrature(settings.rule, settings.steps)
    mode = settings.mode
    if mode is Mode.auto:
        mode = choose_mode(targets, source, settings.profile)
    shared = {"weights": settings.weights, "phi": settings.phi, "rows": settings.rows}
    if mode is Mode.forward:
        swift = integrate_forward(segment, layout, source, clean, targets, rule, **shared)
        edges, (value, baseline), told, profile = swift.edges, swift[1:3], swift.weighing, None
    else:
        path = integrate(segment, layout, source.curve, clean, targets, rule, profile=settings.profile, **shared)
        edges = {weight: source.edges(gradient) for weight, gradient in path.gradients.items()}
        value, baseline, told, profile = path.value, path.baseline, path, path.profile
    if PathWeight.idg in edges:
        scale = torch.where(told.energy > 0, (value - baseline) / told.energy, torch.zeros_like(value))
        units, error = edges[PathWeight.idg]
        edges[PathWeight.idg] = Edges(units * scale[..., None], error * scale)
    return Attribution(edges, value, baseline, targets.present, told.moves, told.crossing, told.energy, profile)


def choose_mode(targets: Targets, source: Source, profile: bool = False) -> Mode:
    """The cheaper mode, from the numbers of targets and moving units of the first image.

    Codes as targets have no forward derivative here, and profiles are of gradients.
    """
    if profile or (isinstance(targets, ConceptTargets) and targets.readout is ReadOut.code):
        return Mode.reverse
    return cheaper_mode(int(targets.present[0].sum()), len(source.active(0)))


def cheaper_mode(targets: int, units: int) -> Mode:
    """Reverse mode costs 1 + REVERSE·T forward passes at each path point, forward mode FORWARD·Q."""
    return Mode.reverse if 1 + REVERSE * targets <= FORWARD * units else Mode.forward


def completeness_gap(
    attributed: Float[Tensor, "b t"], value: Float[Tensor, "b t"], baseline: Float[Tensor, "b t"]
) -> Float[Tensor, "b t"]:
    """``|Σ edges − (g(F(end)) − g(F(start)))| / |g(F(end)) − g(F(start))|`` per image and target; 0/0 is 0."""
    change = value - baseline
    miss = (attributed - change).abs()
    return torch.where(miss == 0, miss, miss / change.abs())
