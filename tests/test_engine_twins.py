"""The attribution engine against slow twins written from the formulas, against captum, and mode against mode."""

from __future__ import annotations

import pytest
import torch
from captum.attr import IntegratedGradients
from torch import Tensor, nn

import tiny
from curves import (
    CONCEPTS,
    LOWER,
    SOURCES,
    Segment,
    Through,
    activations,
    clean,
    concept_targets,
    logit_targets,
    source,
    value_of,
)
from oracles import path_twins
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.idgi import idgi
from vismech.attribution.paths import STRAIGHT, Path
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import ConceptSource, UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, ReadOut, Rule, SourceKind
from vismech.measures.saturation.scores import WEIGHTS
from vismech.network.cut import LOGITS, PIXELS, open_network
from vismech.network.pfv import layout_of

NODES, STEPS = (part.tolist() for part in quadrature(Rule.midpoint, 8))


def through(path: Path, start: Tensor, end: Tensor):
    """The two paths written out by hand."""
    if isinstance(path, Through):
        middle = end.mean(0).expand_as(end)
        return lambda a: (1 - a) * (1 - 2 * a) * start + 4 * a * (1 - a) * middle + a * (2 * a - 1) * end
    return lambda a: (1 - a) * start + a * end


def curves_of(kind: str, path: Path, vectors: Tensor, baseline: Tensor | None, image: int):
    """The path of one image and its units' shares of it, the error last; nothing of the engine but codes and atoms."""
    end = vectors[image]
    start = torch.zeros_like(end) if baseline is None else baseline[image]
    if kind in ("channels", "positions"):
        units = []
        for index in range(end.shape[1] if kind == "channels" else end.shape[0]):
            mask = torch.zeros_like(end)
            mask[(slice(None), index) if kind == "channels" else index] = 1
            units.append(lambda a, mask=mask: through(path, start, end)(a) * mask)
        return through(path, start, end), [*units, lambda a: 0 * a * end]
    built = source(kind, vectors, baseline)
    assert isinstance(built, ConceptSource)
    first = torch.zeros_like(built.codes[image]) if built.baseline_codes is None else built.baseline_codes[image]
    codes = through(path, first, built.codes[image])
    units = [lambda a, q=q: codes(a)[:, q, None] * built.atoms[q] for q in range(CONCEPTS)]
    rebuilt = lambda a: codes(a) @ built.atoms  # noqa: E731
    if kind == "reconstruction":
        return rebuilt, [*units, lambda a: 0 * a * end]
    whole = through(path, start, end)
    return whole, [*units, lambda a: whole(a) - rebuilt(a)]


def all_edges(edges) -> Tensor:
    return torch.cat([edges.units, edges.error[..., None]], 2)


@pytest.mark.parametrize("path", [STRAIGHT, Through()], ids=["straight", "through"])
@pytest.mark.parametrize("start", [None, 11], ids=["zero", "other"])
@pytest.mark.parametrize("kind", SOURCES)
def test_every_weight_equals_its_twin(kind, start, path) -> None:
    vectors, segment, targets = activations(1), Segment().double(), concept_targets()
    baseline = None if start is None else activations(start)
    settings = Settings(steps=8, weights=WEIGHTS, phi=0.6, mode=Mode.reverse, rows=24)
    found = attribute(segment, LOWER, source(kind, vectors, baseline, path), clean(vectors), targets, settings)
    image, target = 1, 2
    curve, units = curves_of(kind, path, vectors, baseline, image)
    value = value_of(segment, targets, image, target)
    nodes = NODES, STEPS
    for index in (0, 3, len(units) - 1):
        context = value, curve, units[index], *nodes
        expected = {
            PathWeight.ig: path_twins.ig(*context),
            PathWeight.left_ig: path_twins.left_ig(*context, 0.6),
            PathWeight.right_ig: path_twins.right_ig(*context, 0.6),
            PathWeight.idg: path_twins.idg(*context),
        }
        for weight, edge in expected.items():
            ours = float(all_edges(found.edges[weight])[image, target, index])
            assert ours == pytest.approx(edge, rel=1e-9, abs=1e-12), (weight, index)
    star = path_twins.crossing(value, curve, NODES, 0.6)
    assert float(found.crossing[image, target]) == min(star, 1)
    assert bool(found.crosses[image, target]) == (star < 1)


@pytest.mark.parametrize("kind", SOURCES)
def test_expected_gradients_are_the_mean_of_twins_over_baselines(kind) -> None:
    vectors, segment, targets = activations(1), Segment(logits=True).double(), logit_targets()
    starts = [activations(seed) for seed in (11, 12, 13)]
    sources = [source(kind, vectors, start) for start in starts]
    found = attribute(segment, LOWER, sources, clean(vectors), targets, Settings(steps=8))
    image, target, index = 2, 1, 4
    each = []
    for start in starts:
        curve, units = curves_of(kind, STRAIGHT, vectors, start, image)
        each.append(path_twins.ig(value_of(segment, targets, image, target), curve, units[index], NODES, STEPS))
    ours = float(found.edges[PathWeight.ig].units[image, target, index])
    assert ours == pytest.approx(sum(each) / 3, rel=1e-9, abs=1e-12)
    assert len(set(each)) == 3


@pytest.mark.parametrize("path", [STRAIGHT, Through()], ids=["straight", "through"])
@pytest.mark.parametrize("kind", SOURCES)
def test_idgi_equals_its_twin(kind, path) -> None:
    vectors, segment, targets = activations(1), Segment().double(), concept_targets()
    found = idgi(segment, LOWER, source(kind, vectors, None, path), clean(vectors), targets, steps=5, rows=7)
    image, target = 1, 2
    curve, units = curves_of(kind, path, vectors, None, image)
    value, nodes = value_of(segment, targets, image, target), [0, 0.25, 0.5, 0.75, 1]
    if kind in ("channels", "positions"):
        numbers = list(torch.eye(96, dtype=torch.float64).view(96, 16, 6))
        owners = [(number % 6 if kind == "channels" else number // 6) for number in range(96)]
    else:
        built = source(kind, vectors, None, path)
        assert isinstance(built, ConceptSource)
        numbers, owners = [], []
        moving = sum(direction[image].abs() for direction in built.code_directions) > 0
        for position, concept in moving.nonzero().tolist():
            direction = torch.zeros(16, 6, dtype=torch.float64)
            direction[position] = built.atoms[concept]
            numbers, owners = [*numbers, direction], [*owners, concept]
        for residual in [each[image] for each in built.residual_directions]:
            for position in range(16):
                direction = torch.zeros(16, 6, dtype=torch.float64)
                if residual[position].norm() > 0:
                    direction[position] = residual[position] / residual[position].norm()
                numbers, owners = [*numbers, direction], [*owners, CONCEPTS]
    for index in (0, 3, len(units) - 1):
        own = [i for i, owner in enumerate(owners) if owner == index]
        expected = path_twins.idgi(value, curve, numbers, own, nodes)
        assert float(all_edges(found.edges)[image, target, index]) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    torch.testing.assert_close(all_edges(found.edges).sum(2) + found.lost, found.value - found.baseline)
    assert (found.lost_steps == 0).all() and found.basis == source(kind, vectors).basis


def test_idgi_counts_the_steps_that_start_with_no_gradient() -> None:
    class Late(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x.flatten(1).sum(1, keepdim=True) - 40)

    vectors = torch.ones(1, 16, 6, dtype=torch.float64)  # the sum runs from 0 to 96
    one = UnitSource(SourceKind.channels, vectors)
    for rows in (2, 100):
        found = idgi(Late(), LOWER, one, clean(vectors), LogitTargets(torch.tensor([0])), steps=5, rows=rows)
        # Nodes at 0, 24, 48, 72, 96: without gradient at 0 and 24, and the step from 24 to 48 gains 8.
        assert found.lost_steps.tolist() == [[2]]
        assert found.lost.tolist() == [[8.0]]
        assert float(found.edges.units.sum()) == pytest.approx(48)


@pytest.mark.parametrize(
    ("path", "kind", "readout"),
    [
        (STRAIGHT, "reconstruction", ReadOut.max),
        (STRAIGHT, "activation", ReadOut.sum),
        (STRAIGHT, "positions", None),
        (Through(), "reconstruction", None),
        (Through(), "activation", ReadOut.max),
        (Through(), "channels", ReadOut.max),
    ],
)
def test_forward_mode_gives_the_edges_of_reverse_mode(path, kind, readout) -> None:
    vectors, segment = activations(1), Segment(logits=readout is None, activation=nn.ReLU()).double()
    targets = logit_targets() if readout is None else concept_targets(readout)
    if readout is ReadOut.max:
        targets.anchors[0, 1] = targets.anchors[:, 3] = -1
    one = source(kind, vectors, activations(11), path)
    found = [
        attribute(
            segment,
            LOWER,
            one,
            clean(vectors),
            targets,
            Settings(steps=9, weights=WEIGHTS, mode=mode, rows=rows),
        )
        for mode, rows in ((Mode.reverse, 64), (Mode.forward, 64), (Mode.forward, 5))
    ]
    for other in found[1:]:
        for name in ("value", "baseline", "crossing", "energy"):
            torch.testing.assert_close(getattr(other, name), getattr(found[0], name), rtol=1e-9, atol=1e-12)
        assert torch.equal(other.crosses, found[0].crosses) and torch.equal(other.moves, found[0].moves)
        for weight in WEIGHTS:
            torch.testing.assert_close(
                all_edges(other.edges[weight]), all_edges(found[0].edges[weight]), rtol=1e-9, atol=1e-12
            )


def test_pixels_equal_captum() -> None:
    model = tiny.network()
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    batch = tiny.images(2)
    layout = layout_of(network.shape(PIXELS), PIXELS)
    wanted = torch.tensor([[0, 2], [1, 0]])
    one = UnitSource(SourceKind.pixels, layout.vectors(batch))
    segment, captum = network.segment(PIXELS, LOGITS), IntegratedGradients(model)
    for rule, method in ((Rule.midpoint, "riemann_middle"), (Rule.gauss_legendre, "gausslegendre")):
        asked = Settings(rule, 16, mode=Mode.reverse)
        found = attribute(segment, layout, one, batch, LogitTargets(wanted), asked).edges[PathWeight.ig].units
        assert found.shape == (2, 2, 1024)
        for column in range(2):
            theirs = captum.attribute(batch, target=wanted[:, column], n_steps=16, method=method).sum(1).flatten(1)
            assert (found[:, column] - theirs).norm() <= 1e-5 * theirs.norm(), rule
