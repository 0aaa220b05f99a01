"""The filter, Focus, ROAD and covariance: slow twins, limits, and planted truths."""

from __future__ import annotations

import cmath
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vismech.attribution.covariance import covariances, neighbours
from vismech.attribution.filtering import kept_share, low_pass
from vismech.errors import UserError
from vismech.measures.attribution.mosaics import focus, mosaic, quadrants
from vismech.measures.attribution.road import NOISE, imputed


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def slow_low_pass(values, sigma):
    """Term by term: the discrete Fourier transform with frequencies counted from −(n−1)/2 … n/2."""
    rows, columns = values.shape
    found = np.zeros((rows, columns), dtype=complex)
    for u in range(-(rows // 2), rows - rows // 2):
        for v in range(-(columns // 2), columns - columns // 2):
            if math.hypot(u, v) > sigma:
                continue
            term = sum(
                abs(values[y, x]) * cmath.exp(-2j * math.pi * (u * y / rows + v * x / columns))
                for y in range(rows)
                for x in range(columns)
            )
            for y in range(rows):
                for x in range(columns):
                    found[y, x] += term * cmath.exp(2j * math.pi * (u * y / rows + v * x / columns))
    return np.abs(found) / (rows * columns)


@pytest.mark.parametrize("shape", [(5, 7), (6, 4), (5, 4)])
@pytest.mark.parametrize("sigma", [0.0, 1.5, 2.0])
def test_the_filter_equals_its_twin_in_odd_and_even_sizes(shape, sigma) -> None:
    maps = torch.randn(2, *shape, generator=generator(), dtype=torch.float64)
    found = low_pass(maps, sigma)
    for one, expected in zip(found, maps, strict=True):
        assert torch.allclose(one, torch.from_numpy(slow_low_pass(expected.numpy(), sigma)), atol=1e-9)


def test_the_filter_keeps_means_and_with_all_frequencies_everything() -> None:
    maps = torch.randn(3, 7, 6, generator=generator(), dtype=torch.float64)
    assert torch.allclose(low_pass(maps, 20.0), maps.abs())
    assert torch.allclose(low_pass(maps, 0.0), maps.abs().mean((1, 2), keepdim=True).expand_as(maps))
    assert torch.allclose(low_pass(maps, 2.0), low_pass(-maps, 2.0))
    shares = [float(kept_share(maps, sigma)[0]) for sigma in (0.0, 1.0, 2.0, 20.0)]
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1)
    assert float(kept_share(0 * maps, 1.0)[0]) == 0


def test_a_mosaic_puts_each_image_into_its_quadrant_wide_or_high() -> None:
    tiles = torch.arange(1.0, 5)[:, None, None, None].expand(4, 3, 6, 10)
    found = mosaic(tiles, (3, 0, 1, 2))
    assert found.shape == (3, 6, 10)
    assert found[0, 0, 0] == 2 and found[0, 0, -1] == 3 and found[0, -1, 0] == 4 and found[0, -1, -1] == 1
    inside, anywhere = quadrants((6, 10), (3, 0))
    assert anywhere.all()
    assert (inside.view(6, 10) == ((found[0] == 1) | (found[0] == 2))).all()


def test_focus_by_hand_and_a_middle_row_belongs_to_nobody() -> None:
    inside, anywhere = quadrants((2, 2), (0, 1))
    relevance = torch.tensor([[[3.0, -5.0, 1.0, 0.0], [-1.0, -1.0, -2.0, 0.0]]])
    value, defined = focus(relevance, inside, anywhere)
    assert value[0].tolist() == [0.75, 0.0]
    assert defined[0].tolist() == [True, False]
    inside, anywhere = quadrants((3, 2), (0,))
    assert anywhere.view(3, 2).tolist() == [[True, True], [False, False], [True, True]]
    assert inside.view(3, 2).tolist() == [[True, False], [False, False], [False, False]]
    assert not quadrants((1, 1), (0,))[1].any()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6), rows=st.integers(3, 7), columns=st.integers(3, 7))
def test_filled_in_pixels_solve_the_equations_of_their_neighbours(seed, rows, columns) -> None:
    image = torch.randn(3, rows, columns, generator=generator(seed), dtype=torch.float64)
    removed = torch.rand(2, rows, columns, generator=generator(seed + 1)) < 0.5
    removed[:, 0, 0] = False
    found = imputed(image, removed, generator(3), tolerance=1e-9)
    noise = torch.randn(image.shape, generator=generator(3)).double() * NOISE
    for mask, filled in zip(removed, found, strict=True):
        assert torch.equal(filled[:, ~mask], image[:, ~mask])
        places = [tuple(place) for place in mask.nonzero().tolist()]
        matrix, right = np.zeros((len(places), len(places))), np.zeros((len(places), 3))
        for row, (y, x) in enumerate(places):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    there = y + dy, x + dx
                    if (dy, dx) == (0, 0) or not (0 <= there[0] < rows and 0 <= there[1] < columns):
                        continue
                    weight = 1 / 6 if 0 in (dy, dx) else 1 / 12
                    matrix[row, row] += weight
                    if there in places:
                        matrix[row, places.index(there)] -= weight
                    else:
                        right[row] += weight * image[:, there[0], there[1]].numpy()
        solved = np.linalg.solve(matrix, right) if places else right
        for row, (y, x) in enumerate(places):
            assert np.allclose(filled[:, y, x] - noise[:, y, x], solved[row], atol=1e-6)


def test_with_everything_removed_there_is_noise_alone() -> None:
    image = torch.ones(3, 4, 4)
    found = imputed(image, torch.ones(1, 4, 4, dtype=torch.bool), generator())
    assert found.isfinite().all() and found.abs().max() < 10 * NOISE
    flat = imputed(image, torch.eye(4, dtype=torch.bool)[None], generator())
    assert (flat - 1).abs().max() < 10 * NOISE


def test_covariances_are_numpys_and_find_a_planted_cause() -> None:
    units = torch.randn(200, 5, generator=generator(), dtype=torch.float64)
    targets = torch.stack([2 * units[:, 3], -units[:, 0] + 0 * units[:, 1]], 1)
    found = covariances(units, targets)
    both = np.cov(torch.cat([units, targets], 1).numpy().T)
    assert np.allclose(found, both[5:, :5])
    assert found.abs().argmax(1).tolist() == [3, 0]
    assert not covariances(units[:3], torch.ones(3, 1).double()).any()


def test_neighbours_are_the_nearest_and_too_few_are_refused() -> None:
    data = np.array([[1.0, 0], [0.9, 0.1], [0, 1], [-1, 0], [0.8, 0.3]])
    assert neighbours(data, data[:1], 3).tolist() == [[0, 1, 4]]
    assert neighbours(data, data[:1], 50).shape == (1, 5)
    with pytest.raises(UserError, match="needs at least 3 images, and there are 2"):
        neighbours(data[:2], data[:1], 50)
