"""Insertion and deletion of concepts: exact ends, a slow twin, the negative control, budgets, the oracle, transfer."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from vismech.errors import UserError
from vismech.measures.insertion.scores import (
    GRID,
    Extent,
    count_area,
    count_axis,
    curves,
    greedy_curves,
    matched_codes,
    random_control,
    random_order,
    ranked_orders,
    share_area,
    share_counts,
    values_at,
)
from vismech.measures.transfer.scores import check_groups, fixed_orders, split

P, K, C = 5, 12, 4


def drawn(seed=0, k=K):
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randn(P, k, generator=generator)
    atoms = torch.nn.functional.normalize(torch.randn(k, C, generator=generator), dim=1)
    return codes, atoms, torch.randn(C, generator=generator)


def reader(weight):
    """A network with a saturation and an interaction of positions."""
    return lambda vectors: torch.sigmoid((vectors @ weight).relu().sum(1) - (vectors.prod(1) @ weight).abs())


def at(ends, read):
    return read(torch.stack(ends))


def test_curves_are_those_of_codes_set_to_zero_one_by_one():
    codes, atoms, weight = drawn()
    codes[:, [2, 7]] = 0
    kept, left = torch.randn(2, P, C, generator=torch.Generator().manual_seed(9))
    ranked, read = codes.any(0), reader(weight)
    (order,) = ranked_orders(torch.arange(K).float().cos()[None], ranked[None])
    ends = Extent(kept + left, codes @ atoms + kept + left)
    found = curves(codes, atoms, order, ends, at(ends, read), read, count_axis([3]))

    def twin(count, inserted):
        chosen = order[:count].tolist()
        some = codes.clone()
        some[:, [k for k in range(K) if (k in chosen) != inserted]] = 0
        return float(read((some @ atoms + kept + left)[None]))

    for counts, values in ((share_counts(10), found.share), (np.tile(count_axis([3]), (2, 1)), found.count)):
        for row, inserted in enumerate((True, False)):
            expected = [twin(min(count, 10), inserted) for count in counts[row].tolist()]
            assert values[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_ends_are_the_direct_values_bit_for_bit():
    codes, atoms, weight = drawn(1)
    read, ends = reader(weight), Extent(torch.zeros(P, C), codes @ atoms)
    both = at(ends, read)
    found = curves(codes, atoms, torch.arange(K), ends, both, read, count_axis())
    for values in found:
        assert torch.equal(values[0, [0, -1]], both)
        assert torch.equal(values[1, [0, -1]], both.flip(0))


def test_an_order_shorter_than_the_axis_holds_its_last_value_and_an_empty_one_is_flat():
    codes, atoms, weight = drawn(2, 3)
    read, ends = reader(weight), Extent(torch.zeros(P, C), codes @ atoms)
    found = curves(codes, atoms, torch.arange(3), ends, at(ends, read), read, count_axis())
    assert len(set(found.count[0, 3:].tolist())) == 1
    nothing = Extent(ends.nothing, ends.nothing)
    empty = curves(codes, atoms, torch.arange(0), nothing, at(nothing, read), read, count_axis())
    assert all(len(values.unique()) == 1 for values in empty)


def test_a_fixed_order_longer_than_the_axis_does_not_reach_the_other_end():
    codes, atoms, weight = drawn(3, 40)
    read, ends = reader(weight), Extent(torch.zeros(P, C), codes @ atoms)
    grid = np.tile([0, 1, 8], (2, 1))
    (found,) = values_at(codes, atoms, torch.arange(40), ends, at(ends, read), read, [grid])
    expected = read((codes[:, :8] @ atoms[:8])[None])
    assert found[0, 2] == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("active", [1, 2, 5, 33, 200])
def test_deletion_s_grid_is_the_mirror_image_of_insertion_s(active):
    inserted, deleted = share_counts(active)
    assert (inserted[0], inserted[-1]) == (deleted[0], deleted[-1]) == (0, active)
    assert (inserted + deleted[::-1] == active).all()
    assert (np.abs(inserted - np.linspace(0, 1, GRID) * active) <= 0.5).all()


@pytest.mark.parametrize("k", [4, 5])
def test_the_mean_difference_over_all_orders_is_zero_for_any_network(k):
    codes, atoms, weight = drawn(4, k)
    codes, atoms = codes.double(), atoms.double()
    read, ends = reader(weight.double()), Extent(torch.ones(P, C).double(), codes @ atoms + 1)
    differences = []
    for order in permutations(range(k)):
        share = curves(codes, atoms, torch.tensor(order), ends, at(ends, read), read, count_axis()).share
        areas = share_area(share.numpy())
        differences.append(areas[0] - areas[1])
    assert abs(np.mean(differences)) < 1e-12 < np.std(differences)


def test_the_control_holds_zero_for_symmetric_differences_and_not_for_shifted_ones():
    noise = np.random.default_rng(0).normal(size=200)
    noise -= noise.mean()
    low, high = random_control(noise)
    assert low < 0 < high
    low, high = random_control(noise + 0.5)
    assert low > 0
    # Student's interval, which is near for many images.
    assert (high - low) / 2 == pytest.approx(3.34 * np.sqrt(1.25) / np.sqrt(200), rel=0.12)


def test_random_orders_follow_from_their_names():
    ranked = torch.arange(20) % 3 != 0
    first = random_order(ranked, 0, "layer", "a.png")
    assert torch.equal(first, random_order(ranked, 0, "layer", "a.png"))
    assert not torch.equal(first, random_order(ranked, 0, "layer", "b.png"))
    assert sorted(first.tolist()) == ranked.nonzero()[:, 0].tolist()


def test_areas_of_known_curves():
    axis = count_axis()
    assert axis == [0, 1, 2, 4, 8, 16, 32]
    assert share_area(np.ones(GRID)) == pytest.approx(1)
    assert share_area(np.linspace(0, 1, GRID)) == pytest.approx(0.5)
    assert count_area(np.array(axis, dtype=float), axis, 8) == pytest.approx(4)
    assert count_area(np.ones((3, 7)), axis, 32) == pytest.approx(np.ones(3))
    assert count_axis([24, 64]) == [0, 1, 2, 4, 8, 16, 24, 32, 64]


def test_matched_codes_are_least_squares_on_the_concepts_of_most_energy():
    codes, atoms, _ = drawn(5)
    codes = torch.stack([codes, codes.flip(1)])
    ranked = torch.ones(2, K, dtype=torch.bool)
    ranked[1, 3:] = False
    vectors = torch.randn(2, P, C, generator=torch.Generator().manual_seed(6))
    found = matched_codes(vectors, codes, atoms, ranked, 3)
    for image in range(2):
        energy = codes[image].square().sum(0) * ranked[image]
        chosen = energy.argsort(descending=True)[:3]
        exact = torch.linalg.lstsq(atoms[chosen].double().T, vectors[image].double().T).solution.T
        assert torch.allclose(found[image][:, chosen].double(), exact, atol=1e-4)
        assert int(found[image].any(0).sum()) == 3
    few = matched_codes(vectors, codes, atoms, ranked, 8)
    assert few[1].any(0).tolist() == ranked[1].tolist()


def test_sparse_matched_codes_keep_both_budgets():
    codes, atoms, _ = drawn(5)
    atoms = torch.nn.functional.normalize(atoms, dim=1)
    codes = torch.stack([codes, codes.flip(1), codes])
    ranked = torch.ones(3, K, dtype=torch.bool)
    ranked[1, 1:], ranked[2] = False, False
    vectors = torch.randn(3, P, C, generator=torch.Generator().manual_seed(6))
    found = matched_codes(vectors, codes, atoms, ranked, 3, l0=2)
    chosen = codes[0].square().sum(0).argsort(descending=True)[:3]
    assert set(found[0].any(0).nonzero()[:, 0].tolist()) <= set(chosen.tolist())
    for vector, code in zip(vectors[0], found[0], strict=True):
        # The first choice of matching pursuit, by hand, then the best of all pairs that hold it.
        first = int(chosen[(atoms[chosen] @ vector).abs().argmax()])
        assert code[first] != 0 and int((code != 0).sum()) == 2
        pair = atoms[code.nonzero()[:, 0]].double()
        exact = torch.linalg.lstsq(pair.T, vector.double()).solution
        assert torch.allclose(code[code != 0].double(), exact, atol=1e-4)
    assert found[1].any(0).nonzero().tolist() == [[0]] and not found[2].any()
    assert torch.allclose(found[1, :, 0], vectors[1] @ atoms[0], atol=1e-5)


def test_the_oracle_takes_the_best_concept_at_every_step():
    codes, atoms, weight = drawn(7, 6)
    read, ends = reader(weight), Extent(torch.zeros(P, C), codes @ atoms)
    axis = count_axis()
    found = greedy_curves(codes, atoms, torch.ones(6, dtype=torch.bool), ends, at(ends, read), read, axis)
    for row, better in enumerate((max, min)):
        chosen, values = [], [float(read(ends[row][None]))]
        while len(chosen) < 6:
            tried = {}
            for concept in set(range(6)) - set(chosen):
                some = torch.zeros(6) if row == 0 else torch.ones(6)
                some[[*chosen, concept]] = 1.0 - row
                tried[concept] = float(read((codes * some @ atoms)[None]))
            chosen.append(better(tried, key=tried.__getitem__))
            values.append(tried[chosen[-1]])
        expected = [values[min(count, 6)] for count in axis]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)


def test_halves_of_a_group_are_even_seeded_and_without_small_groups():
    predicted, ids = np.array([0] * 9 + [1] * 3 + [2] * 4), [f"{index}.png" for index in range(16)]
    halves = split(predicted, ids, {}, 0)
    assert halves.names == ["0", "2"]
    assert [int((halves.half == half).sum()) for half in range(-1, 4)] == [3, 4, 5, 2, 2]
    assert (halves.half != split(predicted, ids, {}, 1).half).any()
    backwards = split(predicted[::-1], ids[::-1], {}, 0)
    assert (backwards.half[::-1] == halves.half).all()
    assert split(predicted, ids, {"both": [[0, 1]], "other": [[2, 5]]}, 0).names == ["both", "other"]
    with pytest.raises(UserError, match="no group has 4 of the 2 images"):
        split(predicted[:2], ids[:2], {}, 0)


def test_an_image_has_no_part_in_the_order_that_it_is_scored_by():
    edges = np.array([[3.0, 1, 0, 9], [5, 0, 0, 9], [1, 2, -4, 9], [1, 4, 0, 9]])
    ranked = edges != 0
    half, rankable = np.array([0, 0, 1, 1]), np.array([True, True, True, False])
    orders = fixed_orders(edges, ranked, half, rankable, "layer", 0)
    assert orders.shape == (2, 2, 3)
    # The second half ranks for the first: concept 1 (3), 0 (1), 2 (−2); the first, for the second: 0 (4), 1 (0.5).
    assert orders[0, 0].tolist() == [1, 0, 2]
    assert orders[1, 0].tolist() == [0, 1, 2]
    assert sorted(orders[1, 1, :2].tolist()) == [0, 1]
    changed = edges.copy()
    changed[half == 0] *= -7
    assert (fixed_orders(changed, ranked, half, rankable, "layer", 0)[0] == orders[0]).all()


def test_groups_that_are_none_are_refused():
    with pytest.raises(UserError, match=r"evaluate.groups.a: \[5, 2\] is no range"):
        check_groups({"a": [[5, 2]]})
    with pytest.raises(UserError, match="class 2 is in a and in b"):
        check_groups({"a": [[0, 2]], "b": [[2, 3]]})
