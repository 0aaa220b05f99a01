"""Attributions without a path, which are witnesses and controls: SmoothGrad and leaving units out.

Legend: B images, I of them, T targets, P positions, N numbers of a position, Q units.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.coordinates import Coordinates
from vismech.attribution.model_calls import Problem, check_finite, values
from vismech.attribution.sampled import drawn_slopes, noise_of
from vismech.attribution.searched import Found
from vismech.attribution.sources import Edges
from vismech.config.choices import SourceKind
from vismech.errors import UserError
from vismech.network.pfv import Layout


def smooth_grad(
    problem: Problem,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    steps: int,
    rows: int,
    noise: float = 0.15,
    seed: int = 0,
) -> Found:
    """SmoothGrad × input (Smilkov et al. 2017): ``(end − start) · mean_n ∂g(end + ε_n)``; not complete.

    Noise is Gaussian, of ``noise`` times the range of an image's numbers, on the coordinates that differ between the
    ends. The draws are the same for every image, so that no batch shows in them.

    Args:
        problem, numbers, images, rows: see :func:`~vismech.attribution.searched.guided_ig`.
        steps: draws.
        noise, seed: of the draws.
    """
    present = problem.targets.present[images]
    wanted = present.any(0).nonzero()[:, 0].tolist()
    channels = numbers.end.shape[2] if numbers.atoms is None else numbers.atoms.shape[1]
    means = numbers.end.new_zeros(len(images), len(wanted), numbers.end.shape[1], channels)
    for place in torch.arange(len(images), device=images.device).split(rows):
        some = images[place]
        noisy = noise_of(numbers, some, noise, seed)
        for _, gradients in drawn_slopes(
            problem, some, steps, rows, wanted, lambda draw, some=some, noisy=noisy: numbers.vectors(noisy(draw), some)
        ):
            for number, gradient in enumerate(gradients):
                means[place, number] += gradient / steps
    way = (numbers.end - numbers.start)[images]
    edges = Edges(way.new_zeros(*present.shape, numbers.units), way.new_zeros(present.shape))
    for number, target in enumerate(wanted):
        units, error = numbers.edges(way * numbers.slopes(means[:, number], images))
        edges.units[:, target], edges.error[:, target] = units * present[:, [target]], error * present[:, target]
    return _at_ends(problem, numbers, images, rows, edges)


def occlusion(problem: Problem, numbers: Coordinates, images: Int[Tensor, " i"], rows: int, patch: int = 1) -> Found:
    """What each target loses when a unit is set to the baseline, ``g(end) − g(end without q)``; not complete.

    Of pixels ``patch`` × ``patch`` of them are set at once, and share what that costs evenly. The error node is one
    unit more.

    Args:
        problem, numbers, images, rows: see :func:`~vismech.attribution.searched.guided_ig`.
        patch: side of the squares of pixels, which tile the image.
    """
    grid = problem.layout
    found = [_left_out(problem, numbers, image[None], rows, patch, grid) for image in images]
    present = problem.targets.present[images]
    edges = Edges(torch.stack([one.units for one in found]), torch.stack([one.error for one in found]))
    return _at_ends(problem, numbers, images, rows, Edges(edges.units * present[..., None], edges.error * present))


def squares(layout: Layout, patch: int) -> Int[Tensor, " p"]:
    """The number of the square that each pixel is in."""
    rows, columns = layout.grid
    across = -(-columns // patch)
    row, column = torch.meshgrid(torch.arange(rows) // patch, torch.arange(columns) // patch, indexing="ij")
    return (row * across + column).flatten()


def _left_out(
    problem: Problem, numbers: Coordinates, image: Int[Tensor, " 1"], rows: int, patch: int, layout: Layout
) -> Edges:
    """One image's [T, Q] and [T]."""
    if patch < 1:
        raise UserError(f"attribute.options.patch={patch} must be at least 1: it is the side of a square of pixels")
    start, end = numbers.start[image][0], numbers.end[image][0]
    differs = start != end
    by_column = numbers.kind in (SourceKind.concepts, SourceKind.channels)
    if by_column:
        group = torch.arange(end.shape[1], device=end.device)
        moves = differs.any(0)
    else:
        pixels = numbers.kind is SourceKind.pixels
        group = squares(layout, patch).to(end.device) if pixels else torch.arange(len(end), device=end.device)
        moves = differs.any(1)
    wanted = group[moves].unique()
    whole = values(problem, numbers.vectors(end[None], image), image)[0]
    lost = end.new_zeros(len(whole), int(group.max()) + 1)
    for some in wanted.split(rows):
        out = group[None] == some[:, None]
        mask = out[:, None] if by_column else out[..., None]
        left = torch.where(mask, start, end)
        own = image.expand(len(some))
        lost[:, some] = whole[:, None] - values(problem, numbers.vectors(left, own), own).T
    if by_column:
        missed = numbers.missed is not None
        return Edges(lost[:, : numbers.units], lost[:, -1] if missed else lost.new_zeros(len(lost)))
    sizes = torch.zeros(lost.shape[1], device=end.device, dtype=end.dtype).index_add_(0, group, moves.to(end))
    shared = (lost / sizes.clamp(min=1))[:, group] * moves
    return Edges(shared, shared.new_zeros(len(shared)))


def _at_ends(problem: Problem, numbers: Coordinates, images: Int[Tensor, " i"], rows: int, edges: Edges) -> Found:
    at_ends = [_values(problem, numbers, each, images, rows) for each in (numbers.end, numbers.start)]
    check_finite(images, edges.units, *at_ends)
    return Found(edges, *at_ends)


def _values(
    problem: Problem, numbers: Coordinates, each: Tensor, images: Int[Tensor, " i"], rows: int
) -> Float[Tensor, "i t"]:
    return torch.cat([values(problem, numbers.vectors(each[some], some), some) for some in images.split(rows)])
