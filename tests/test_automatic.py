"""Nodes that are chosen for a segment: what is tried, what it may cost, and what comes of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from vismech.attribution import automatic
from vismech.attribution.automatic import ENOUGH, LIMIT, PROBED, Choice, candidates, settle
from vismech.attribution.engine import Attribution, Settings, attribute, completeness_gap, settled
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, Rule
from vismech.network.pfv import Axes, Layout

LAYOUT = Layout(Axes.channels_first, (3, 3), 4)


class Normed(nn.Module):
    """Maps [B, 4, 3, 3] → logits; as in ConvNeXt, a norm of the channels may forget lengths before anything else."""

    def __init__(self, forget: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4, eps=1e-6) if forget else nn.Identity()
        self.mix, self.head = nn.Linear(4, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.gelu(self.mix(self.norm(x.movedim(1, -1)))).mean((1, 2)))


def problem(forget: bool, images: int = 6):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Normed(forget).requires_grad_(False)
        atoms, codes = nn.functional.normalize(torch.randn(7, 4), dim=1), torch.rand(images, 9, 7)
    vectors = codes @ atoms
    clean = LAYOUT.activation(vectors, vectors)
    return network, LAYOUT, ConceptSource(atoms, codes, vectors), clean, LogitTargets(torch.arange(images) % 5)


def gap(found: Attribution, weight: PathWeight = PathWeight.ig) -> float:
    units, error = found.edges[weight]
    return float(completeness_gap(units.sum(2) + error, found.value, found.baseline)[found.moves].median())


@given(st.lists(st.floats(0, 2), min_size=1, max_size=8), st.integers(1, 64), st.integers(1, 200))
def test_a_choice_is_the_first_that_is_enough_or_the_best_and_never_too_dear(gaps, steps, images) -> None:
    tried: list[Choice] = []

    def measured(candidate: Choice) -> Tensor:
        tried.append(candidate)
        return torch.tensor([gaps[(len(tried) - 1) % len(gaps)]])

    probed = min(PROBED, images)
    found = settle(measured, steps, images, probed)
    points = sum(probed * one.steps for one in tried) + images * found.steps
    assert points <= LIMIT * steps * images
    told = [float(torch.tensor(gaps[place % len(gaps)])) for place in range(len(tried))]
    assert all(value > ENOUGH for value in told[:-1])
    assert found.gap == (told[-1] if told[-1] <= ENOUGH else min(told))
    assert found[:3] == tried[told.index(found.gap)][:3]
    assert tried[0][:3] == (Rule.midpoint, steps, 1)


def test_nothing_that_moves_is_as_good_as_complete() -> None:
    assert settle(lambda _: torch.zeros(0), 32, 10, 4) == Choice(Rule.midpoint, 32)


def test_a_tolerance_finds_room_to_double_whatever_is_chosen() -> None:
    assert [one.steps for one in candidates(32, 64)] == [32, 32, 32]
    assert max(one.steps for one in candidates(32, 512)) == 96
    for one in candidates(32, 64):
        Settings(one.rule, one.steps, tolerance=0.1, max_steps=64)


def test_midpoints_stay_where_they_are_complete_and_a_norm_gets_crowded_nodes() -> None:
    plain, normed = problem(False), problem(True)
    auto = Settings(Rule.auto, 32, mode=Mode.reverse)
    assert settled(*plain, auto)[:3] == (Rule.midpoint, 32, 1)
    choice = settled(*normed, auto)
    assert choice.rule is Rule.gauss_legendre and choice.power > 1 and choice.gap <= ENOUGH
    assert gap(attribute(*normed, Settings(Rule.midpoint, 32, mode=Mode.reverse))) > 0.5
    assert gap(attribute(*normed, Settings(Rule.midpoint, 512, mode=Mode.reverse))) > ENOUGH
    found = attribute(*normed, auto)
    assert gap(found) <= ENOUGH and found.steps.tolist() == [choice.steps] * 6
    twin = attribute(*normed, auto.at(choice))
    assert torch.equal(found.edges[PathWeight.ig].units, twin.edges[PathWeight.ig].units)


def test_a_choice_does_not_depend_on_weights_mode_profile_or_on_later_images() -> None:
    network, layout, source, clean, targets = problem(True)
    wanted = settled(network, layout, source, clean, targets, Settings(Rule.auto, 32), 100)
    others = [
        Settings(Rule.auto, 32, (PathWeight.left_ig, PathWeight.idg), 0.5),
        Settings(Rule.auto, 32, mode=Mode.forward),
        Settings(Rule.auto, 32, mode=Mode.reverse, profile=True),
        Settings(Rule.auto, 32, tolerance=0.01),
        Settings(Rule.auto, 32, rows=8),
    ]
    assert {settled(network, layout, source, clean, targets, one, 100)[:3] for one in others} == {wanted[:3]}
    first = ConceptSource(source.atoms, source.codes[:PROBED], source.vectors[:PROBED])
    few = settled(network, layout, first, clean[:PROBED], LogitTargets(targets.classes[:PROBED]), others[0], 100)
    assert few[:3] == wanted[:3]


def test_every_weight_and_a_tolerance_work_on_crowded_nodes() -> None:
    given = problem(True)
    weights = (PathWeight.ig, PathWeight.left_ig, PathWeight.right_ig, PathWeight.idg)
    how = Settings(Rule.gauss_legendre, 64, weights, mode=Mode.reverse, power=4)
    found = attribute(*given, how)
    left, right, full = (found.edges[weight].units for weight in (weights[1], weights[2], weights[0]))
    torch.testing.assert_close(left + right, full)
    assert gap(found, PathWeight.idg) < 1e-4
    # α* is a place on the path, not among the nodes: what midpoints by the thousand find.
    fine = attribute(*given, Settings(Rule.midpoint, 4096, weights[:2], mode=Mode.reverse))
    assert (found.crossing < 0.01).all() and (found.crossing - fine.crossing).abs().max() < 2e-3
    forward = attribute(*given, Settings(Rule.gauss_legendre, 64, weights, mode=Mode.forward, power=4))
    torch.testing.assert_close(forward.edges[PathWeight.ig].units, full, rtol=1e-3, atol=1e-4)
    adaptive = attribute(*given, Settings(Rule.gauss_legendre, 8, power=4, tolerance=0.01, mode=Mode.reverse))
    assert adaptive.change is not None and adaptive.change.max() <= 0.01 and gap(adaptive) <= ENOUGH
    nested = attribute(*given, Settings(Rule.riemann_left, 8, power=2, tolerance=1e-9, max_steps=16, mode=Mode.reverse))
    plain = attribute(*given, Settings(Rule.riemann_left, 16, power=2, mode=Mode.reverse))
    torch.testing.assert_close(nested.edges[PathWeight.ig].units, plain.edges[PathWeight.ig].units)


def test_the_version_of_the_choice_is_pinned_to_what_is_tried() -> None:
    """What is tried is in no key but for its version: raise it, and then this."""
    assert automatic.VERSION == 1
    assert (automatic.PROBED, automatic.ENOUGH, automatic.LIMIT) == (4, 0.01, 4)
    assert [(one.rule, one.steps, one.power) for one in candidates(1)] == [
        (Rule.midpoint, 1, 1),
        (Rule.gauss_legendre, 1, 2),
        (Rule.gauss_legendre, 1, 4),
        (Rule.midpoint, 2, 1),
        (Rule.gauss_legendre, 2, 4),
        (Rule.midpoint, 3, 1),
    ]


@pytest.mark.parametrize("images", [1, 4, 64])
def test_few_images_get_what_they_can_pay(images) -> None:
    tried: list[Choice] = []
    settle(lambda one: tried.append(one) or torch.ones(3), 32, images, min(PROBED, images))
    assert max(one.steps for one in tried) == {1: 32, 4: 32, 64: 96}[images]
