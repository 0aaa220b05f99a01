"""Stability: matched concepts, the overlap of graphs, and halves of the data."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vismech.config.choices import DataSource, Half, Method
from vismech.config.composition import varied
from vismech.config.schema import Config
from vismech.dictionaries import Dictionary, build
from vismech.errors import UserError
from vismech.measures.stability.scores import Pairing, graph_overlap, pairing, shuffled, traced
from vismech.measures.stability.stage import _concept_rows, _matched
from vismech.sources.data import open_data


def of(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def identity(count: int) -> Pairing:
    return Pairing(np.arange(count), np.arange(count))


@pytest.fixture
def edges() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, 3, 20))


def test_every_concept_is_there_once() -> None:
    found = pairing(of(3, -1, 0), 5)
    assert found.first.tolist() == [0, 1, 2, -1, -1, -1] and found.second.tolist() == [3, -1, 0, 1, 2, 4]


def test_rows_of_edges_meet_where_both_runs_kept_the_concept() -> None:
    pairs = Pairing(of(0, 1, 2, -1), of(5, 4, -1, 3))
    found = traced(pairs, [0, 1, 2], [3, 4])
    assert found.first.tolist() == [0, 1, 2, -1] and found.second.tolist() == [-1, 1, -1, 0]
    assert traced(pairs, [], []).first.shape == (0,)


def test_the_same_edges_overlap_wholly_and_opposite_ones_not_at_all(edges) -> None:
    same = graph_overlap(edges, edges, identity(3), identity(20), 0)
    assert same is not None and same.value == 1 == same.interval.low and same.n == 20
    assert same.chance < 0.5
    opposite = graph_overlap(edges, -edges, identity(3), identity(20), 0)
    assert opposite is not None and opposite.value == 0
    assert graph_overlap(0 * edges, 0 * edges, identity(3), identity(20), 0) is None


def test_renumbered_concepts_overlap_wholly_through_their_matching(edges) -> None:
    sources, targets = np.random.default_rng(1).permutation(20), np.random.default_rng(2).permutation(3)
    other = edges[:, targets][:, :, sources]
    found = graph_overlap(edges, other, Pairing(targets, np.arange(3)), Pairing(sources, np.arange(20)), 0)
    assert found is not None and found.value == 1
    wrong = graph_overlap(edges, other, Pairing(targets, np.arange(3)), identity(20), 0)
    assert wrong is not None and wrong.value < 0.6


def test_overlap_is_its_formula_edge_by_edge() -> None:
    rng = np.random.default_rng(3)
    one, two = rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 2, 4))
    targets, sources = Pairing(of(0, 1, 2), of(1, -1, 0)), Pairing(of(0, 1, 2, 3, 4, -1), of(3, -1, 0, 1, -1, 2))
    shared = union = 0.0
    for group in range(2):
        for row, other_row in zip(*targets, strict=True):
            for source, other in zip(*sources, strict=True):
                first = one[group, row, source] if row >= 0 and source >= 0 else 0.0
                second = two[group, other_row, other] if other_row >= 0 and other >= 0 else 0.0
                if first * second > 0:
                    shared += min(abs(first), abs(second))
                    union += max(abs(first), abs(second))
                else:
                    union += abs(first) + abs(second)
    found = graph_overlap(one, two, targets, sources, 0)
    assert found is not None and found.value == pytest.approx(shared / union)
    assert found.interval.low <= found.value <= found.interval.high


@given(st.floats(0.1, 10), st.integers(0, 1000))
def test_overlap_is_symmetric_and_a_scale_is_a_loss(scale, seed) -> None:
    one, two = np.random.default_rng(seed).normal(size=(2, 1, 2, 6))
    rows, columns = identity(2), identity(6)
    first, second = graph_overlap(one, two, rows, columns, 0, 2), graph_overlap(two, one, rows, columns, 0, 2)
    assert first is not None and second is not None and first.value == pytest.approx(second.value)
    scaled = graph_overlap(one, scale * one, rows, columns, 0, 2)
    assert scaled is not None and scaled.value == pytest.approx(min(scale, 1 / scale))


def test_a_random_matching_keeps_who_is_matched() -> None:
    pairs = pairing(of(3, -1, 0, 2), 6)
    found = shuffled(pairs, np.random.default_rng(0))
    assert sorted(found.second[[0, 2, 3]]) == [0, 2, 3] and found.second[1] == -1
    assert found.second[4:].tolist() == pairs.second[4:].tolist()


def dictionary(k: int, seed: int, center: bool = False) -> Dictionary:
    vectors = torch.rand(200, 6, generator=torch.Generator().manual_seed(7))
    return build("bisecting", vectors, k, seed, center=center)


def test_a_dictionary_is_wholly_matched_with_itself_in_another_order() -> None:
    one = dictionary(8, 0)
    order = torch.tensor([5, 2, 7, 0, 1, 3, 4, 6])
    cosines, pairs = _matched(one, Dictionary(one.atoms[order], one.coding, None, one.info))
    assert pairs.second.tolist() == order.argsort().tolist()
    cosine, share, chance = _concept_rows(cosines, pairs)
    assert cosine["value"] == pytest.approx(1) and share["value"] == 1 and cosine["n"] == 8
    assert chance["value"] == pytest.approx(float((one.atoms @ one.atoms.T).mean()), abs=1e-6)


def test_of_unequal_dictionaries_the_smaller_is_wholly_matched() -> None:
    for one, two in ((dictionary(8, 0), dictionary(5, 0)), (dictionary(5, 0), dictionary(8, 0))):
        cosines, pairs = _matched(one, two)
        assert len(pairs.first) == 8 and _concept_rows(cosines, pairs)[0]["n"] == 5


def test_mean_concepts_are_matched_with_one_another_and_not_counted() -> None:
    one, two = dictionary(6, 0, center=True), dictionary(6, 1, center=True)
    cosines, pairs = _matched(one, two)
    assert (6, 6) in zip(*pairs, strict=True) and _concept_rows(cosines, pairs)[0]["n"] == 6
    _, pairs = _matched(one, dictionary(6, 0))
    assert pairs.second[pairs.first == 6] == [-1]


def test_halves_are_all_images_once_and_do_not_depend_on_the_rest(photos) -> None:
    def ids(**options) -> set[str]:
        return set(open_data(DataSource.imagefolder, photos, **options).ids)

    first, second = ids(half=Half.choosing), ids(half=Half.confirming)
    assert first and second and not first & second and first | second == ids()
    assert ids(half=Half.choosing, classes=[1]) == {each for each in first if each.startswith("berry")}
    one = open_data(DataSource.imagefolder, photos, limit=1).ids
    other = Half.confirming if one[0] in first else Half.choosing
    with pytest.raises(UserError, match=rf"data.half={other.value}: none of the 1 images is in it"):
        ids(half=other, limit=1)


def test_a_variant_is_written_as_on_the_command_line() -> None:
    config = Config()
    found = varied(config, ["seed=3", "dictionary.method=pca", "extract.layers=[a,b]", "dictionary.k=null"])
    assert (found.seed, found.dictionary.method, found.extract.layers) == (3, Method.pca, ["a", "b"])
    assert found.dictionary.k is None and config == Config()


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("dictionary.kk=3", "there is no key 'dictionary.kk'"),
        ("seed", "cannot read 'seed': write key=value"),
        ("seed=x", "seed=x does not fit: it must be int"),
        ("data.half=third", "data.half=third is not a choice; it can be all, choosing, confirming"),
        ("dictionary=pca", "dictionary=pca is a choice of files: write single keys such as dictionary.center"),
    ],
)
def test_a_mistaken_variant_is_a_sentence(override, sentence) -> None:
    with pytest.raises(UserError) as error:
        varied(Config(), [override])
    assert str(error.value).startswith(sentence)
