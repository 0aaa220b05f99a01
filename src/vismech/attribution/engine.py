"""The attribution engine: edges from the units of a source to a vector of targets, along any path, under any weight.

Legend: B images, I of them, T targets, Q units, S steps.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.automatic import PROBED, Choice, settle
from vismech.attribution.forward import integrate_forward
from vismech.attribution.gig import Ends, Profile, Segment, ends, integrate
from vismech.attribution.integral import PLAIN, Settings
from vismech.attribution.methods import OPTIONS, attributed
from vismech.attribution.model_calls import Problem
from vismech.attribution.quadrature import Quadrature, added, doubled, quadrature
from vismech.attribution.sources import Edges, Source
from vismech.attribution.targets import ConceptTargets, Targets
from vismech.attribution.weights import SIDES, changes
from vismech.attribution.windows import windows_of
from vismech.config.choices import Mode, PathWeight, ReadOut, Rule
from vismech.errors import UserError
from vismech.network.pfv import Layout

log = logging.getLogger(__name__)

# Cost of one path point in forward passes: 1 + REVERSE·T backward, FORWARD·Q forward (experiments/benchmarks/modes.py).
# Constants, since a mode that depended on a timing would make the last digits of a result depend on it too.
REVERSE, FORWARD = 1.0, 2.0


class Attribution(NamedTuple):
    """Edges of every weight, and what the path told of each target.

    Attributes:
        edges: weight → what each unit and the error node bring about; idg is rescaled to be complete.
        value: g_j at the end of the path.
        baseline: g_j at its start, the mean over baselines; the offset node's share.
        present: targets that there are.
        moves: targets whose change is more than rounding along every baseline's path.
        crosses: targets that make the share φ of their change at some node of every baseline's path; False unless
            left_ig or right_ig is asked for.
        crossing: α* of left_ig, the mean over baselines; 1 where the target never crosses.
        energy: ∫ (dg/dα)² dα, what idg sums to before it is rescaled.
        steps: nodes that each image's integrals were taken with.
        change: with a tolerance, the share by which the last doubling changed a target's edges, at the worst weight; at
            most the tolerance unless ``max_steps`` was reached.
        profile: values and gradient norms at the nodes, if asked for.
    """

    edges: dict[PathWeight, Edges]
    value: Float[Tensor, "b t"]
    baseline: Float[Tensor, "b t"]
    present: Bool[Tensor, "b t"]
    moves: Bool[Tensor, "b t"]
    crosses: Bool[Tensor, "b t"]
    crossing: Float[Tensor, "b t"]
    energy: Float[Tensor, "b t"]
    steps: Int[Tensor, " b"]
    change: Float[Tensor, "b t"] | None = None
    profile: Profile | None = None


def attribute(
    segment: Segment,
    layout: Layout,
    sources: Source | Sequence[Source],
    clean: Tensor,
    targets: Targets,
    settings: Settings = PLAIN,
) -> Attribution:
    """Edges from a source's units to ``targets``; the mean over several sources, which differ in their baselines.

    The mean over baselines that are activations of other images is expected gradients (Erion et al. 2021). With a
    tolerance each image is on its own from the first step on, so that its neighbours cannot change a bit of it.

    Args:
        segment: F_ab, from the lower layer's activation to the upper layer's.
        layout: how the lower activation is read as PFVs.
        sources: the lower activation in units, from one baseline or from several.
        clean: the clean lower activation [B, …].
        targets: the functions that are explained.
        settings: how.

    Raises:
        UserError: a profile of several sources, or forward mode where something has no forward derivative.
        NotFinite: a value or gradient on the path is not finite; the message names the image's index and α.
    """
    each = list(sources) if isinstance(sources, Sequence) else [sources]
    if settings.profile and len(each) > 1:
        raise UserError("a profile is that of one path: ask for it with a single baseline")
    problem = _Problem(segment, layout, clean, targets, settings)
    if settings.weights[0] in OPTIONS:
        return _by_method(problem, each)
    paths = _paths(problem, each)
    if settings.rule is Rule.auto:
        problem = problem._replace(settings=settings.at(_settled(problem, paths, len(clean))))
    solve = _fixed if settings.tolerance is None else _refined
    return _joined([solve(problem, paths, images, mode) for images, mode in _groups(problem, each[0])])


def _by_method(problem: _Problem, sources: Sequence[Source]) -> Attribution:
    """The mean over sources of what is no weight on a path, or what it makes of all of them together."""
    settings, clean, targets = problem.settings, problem.clean, problem.targets
    name = settings.weights[0]
    options = settings.options or OPTIONS[name]()
    rule = quadrature(Rule.midpoint if settings.rule is Rule.auto else settings.rule, settings.steps, settings.power)
    images = torch.arange(len(clean), device=clean.device)
    given = name, options, Problem(*problem[:4])
    each = [sources] if options.together else [[one] for one in sources]
    found = [attributed(*given, some, images, rule, settings.rows) for some in each]

    def mean(parts: Sequence[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.stack(list(parts)).mean(0)

    value, present = found[0].value, targets.present
    moves = torch.stack([changes(one.value, one.baseline) for one in found]).all(0)
    return Attribution(
        edges={name: Edges(*(mean(part) for part in zip(*(one.edges for one in found), strict=True)))},
        value=value,
        baseline=mean([one.baseline for one in found]),
        present=present,
        moves=moves & present,
        crosses=torch.zeros_like(present),
        crossing=torch.ones_like(value),
        energy=torch.zeros_like(value),
        steps=torch.full_like(images, settings.steps),
    )


def settled(
    segment: Segment,
    layout: Layout,
    sources: Source | Sequence[Source],
    clean: Tensor,
    targets: Targets,
    settings: Settings,
    images: int | None = None,
) -> Choice:
    """The nodes that the rule auto takes, from the gaps of the first of the images given, whatever the other settings.

    Args:
        segment, layout, sources, clean, targets, settings: see :func:`attribute`.
        images: how many images the nodes are for; as many as are given where None.
    """
    problem = _Problem(segment, layout, clean, targets, settings)
    each = list(sources) if isinstance(sources, Sequence) else [sources]
    return _settled(problem, _paths(problem, each), images or len(clean))


def _settled(problem: _Problem, paths: list[_Path], images: int) -> Choice:
    wanted = problem.settings
    plain = replace(wanted, weights=(PathWeight.ig,), mode=Mode.reverse, profile=False, tolerance=None, own=None)
    first = torch.arange(min(PROBED, len(problem.clean)), device=problem.clean.device)

    def gaps(choice: Choice) -> Float[Tensor, " m"]:
        found = _fixed(problem._replace(settings=plain.at(choice)), paths, first, Mode.reverse)
        edges = found.edges[PathWeight.ig]
        return completeness_gap(edges.units.sum(2) + edges.error, found.value, found.baseline)[found.moves]

    return settle(gaps, wanted.steps, images, len(first), None if wanted.tolerance is None else wanted.max_steps)


def _paths(problem: _Problem, sources: Sequence[Source]) -> list[_Path]:
    segment, layout, clean, targets, settings = problem
    return [_Path(source, ends(segment, layout, source.curve, clean, targets, settings.rows)) for source in sources]


def _rule(settings: Settings) -> Quadrature:
    return quadrature(settings.rule, settings.steps, settings.power)


class _Problem(NamedTuple):
    segment: Segment
    layout: Layout
    clean: Tensor
    targets: Targets
    settings: Settings


class _Path(NamedTuple):
    source: Source
    ends: Ends


class _Integral(NamedTuple):
    """Integrals of some images along one path, idg as it is before it is rescaled; linear in the rule's weights."""

    edges: dict[PathWeight, Edges]
    energy: Float[Tensor, "i t"]
    moves: Bool[Tensor, "i t"]
    crosses: Bool[Tensor, "i t"]
    crossing: Float[Tensor, "i t"]
    profile: Profile | None = None


def _groups(problem: _Problem, source: Source) -> Iterator[tuple[Int[Tensor, " i"], Mode]]:
    """Neighbouring images of the same mode, as many as fit into a pass; one by one with a tolerance."""
    settings, device = problem.settings, problem.clean.device
    size = 1
    if settings.tolerance is None:
        windows = None if settings.profile else windows_of(problem.segment, problem.layout, problem.targets)
        share = 1.0 if windows is None else min(1.0, windows.share * windows.targets.anchors.shape[1])
        size = max(1, int(settings.rows / share) // settings.steps)

    def mode(image: int) -> Mode:
        if settings.mode is not Mode.auto:
            return settings.mode
        return choose_mode(problem.targets, source, settings.profile, image)

    for chosen, images in groupby(range(len(problem.clean)), mode):
        for some in torch.tensor(list(images), device=device).split(size):
            yield some, chosen


def _integral(problem: _Problem, path: _Path, rule: Quadrature, images: Int[Tensor, " i"], mode: Mode) -> _Integral:
    segment, layout, clean, targets, settings = problem
    given = (segment, layout), (clean, targets, rule)
    shared = {
        "weights": settings.weights,
        "phi": settings.phi,
        "rows": settings.rows,
        "images": images,
        "known": path.ends,
        "own": settings.own,
    }
    if mode is Mode.forward:
        if isinstance(targets, ConceptTargets) and targets.readout is ReadOut.code:
            raise UserError("attribute.mode=forward: codes as targets have no forward derivative: use mode=reverse")
        try:
            swift = integrate_forward(*given[0], path.source, *given[1], **shared)
            return _Integral(swift.edges, swift.energy, swift.moves, swift.crosses, swift.crossing)
        except NotImplementedError as error:
            if settings.mode is Mode.forward:
                raise UserError(f"attribute.mode=forward: {error}; use mode=reverse") from error
            log.debug("reverse mode instead of forward mode: %s", error)
    slow = integrate(*given[0], path.source.curve, *given[1], profile=settings.profile, **shared)
    edges = {weight: path.source.edges(gradient, images) for weight, gradient in slow.gradients.items()}
    return _Integral(edges, slow.energy, slow.moves, slow.crosses, slow.crossing, slow.profile)


def _fixed(problem: _Problem, paths: list[_Path], images: Int[Tensor, " i"], mode: Mode) -> Attribution:
    rule = _rule(problem.settings)
    found = [_integral(problem, path, rule, images, mode) for path in paths]
    return _mean(problem, paths, found, images, problem.settings.steps)


def _refined(problem: _Problem, paths: list[_Path], images: Int[Tensor, " i"], mode: Mode) -> Attribution:
    """Steps doubled until the edges stay; nodes that the doubled rule shares with the rule are not computed again."""
    settings, steps = problem.settings, problem.settings.steps
    assert settings.tolerance is not None
    # Where a node belongs may change with its neighbours, and crowded rules are scaled to sum to one.
    nested = settings.power == 1 and not any(side in settings.weights for side in SIDES)
    found = [_integral(problem, path, _rule(settings), images, mode) for path in paths]
    coarse = _mean(problem, paths, found, images, steps)
    while doubled(settings.rule, steps) <= settings.max_steps:
        new, steps = added(settings.rule, steps) if nested else None, doubled(settings.rule, steps)
        rule = new or quadrature(settings.rule, steps, settings.power)
        more = [_integral(problem, path, rule, images, mode) for path in paths]
        found = more if new is None else [_halved_plus(*pair) for pair in zip(found, more, strict=True)]
        fine = _mean(problem, paths, found, images, steps)
        change = relative_change(fine, coarse)
        coarse = fine._replace(change=change)
        if change.max() <= settings.tolerance:
            break
    return coarse


def _halved_plus(half: _Integral, new: _Integral) -> _Integral:
    edges = {
        weight: Edges(*(old / 2 + more for old, more in zip(half.edges[weight], new.edges[weight], strict=True)))
        for weight in new.edges
    }
    return new._replace(edges=edges, energy=half.energy / 2 + new.energy)


def _mean(
    problem: _Problem, paths: list[_Path], found: list[_Integral], images: Int[Tensor, " i"], steps: int
) -> Attribution:
    """Complete edges and the mean over the paths."""
    at_ends = [Ends(*(part[images] for part in path.ends)) for path in paths]
    edges = [_rescaled(one, *two) for one, two in zip(found, at_ends, strict=True)]

    def mean(parts: list[Tensor]) -> Tensor:
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean(0)

    return Attribution(
        edges={
            weight: Edges(*(mean(list(parts)) for parts in zip(*(one[weight] for one in edges), strict=True)))
            for weight in edges[0]
        },
        value=at_ends[0].value,
        baseline=mean([one.baseline for one in at_ends]),
        present=problem.targets.present[images],
        moves=torch.stack([one.moves for one in found]).all(0),
        crosses=torch.stack([one.crosses for one in found]).all(0),
        crossing=mean([one.crossing for one in found]),
        energy=mean([one.energy for one in found]),
        steps=torch.full_like(images, steps),
        profile=found[0].profile,
    )


def _rescaled(found: _Integral, value: Float[Tensor, "i t"], baseline: Float[Tensor, "i t"]) -> dict[PathWeight, Edges]:
    if PathWeight.idg not in found.edges:
        return found.edges
    units, error = found.edges[PathWeight.idg]
    scale = torch.where(found.energy > 0, (value - baseline) / found.energy, 0)
    return {**found.edges, PathWeight.idg: Edges(units * scale[..., None], error * scale)}


def _joined(parts: list[Attribution]) -> Attribution:
    """Groups of images one after the other."""

    def cat(pick) -> Tensor:
        return torch.cat([pick(part) for part in parts])

    first = parts[0]
    whole = {
        name: cat(lambda part, name=name: getattr(part, name))
        for name in Attribution._fields
        if isinstance(getattr(first, name), Tensor)
    }
    edges = {
        weight: Edges(
            cat(lambda part, weight=weight: part.edges[weight].units),
            cat(lambda part, weight=weight: part.edges[weight].error),
        )
        for weight in first.edges
    }
    profile = first.profile and Profile(cat(lambda part: part.profile.values), cat(lambda part: part.profile.norms))
    return Attribution(edges=edges, profile=profile, **whole)


def choose_mode(targets: Targets, source: Source, profile: bool = False, image: int = 0) -> Mode:
    """The cheaper mode, from the numbers of targets and moving units of one image.

    Codes as targets have no forward derivative here, and profiles are of gradients.
    """
    if profile or (isinstance(targets, ConceptTargets) and targets.readout is ReadOut.code):
        return Mode.reverse
    return cheaper_mode(int(targets.present[image].sum()), len(source.active(image)))


def cheaper_mode(targets: int, units: int) -> Mode:
    """Reverse mode costs 1 + REVERSE·T forward passes at each path point, forward mode FORWARD·Q."""
    return Mode.reverse if 1 + REVERSE * targets <= FORWARD * units else Mode.forward


def relative_change(fine: Attribution, coarse: Attribution) -> Float[Tensor, "b t"]:
    """``Σ|fine − coarse| / Σ|fine|`` over the units and the error, at the worst weight; 0/0 is 0."""
    each = []
    for weight, edges in fine.edges.items():
        new, old = (torch.cat([units, error[..., None]], 2) for units, error in (edges, coarse.edges[weight]))
        moved = (new - old).abs().sum(2)
        each.append(torch.where(moved == 0, moved, moved / new.abs().sum(2)))
    return torch.stack(each).amax(0)


def completeness_gap(
    attributed: Float[Tensor, "b t"], value: Float[Tensor, "b t"], baseline: Float[Tensor, "b t"]
) -> Float[Tensor, "b t"]:
    """``|Σ edges − (g(F(end)) − g(F(start)))| / |g(F(end)) − g(F(start))|`` per image and target; 0/0 is 0."""
    change = value - baseline
    miss = (attributed - change).abs()
    return torch.where(miss == 0, miss, miss / change.abs())
