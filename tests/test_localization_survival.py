"""What survives of a concept: the maths against slow twins, and a concept planted at a known place."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny as tiny_network
from vismech.draws import generator_of
from vismech.measures.localization.scores import (
    TOLERANCE,
    gradient_maps,
    image_means,
    pixel_count,
    projections,
    read,
    square,
    strongest_concepts,
    survival,
    top_pixels,
)
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of
from vismech.receptive_field import sharing_ratios
from vismech.receptive_field.localization import localization_maps, upsampled_maps

# Regions


@given(seed=st.integers(0, 10**6), rows=st.integers(1, 7), columns=st.integers(1, 7), values=st.integers(1, 40))
def test_top_pixels_are_the_largest_and_the_first_of_equal_ones(seed, rows, columns, values) -> None:
    maps = torch.randint(values, (3, rows, columns), generator=torch.Generator().manual_seed(seed)).float()
    for count in {1, (rows * columns + 1) // 2, rows * columns}:
        found = top_pixels(maps, count)
        for one, mask in zip(maps.flatten(1).tolist(), found.flatten(1).tolist(), strict=True):
            expected = sorted(range(len(one)), key=lambda pixel: (-one[pixel], pixel))[:count]
            assert {pixel for pixel, kept in enumerate(mask) if kept} == set(expected)


def test_top_pixels_do_not_change_with_the_scale_of_a_map() -> None:
    maps = torch.rand(4, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(top_pixels(maps, 20), top_pixels(64 * maps, 20))


@pytest.mark.parametrize(("fraction", "expected"), [(0.2, 205), (0.25, 256), (0.1, 103), (1.0, 1024), (1e-9, 1)])
def test_a_fraction_is_rounded_up_to_whole_pixels(fraction, expected) -> None:
    assert pixel_count(fraction, (32, 32)) == expected


def test_a_whole_product_is_not_rounded_up() -> None:
    assert 0.07 * 100 > 7 and pixel_count(0.07, (10, 10)) == 7


@given(side=st.integers(2, 24), share=st.floats(0.01, 1), down=st.floats(0, 0.999), right=st.floats(0, 0.999))
def test_a_square_has_its_pixels_in_one_box_of_nearly_equal_sides(side, share, down, right) -> None:
    count = max(1, math.floor(share * side * side))
    found = square((side, side), count, (down, right))
    assert found.sum() == count
    lines = [found.any(axis).nonzero()[:, 0] for axis in (1, 0)]
    sides = [int(line[-1] - line[0] + 1) for line in lines]
    assert abs(sides[0] - sides[1]) <= 1 and count > (min(sides) - 1) ** 2
    assert all(len(line) == length for line, length in zip(lines, sides, strict=True))


def test_squares_reach_every_corner_and_the_default_is_the_centre() -> None:
    size, last = (10, 10), 1 - 1e-9
    corners = [square(size, 9, (down, right)) for down in (0.0, last) for right in (0.0, last)]
    assert [bool(mask[row, column]) for mask, (row, column) in zip(
        corners, [(0, 0), (0, 9), (9, 0), (9, 9)], strict=True
    )] == [True] * 4  # fmt: skip
    centre = square((9, 9), 25)
    assert torch.equal(centre, centre.flip(0)) and torch.equal(centre, centre.flip(1)) and centre[2:7, 2:7].all()


def test_random_numbers_depend_on_image_concept_and_seed_alone() -> None:
    draws = {key: tuple(generator_of(*key).random(2)) for key in [("a", 1, 0), ("b", 1, 0), ("a", 2, 0), ("a", 1, 3)]}
    assert len(set(draws.values())) == 4
    assert draws["a", 1, 0] == tuple(generator_of("a", 1, 0).random(2))


def test_random_squares_are_spread_over_the_image() -> None:
    total = sum(square((12, 12), 16, tuple(generator_of(f"{name}", 0, 0).random(2))).float() for name in range(400))
    # Each of 9 × 9 places is as likely as another: the middle is covered by 16 of them, a corner by one.
    assert float(total[5, 5]) == pytest.approx(400 * 16 / 81, rel=0.25)
    assert 1 <= float(total[0, 0]) < 20


# Concepts and their values


def test_the_strongest_concepts_are_those_of_most_positive_energy() -> None:
    codes = torch.tensor([[[1.0, -9.0, 0.0, 5.0], [1.0, 1.2, 0.0, 5.0]], [[0.0, -1.0, 0.0, 5.0], [0.0, 0.0, 0.0, 5.0]]])
    assert strongest_concepts(codes, 3, mean_index=3).tolist() == [[0, 1, -1], [-1, -1, -1]]
    assert strongest_concepts(codes, 2).tolist() == [[3, 0], [3, -1]]


def test_a_concept_is_read_where_it_was_and_where_it_is_largest() -> None:
    assert read(torch.tensor([[1.0, 5.0, 2.0]]), torch.tensor([2])).tolist() == [[2.0, 5.0]]


@pytest.fixture(scope="module")
def network():
    return open_network(tiny_network.network(), tiny_network.images(2))


@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_gradient_maps_are_the_weighted_sum_of_each_positions_own(layer, network) -> None:
    images, layout = tiny_network.images(2), layout_of(network.shape(layer), layer)
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(2, layout.positions, generator=generator)
    codes[:, 16:] = 0
    atoms = torch.randn(2, layout.channels, generator=generator)
    found = gradient_maps(network, layer, layout, images, codes, atoms)
    for image in range(2):
        pixels = images[image : image + 1].clone().requires_grad_()
        vectors = network.activations(pixels, [layer])[layer].flatten(2)[0].T
        total = torch.zeros(32, 32)
        for position in (codes[image] > 0).nonzero()[:, 0].tolist():
            unit = vectors[position] @ atoms[image]
            (gradient,) = torch.autograd.grad(unit, pixels, retain_graph=True)
            total += codes[image, position] * (gradient * pixels).detach().sum((0, 1))
        torch.testing.assert_close(found[image], total.clamp(min=0), atol=1e-4, rtol=1e-4)


def test_bad_numbers_are_refused_where_they_appear(network) -> None:
    layout = layout_of(network.shape("layer1"), "layer1")
    with pytest.raises(ValueError, match="NaN or infinite"):
        projections(network, "layer1", layout, torch.full((1, 3, 32, 32), torch.nan), torch.ones(1, layout.channels))


# Shares


def test_shares_follow_their_definitions_and_small_differences_are_skipped() -> None:
    rng = np.random.default_rng(0)
    kept, clean, blank = rng.normal(size=(20, 3, 4, 2)), rng.normal(1, 1, (20, 3)), rng.normal(0.5, 0.7, (20, 3))
    found = survival(kept.astype("f4"), clean.astype("f4"), blank.astype("f4"))
    for place in np.ndindex(20, 3):
        counts = clean[place] > 0 and clean[place] - blank[place] > TOLERANCE * clean[place]
        assert found.measured[place] == counts
        expected = kept[place] / clean[place], (kept[place] - blank[place]) / (clean[place] - blank[place])
        np.testing.assert_allclose(found.projection[place], expected[0] if counts else 0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found.recovery[place], expected[1] if counts else 0, rtol=1e-4, atol=1e-5)
    assert 5 < found.measured.sum() < 55


def test_recovery_is_nothing_for_a_blank_image_and_everything_for_the_clean_one() -> None:
    clean, blank = np.array([[2.0]]), np.array([[0.5]])
    found = survival(np.stack([blank, clean], 2), clean, blank)
    assert found.recovery.tolist() == [[[0, 1]]] and found.projection.tolist() == [[[0.25, 1]]]


def test_an_image_counts_once_however_many_concepts_it_has() -> None:
    values = np.array([[1.0, 3.0], [7.0, 100.0], [5.0, 5.0]])
    measured = np.array([[True, True], [True, False], [False, False]])
    assert image_means(values, measured).tolist() == [2.0, 7.0]


# A concept at a known place


class RedDetector(nn.Module):
    """Redness of 4 × 4 pixels, then of a neighbourhood of them; a second channel sees blue."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 4, 4), nn.Conv2d(2, 2, 3, 1, 1)
        self.head = nn.Linear(2, 2)
        with torch.no_grad():
            for conv in (self.first, self.second):
                conv.weight.zero_()
                conv.bias.fill_(-0.1)
            self.first.weight[0, 0], self.first.weight[1, 2] = 1 / 16, 1 / 16
            self.second.weight[0, 0], self.second.weight[1, 1] = 1 / 9, 1 / 9

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x).relu()).relu().mean((2, 3)))


def test_a_planted_red_square_survives_in_its_own_pixels_and_not_in_random_ones() -> None:
    """24 images of noise with a red square of 12 × 12 pixels somewhere; a fifth of 32 × 32 pixels holds it."""
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.normal(0, 0.3, (24, 3, 32, 32)).astype("f4"))
    planted = torch.stack([square((32, 32), 144, tuple(rng.random(2))) for _ in images])
    images[:, 0][planted] = 3.0
    network = open_network(RedDetector().eval().requires_grad_(False), images)
    layout, atoms = layout_of(network.shape("second"), "second"), torch.tensor([[1.0, 0.0]]).expand(24, -1)
    with torch.no_grad():
        clean = projections(network, "second", layout, images, atoms)
        codes = clean.clamp(min=0)
        ratios = sharing_ratios(network, images, layers=["second"])
        grid, count = codes.unflatten(1, layout.grid), pixel_count(0.2, (32, 32))
        maps = localization_maps(ratios, "second", grid)
        masks = {
            "receptive fields": top_pixels(maps, count),
            "upsampling": top_pixels(upsampled_maps(grid, (32, 32)), count),
            "gradient": top_pixels(gradient_maps(network, "second", layout, images, codes, atoms), count),
            "random": torch.stack([square((32, 32), count, tuple(rng.random(2))) for _ in images]),
        }
        strongest = clean.argmax(1)
        blank = read(projections(network, "second", layout, images * 0, atoms), strongest)[:, 0]
        share = {}
        for name, mask in masks.items():
            kept = read(projections(network, "second", layout, images * mask[:, None], atoms), strongest)[:, 0]
            found = survival(kept[:, None].numpy(), clean.amax(1)[:, None].numpy(), blank[:, None].numpy())
            assert found.measured.all()
            share[name] = float(found.recovery.mean())
    assert share["receptive fields"] > 0.99
    assert share["gradient"] > 0.99
    assert share["upsampling"] > 0.9
    assert share["random"] < 0.5
    inside = masks["receptive fields"] & planted
    assert inside.sum() / planted.sum() > 0.95
