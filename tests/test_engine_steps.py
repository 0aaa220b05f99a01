"""Quadrature in the engine: orders of convergence, and steps doubled until edges stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from curves import (
    LOWER,
    Segment,
    activations,
    clean,
    concept_targets,
    one_number,
    source,
)
from vismech.attribution.engine import Settings, attribute, relative_change
from vismech.attribution.gig import ROW_MULTIPLE
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, ReadOut, Rule, SourceKind
from vismech.measures.saturation.scores import WEIGHTS

ALL = WEIGHTS
COMPLETE = (PathWeight.ig, PathWeight.idg)


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
