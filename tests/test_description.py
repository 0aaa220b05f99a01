"""What is said of concepts: members, tightness, class entropy and tree places, each against its definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vismech.dictionaries.bisecting import bisecting_kmeans
from vismech.dictionaries.description import class_counts, class_entropy, members_of, tightness, tree_places


def unit(n: int, c: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, c, generator=torch.Generator().manual_seed(seed)))


@given(st.integers(0, 1000), st.integers(1, 6))
def test_members_tightness_and_classes_are_those_of_a_loop(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = torch.from_numpy(rng.normal(size=(30, 4)).astype(np.float32))
    vectors[rng.integers(30)] = 0
    labels, atoms = rng.integers(0, 3, 30), unit(k, 4, seed)
    found = members_of(vectors, atoms)
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None].double(), atoms[None].double(), dim=2)
    own: list[list[int]] = [[] for _ in range(k)]
    for n, vector in enumerate(vectors):
        if vector.any():
            own[int(cosines[n].argmax())].append(n)
            assert found.concept[n] == cosines[n].argmax()
        else:
            assert found.concept[n] == -1 and found.cosine[n] == 0
    counts = class_counts(found.concept, labels)
    entropies, tight = class_entropy(counts, k), tightness(found, k)
    for concept, members in enumerate(own):
        histogram = [int((labels[members] == label).sum()) for label in range(3)]
        rows = counts[counts[:, 0] == concept]
        assert {label: count for _, label, count in rows} == {
            label: count for label, count in enumerate(histogram) if count
        }
        if not members:
            assert entropies[concept] is None and tight[concept] is None
            continue
        shares = [count / len(members) for count in histogram if count]
        assert entropies[concept] == pytest.approx(-sum(p * math.log2(p) for p in shares), abs=1e-12)
        assert tight[concept] == pytest.approx(float(cosines[members, concept].mean()), abs=1e-6)


def test_entropy_is_zero_for_one_class_and_one_bit_for_two_alike() -> None:
    counts = class_counts(np.array([0, 0, 0, 1, 1, -1]), np.array([7, 7, 7, 3, 5, 3]))
    assert counts.tolist() == [[0, 7, 3], [1, 3, 1], [1, 5, 1]]
    assert class_entropy(counts, 3) == [0.0, 1.0, None]


def test_no_vector_with_a_direction_leaves_no_members() -> None:
    found = members_of(torch.zeros(5, 4), unit(2, 4, 0))
    counts = class_counts(found.concept, np.zeros(5, dtype=int))
    assert counts.shape == (0, 3)
    assert tightness(found, 2) == class_entropy(counts, 2) == [None, None]


@pytest.mark.parametrize("k", [1, 2, 7, 20])
def test_places_lead_from_the_root_to_each_concept(k: int) -> None:
    result = bisecting_kmeans(torch.randn(60, 5, generator=torch.Generator().manual_seed(3)), k, seed=0)
    places = tree_places(result.tree._asdict())
    tree = result.tree
    assert len(places) == k
    for concept, place in enumerate(places):
        node = 0
        for side in place.path:
            node = int((tree.left if side == "L" else tree.right)[node])
        assert tree.atom[node] == concept and len(place.path) == place.depth
        if not place.path:
            assert place.sibling is None
            continue
        other = "R" if place.path[-1] == "L" else "L"
        beside = [n for n, each in enumerate(places) if each.path.startswith(place.path[:-1] + other)]
        assert place.sibling is not None
        assert beside == list(range(place.sibling[0], place.sibling[1] + 1))
    paths = [place.path for place in places]
    assert paths == sorted(paths)  # numbered from left to right
    assert not any(b.startswith(a) for a, b in itertools.pairwise(paths))
