"""Axioms of the attribution engine: completeness, the family of weights, adaptive steps, and what must not matter."""

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
    source,
)
from vismech.attribution.engine import Settings, attribute, cheaper_mode, choose_mode, completeness_gap, relative_change
from vismech.attribution.gig import ROW_MULTIPLE, NotFinite, integrate
from vismech.attribution.idgi import idgi
from vismech.attribution.paths import STRAIGHT, Curve, Path, load_path
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.choices import Mode, PathWeight, ReadOut, Rule, SourceKind
from vismech.errors import UserError

ALL = tuple(PathWeight)
COMPLETE = (PathWeight.ig, PathWeight.idg)


def whole(edges) -> Tensor:
    return edges.units.sum(2) + edges.error


def one_number(function, vectors: Tensor | None = None, **options):
    """Attribution of one function of the sum of an activation, which runs from 0 to 1 along the path."""
    vectors = torch.full((1, 16, 6), 1 / 96, dtype=torch.float64) if vectors is None else vectors
    one = UnitSource(SourceKind.channels, vectors)

    def segment(x: Tensor) -> Tensor:
        return function(x.flatten(1).sum(1, keepdim=True))

    return attribute(segment, LOWER, one, clean(vectors), LogitTargets(torch.tensor([0])), Settings(**options))


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


# Convergence


ORDERS = [(Rule.riemann_left, 1), (Rule.riemann_right, 1), (Rule.midpoint, 2), (Rule.trapezoid, 2), (Rule.simpson, 4)]


@pytest.mark.parametrize(("rule", "order"), ORDERS)
@given(seed=st.integers(20, 10**6))
@settings(max_examples=5)
def test_edges_converge_as_the_theory_of_the_rule_says(rule, order, seed) -> None:
    vectors, segment, targets = activations(seed), Segment(seed=seed).double(), concept_targets(ReadOut.sum)
    one, ends = source("channels", vectors), rule in (Rule.trapezoid, Rule.simpson)

    def edges(rule: Rule, steps: int) -> Tensor:
        asked = Settings(rule, steps, mode=Mode.reverse)
        return attribute(segment, LOWER, one, clean(vectors), targets, asked).edges[PathWeight.ig].units

    exact = edges(Rule.gauss_legendre, 40)
    torch.testing.assert_close(edges(Rule.gauss_legendre, 33), exact, rtol=1e-9, atol=1e-12)
    errors = [float((edges(rule, steps + ends) - exact).norm()) for steps in (64, 128)]
    assert abs(errors[0] / errors[1] / 2**order - 1) < 0.15


# Adaptive steps


@pytest.mark.parametrize("weights", [(PathWeight.ig,), COMPLETE, ALL], ids=["ig", "ig+idg", "all"])
@pytest.mark.parametrize("rule", list(Rule))
def test_refined_edges_are_those_of_the_steps_they_name(rule, weights) -> None:
    """With nodes taken over where a rule is nested, and computed afresh where not, the numbers are the same."""
    vectors, segment, targets = activations(1), Segment(activation=nn.ReLU()).double(), concept_targets()
    one = source("activation", vectors, activations(11))
    asked = Settings(rule, 5, weights, 0.6, Mode.reverse, tolerance=0.02, max_steps=80)
    found = attribute(segment, LOWER, one, clean(vectors), targets, asked)
    assert found.change is not None and found.steps.min() > 5
    for image, steps in enumerate(found.steps.tolist()):
        fixed = attribute(
            segment, LOWER, one, clean(vectors), targets, Settings(rule, steps, weights, 0.6, Mode.reverse)
        )
        for weight in weights:
            for ours, theirs in zip(found.edges[weight], fixed.edges[weight], strict=True):
                torch.testing.assert_close(ours[image], theirs[image], rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(found.energy[image], fixed.energy[image], rtol=1e-9, atol=1e-12)
        assert found.change[image].max() <= 0.02 or steps > 40


def test_nodes_of_a_nested_rule_are_computed_once() -> None:
    points = 0

    def segment(x: Tensor) -> Tensor:
        nonlocal points
        points += len(x)
        return x.flatten(1).sum(1, keepdim=True).sin()

    vectors = torch.ones(1, 16, 6, dtype=torch.float64)
    one, targets = UnitSource(SourceKind.channels, vectors), LogitTargets(torch.tensor([0]))
    for rule, computed in (
        (Rule.riemann_left, 64),
        (Rule.trapezoid, 57),
        (Rule.midpoint, 8 + 16 + 32 + 64),
    ):
        points = 0
        asked = Settings(rule, 8, mode=Mode.reverse, tolerance=1e-9, max_steps=64)
        found = attribute(segment, LOWER, one, clean(vectors), targets, asked)
        assert int(found.steps) == (57 if rule is Rule.trapezoid else 64)
        assert points == computed + 2 * ROW_MULTIPLE, rule  # and the two ends


def test_steps_stop_at_the_tolerance_image_by_image() -> None:
    flat, steep = torch.full((1, 16, 6), 1e-3), torch.full((1, 16, 6), 1.0)
    vectors = torch.cat([flat, steep, 0 * flat]).double()
    one, targets = UnitSource(SourceKind.channels, vectors), LogitTargets(torch.tensor([0, 0, 0]))

    def segment(x: Tensor) -> Tensor:
        return (x.flatten(1).sum(1, keepdim=True) / 4).tanh()

    asked = Settings(steps=4, tolerance=1e-3, max_steps=256)
    found = attribute(segment, LOWER, one, clean(vectors), targets, asked)
    assert found.change is not None
    assert found.steps.tolist()[0] == 8 and found.steps.tolist()[1] > 16 and found.steps.tolist()[2] == 8
    assert found.change.max() <= 1e-3 and found.change[2] == 0
    capped = attribute(segment, LOWER, one, clean(vectors), targets, Settings(steps=4, tolerance=1e-3, max_steps=8))
    assert capped.change is not None
    assert capped.steps.tolist() == [8, 8, 8] and capped.change[1] > 1e-3


def test_change_is_relative_to_the_finer_edges_at_the_worst_weight() -> None:
    coarse = one_number(lambda s: s**2, rule=Rule.riemann_left, steps=4, weights=COMPLETE)
    fine = one_number(lambda s: s**2, rule=Rule.riemann_left, steps=8, weights=COMPLETE)
    # Σ w 2α is 0.75 and 0.875; idg is rescaled to 1 with either.
    assert float(relative_change(fine, coarse)) == pytest.approx(0.125 / 0.875)


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


# Modes and refusals


def test_the_cheaper_mode_depends_on_targets_and_units_of_each_image() -> None:
    assert cheaper_mode(1, 100) is Mode.reverse and cheaper_mode(100, 1) is Mode.forward
    vectors, targets = activations(1), concept_targets()
    vectors[1, :, 1:] = 0  # one channel is left
    vectors[2] = 0
    one = UnitSource(SourceKind.channels, vectors)
    assert [choose_mode(targets, one, image=image) for image in range(3)] == [Mode.reverse, Mode.forward, Mode.forward]
    assert choose_mode(targets, one, profile=True, image=1) is Mode.reverse
    found = [
        attribute(Segment().double(), LOWER, one, clean(vectors), targets, Settings(steps=8, mode=mode))
        for mode in (Mode.auto, Mode.reverse)
    ]
    torch.testing.assert_close(
        found[0].edges[PathWeight.ig].units, found[1].edges[PathWeight.ig].units, rtol=1e-10, atol=1e-12
    )
    assert not found[0].moves[2].any()


def test_attention_has_forward_mode_and_what_has_none_falls_back_to_reverse() -> None:
    class Once(torch.autograd.Function):
        generate_vmap_rule = True

        @staticmethod
        def forward(x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def setup_context(ctx, inputs, output) -> None: ...

        @staticmethod
        def backward(ctx, gradient: Tensor) -> Tensor:
            return gradient * 2

    vectors = activations(1).float()

    def attention(x: Tensor) -> Tensor:
        tokens = LOWER.vectors(x)[:, None]
        return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)[:, 0].mean(1)

    one, targets = UnitSource(SourceKind.channels, vectors), LogitTargets(torch.tensor([[0, 3]] * 3))
    for segment, refused in ((attention, False), (lambda x: Once.apply(attention(x)), True)):
        found = {}
        for mode in Mode:
            asked = Settings(steps=4, mode=mode)
            if refused and mode is Mode.forward:
                with pytest.raises(UserError, match=r"attribute\.mode=forward: .*use mode=reverse"):
                    attribute(segment, LOWER, one, clean(vectors), targets, asked)
            else:
                found[mode] = attribute(segment, LOWER, one, clean(vectors), targets, asked).edges[PathWeight.ig].units
        for edges in found.values():
            torch.testing.assert_close(edges, found[Mode.reverse], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": ()}, "no path weight"),
        ({"phi": 0.0}, r"attribute\.phi=0\.0"),
        ({"phi": 1.0}, r"attribute\.phi=1\.0"),
        ({"profile": True, "mode": Mode.forward}, "profile"),
        ({"profile": True, "tolerance": 0.1}, "profile"),
        ({"tolerance": 0.0}, r"attribute\.tolerance=0\.0"),
        ({"tolerance": float("nan")}, r"attribute\.tolerance=nan"),
        ({"tolerance": 0.1, "steps": 33, "max_steps": 64}, r"attribute\.max_steps=64 .* give at least 66"),
    ],
)
def test_settings_that_exclude_one_another_are_refused(options, said) -> None:
    with pytest.raises(UserError, match=said):
        Settings(**options)


def test_a_profile_of_several_baselines_is_refused() -> None:
    vectors = activations(1)
    sources = [source("channels", vectors, activations(seed)) for seed in (11, 12)]
    with pytest.raises(UserError, match="single baseline"):
        attribute(
            Segment().double(), LOWER, sources, clean(vectors), concept_targets(), Settings(steps=4, profile=True)
        )


def test_a_profile_holds_values_and_gradient_norms_of_every_node() -> None:
    found = one_number(lambda s: s**3, rule=Rule.trapezoid, steps=5, profile=True).profile
    assert found is not None
    alpha = torch.linspace(0, 1, 5, dtype=torch.float64)
    torch.testing.assert_close(found.values[0, 0], alpha**3)
    torch.testing.assert_close(found.norms[0, 0], 3 * alpha**2 * 96**0.5)


class Astray(Path):
    """Ends where it likes."""

    def __init__(self, wrong: str = "end") -> None:
        self.wrong = wrong

    def anchors(self, baseline: Tensor, end: Tensor) -> list[Tensor]:
        return [baseline, end.square() if self.wrong == "square" else end]

    def coefficients(self, alpha: Tensor) -> Tensor:
        if self.wrong == "columns":
            return alpha[:, None]
        straight = torch.stack([1 - alpha, alpha], 1)
        return straight + {"start": 1 - alpha, "end": alpha}.get(self.wrong, 0 * alpha)[:, None]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("start", "does not start at the baseline"),
        ("end", "does not end at the end"),
        ("columns", "one column per anchor"),
    ],
)
def test_paths_that_lead_elsewhere_are_refused(wrong, said) -> None:
    with pytest.raises(UserError, match=said):
        Curve(activations(11), activations(1), Astray(wrong))


def test_anchors_that_are_not_linear_are_refused() -> None:
    with pytest.raises(UserError, match=r"not linear|does not end"):
        source("reconstruction", activations(1), None, Astray("square"))


def test_a_path_is_loaded_by_its_name() -> None:
    assert type(load_path({"_target_": "curves.Through"})) is Through
    assert load_path({"_target_": "test_engine.Astray", "wrong": "start"}).wrong == "start"  # type: ignore[attr-defined]
    assert load_path({}) is not None and type(load_path({})).__name__ == "Straight"
    for curve in ({"_target_": "curves.Nowhere"}, {"_target_": "curves.Through", "a": 1}, {"of": 1}):
        with pytest.raises(UserError, match=r"attribute\.curve=.*cannot be made"):
            load_path(curve)
    with pytest.raises(UserError, match="is no vismech"):
        load_path({"_target_": "curves.Segment"})


def test_slopes_of_a_path_are_the_derivatives_of_its_coefficients() -> None:
    alpha = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    expected = torch.stack([4 * alpha - 3, 4 - 8 * alpha, 4 * alpha - 1], 1)
    torch.testing.assert_close(Through().speeds(alpha), expected)

    class Resting(Through):
        def coefficients(self, alpha: Tensor) -> Tensor:
            return torch.ones(len(alpha), 3, dtype=alpha.dtype)

    assert (Resting().speeds(alpha) == 0).all()
