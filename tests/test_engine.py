"""Axioms of the attribution engine: completeness, the family of weights, and what must not matter."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from curves import (
    LOWER,
    SOURCES,
    Segment,
    Through,
    activations,
    clean,
    concept_targets,
    logit_targets,
    one_number,
    source,
    whole,
)
from vismech.attribution.engine import Settings, attribute, completeness_gap
from vismech.attribution.gig import integrate
from vismech.attribution.idgi import idgi
from vismech.attribution.paths import STRAIGHT, Curve
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, Rule, SourceKind
from vismech.errors import NotFinite, UserError
from vismech.measures.saturation.scores import WEIGHTS

ALL = WEIGHTS
COMPLETE = (PathWeight.ig, PathWeight.idg)


# Completeness


@pytest.mark.parametrize("path", [STRAIGHT, Through()], ids=["straight", "through"])
@pytest.mark.parametrize("starts", [(), (11,), (11, 12)], ids=["zero", "other", "others"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_and_baseline_is_complete_on_a_smooth_network(kind, starts, path) -> None:
    vectors, segment, targets = activations(1), Segment(logits=True).double(), logit_targets()
    sources = [source(kind, vectors, activations(seed), path) for seed in starts] or source(kind, vectors, None, path)
    found = attribute(
        segment, LOWER, sources, clean(vectors), targets, Settings(Rule.gauss_legendre, 33, COMPLETE, mode=Mode.reverse)
    )
    for weight in COMPLETE:
        assert completeness_gap(whole(found.edges[weight]), found.value, found.baseline).max() < 1e-9, weight
    if kind != "reconstruction":
        torch.testing.assert_close(found.value, segment(clean(vectors)).gather(1, targets.classes))


@pytest.mark.parametrize("rule", list(Rule))
@pytest.mark.parametrize("kind", SOURCES)
def test_on_a_linear_network_every_complete_method_gives_the_same_exact_edges(kind, rule) -> None:
    segment = nn.Conv2d(6, 5, 3, stride=2, padding=1).double().requires_grad_(False)
    vectors, targets = activations(1), concept_targets()
    one, least = source(kind, vectors, activations(11)), {Rule.trapezoid: 2, Rule.simpson: 3}.get(rule, 1)
    found = attribute(segment, LOWER, one, clean(vectors), targets, Settings(rule, least, ALL))
    swept = idgi(segment, LOWER, one, clean(vectors), targets, steps=2)
    exact = found.edges[PathWeight.ig]
    # dg/dα is constant, so idg weighs as ig does; idgi is complete but shares the change out by squared gradients.
    torch.testing.assert_close(found.edges[PathWeight.idg].units, exact.units, rtol=1e-9, atol=1e-12)
    assert completeness_gap(whole(exact), found.value, found.baseline).max() < 1e-10
    assert completeness_gap(whole(swept.edges), found.value, found.baseline).max() < 1e-10
    bias = segment.bias
    segment.bias = None
    for unit in one.active(1)[:2].tolist():  # what a unit brings about by itself
        own = one.parts(1, torch.tensor([unit]))[0, 0][None]
        alone = targets.take(torch.tensor([1]))(segment(clean(own)), torch.tensor([0]))
        torch.testing.assert_close(exact.units[1, :, unit], alone[0], rtol=1e-9, atol=1e-12)
    segment.bias = bias


# The family of weights


@given(st.sampled_from(list(Rule)), st.integers(3, 20), st.floats(0.05, 0.95), st.sampled_from(SOURCES))
@settings(max_examples=20)
def test_left_and_right_add_up_to_ig_exactly(rule, steps, phi, kind) -> None:
    steps += rule is Rule.simpson and steps % 2 == 0
    vectors, segment = activations(1), Segment().double()
    found = attribute(
        segment, LOWER, source(kind, vectors), clean(vectors), concept_targets(), Settings(rule, steps, ALL, phi)
    )
    edges = found.edges
    torch.testing.assert_close(
        edges[PathWeight.left_ig].units + edges[PathWeight.right_ig].units,
        edges[PathWeight.ig].units,
        rtol=1e-12,
        atol=1e-14,
    )
    none = found.moves & ~found.crosses
    assert (found.crossing[none] == 1).all()
    assert (whole(edges[PathWeight.right_ig])[none] == 0).all()
    assert (whole(edges[PathWeight.right_ig])[found.crosses] != 0).all()


def test_mean_gradients_of_left_and_right_add_up_to_the_last_bit() -> None:
    vectors, rule = activations(1), quadrature(Rule.midpoint, 9)
    found = integrate(
        Segment().double(), LOWER, Curve(None, vectors), clean(vectors), concept_targets(), rule, weights=ALL, phi=0.5
    ).gradients
    moved = found[PathWeight.left_ig] + found[PathWeight.right_ig]
    assert torch.equal(moved, found[PathWeight.ig])


def test_idg_sums_to_its_energy_before_it_is_rescaled() -> None:
    """∫ g'² dα, here of g = e^{3s}, s = α: g' = 3 e^{3α}."""
    found = one_number(lambda s: (3 * s).exp(), rule=Rule.gauss_legendre, steps=20, weights=ALL)
    energy = 9 * (torch.tensor(6.0, dtype=torch.float64).exp() - 1) / 6
    torch.testing.assert_close(found.energy[0, 0], energy, rtol=1e-10, atol=0)
    change = found.value - found.baseline
    torch.testing.assert_close(whole(found.edges[PathWeight.idg]), change, rtol=1e-10, atol=0)


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_a_target_that_falls_keeps_its_sign(mode) -> None:
    rises = one_number(lambda s: s**2, steps=10, weights=ALL, phi=0.5, mode=mode)
    falls = one_number(lambda s: 7 - s**2, steps=10, weights=ALL, phi=0.5, mode=mode)
    assert falls.crossing.equal(rises.crossing) and float(falls.crossing) == 0.75  # 0.65² < ½ < 0.75²
    for weight in ALL:
        assert float(whole(rises.edges[weight])) > 0
        torch.testing.assert_close(falls.edges[weight].units, -rises.edges[weight].units, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
@pytest.mark.parametrize(
    ("phi", "rule", "first"),
    [
        (0.05, Rule.midpoint, 0.125),  # the first node
        (0.5, Rule.midpoint, 0.625),
        (0.8, Rule.midpoint, 0.875),  # the last node
        (0.9, Rule.riemann_right, 1.0),  # the end itself, where something is left for right_ig
    ],
)
def test_the_crossing_node_belongs_to_the_right(phi, rule, first, mode) -> None:
    found = one_number(lambda s: s * 2, rule=rule, steps=4, weights=ALL, phi=phi, mode=mode, rows=3)
    assert found.crosses.all() and float(found.crossing) == first
    share = sum(node >= first for node in quadrature(rule, 4).nodes) / 4
    assert float(whole(found.edges[PathWeight.right_ig])) == pytest.approx(2 * share)
    assert float(whole(found.edges[PathWeight.left_ig])) == pytest.approx(2 * (1 - share))


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_a_target_that_no_node_sees_cross_is_counted_and_all_left(mode) -> None:
    found = one_number(lambda s: s * 2, steps=4, weights=ALL, phi=0.9, mode=mode)
    assert found.moves.all() and not found.crosses.any() and float(found.crossing) == 1
    assert float(whole(found.edges[PathWeight.right_ig])) == 0
    assert float(whole(found.edges[PathWeight.left_ig])) == pytest.approx(2)


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_a_target_that_comes_back_does_not_move_and_is_counted(mode) -> None:
    """Over the path it rises and falls again, by rounding not to the same bit: there is no share of a change of 0."""
    found = one_number(lambda s: 1e3 + s * (1 - s) + 1e-12 * s, steps=6, weights=ALL, mode=mode)
    assert not found.moves.any() and not found.crosses.any()
    assert float(found.crossing) == 1 and float(found.energy) == 0
    for weight in (PathWeight.left_ig, PathWeight.right_ig, PathWeight.idg):
        assert (found.edges[weight].units == 0).all(), weight
    assert (found.edges[PathWeight.ig].units != 0).any() or mode is Mode.forward


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_absent_targets_are_zero_everywhere(mode) -> None:
    vectors, targets = activations(1), concept_targets()
    targets.anchors[0, 1] = targets.anchors[:, 3] = -1
    one = source("activation", vectors)
    found = attribute(
        Segment().double(),
        LOWER,
        one,
        clean(vectors),
        targets,
        Settings(steps=8, weights=ALL, mode=mode),
    )
    absent = targets.anchors < 0
    assert torch.equal(found.present, ~absent)
    for weight in ALL:
        assert (whole(found.edges[weight])[absent] == 0).all()
    for part in (found.value, found.baseline, found.energy):
        assert (part[absent] == 0).all() and (part[~absent] != 0).all()
    assert not found.moves[absent].any() and not found.crosses[absent].any()


# What must not matter


@pytest.mark.parametrize(
    ("mode", "steps", "options"),
    [
        (Mode.reverse, 8, {}),
        (Mode.reverse, 5, {}),
        (Mode.forward, 5, {}),
        (Mode.reverse, 5, {"tolerance": 0.2}),
    ],
)
def test_an_image_does_not_see_its_neighbours(mode, steps, options) -> None:
    """To the last bit."""
    vectors, segment, targets = activations(1), Segment(activation=nn.ReLU()).double(), concept_targets()
    targets.anchors[0, 1] = -1
    asked = Settings(steps=steps, weights=ALL, phi=0.6, mode=mode, rows=24, **options)
    together = attribute(segment, LOWER, source("activation", vectors), clean(vectors), targets, asked)
    for some in ([2], [2, 0]):
        some = torch.tensor(some)
        codes = source("activation", vectors)
        part = type(codes)(codes.atoms, codes.codes[some], vectors[some], codes.along)  # type: ignore[attr-defined]
        alone = attribute(segment, LOWER, part, clean(vectors)[some], targets.take(some), asked)
        assert torch.equal(alone.steps, together.steps[some])
        for weight in ALL:
            assert torch.equal(alone.edges[weight].units, together.edges[weight].units[some]), weight
            assert torch.equal(alone.edges[weight].error, together.edges[weight].error[some]), weight
        assert torch.equal(alone.crossing, together.crossing[some])


@given(st.integers(1, 100), st.sampled_from([Mode.reverse, Mode.forward]))
@settings(max_examples=6)
def test_points_per_pass_do_not_change_the_result(rows, mode) -> None:
    vectors, segment, targets = activations(1), Segment().double(), concept_targets()
    one = source("activation", vectors, activations(11))
    base = Settings(steps=9, weights=ALL, phi=0.6, mode=mode, rows=1000)
    found, whole_pass = (
        attribute(segment, LOWER, one, clean(vectors), targets, asked)
        for asked in (Settings(steps=9, weights=ALL, phi=0.6, mode=mode, rows=rows), base)
    )
    for weight in ALL:
        torch.testing.assert_close(found.edges[weight].units, whole_pass.edges[weight].units, rtol=1e-9, atol=1e-12)
    assert torch.equal(found.crossing, whole_pass.crossing)


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
@pytest.mark.parametrize("tolerance", [None, 0.01])
def test_a_path_that_is_not_finite_names_image_and_alpha(mode, tolerance) -> None:
    vectors = torch.ones(2, 16, 6) / 96 * torch.tensor([3.0, 4.0])[:, None, None]

    def segment(x: Tensor) -> Tensor:
        return torch.sqrt(3.5 - x.flatten(1).sum(1, keepdim=True))  # NaN beyond 3.5

    one, targets = UnitSource(SourceKind.channels, vectors), LogitTargets(torch.tensor([0, 0]))
    asked = Settings(mode=mode, tolerance=tolerance)
    with pytest.raises(NotFinite, match=r"image 1: the path is not finite at α = 0\.89"):
        attribute(segment, LOWER, one, clean(vectors), targets, asked)
    with pytest.raises(NotFinite, match=r"image 1: the path is not finite at α = 0\.875"):
        idgi(segment, LOWER, one, clean(vectors), targets, steps=17)


# A weight of one's own


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_a_weight_of_ones_own_is_put_under_the_integral(mode) -> None:
    vectors, segment, targets = activations(1), Segment(logits=True).double(), logit_targets()
    problem = segment, LOWER, source("reconstruction", vectors), clean(vectors), targets

    def edges(own, weight=PathWeight.custom) -> torch.Tensor:
        settings = Settings(Rule.midpoint, 8, (weight,), mode=mode, rows=5, own=own)
        return attribute(*problem, settings).edges[weight].units

    plain = edges(None, PathWeight.ig)
    torch.testing.assert_close(edges(lambda alphas, progress: torch.ones_like(progress)), plain, rtol=1e-12, atol=1e-14)
    late = edges(lambda alphas, progress: (alphas >= 0.5).expand_as(progress))
    early = edges(lambda alphas, progress: (alphas < 0.5).expand_as(progress))
    torch.testing.assert_close(early + late, plain, rtol=1e-12, atol=1e-14)
    assert (late - plain).abs().max() > 1e-3
    # left_ig is such a weight, as long as the target does not come back
    left = edges(lambda alphas, progress: (progress <= 0.9).to(progress))
    twin = attribute(*problem, Settings(Rule.midpoint, 8, (PathWeight.left_ig,), phi=0.9, mode=mode, rows=5))
    torch.testing.assert_close(left, twin.edges[PathWeight.left_ig].units, rtol=1e-12, atol=1e-14)


def test_a_weight_of_ones_own_is_named_and_fits() -> None:
    with pytest.raises(UserError, match=r"attribute\.weight=package\.module:weight belong together"):
        Settings(weights=(PathWeight.custom,))
    vectors, segment, targets = activations(1), Segment(logits=True).double(), logit_targets()
    settings = Settings(Rule.midpoint, 8, (PathWeight.custom,), own=lambda alphas, progress: alphas)
    with pytest.raises(UserError, match="one weight for each of"):
        attribute(segment, LOWER, source("reconstruction", vectors), clean(vectors), targets, settings)
