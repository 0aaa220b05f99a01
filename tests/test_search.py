"""Exact cosine neighbours: against a slow twin, with ties, over any cut into shards."""

import sys
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vismech.dictionaries import device_search, search
from vismech.dictionaries.search import gpu_ordinal, nearest, require_faiss
from vismech.errors import UserError


def sorted_cosines(queries, vectors, k):
    """Slow twin: all cosines in float64, equal ones by row, all-zero vectors left out."""
    scores, rows = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        found = [
            (-float(np.dot(v, query) / np.linalg.norm(v) / np.linalg.norm(query)), j)
            for j, v in enumerate(vectors)
            if v.any()
        ]
        for place, (score, row) in enumerate(sorted((round(s, 9), j) for s, j in found)[:k]):
            scores[i, place], rows[i, place] = -score, row
    return scores, rows


@pytest.fixture(params=["faiss", "products"])
def found_by(request, monkeypatch):
    """Both ways of finding neighbours, the one of GPUs on the CPU's tensors and in small blocks."""
    if request.param == "products":
        monkeypatch.setattr(search, "_on_cpu", partial(search._on_device, torch.device("cpu")))
        monkeypatch.setattr(device_search, "BLOCK", 64)
    return request.param


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    k=st.integers(1, 20),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    copies=st.integers(1, 4),
)
def test_neighbours_equal_the_slow_twin_for_any_cut_into_shards(found_by, seed, n, k, cuts, copies):
    generator = np.random.default_rng(seed)
    # Small integers: many vectors are parallel, so ties are common, and some are zero.
    vectors = np.tile(generator.integers(-2, 3, (n, 4)), (copies, 1)).astype(np.float32)
    queries = generator.standard_normal((3, 4)).astype(np.float32)
    shards = np.split(vectors, sorted(cuts))
    found = nearest(queries, iter(shards), k)
    scores, rows = sorted_cosines(queries.astype(float), vectors.astype(float), k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.scores.shape == found.rows.shape == (3, k)


def test_more_equal_vectors_than_are_asked_for_come_by_row(found_by):
    vectors = np.concatenate([np.eye(3)[[1]], np.tile([[2.0, 0, 0]], (100, 1)), [[5.0, 0, 0]]])
    for shards in ([vectors], np.array_split(vectors, 7)):
        assert nearest(np.eye(3)[:1], shards, 4).rows.tolist() == [[1, 2, 3, 4]]


def test_cosines_that_float32_cannot_tell_apart_are_still_in_order(found_by):
    angles = np.linspace(2e-5, 1e-5, 60)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert nearest(np.array([[1.0, 0]]), [vectors], 3).rows.tolist() == [[59, 58, 57]]


def test_lengths_do_not_matter(found_by):
    generator = np.random.default_rng(0)
    vectors, queries = generator.standard_normal((200, 16)), generator.standard_normal((5, 16))
    scaled = vectors * np.logspace(-10, 10, 200)[:, None]
    assert np.array_equal(nearest(queries, [vectors], 9).rows, nearest(7 * queries, [scaled], 9).rows)


def test_nothing_to_search_gives_no_row(found_by):
    for shards in ([], [np.zeros((0, 3))], [np.zeros((2, 3))]):
        found = nearest(np.eye(3), shards, 2)
        assert (found.rows == -1).all() and (found.scores == -np.inf).all()


def test_what_cannot_work_is_refused(found_by):
    with pytest.raises(UserError, match="k is 0"):
        nearest(np.eye(3), [], 0)
    with pytest.raises(UserError, match="query 1 is all zero"):
        nearest(np.array([[1.0, 0], [0, 0]]), [], 1)
    with pytest.raises(UserError, match="shard has 4 channels, the queries 3"):
        nearest(np.eye(3), [np.eye(4)], 1)
    with pytest.raises(UserError, match="shard from row 2 holds values that are not finite"):
        nearest(np.eye(2), [np.eye(2), np.full((1, 2), np.nan)], 1)


@pytest.mark.parametrize(("n", "c", "spread"), [(3000, 48, 1.0), (900, 7, 1e-6)])
def test_products_find_what_faiss_finds(n, c, spread):
    generator = np.random.default_rng(n)
    vectors = (1.0 + spread * generator.standard_normal((n, c))).astype(np.float32)
    vectors[::7] = vectors[3] * np.linspace(1, 9, len(vectors[::7]), dtype=np.float32)[:, None]  # ties
    vectors[::11] = 0
    queries = generator.standard_normal((40, c)).astype(np.float32) + 1
    shards = np.array_split(vectors, 5)
    one = nearest(queries, shards, 30)
    unit = queries.astype(np.float64) / np.linalg.norm(queries.astype(np.float64), axis=1, keepdims=True)
    other = search._on_device(torch.device("cpu"), unit, iter(shards), 30)
    np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-7)
    # Rows may change places only where cosines are the same to the last bits of float64.
    directions = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True).clip(
        1e-300
    )
    for row in range(len(queries)):
        exact = directions @ unit[row]
        np.testing.assert_allclose(exact[one.rows[row]], exact[other.rows[row]], rtol=0, atol=1e-14)
    assert (one.rows == other.rows).mean() > 0.9


def test_a_missing_faiss_is_one_sentence_that_names_the_extras(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="exactly one of the extras cpu, gpu or gpu-cuvs"):
        require_faiss()


def test_a_faiss_without_gpus_says_that_it_stays_on_the_cpu(monkeypatch):
    monkeypatch.setattr(require_faiss(), "get_num_gpus", lambda: 0, raising=False)
    assert gpu_ordinal("cpu") is None
    with pytest.warns(UserWarning, match="no GPU support and runs on the CPU"):
        assert gpu_ordinal("cuda:1") is None
    monkeypatch.setattr(require_faiss(), "get_num_gpus", lambda: 8, raising=False)
    assert (gpu_ordinal("cuda"), gpu_ordinal("cuda:1")) == (0, 1)
