"""Variances as attributions: twins, functions done by hand, and what they are of images without a way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from curves import LOWER, SOURCES, TARGETS, Segment, activations, clean, concept_targets, logit_targets, source
from oracles import method_twins
from test_path_methods import assert_equal, flat_value, parts_of, run, two_pixels
from vismech.attribution.coordinates import coordinates_of
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.methods import OPTIONS, Expected, SmoothGrad, options_of
from vismech.attribution.sources import UnitSource
from vismech.config.choices import PathWeight, SourceKind
from vismech.draws import generator_of

NOISY, EXPECTED = PathWeight.smooth_grad_variance, PathWeight.expected_gradients_variance
STEPS = 6


@pytest.mark.parametrize("start", [None, 11], ids=["zero", "other"])
@pytest.mark.parametrize("kind", SOURCES)
def test_smooth_grad_variance_equals_its_twin(kind, start) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, start)
    found = run(NOISY, segment, one, vectors, concept_targets(), SmoothGrad(0.3, 2)).edges[NOISY]
    shape = numbers.end.shape[1:]
    for image, target in ((0, 1), (2, 3)):
        draw = generator_of(2, "smooth_grad", *shape)
        end = numbers.end[image].flatten()
        noises = [
            torch.from_numpy(draw.standard_normal(shape, dtype="float32")).double().flatten() for _ in range(STEPS)
        ]
        noises = [0.3 * float(end.max() - end.min()) * one for one in noises]
        value = flat_value(segment, concept_targets(), numbers, image, target)
        twin = method_twins.smooth_grad_variance(value, end, numbers.differs[image].double(), noises)
        assert twin.max() > 0
        assert_equal(found, numbers, twin, image, target)


@pytest.mark.parametrize("references", [1, 2, 4])
@pytest.mark.parametrize("kind", SOURCES)
def test_expected_gradients_variance_equals_its_twin(kind, references) -> None:
    segment, vectors = Segment().double(), activations(1)
    each = [source(kind, vectors, activations(11 + turn)) for turn in range(references)]
    told = run(EXPECTED, segment, each, vectors, concept_targets(), Expected(5))
    alphas = generator_of(5, "expected_gradients").random(STEPS).tolist()
    numbers = [coordinates_of(one) for one in each]
    for image, target in ((0, 1), (2, 3)):
        values = [flat_value(segment, concept_targets(), one, image, target) for one in numbers]
        starts, ends = ([getattr(one, end)[image].flatten() for one in numbers] for end in ("start", "end"))
        twin = method_twins.expected_gradients(values, starts, ends, alphas)[1]
        assert twin.max() > 0
        assert_equal(told.edges[EXPECTED], numbers[0], twin, image, target)
        middle = sum(float(value(start)) for value, start in zip(values, starts, strict=True)) / references
        assert float(told.baseline[image, target]) == pytest.approx(middle)
        assert float(told.value[image, target]) == pytest.approx(float(values[0](ends[0])))


def test_the_mean_of_the_same_draws_goes_to_expected_gradients() -> None:
    """What the variance is of: the mean over many draws is the mean over baselines of ig."""
    segment, vectors = Segment().double(), activations(1)
    each = [source("channels", vectors, activations(seed)) for seed in (11, 12)]
    numbers = [coordinates_of(one) for one in each]
    values = [flat_value(segment, concept_targets(), one, 0, 1) for one in numbers]
    starts, ends = ([getattr(one, end)[0].flatten() for one in numbers] for end in ("start", "end"))
    alphas = np.repeat((np.arange(200) + 0.5) / 200, 2).tolist()
    middle = method_twins.expected_gradients(values, starts, ends, alphas)[0]
    straight = run(PathWeight.ig, segment, each, vectors, concept_targets(), steps=200).edges[PathWeight.ig]
    assert torch.allclose(numbers[0].edges(middle.unflatten(0, (16, 6))).units, straight.units[0, 1], atol=1e-9)


def test_variances_of_two_pixels_by_hand() -> None:
    # F = xy at (1, 2): ∂ = (y, x), so Var ∂x is that of the noise on y; noise has half the range, 1, as its deviation.
    draw = generator_of(0, "smooth_grad", 2, 1)
    noise = np.stack([draw.standard_normal((2, 1), dtype="float32") for _ in range(9)])[..., 0].astype(np.float64)
    found = two_pixels(NOISY, SmoothGrad(0.5), steps=9).edges[NOISY].units[0, 0].tolist()
    assert found == pytest.approx((0.25 * noise.var(0)[::-1]).tolist())
    # On the way to (1, 2) the slope along x is α · 2 and that along y is α · 1: of both the draw is 2α.
    alphas = generator_of(0, "expected_gradients").random(9)
    both = two_pixels(EXPECTED, steps=9).edges[EXPECTED].units[0, 0].tolist()
    assert both == pytest.approx([(2 * alphas).var()] * 2)
    # A pixel at the baseline has none, though the network's slope at it does change.
    still = two_pixels(NOISY, SmoothGrad(0.5), at=(0.0, 2.0), function=lambda x: (x**3).flatten(1).sum(1, keepdim=True))
    assert still.edges[NOISY].units[0, 0, 0] == 0 and still.edges[NOISY].units[0, 0, 1] > 0
    line = two_pixels(EXPECTED, function=lambda x: x.flatten(1).sum(1, keepdim=True)).edges[EXPECTED]
    assert not line.units.any()


@pytest.mark.parametrize("path", [NOISY, EXPECTED])
@pytest.mark.parametrize("kind", SOURCES)
def test_a_variance_is_of_an_image_whatever_shares_a_pass_with_it(path, kind) -> None:
    segment, vectors = Segment(), activations(1).float()
    one = source(kind, vectors, activations(11).float())
    targets = concept_targets(dtype=torch.float32)
    whole = run(path, segment, one, vectors, targets, rows=64).edges[path]
    for rows in (1, 2, 8):
        found = run(path, segment, one, vectors, targets, rows=rows).edges[path]
        assert torch.equal(found.units, whole.units) and torch.equal(found.error, whole.error)
    assert (whole.units >= 0).all() and (whole.error >= 0).all()
    other = run(path, segment, one, vectors, targets, OPTIONS[path](seed=1)).edges[path]
    assert not torch.equal(other.units, whole.units)


def test_an_image_equal_to_all_its_references_has_none() -> None:
    vectors = activations(1)
    starts = [activations(seed) for seed in (11, 12)]
    for start in starts:
        start[0] = vectors[0]
    each = [UnitSource(SourceKind.pixels, vectors, start) for start in starts]
    how = Settings(steps=5, weights=(EXPECTED,))
    found = attribute(Segment(logits=True).double(), LOWER, each, clean(vectors), logit_targets(), how)
    units = found.edges[EXPECTED].units
    assert not units[0].any() and not found.moves[0].any()
    assert (units[1:] > 0).all() and found.moves[1:].all() and units.isfinite().all()


def test_they_cost_what_ig_costs() -> None:
    for path in (NOISY, EXPECTED):
        assert options_of(path, {"seed": 3}).calls(8, TARGETS, 10) == 8 * (1 + TARGETS)
