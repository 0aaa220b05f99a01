"""Values and gradients of targets at points of a path, a few rows at a time, and what they cost in model calls.

Legend: I images, R rows, T targets, P positions, C channels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.gig import ROW_MULTIPLE, Segment
from vismech.attribution.targets import Targets
from vismech.errors import NotFinite
from vismech.network.pfv import Layout


class Problem(NamedTuple):
    """A segment, how its input is read, its clean input, and what is explained of its output."""

    segment: Segment
    layout: Layout
    clean: Tensor
    targets: Targets


class Slopes(NamedTuple):
    """At each row's point: the values of all targets, and the gradient of some of them.

    Attributes:
        values: of all targets, zero where they are absent.
        gradients: of each one that was asked for, with respect to the PFVs.
        descent: gradient of ``‖r − r_ref‖²``, r the segment's output, where references are given.
    """

    values: Float[Tensor, "r t"]
    gradients: list[Float[Tensor, "r p c"]]
    descent: Float[Tensor, "r p c"] | None


def filled(rows: Tensor) -> Tensor:
    """The rows with the last one again until there are a multiple of :data:`ROW_MULTIPLE`, so that it never shows how
    many share a pass."""
    spare = -len(rows) % ROW_MULTIPLE
    return torch.cat([rows, rows[-1:].expand(spare, *rows.shape[1:])]) if spare else rows


def slopes(
    problem: Problem,
    points: Float[Tensor, "r p c"],
    image: Int[Tensor, " r"],
    wanted: list[int] | Int[Tensor, " r"],
    reference: Tensor | None = None,
) -> Slopes:
    """One forward pass, and one backward pass for each wanted target, or for each row's own.

    Args:
        problem: the segment and its targets.
        points: PFVs of each row.
        image: which image each row is of.
        wanted: targets whose gradients are wanted in all rows; or one target for each row, and then one gradient.
        reference: the segment's output, flat, that ``descent`` leads to.
    """
    count, owner = len(points), filled(image)
    with torch.enable_grad():
        at = filled(points.detach()).requires_grad_()
        output = problem.segment(problem.layout.activation(at, problem.clean[owner]))
        values = problem.targets(output, owner) * problem.targets.present[owner]
        sums = [values[:, one].sum() for one in wanted] if isinstance(wanted, list) else [_own(values, wanted)]
        if reference is not None:
            sums.append((output.flatten(1) - filled(reference)).square().sum())
        found = [
            torch.autograd.grad(total, at, retain_graph=number < len(sums) - 1)[0][:count]
            for number, total in enumerate(sums)
        ]
    descent = found.pop() if reference is not None else None
    return Slopes(values[:count].detach(), found, descent)


def _own(values: Float[Tensor, "f t"], target: Int[Tensor, " r"]) -> Tensor:
    return values[: len(target)].gather(1, target[:, None]).sum()


@torch.no_grad()
def outputs(problem: Problem, points: Float[Tensor, "r p c"], image: Int[Tensor, " r"]) -> Tensor:
    """The segment's output at each row's point."""
    owner = filled(image)
    return problem.segment(problem.layout.activation(filled(points), problem.clean[owner]))[: len(points)]


@torch.no_grad()
def values(problem: Problem, points: Float[Tensor, "r p c"], image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
    """The targets at each row's point, zero where they are absent."""
    return problem.targets(outputs(problem, points, image), image) * problem.targets.present[image]


def check_finite(image: Int[Tensor, " i"], *parts: Tensor) -> None:
    """Refuse attributions that are not finite.

    Raises:
        NotFinite: the first such image's index.
    """
    for part in parts:
        fine = part.flatten(1).isfinite().all(1)
        if not fine.all():
            raise NotFinite("the path is not finite", int(image[int((~fine).nonzero()[0])]))
