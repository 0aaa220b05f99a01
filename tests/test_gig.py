"""Path integrals between layers: captum, axioms and closed forms as oracles."""

import itertools
from typing import NamedTuple

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import nn
from torch.nn import functional as F

from vismech.attribution.engine import completeness_gap
from vismech.attribution.gig import PathIntegral
from vismech.attribution.gig import integrate as integrate_curve
from vismech.attribution.paths import Curve
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import concept_edges
from vismech.attribution.targets import ConceptTargets, LogitTargets, anchors
from vismech.config.choices import PathWeight, ReadOut, Rule
from vismech.network.pfv import Axes, Layout

LOWER, UPPER = Layout(Axes.channels_first, (4, 4), 6), Layout(Axes.channels_first, (2, 2), 5)
MIDPOINT = quadrature(Rule.midpoint, 32)


class Mean(NamedTuple):
    """Mean gradients from zero, and the targets at both ends."""

    gradient: torch.Tensor
    value: torch.Tensor
    baseline: torch.Tensor


def integrate(segment, layout, vectors, clean, targets, rule, **options) -> Mean:
    found = integrate_curve(segment, layout, Curve(None, vectors), clean, targets, rule, **options)
    assert isinstance(found, PathIntegral)
    return Mean(found.gradients[PathWeight.ig][:, :, 0], found.value, found.baseline)


class Smooth(nn.Module):
    """A smooth segment 6 × 4 × 4 → 5 × 2 × 2, or → 3 logits."""

    def __init__(self, logits: bool, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3) if logits else None
        self.activation = activation or nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv2(self.activation(self.conv1(x)))
        return self.activation(x) if self.head is None else self.head(self.activation(x).mean((2, 3)))


@pytest.fixture
def seeded() -> torch.Generator:
    torch.manual_seed(3)
    return torch.Generator().manual_seed(5)


def concepts(generator: torch.Generator, k: int, c: int) -> torch.Tensor:
    return F.normalize(torch.randn(k, c, generator=generator), dim=1)


def problem(generator: torch.Generator, dtype: torch.dtype = torch.float32, images: int = 3):
    atoms = concepts(generator, 10, 6).to(dtype)
    codes = torch.rand(images, 16, 10, generator=generator).to(dtype)
    codes = codes * (codes > 0.6)
    return atoms, codes, codes @ atoms


def places(generator: torch.Generator, images: int, targets: int) -> torch.Tensor:
    return torch.randint(0, 4, (images, targets), generator=generator)


@pytest.mark.parametrize("rule", [rule for rule in Rule if rule is not Rule.auto])
def test_weights_of_every_rule_integrate_a_constant_gradient_exactly(rule, seeded) -> None:
    """On a linear network the gradient is constant, so any rule gives the exact answer, at the fewest nodes too."""
    segment = nn.Conv2d(6, 5, 3, stride=2, padding=1).double()
    atoms, codes, vectors = problem(seeded, torch.float64)
    targets = ConceptTargets(concepts(seeded, 4, 5).double(), places(seeded, 3, 4), UPPER)
    result = integrate(segment, LOWER, vectors, LOWER.activation(vectors, vectors), targets, quadrature(rule, 3))
    edges = concept_edges(codes, result.gradient, atoms)
    assert completeness_gap(edges.sum(2), result.value, result.baseline).max() < 1e-10


def test_completeness_on_a_smooth_network(seeded) -> None:
    segment = Smooth(logits=True).double()
    atoms, codes, vectors = problem(seeded, torch.float64)
    targets = LogitTargets(torch.tensor([0, 2, 1]))
    clean = LOWER.activation(vectors, vectors)
    result = integrate(segment, LOWER, vectors, clean, targets, quadrature(Rule.gauss_legendre, 33))
    edges = concept_edges(codes, result.gradient, atoms)
    assert completeness_gap(edges.sum(2), result.value, result.baseline).max() < 1e-9
    torch.testing.assert_close(result.value[:, 0], segment(clean).gather(1, targets.classes[:, None])[:, 0])


@pytest.mark.parametrize("readout", [ReadOut.max, ReadOut.sum])
@pytest.mark.parametrize("logits", [True, False])
def test_equals_captum_with_coefficients_as_inputs(logits, readout, seeded) -> None:
    """GIG is integrated gradients of u ↦ g(F_ab(u V)) with baseline zero."""
    segment = Smooth(logits, nn.ReLU())
    atoms, codes, vectors = problem(seeded)
    clean = LOWER.activation(vectors, vectors)
    if logits:
        targets = LogitTargets(torch.tensor([0, 2, 1]))
    else:
        targets = ConceptTargets(concepts(seeded, 4, 5), places(seeded, 3, 4), UPPER, readout)
    result = integrate(segment, LOWER, vectors, clean, targets, MIDPOINT)
    ours = torch.einsum("bpk,btpc,kc->btpk", codes, result.gradient, atoms)
    for target in range(ours.shape[1]):

        def value(u: torch.Tensor, target: int = target) -> torch.Tensor:
            images = torch.arange(3).repeat(len(u) // 3)  # captum stacks whole batches step by step
            return targets(segment(LOWER.activation(u @ atoms, clean)), images)[:, target]

        theirs = IntegratedGradients(value).attribute(
            codes, torch.zeros_like(codes), n_steps=32, method="riemann_middle"
        )
        assert (ours[:, target] - theirs).norm() <= 1e-4 * theirs.norm()
    torch.testing.assert_close(concept_edges(codes, result.gradient, atoms), ours.sum(2), rtol=1e-4, atol=1e-6)


def test_edges_equal_their_definition_for_any_block_size(seeded, monkeypatch) -> None:
    atoms, codes, _ = problem(seeded)
    gradient = torch.randn(3, 4, 16, 6, generator=seeded)
    slow = torch.zeros(3, 4, 10)
    for b, t, p, k in itertools.product(range(3), range(4), range(16), range(10)):
        slow[b, t, k] += codes[b, p, k] * (gradient[b, t, p] @ atoms[k])
    for block in (1, 100, 2**18):
        monkeypatch.setattr("vismech.attribution.sources.CACHED_NUMBERS", block)
        torch.testing.assert_close(concept_edges(codes, gradient, atoms), slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [1, 5, 32, 50, 1000])
def test_chunks_of_the_path_do_not_change_the_result(rows, seeded) -> None:
    segment = Smooth(logits=False)
    _, _, vectors = problem(seeded)
    clean = LOWER.activation(vectors, vectors)
    targets = ConceptTargets(concepts(seeded, 4, 5), places(seeded, 3, 4), UPPER)
    whole = integrate(segment, LOWER, vectors, clean, targets, MIDPOINT, rows=96)
    parts = integrate(segment, LOWER, vectors, clean, targets, MIDPOINT, rows=rows)
    for one, other in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_an_image_does_not_see_its_neighbours(seeded) -> None:
    segment = Smooth(logits=False)
    _, _, vectors = problem(seeded)
    clean, atoms, where = LOWER.activation(vectors, vectors), concepts(seeded, 4, 5), places(seeded, 3, 4)
    together = integrate(segment, LOWER, vectors, clean, ConceptTargets(atoms, where, UPPER), MIDPOINT)
    for index in range(3):
        one = slice(index, index + 1)
        alone = integrate(segment, LOWER, vectors[one], clean[one], ConceptTargets(atoms, where[one], UPPER), MIDPOINT)
        torch.testing.assert_close(together.gradient[one], alone.gradient, rtol=1e-4, atol=1e-6)


def test_an_absent_target_is_zero_everywhere(seeded) -> None:
    segment = Smooth(logits=False)
    atoms, codes, vectors = problem(seeded)
    where = places(seeded, 3, 4)
    where[0, 1] = where[:, 3] = -1
    result = integrate(
        segment,
        LOWER,
        vectors,
        LOWER.activation(vectors, vectors),
        ConceptTargets(concepts(seeded, 4, 5), where, UPPER),
        MIDPOINT,
    )
    edges = concept_edges(codes, result.gradient, atoms)
    for part in (edges.abs().sum(2), result.value, result.baseline):
        assert (part[where < 0] == 0).all()
        assert (part[where >= 0] != 0).all()


def test_class_token_keeps_its_clean_value_along_the_path(seeded) -> None:
    layout = Layout(Axes.tokens, (2, 2), 6, prefix=1)
    seen: list[torch.Tensor] = []

    def segment(tokens: torch.Tensor) -> torch.Tensor:
        seen.append(tokens.detach())
        return torch.tanh(tokens).sum(1)

    clean = torch.randn(2, 5, 6, generator=seeded)
    integrate(segment, layout, layout.vectors(clean), clean, LogitTargets(torch.tensor([1, 2])), MIDPOINT, rows=64)
    path = max(seen, key=len)
    assert len(path) == 64
    torch.testing.assert_close(path[:, 0], clean[:, 0].repeat_interleave(32, 0))
    torch.testing.assert_close(path[5, 1:], clean[0, 1:] * MIDPOINT.nodes[5], rtol=1e-5, atol=1e-6)


def test_a_path_that_is_not_finite_names_image_and_alpha(seeded) -> None:
    def segment(x: torch.Tensor) -> torch.Tensor:
        total = x.flatten(1).sum(1)
        return torch.sqrt(3.5 - total)[:, None]  # NaN beyond 3.5

    vectors = torch.ones(2, 16, 6) / 96 * torch.tensor([3.0, 4.0])[:, None, None]
    clean = LOWER.activation(vectors, vectors)
    with pytest.raises(FloatingPointError, match=r"image 1: the path is not finite at α = 0\.89"):
        integrate(segment, LOWER, vectors, clean, LogitTargets(torch.tensor([0, 0])), MIDPOINT)


def test_gradients_are_found_inside_no_grad(seeded) -> None:
    """The trace runs inside a predict step, where gradients are off."""
    _, _, vectors = problem(seeded)
    with torch.no_grad():
        result = integrate(
            Smooth(logits=True),
            LOWER,
            vectors,
            LOWER.activation(vectors, vectors),
            LogitTargets(torch.tensor([0, 1, 2])),
            MIDPOINT,
        )
    assert result.gradient.abs().sum() > 0
    assert not result.gradient.requires_grad


def test_anchor_is_the_largest_projection_where_the_code_is_positive() -> None:
    atoms = torch.eye(2)
    vectors = torch.tensor([[[9.0, 1.0], [5.0, 3.0], [7.0, 2.0]]])
    codes = torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]])
    assert anchors(vectors, codes, atoms).tolist() == [[2, -1]]


def test_gap_of_nothing_is_nothing() -> None:
    zero, one = torch.zeros(1, 1), torch.ones(1, 1)
    assert completeness_gap(zero, zero, zero).item() == 0
    assert completeness_gap(one, 3 * one, one).item() == 0.5
    assert completeness_gap(one, one, one).item() == torch.inf
