"""Attributions that are variances, as controls: of SmoothGrad's gradients (VarGrad), and of expected gradients' draws.

A variance has no sign and is not complete: it tells where gradients change, not what they bring about. That of each
number is summed over the numbers of a unit, the population variance of as many draws as there are steps. Draws are the
same for every image, so that no batch shows in them; coordinates that do not differ between the ends have none.

Legend: B images, I of them, D draws, T targets, P positions, N numbers of a position.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.coordinates import Coordinates, coordinates_of
from vismech.attribution.model_calls import Problem, check_finite, values
from vismech.attribution.sampled import drawn_slopes, noise_of
from vismech.attribution.searched import Found
from vismech.attribution.sources import Edges, Source
from vismech.draws import generator_of


def smooth_grad_variance(
    problem: Problem,
    numbers: Coordinates,
    images: Int[Tensor, " i"],
    steps: int,
    rows: int,
    noise: float = 0.15,
    seed: int = 0,
) -> Found:
    """VarGrad (Adebayo et al. 2018): ``Var_n[∂g(end + ε_n)]``, with the draws of SmoothGrad; not complete.

    Args:
        problem, numbers, images, rows: see :func:`~vismech.attribution.searched.guided_ig`.
        steps: draws.
        noise, seed: see :func:`~vismech.attribution.controls.smooth_grad`.
    """
    wanted = problem.targets.present[images].any(0).nonzero()[:, 0].tolist()
    edges = _empty(problem, numbers, images)
    for place in torch.arange(len(images), device=images.device).split(rows):
        some = images[place]
        noisy, sums = noise_of(numbers, some, noise, seed), _Variances(len(wanted))
        for _, gradients in drawn_slopes(
            problem, some, steps, rows, wanted, lambda draw, some=some, noisy=noisy: numbers.vectors(noisy(draw), some)
        ):
            sums.add([numbers.slopes(gradient, some) for gradient in gradients])
        _put(edges, place, wanted, numbers, [one * numbers.differs[some].view_as(one) for one in sums.variances()])
    return _found(problem, [numbers], images, rows, edges)


def expected_gradients_variance(
    problem: Problem, sources: Sequence[Source], images: Int[Tensor, " i"], steps: int, rows: int, seed: int = 0
) -> Found:
    """Variance of expected gradients' draws (Erion et al. 2021): ``Var_n[(x − x'_n) ∘ ∂g(x'_n + α_n (x − x'_n))]``.

    The mean over n, references x' and α ~ U(0, 1), is expected gradients. References are the starts of the sources, in
    turn; of a single one the variance is that along its path.

    Args:
        problem, images, rows: see :func:`~vismech.attribution.searched.guided_ig`.
        sources: one for each reference, all with the same end.
        steps: draws.
        seed: of α.

    Raises:
        UserError: sources that have a path of their own.
    """
    each = [coordinates_of(one) for one in sources]
    alphas = generator_of(seed, "expected_gradients").random(steps).tolist()
    wanted = problem.targets.present[images].any(0).nonzero()[:, 0].tolist()
    edges = _empty(problem, each[0], images)
    for place in torch.arange(len(images), device=images.device).split(rows):
        some, sums = images[place], _Variances(len(wanted))
        ways = [(one.end - one.start)[some] for one in each]

        def point(draw: int, some: Tensor = some, ways: list[Tensor] = ways) -> Float[Tensor, "i p c"]:
            own = each[draw % len(each)]
            return own.vectors(own.start[some] + alphas[draw] * ways[draw % len(each)], some)

        for draw, gradients in drawn_slopes(problem, some, steps, rows, wanted, point):
            turn = draw % len(each)
            sums.add([ways[turn] * each[turn].slopes(gradient, some) for gradient in gradients])
        _put(edges, place, wanted, each[0], sums.variances())
    return _found(problem, each, images, rows, edges)


class _Variances:
    """Running mean and sum of squared deviations of each target's numbers (Welford 1962): never below zero."""

    def __init__(self, targets: int) -> None:
        self.count = 0
        self.means: list[Tensor] = [torch.zeros(())] * targets
        self.squares: list[Tensor] = [torch.zeros(())] * targets

    def add(self, parts: list[Float[Tensor, "i p n"]]) -> None:
        """One more draw."""
        self.count += 1
        for target, part in enumerate(parts):
            if self.count == 1:
                self.means[target], self.squares[target] = part, torch.zeros_like(part)
                continue
            off = part - self.means[target]
            self.means[target] = self.means[target] + off / self.count
            self.squares[target] = self.squares[target] + off * (part - self.means[target])

    def variances(self) -> list[Float[Tensor, "i p n"]]:
        """Of each target."""
        return [squares / self.count for squares in self.squares]


def _empty(problem: Problem, numbers: Coordinates, images: Int[Tensor, " i"]) -> Edges:
    shape = problem.targets.present[images].shape
    return Edges(numbers.end.new_zeros(*shape, numbers.units), numbers.end.new_zeros(shape))


def _put(
    edges: Edges, place: Int[Tensor, " i"], wanted: list[int], numbers: Coordinates, each: list[Float[Tensor, "i p n"]]
) -> None:
    for target, variance in zip(wanted, each, strict=True):
        edges.units[place, target], edges.error[place, target] = numbers.edges(variance)


def _found(problem: Problem, each: list[Coordinates], images: Int[Tensor, " i"], rows: int, edges: Edges) -> Found:
    """The edges of targets that there are, with the targets at the end and, the mean over references, at the start."""
    present = problem.targets.present[images]
    edges = Edges(edges.units * present[..., None], edges.error * present)

    def at(one: Coordinates, numbers: Tensor) -> Float[Tensor, "i t"]:
        some = images.split(rows)
        return torch.cat([values(problem, one.vectors(numbers[part], part), part) for part in some])

    value, starts = at(each[0], each[0].end), torch.stack([at(one, one.start) for one in each])
    check_finite(images, edges.units, edges.error[..., None], value, starts[0])
    return Found(edges, value, starts.mean(0))
