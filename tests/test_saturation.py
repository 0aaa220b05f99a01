"""Units at the baseline, relations of the path's two parts, and noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tiny
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.paths import Path
from vismech.attribution.sources import ConceptSource, UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Along, PathWeight, SourceKind
from vismech.errors import UserError
from vismech.measures.saturation.scores import DRAWS, WEIGHTS, disturbances, relation, root_mean_square
from vismech.measures.unit_scores import all_units, unit_outputs
from vismech.network.cut import LOGITS, PIXELS, open_network
from vismech.network.pfv import layout_of


@pytest.fixture(scope="module")
def network():
    return open_network(tiny.network().requires_grad_(False), tiny.images(1))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def case(network, lower, kind, along=Along.reconstruction, from_zero=True):
    """A source of ``kind`` at ``lower`` for two images, and what else F needs."""
    layout = layout_of(network.shape(lower), lower)
    clean, blank = (network.activations(batch, [lower])[lower] for batch in (tiny.images(2), torch.zeros(2, 3, 32, 32)))
    vectors, start = layout.vectors(clean), None if from_zero else layout.vectors(blank)
    if kind is SourceKind.concepts:
        atoms = torch.nn.functional.normalize(random(20, layout.channels), dim=1)
        codes = vectors @ atoms.T * (random(2, layout.positions, 20, seed=1) > 0)
        codes[:, :, 3] = 0
        source = ConceptSource(atoms, codes, vectors, along, None if from_zero else 0.5 * codes, start)
    else:
        source = UnitSource(kind, vectors, start)
    return network.segment(lower, LOGITS), layout, source, clean, LogitTargets(torch.tensor([[0, 2], [1, 0]]))


KINDS = [
    (PIXELS, SourceKind.pixels, Along.reconstruction),
    ("layer2", SourceKind.channels, Along.reconstruction),
    ("layer2", SourceKind.positions, Along.reconstruction),
    ("layer2", SourceKind.concepts, Along.reconstruction),
    ("layer2", SourceKind.concepts, Along.activation),
]


@pytest.mark.parametrize("from_zero", [True, False])
@pytest.mark.parametrize(("lower", "kind", "along"), KINDS)
def test_all_units_are_the_end_of_the_path_and_none_its_start(network, lower, kind, along, from_zero):
    segment, layout, source, clean, targets = case(network, lower, kind, along, from_zero)
    found = attribute(segment, layout, source, clean, targets, Settings(steps=2))
    outputs = unit_outputs(segment, layout, source, clean, targets, 1, rows=3)
    everything = torch.ones(1, len(source.active(1)), dtype=torch.bool)
    both = outputs(torch.cat([everything, ~everything] * 4))
    assert torch.allclose(both[0::2], found.value[1], atol=1e-4)
    assert torch.allclose(both[1::2], found.baseline[1], atol=1e-4)


def test_removing_a_pixel_or_a_concept_sets_it_to_the_baseline_everywhere(network):
    segment, layout, source, clean, targets = case(network, PIXELS, SourceKind.pixels, from_zero=False)
    kept = random(1, layout.positions) > 0
    mixed = torch.where(kept.view(1, 1, 32, 32), clean[:1], torch.zeros(1, 3, 32, 32))
    expected = segment(mixed)[0, [0, 2]]
    assert torch.allclose(unit_outputs(segment, layout, source, clean, targets, 0)(kept)[0], expected, atol=1e-5)

    segment, layout, source, clean, targets = case(network, "layer2", SourceKind.concepts, from_zero=False)
    units = source.active(0)
    assert 3 not in units
    kept = random(1, len(units)) > 0
    codes = source.codes[:1].clone()
    codes[:, :, units[~kept[0]]] *= 0.5
    expected = segment(layout.activation(codes @ source.atoms, clean[:1]))[0, [0, 2]]
    assert torch.allclose(unit_outputs(segment, layout, source, clean, targets, 0)(kept)[0], expected, atol=1e-5)


def test_the_error_node_is_one_unit_more(network):
    segment, layout, source, clean, targets = case(network, "layer2", SourceKind.concepts, Along.activation)
    units = source.active(0)
    assert int(units[-1]) == source.count
    outputs = unit_outputs(segment, layout, source, clean, targets, 0)
    without = torch.ones(1, len(units), dtype=torch.bool)
    without[0, -1] = False
    expected = segment(layout.activation(source.codes[:1] @ source.atoms, clean[:1]))[0, [0, 2]]
    assert torch.allclose(outputs(without)[0], expected, atol=1e-4)
    found = attribute(segment, layout, source, clean, targets, Settings(steps=64))
    told = all_units(found.edges[PathWeight.ig])
    assert told.shape[2] == source.count + 1
    assert torch.allclose(told.sum(2), found.value - found.baseline, rtol=0.02, atol=0.02)


class Bent(Path):
    """c(α) = (1 − α, α²): not straight."""

    def anchors(self, baseline, end):
        return [baseline, end]

    def coefficients(self, alpha):
        return torch.stack([1 - alpha, alpha**2], 1)


def test_what_cannot_be_measured_is_refused(network):
    segment, layout, source, clean, targets = case(network, PIXELS, SourceKind.pixels)
    bent = UnitSource(SourceKind.pixels, source.vectors, torch.zeros_like(source.vectors), Bent())
    with pytest.raises(UserError, match=r"units of Bent cannot be set to a baseline: leave attribute\.curve empty"):
        unit_outputs(segment, layout, bent, clean, targets, 0)
    broken = unit_outputs(lambda x: segment(x) / 0, layout, source, clean, targets, 0)
    with pytest.raises(FloatingPointError, match="image 0: an output is not finite with some of its units"):
        broken(torch.ones(1, layout.positions, dtype=torch.bool))


def test_relations_are_those_of_vectors():
    left, right = random(5, 30), random(5, 30, seed=1)
    found, full = relation(left, right), left + right
    for target in range(5):
        one, other, whole = (part[target].double().numpy() for part in (left, right, full))

        def cosine(a, b):
            return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

        expected = {
            "norm_ratio": np.linalg.norm(other) / np.linalg.norm(one),
            "sum_ratio": other.sum() / one.sum(),
            "cosine_left_right": cosine(one, other),
            "cosine_left_full": cosine(one, whole),
            "cosine_right_full": cosine(other, whole),
        }
        assert {name: float(part.value[target]) for name, part in found.items()} == pytest.approx(expected, rel=1e-4)
        assert all(part.defined[target] for part in found.values())


def test_a_part_that_is_zero_has_no_cosine_and_an_empty_left_no_ratio():
    left, nothing = random(1, 30), torch.zeros(1, 30)
    uncrossed, at_once = relation(left, nothing), relation(nothing, left)
    assert {name for name, part in uncrossed.items() if part.defined} == {"norm_ratio", "sum_ratio", "cosine_left_full"}
    assert float(uncrossed["norm_ratio"].value) == 0
    assert {name for name, part in at_once.items() if part.defined} == {"cosine_right_full"}


def test_a_linear_function_has_the_same_parts_but_for_their_size():
    layout = layout_of((6,), "vector")
    x, weight = random(2, 6), random(6, 1, seed=1)
    source = UnitSource(SourceKind.channels, layout.vectors(x))
    settings = Settings(steps=20, weights=WEIGHTS)
    found = attribute(lambda y: y @ weight, layout, source, x, LogitTargets(torch.tensor([0, 0])), settings)
    left, right = (found.edges[side].units[:, 0] for side in (PathWeight.left_ig, PathWeight.right_ig))
    told = relation(left, right)
    assert told["cosine_left_right"].value == pytest.approx(1, abs=1e-5)
    assert told["norm_ratio"].value == pytest.approx(2 / 18, rel=1e-4)  # of 20 midpoints the last two lie above 0.9


def test_noise_is_uniform_and_the_images_own():
    vectors = random(300, 4)
    found = disturbances(vectors, 0.2, "a.png", seed=0)
    noise = found - vectors
    assert noise.shape == (DRAWS, 300, 4)
    assert float(noise.abs().max()) <= 0.2 + 1e-6
    assert float(noise.std()) == pytest.approx(0.2 / 3**0.5, rel=0.03)
    assert torch.equal(found, disturbances(vectors, 0.2, "a.png", seed=0))
    assert not torch.equal(found, disturbances(vectors, 0.2, "b.png", seed=0))
    assert not torch.equal(found, disturbances(vectors, 0.2, "a.png", seed=1))


def test_root_mean_square():
    assert root_mean_square(torch.tensor([[3.0, 0.0], [0.0, 4.0]])) == pytest.approx(2.5)
