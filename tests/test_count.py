"""The number of concepts: bounds of what is tried, and the choice where the right number is planted."""

import pytest
import torch
from torch.nn.functional import normalize

from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.coding import Code
from vismech.dictionaries.count import Count, choose, ladder


@pytest.mark.parametrize(
    ("available", "smallest", "largest", "expected"),
    [
        (10_000, 1, 128, [4, 8, 16, 32, 64, 128]),
        (10_000, 1, 16, [4, 8, 16]),  # a method that gives no more than channels
        (330, 1, 128, [4, 8, 16, 32]),  # ten vectors for each concept
        (25, 1, 128, [2]),  # fewer than the first step needs
        (3, 1, 128, [1]),
        (10_000, 12, 128, [12, 16, 32, 64, 128]),  # a code of twelve concepts per vector
        (60, 12, 128, [12]),
    ],
)
def test_what_is_tried_stays_in_its_bounds(available, smallest, largest, expected):
    assert ladder(16, available, Count(0.1, 10), smallest, largest) == expected


def directions(count: int, channels: int, images: int, noise: float = 0.02) -> torch.Tensor:
    """Images of 20 vectors, each near one of `count` random directions."""
    generator = torch.Generator().manual_seed(3)
    truth = normalize(torch.randn(count, channels, generator=generator), dim=1)
    which = torch.randint(0, count, (images, 20), generator=generator)
    return truth[which] + noise * torch.randn(images, 20, channels, generator=generator)


def clusters(vectors: torch.Tensor, k: int) -> Dictionary:
    return build("bisecting", vectors, k=k, seed=0).coded(Code.omp, 0.0, l0=1)


@pytest.mark.parametrize(("planted", "expected"), [(7, 8), (15, 16), (30, 32), (60, 64)])
def test_the_planted_number_is_found_on_the_next_step(planted, expected):
    """One concept per vector cannot tell more directions than there are concepts."""
    found = choose(directions(planted, 16, 60), Count(0.03, 10), 1, 128, clusters)
    assert found["k"] == expected and found["reached"]
    assert found["tried"] == [step for step in (4, 8, 16, 32, 64) if step <= expected]
    assert all(share > 0.03 for share in found["unexplained"][:-1])


def test_the_share_is_of_vectors_that_had_no_part():
    """Vectors without structure are explained where they were learnt from, and nowhere else."""
    seen: list[torch.Tensor] = []

    def fit(vectors: torch.Tensor, k: int) -> Dictionary:
        seen.append(vectors)
        return clusters(vectors, k)

    noise = torch.randn(10, 12, 64, generator=torch.Generator().manual_seed(0))
    found = choose(noise, Count(0.1, 1), 1, 512, fit)
    assert [len(vectors) for vectors in seen] == [96] * len(seen) and found["held_out"] == 24
    held = noise[2::5].flatten(0, 1)
    assert not any((vectors[:, None] == held[None]).all(2).any() for vectors in seen)
    dictionary = clusters(seen[-1], found["k"])
    missed = (held - dictionary.decode(dictionary.encode(held))).square().sum() / held.square().sum()
    assert found["unexplained"][-1] == pytest.approx(missed.item(), rel=1e-5) and missed > 0.7
    assert found["k"] == 64 and not found["reached"]  # 120 vectors are enough for 64 concepts, not for 128


def test_few_images_hold_out_vectors():
    found = choose(directions(7, 16, 2), Count(0.03, 1), 1, 128, clusters)
    assert found["held_out"] == 8 and found["k"] == 8


def test_vectors_that_are_zero_leave_nothing():
    vectors = directions(7, 16, 10)
    vectors[2::5] = 0
    assert choose(vectors, Count(0.03, 10), 1, 128, clusters)["unexplained"] == [0.0]
