"""Paths that are found step by step by looking at the model: Guided IG and IG2.

Each step's increment is shared out by the gradient where the step begins, ``φ += (z_new − z_old) · ∂g(z_old)``: the
line integral along the path that was found, complete between its two ends to the order of the left Riemann rule.

Legend: B images, I of them, R rows, T targets, P positions, N numbers of a position, M coordinates that move.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vismech.attribution.coordinates import Coordinates
from vismech.attribution.model_calls import Problem, check_finite, outputs, slopes, values
from vismech.attribution.sources import Edges


class Found(NamedTuple):
    """Attributions along a path of its own, and the targets at its two ends."""

    edges: Edges
    value: Float[Tensor, "i t"]
    baseline: Float[Tensor, "i t"]


def guided_ig(
    problem: Problem,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    steps: int,
    rows: int,
    fraction: float = 0.25,
    max_dist: float = 0.02,
) -> Found:
    """Guided IG (Kapishnikov et al., CVPR 2021): coordinates with the smallest gradients move first.

    In step s of S only the ``fraction`` of the coordinates with the smallest |∂g| moves, towards its furthest allowed
    place, and the next fraction when it has arrived, until the L1 distance left is ``(1 − s/S) ‖end − start‖₁``. No
    coordinate is ever more than ``max_dist`` of its way from where the straight path would have it.

    The path is each target's own, so one forward and one backward pass per step, image **and** target.

    Args:
        problem: segment, clean activations and targets.
        numbers: the coordinates, of all images.
        images: which of them.
        steps: S.
        rows: pairs of an image and a target in a pass.
        fraction, max_dist: see above; 1 and any distance are the straight path.
    """
    present = problem.targets.present[images]
    shape = (*present.shape, numbers.units)
    edges = Edges(numbers.end.new_zeros(shape), numbers.end.new_zeros(shape[:2]))
    for pairs in present.nonzero().split(rows):
        place, target = pairs.unbind(1)
        image = images[place]
        moving = numbers.moving(image)
        start = numbers.start[image].flatten(1).gather(1, moving.place)
        way = (numbers.end[image].flatten(1).gather(1, moving.place) - start) * moving.there
        size = way.abs()
        done, parts = torch.zeros_like(way), torch.zeros_like(way)
        for step in range(steps):
            point = numbers.vectors(numbers.placed(start + done * way, moving, image), image)
            (gradient,) = slopes(problem, point, image, target).gradients
            slope = numbers.slopes(gradient, image).flatten(1).gather(1, moving.place)
            new = _advanced(done, size, slope, moving.there, step, steps, fraction, max_dist)
            parts += (new - done) * way * slope
            done = new
        told = numbers.edges(numbers.spread(parts, moving))
        edges.units[place, target], edges.error[place, target] = told
    at_ends = [values(problem, numbers.vectors(end[images], images), images) for end in (numbers.end, numbers.start)]
    check_finite(images, edges.units, *at_ends)
    return Found(edges, *at_ends)


def _advanced(
    done: Float[Tensor, "r m"],
    size: Float[Tensor, "r m"],
    slope: Float[Tensor, "r m"],
    there: Bool[Tensor, "r m"],
    step: int,
    steps: int,
    fraction: float,
    max_dist: float,
) -> Float[Tensor, "r m"]:
    """How much of its way each coordinate has made after a step, from how much it had."""
    if step == steps - 1:
        return torch.ones_like(done)
    alpha = (step + 1) / steps
    low, high = max(alpha - max_dist, 0.0), min(alpha + max_dist, 1.0)
    # In double precision, since rounding depends on how many terms there are: the batch's image with most says that.
    whole = size.sum(1, dtype=torch.float64)
    done = done.clamp(min=low)
    need = (size * (1 - done)).sum(1, dtype=torch.float64) - (1 - alpha) * whole
    some = ((there.sum(1) - 1).clamp(min=0) * fraction).long()[:, None]
    tiny = 64 * torch.finfo(done.dtype).eps * whole
    while True:
        free = there & (done < high)
        going = (need > tiny)[:, None] & free
        if not going.any():
            return done
        steep = slope.abs().masked_fill(~free, torch.inf)
        going &= steep <= steep.sort(1).values.gather(1, some)
        room = (size * (high - done) * going).sum(1, dtype=torch.float64)
        share = torch.where(room > need, need / room.clamp(min=torch.finfo(done.dtype).tiny), 1)[:, None].to(done)
        # Exactly there, so that none is taken for free by a rounding.
        moved = torch.where(share >= 1, torch.full_like(done, high), done + share * (high - done))
        done = torch.where(going, moved, done)
        need = need - torch.where(share[:, 0] >= 1, room, need.clamp(min=0))


def ig2(
    problem: Problem,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    steps: int,
    rows: int,
    step: float | None = None,
    clip: bool = True,
) -> Found:
    """IG2 (Zhuo & Ge, TPAMI 2024): from the input down ‖r(z) − r(reference)‖² by steps of one length.

        z_{j+1} = clip(z_j − η ∂/‖∂‖),   φ = Σ_j (z_j − z_{j+1}) · ∂g(z_j)

    r is the segment's output and the reference is the start of the source's path, such as another image. The path ends
    where the steps end, which need not be the reference: ``baseline`` is the targets' value there, and the attribution
    is complete between the input and it. All targets share the path: S · (2 + T) model calls.

    Args:
        problem, numbers, images, rows: see :func:`guided_ig`; rows are images here.
        steps: S.
        step: η in the coordinates' own unit; None: 2 ‖input − reference‖ / S, twice what the straight way would need.
        clip: keep every coordinate within the smallest and largest number of its image's input.
    """
    parts = [_descended(problem, numbers, some, steps, step, clip) for some in images.split(rows)]
    edges = Edges(*(torch.cat(part) for part in zip(*(one.edges for one in parts), strict=True)))
    found = Found(edges, torch.cat([one.value for one in parts]), torch.cat([one.baseline for one in parts]))
    check_finite(images, edges.units, found.value, found.baseline)
    return found


def _descended(
    problem: Problem, numbers: Coordinates, image: Int[Tensor, " i"], steps: int, step: float | None, clip: bool
) -> Found:
    moving = numbers.moving(image)
    end = numbers.end[image].flatten(1).gather(1, moving.place)
    low, high = (bound(numbers.end[image].flatten(1), 1)[:, None] for bound in (torch.amin, torch.amax))
    reference = outputs(problem, numbers.vectors(numbers.start[image], image), image).flatten(1)
    # Norms over all coordinates: over those that move they would be sums of as many as the batch's image with most has.
    length = _length((numbers.end - numbers.start)[image]) * (2 / steps) if step is None else step
    wanted = problem.targets.present[image].any(0).nonzero()[:, 0].tolist()
    here, value = end, None
    parts = [torch.zeros_like(end) for _ in wanted]
    for _ in range(steps):
        point = numbers.vectors(numbers.placed(here, moving, image), image)
        told = slopes(problem, point, image, wanted, reference)
        assert told.descent is not None
        value = told.values if value is None else value
        down = numbers.slopes(told.descent, image)
        norm = _length(down * numbers.differs[image].view_as(down))
        down = down.flatten(1).gather(1, moving.place) * moving.there
        new = here - length * torch.where(norm > 0, down / norm, 0)
        new = torch.where(moving.there, new.clamp(low, high) if clip else new, here)
        for sums, gradient in zip(parts, told.gradients, strict=True):
            sums += (here - new) * numbers.slopes(gradient, image).flatten(1).gather(1, moving.place)
        here = new
    last = values(problem, numbers.vectors(numbers.placed(here, moving, image), image), image)
    present = problem.targets.present[image]
    shape = (*present.shape, numbers.units)
    edges = Edges(here.new_zeros(shape), here.new_zeros(shape[:2]))
    for target, sums in zip(wanted, parts, strict=True):
        units, error = numbers.edges(numbers.spread(sums, moving))
        edges.units[:, target], edges.error[:, target] = units * present[:, [target]], error * present[:, target]
    assert value is not None
    return Found(edges, value, last)


def _length(numbers: Float[Tensor, "r p n"]) -> Float[Tensor, "r 1"]:
    return numbers.flatten(1).norm(dim=1, keepdim=True)
