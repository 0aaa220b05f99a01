"""Pointwise feature vectors: layouts and their inverses, and the seeded choice of positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vismech.errors import UserError
from vismech.network.pfv import Axes, Layout, layout_of, uniform_positions

LAYOUTS = [
    Layout(Axes.channels_first, (3, 4), 5),
    Layout(Axes.channels_last, (3, 4), 5),
    Layout(Axes.tokens, (3, 4), 5),
    Layout(Axes.tokens, (3, 4), 5, prefix=2),
    Layout(Axes.vector, (1, 1), 5),
]


def activation_of(layout: Layout, count: int, seed: int = 0) -> torch.Tensor:
    rows, columns = layout.grid
    shape = {
        Axes.channels_first: (layout.channels, rows, columns),
        Axes.channels_last: (rows, columns, layout.channels),
        Axes.tokens: (layout.prefix + rows * columns, layout.channels),
        Axes.vector: (layout.channels,),
    }[layout.axes]
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def name(layout: Layout) -> str:
    return f"{layout.axes}-{layout.prefix}"


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_vectors_and_activation_are_inverse(layout) -> None:
    value = activation_of(layout, 2)
    vectors = layout.vectors(value)
    assert vectors.shape == (2, layout.positions, 5)
    assert torch.equal(layout.activation(vectors, value), value)
    drawn = torch.randn(2, layout.positions, 5, generator=torch.Generator().manual_seed(1))
    assert torch.equal(layout.vectors(layout.activation(drawn, value)), drawn)


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_positions_are_in_row_major_order(layout) -> None:
    value, columns = activation_of(layout, 2), layout.grid[1]
    vectors = layout.vectors(value)
    for position in range(layout.positions):
        row, column = divmod(position, columns)
        expected = {
            Axes.channels_first: lambda r=row, c=column: value[:, :, r, c],
            Axes.channels_last: lambda r=row, c=column: value[:, r, c],
            Axes.tokens: lambda r=row, c=column: value[:, layout.prefix + r * columns + c],
            Axes.vector: lambda: value,
        }[layout.axes]()
        assert torch.equal(vectors[:, position], expected)


def test_what_is_no_pfv_is_taken_from_the_clean_activation() -> None:
    layout = LAYOUTS[3]
    clean = activation_of(layout, 2)
    rebuilt = layout.activation(torch.zeros(2, 12, 5), clean)
    assert torch.equal(rebuilt[:, :2], clean[:, :2])
    assert not rebuilt[:, 2:].any()


def test_clean_images_repeat_image_by_image() -> None:
    layout = LAYOUTS[3]
    clean = activation_of(layout, 2)
    rebuilt = layout.activation(torch.zeros(6, 12, 5), clean)  # three points of the path for each image
    for row in range(6):
        assert torch.equal(rebuilt[row, :2], clean[row // 3, :2])


@pytest.mark.parametrize("layout", LAYOUTS, ids=name)
def test_gradients_pass_through_both_ways(layout) -> None:
    value = activation_of(layout, 2)
    vectors = layout.vectors(value).detach().requires_grad_()
    (layout.activation(vectors, value) * 2).sum().backward()
    assert torch.equal(vectors.grad, torch.full_like(vectors, 2.0))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((64, 8, 8), Layout(Axes.channels_first, (8, 8), 64)),
        ((64, 7, 9), Layout(Axes.channels_first, (7, 9), 64)),
        ((8, 8, 8), Layout(Axes.channels_first, (8, 8), 8)),
        ((7, 7, 768), Layout(Axes.channels_last, (7, 7), 768)),
        ((64, 1, 1), Layout(Axes.channels_first, (1, 1), 64)),
        ((197, 768), Layout(Axes.tokens, (14, 14), 768, 1)),
        ((196, 768), Layout(Axes.tokens, (14, 14), 768, 0)),
        ((201, 768), Layout(Axes.tokens, (14, 14), 768, 5)),
        ((512,), Layout(Axes.vector, (1, 1), 512)),
    ],
)
def test_layouts_are_read_off_the_shape(shape, expected) -> None:
    assert layout_of(shape, "layer") == expected
    assert expected.positions == expected.grid[0] * expected.grid[1]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (160, 768), (), (206, 64)])
def test_other_shapes_are_refused(shape) -> None:
    with pytest.raises(
        UserError, match=r"layer 'blocks\.3' has (activations of shape|\d+ tokens, which are no square grid)"
    ):
        layout_of(shape, "blocks.3")


# The uniform draw


def test_the_draw_depends_on_seed_and_sample_alone() -> None:
    first = uniform_positions("cat/0001.jpg", 0, 64, 8)
    np.random.default_rng().random(10)
    np.random.seed(1)
    assert np.array_equal(first, uniform_positions("cat/0001.jpg", 0, 64, 8))
    assert not np.array_equal(first, uniform_positions("cat/0001.jpg", 1, 64, 8))
    assert not np.array_equal(first, uniform_positions("cat/0002.jpg", 0, 64, 8))
    # Pinned: another draw would silently be another experiment.
    assert first.tolist() == [8, 34, 36, 41, 45, 46, 52, 56]


@given(st.text(max_size=30), st.integers(0, 2**40), st.integers(1, 200), st.data())
def test_positions_are_distinct_ascending_and_inside(sample, seed, positions, data) -> None:
    count = data.draw(st.integers(1, positions))
    drawn = uniform_positions(sample, seed, positions, count)
    assert drawn.dtype == np.int64 and len(drawn) == count
    assert (np.diff(drawn) > 0).all()
    assert drawn[0] >= 0 and drawn[-1] < positions


def test_every_position_is_as_likely() -> None:
    draws = np.concatenate([uniform_positions(f"image {index}", 3, 49, 7) for index in range(3000)])
    counts = np.bincount(draws, minlength=49)
    expected = len(draws) / 49
    # Chi-square with 48 degrees of freedom, shrunk by the draw without replacement; 5σ above its mean of 42.
    assert ((counts - expected) ** 2 / expected).sum() < 42 + 5 * 84**0.5
    pairs = sum(int({0, 1} <= set(uniform_positions(f"image {index}", 3, 49, 7))) for index in range(3000))
    assert abs(pairs - 3000 * 7 * 6 / (49 * 48)) < 5 * (3000 * 7 * 6 / (49 * 48)) ** 0.5


def test_all_positions_can_be_drawn() -> None:
    assert uniform_positions("x", 0, 9, 9).tolist() == list(range(9))


def test_more_positions_than_there_are_is_refused() -> None:
    with pytest.raises(UserError, match=r"extract.per_image=10 positions .* has 9"):
        uniform_positions("x", 0, 9, 10)
