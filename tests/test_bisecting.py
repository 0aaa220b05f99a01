"""Bisecting spherical k-means: clusters against scikit-learn's, the tree against its definition, invariances."""

import hashlib
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import BisectingKMeans

from vismech.dictionaries import build, mean_of
from vismech.dictionaries import scratch as files
from vismech.dictionaries.bisecting import ROUNDING, bisecting_kmeans
from vismech.dictionaries.canonical import canonical
from vismech.dictionaries.kmeans import TwoMeans, cluster, one_by_one
from vismech.errors import UserError


def relu_vectors(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(40, c, generator=generator)
    chosen = torch.randint(40, (n,), generator=generator)
    return torch.relu(centers[chosen] + 0.7 * torch.randn(n, c, generator=generator)) + 0.01 * torch.rand(
        n, c, generator=generator
    )


def unit(vectors):
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def sum_of_squares(vectors):
    """Slow twin: Σ‖x − mean‖² over the unit vectors, in float64."""
    directions = unit(vectors)
    return (directions - directions.mean(0)).square().sum().item()


@contextmanager
def threads(count):
    before = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(count)
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        faiss.omp_set_num_threads(before[1])


def assert_same(one, other):
    assert torch.equal(one.atoms, other.atoms)
    assert torch.equal(one.labels, other.labels)
    assert all(np.array_equal(a, b) for a, b in zip(one.tree, other.tree, strict=True))


def left_to_right(tree, node):
    """Atoms below a node, from left to right."""
    if tree.left[node] < 0:
        return [tree.atom[node]]
    return left_to_right(tree, tree.left[node]) + left_to_right(tree, tree.right[node])


def assert_consistent(result, vectors):
    """Labels, atoms, sizes, sums of squares and centroids of every node say the same."""
    tree, kept = result.tree, result.labels >= 0
    members = [set() for _ in tree.parent]
    for leaf in np.flatnonzero(tree.atom >= 0):
        rows = (result.labels == int(tree.atom[leaf])).nonzero()[:, 0].tolist()
        node = leaf
        while node >= 0:
            members[node] |= set(rows)
            node = tree.parent[node]
    assert members[0] == set(kept.nonzero()[:, 0].tolist())
    for node, rows in enumerate(members):
        inside = vectors[sorted(rows)]
        assert len(rows) == tree.size[node] > 0
        assert tree.sse[node] == pytest.approx(sum_of_squares(inside), rel=1e-4, abs=1e-9 * len(rows))
        mean = unit(inside).mean(0)
        np.testing.assert_allclose(tree.centroid[node], (mean / mean.norm()).numpy(), atol=1e-5)
        left, right = tree.left[node], tree.right[node]
        assert (left < 0) == (right < 0) == (tree.atom[node] >= 0)
        if left >= 0:
            assert tree.parent[left] == tree.parent[right] == node
            assert tree.depth[left] == tree.depth[right] == tree.depth[node] + 1
            assert members[left] | members[right] == rows and not members[left] & members[right]
    leaves = np.flatnonzero(tree.atom >= 0)
    assert left_to_right(tree, 0) == list(range(len(result.atoms)))
    assert torch.equal(result.atoms[torch.from_numpy(tree.atom[leaves])], torch.from_numpy(tree.centroid[leaves]))
    assert result.sse == pytest.approx(tree.sse[leaves].sum())


def test_clusters_are_as_tight_as_scikit_learns():
    vectors = relu_vectors(4000, 24, 0)
    result = bisecting_kmeans(vectors, 100, seed=0)
    oracle = BisectingKMeans(100, bisecting_strategy="biggest_inertia", random_state=0).fit(
        unit(vectors).float().numpy()
    )
    theirs = sum(sum_of_squares(vectors[torch.from_numpy(oracle.labels_ == j)]) for j in range(100))
    ours = sum(sum_of_squares(vectors[result.labels == j]) for j in range(100))
    assert ours <= 1.02 * theirs
    assert result.sse == pytest.approx(ours, rel=1e-5)
    assert result.stopped == "reached k"
    torch.testing.assert_close(result.atoms.norm(dim=1), torch.ones(100))
    assert_consistent(result, vectors)


def test_separate_directions_are_found_whatever_the_lengths():
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(600) % 6
    vectors = torch.eye(6)[labels] + 0.03 * torch.randn(600, 6, generator=generator)
    vectors *= torch.logspace(-2, 2, 600)[torch.randperm(600, generator=generator), None]
    result = bisecting_kmeans(vectors, 6, seed=0)
    assert len(set(zip(labels.tolist(), result.labels.tolist(), strict=True))) == 6


def test_each_split_takes_the_leaf_with_the_largest_sum_of_squares():
    tree = bisecting_kmeans(relu_vectors(500, 10, 2), 30, seed=3).tree
    leaves = {0}
    for left in range(1, len(tree.parent), 2):
        split = tree.parent[left]
        assert tree.sse[split] == max(tree.sse[leaf] for leaf in leaves)
        leaves = leaves - {split} | {left, left + 1}


def test_a_larger_k_splits_the_same_tree_further():
    vectors = relu_vectors(800, 12, 4)
    small, large = (bisecting_kmeans(vectors, k, seed=1).tree for k in (20, 50))
    for name in ("parent", "depth", "size", "sse", "centroid"):
        assert np.array_equal(getattr(small, name), getattr(large, name)[: len(small.parent)])


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**9), n=st.integers(1, 60), c=st.integers(2, 8), data=st.data())
def test_the_order_of_the_rows_changes_nothing_but_the_order_of_the_labels(seed, n, c, data):
    vectors = relu_vectors(n, c, seed)
    k = data.draw(st.integers(1, n))
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    one, again, shuffled = (bisecting_kmeans(v, k, seed=seed) for v in (vectors, vectors, vectors[order]))
    assert_same(one, again)
    assert_same(one._replace(labels=one.labels[order]), shuffled)
    assert len(one.atoms) == k == len(one.labels.unique())
    assert_consistent(one, vectors)


def test_the_number_of_threads_changes_nothing():
    vectors = relu_vectors(30_000, 16, 5)
    with threads(1):
        one = bisecting_kmeans(vectors, 40, seed=0)
    with threads(2):
        two = bisecting_kmeans(vectors, 40, seed=0)
        assert torch.get_num_threads() == faiss.omp_get_max_threads() == 2
    assert_same(one, two)


def test_the_seed_changes_the_clusters():
    vectors = relu_vectors(1000, 12, 6)
    assert not torch.equal(*(bisecting_kmeans(vectors, 20, seed=seed).labels for seed in (0, 1)))


def test_restarts_keep_the_best_of_several_splits():
    vectors = relu_vectors(1000, 12, 7)
    once = np.mean([bisecting_kmeans(vectors, 2, seed=seed).sse for seed in range(8)])
    assert np.mean([bisecting_kmeans(vectors, 2, seed=seed, restarts=8).sse for seed in range(8)]) < once


@pytest.mark.parametrize("lengths", [2.0 ** (torch.arange(200) % 8), 1.0 + torch.arange(200) % 8])
def test_vectors_of_one_direction_are_never_split(lengths):
    which = torch.arange(200) % 5
    vectors = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))[which] * lengths[:, None]
    result = bisecting_kmeans(vectors, 5, seed=0)
    assert len(set(zip(which.tolist(), result.labels.tolist(), strict=True))) == 5
    assert result.sse == 0


def test_more_concepts_than_directions_are_refused_or_not_invented():
    vectors = torch.rand(5, 7, generator=torch.Generator().manual_seed(0)).repeat(40, 1)
    with pytest.raises(UserError, match=r"6 concepts were asked of 5 distinct directions among 200 vectors.*at most 5"):
        bisecting_kmeans(vectors, 6, seed=0)
    # These differ by the rounding of float32 only, which no comparison of bytes can see.
    result = bisecting_kmeans(torch.cat([vectors, 3 * vectors, 7 * vectors]), 6, seed=0)
    assert (len(result.atoms), result.stopped) == (5, "zero SSE")


def test_vectors_too_close_for_float32_cosines_are_still_told_apart():
    angles = torch.tensor([0.0, 0, 0, 2e-5, 2e-5, 5e-5]).double()
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1).float()
    assert bisecting_kmeans(vectors, 2, seed=0).labels.tolist() in ([0] * 5 + [1], [1] * 5 + [0])
    assert len(bisecting_kmeans(vectors, 3, seed=0).labels.unique()) == 3


def test_small_nodes_are_left_whole_and_it_says_so():
    vectors = relu_vectors(100, 8, 8)
    result = bisecting_kmeans(vectors, 90, seed=0, min_size=10)
    split = result.tree.left >= 0
    assert result.stopped == "minimum size"
    assert result.tree.size[split].min() >= 10 > result.tree.size[~split].max()
    assert len(result.atoms) < 90


def test_vectors_without_a_direction_are_left_out_and_counted():
    vectors = torch.cat([relu_vectors(20, 5, 9), torch.zeros(3, 5)])
    result = bisecting_kmeans(vectors, 4, seed=0)
    assert result.zero_vectors == 3
    assert (result.labels == -1).tolist() == [False] * 20 + [True] * 3
    assert torch.equal(result.atoms, bisecting_kmeans(vectors[:20], 4, seed=0).atoms)
    with pytest.raises(UserError, match="1 concepts were asked of 0 distinct"):
        bisecting_kmeans(torch.zeros(3, 5), 1, seed=0)


def test_values_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="not finite"):
        bisecting_kmeans(torch.tensor([[1.0, float("inf")], [1.0, 2.0]]), 1, seed=0)
    with pytest.raises(UserError, match=r"k=0.*at least 1"):
        bisecting_kmeans(relu_vectors(5, 3, 0), 0, seed=0)


def test_raw_vectors_are_clustered_by_distance():
    vectors = relu_vectors(4000, 24, 10) * torch.logspace(-1, 1, 4000)[:, None]
    result = bisecting_kmeans(vectors, 60, seed=0, unit=False)
    oracle = BisectingKMeans(60, bisecting_strategy="biggest_inertia", random_state=0).fit(vectors.numpy())

    def sse(labels):
        groups = (vectors[labels == j].double() for j in range(60))
        return sum((group - group.mean(0)).square().sum().item() for group in groups)

    assert sse(result.labels) <= 1.02 * sse(torch.from_numpy(oracle.labels_))
    assert result.sse == pytest.approx(sse(result.labels), rel=1e-5)
    for j in (0, 30, 59):
        mean = vectors[result.labels == j].double().mean(0)
        torch.testing.assert_close(result.atoms[j].double(), mean / mean.norm(), rtol=0, atol=1e-5)


def test_raw_vectors_of_one_direction_and_two_lengths_are_two_clusters():
    vectors = torch.tensor([[3.0, 4.0]]) * torch.tensor([1.0, 1, 1, 5, 5])[:, None]
    result = bisecting_kmeans(vectors, 2, seed=0, unit=False)
    assert result.labels.tolist() in ([0, 0, 0, 1, 1], [1, 1, 1, 0, 0]) and result.sse == 0
    torch.testing.assert_close(result.atoms, torch.tensor([[0.6, 0.8], [0.6, 0.8]]))
    with pytest.raises(UserError, match="2 concepts were asked of 1 distinct directions"):
        bisecting_kmeans(vectors, 2, seed=0)
    with pytest.raises(UserError, match="3 concepts were asked of 2 distinct values"):
        bisecting_kmeans(vectors, 3, seed=0, unit=False)


# As it was before it was made fast


def slow_canonical(vectors):
    """Slow twin of `canonical`: rows as unit vectors, and their order by Python's comparison of their bytes."""
    norms = torch.linalg.vector_norm(vectors, dim=1, dtype=torch.float64)
    kept = norms.nonzero()[:, 0]
    data = (vectors[kept] / norms[kept, None]).float() + 0.0
    as_bytes = [row.numpy().tobytes() for row in data]
    order = sorted(range(len(data)), key=lambda row: as_bytes[row])
    return data[order], kept[order], len({*as_bytes})


def slow_tree(vectors, k, seed):
    """Slow twin of `bisecting_kmeans`: one `cluster` after another, objects and masks made anew for each node."""
    data, rows, _ = slow_canonical(vectors)
    rounding = ROUNDING * data.square().sum().item() / len(data)
    nodes = []

    def add(members, seed, parent, depth):
        inside = data[members]
        mean = inside.mean(0)
        sse = (inside - mean).square().sum().item()
        sse = sse if sse > rounding * len(members) else 0.0
        nodes.append({"members": members, "seed": seed, "parent": parent, "depth": depth, "mean": mean, "sse": sse})
        nodes[-1] |= {"left": -1, "right": -1, "size": len(members)}
        return len(nodes) - 1

    add(torch.arange(len(data)), hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), -1, 0)
    while len(nodes) < 2 * k - 1:
        leaves = [place for place, node in enumerate(nodes) if node["left"] < 0 and node["sse"] > 0]
        if not leaves:
            break
        index = min(leaves, key=lambda place: (-nodes[place]["sse"], place))
        node = nodes[index]
        number = 1 + int.from_bytes(node["seed"], "big") % (2**31 - 1)
        inside = data[node["members"]]
        first = cluster(inside, 2, number, spherical=True, iterations=10).labels == 0
        if not 0 < int(first.sum()) < len(inside):
            deviations = inside.double() - inside.double().mean(0)
            farthest = deviations[deviations.square().sum(1).argmax()]
            first = deviations @ farthest > 0.5 * (farthest @ farthest)
        for side, mask, letter in (("left", first, b"L"), ("right", ~first, b"R")):
            seed_of = hashlib.blake2b(node["seed"] + letter, digest_size=8).digest()
            node[side] = add(node["members"][mask], seed_of, index, node["depth"] + 1)
    labels, stack, leaf = torch.full((len(vectors),), -1), [0], 0
    while stack:
        node = nodes[stack.pop()]
        if node["left"] >= 0:
            stack += [node["right"], node["left"]]
        else:
            labels[rows[node["members"]]] = leaf
            leaf += 1
    centroid = torch.nn.functional.normalize(torch.stack([node["mean"] for node in nodes]).double(), eps=1e-300).float()
    return nodes, labels, centroid


@pytest.mark.parametrize("kind", ["clusters", "noise", "doubled", "few values", "odd channels", "zeros"])
def test_the_tree_is_byte_for_byte_that_of_the_slow_twin(kind) -> None:
    generator = torch.Generator().manual_seed(3)
    vectors = {
        "clusters": lambda: relu_vectors(400, 48, 0),
        "noise": lambda: torch.randn(300, 40, generator=generator).relu_(),
        "doubled": lambda: relu_vectors(150, 32, 1)[torch.randint(150, (400,), generator=generator)],
        "few values": lambda: (torch.randn(400, 6, generator=generator) > 0).float(),
        "odd channels": lambda: relu_vectors(300, 7, 2),
        "zeros": lambda: torch.cat([torch.zeros(20, 36), relu_vectors(200, 36, 4), -torch.zeros(5, 36)]),
    }[kind]()
    k = min(150, slow_canonical(vectors)[2])
    found = bisecting_kmeans(vectors, k, seed=11)
    with one_by_one():
        nodes, labels, centroid = slow_tree(vectors, k, 11)
    for name in ("parent", "left", "right", "depth", "size", "sse"):
        assert [node[name] for node in nodes] == getattr(found.tree, name).tolist(), name
    assert torch.equal(found.labels, labels)
    assert found.tree.centroid.tobytes() == centroid.numpy().tobytes()
    leaves = np.flatnonzero(found.tree.atom >= 0)
    assert torch.equal(found.atoms[found.tree.atom[leaves]], centroid[leaves])


@given(st.integers(0, 2**31), st.integers(0, 60), st.integers(1, 40), st.sampled_from([1, 2, 3, 1000]))
@settings(max_examples=60, deadline=None)
def test_rows_are_ordered_by_their_bytes(seed, n, c, values) -> None:
    """With few values many rows begin alike, and some are the same throughout."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-1, values, (n, c), generator=generator).float() * 0.25
    found = canonical(vectors, "test")
    data, rows, distinct = slow_canonical(vectors)
    assert found.vectors.numpy().tobytes() == data.numpy().tobytes()
    assert torch.equal(found.rows, rows) and found.distinct == distinct


def test_vectors_are_left_as_they_are() -> None:
    for kind in (torch.float32, torch.float64):
        vectors = relu_vectors(40, 8, 0).to(kind)
        before = vectors.clone()
        bisecting_kmeans(vectors, 5, seed=0)
        assert torch.equal(vectors, before)


def test_faiss_compares_as_before_once_a_tree_has_grown_or_failed() -> None:
    import faiss

    before = faiss.cvar.distance_compute_blas_threshold
    bisecting_kmeans(relu_vectors(60, 8, 0), 5, seed=0)
    with pytest.raises(UserError, match="distinct"):
        bisecting_kmeans(relu_vectors(60, 8, 0), 61, seed=0)
    assert faiss.cvar.distance_compute_blas_threshold == before
    with one_by_one():
        assert faiss.cvar.distance_compute_blas_threshold > before


@pytest.mark.parametrize("spherical", [True, False])
def test_two_means_again_and_again_are_those_of_new_objects(spherical) -> None:
    """What is left in FAISS's objects from one node shows in no other."""
    again = TwoMeans(200, 24, spherical=spherical, iterations=10)
    for seed in range(30):
        vectors = relu_vectors(2 + 7 * seed % 190, 24, seed)
        vectors = unit(vectors).float() if spherical else vectors
        once = cluster(vectors, 2, seed + 1, spherical=spherical, iterations=10).labels == 0
        assert np.array_equal(again(vectors, seed + 1), once.numpy())


@pytest.fixture
def in_files(monkeypatch):
    """Everything is large enough for a file; the files that are made."""
    made = []

    def mapped(file, *arguments, **options):
        made.append(file)
        return np.memmap(file, *arguments, **options)

    monkeypatch.setattr(files, "IN_MEMORY", 1)
    monkeypatch.setattr(files, "memmap", mapped)
    return made


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("unit_vectors", [False, True])
def test_in_files_the_tree_is_the_same_and_nothing_is_left_of_them(center, unit_vectors, in_files, tmp_path) -> None:
    vectors = torch.cat([relu_vectors(700, 33, 5), torch.zeros(4, 33)])
    how = {"center": center, "unit": unit_vectors}
    here = build("bisecting", vectors, 90, 3, **how)
    assert not in_files
    there = build("bisecting", vectors, 90, 3, scratch=tmp_path, **how)
    assert len(in_files) == 2 + 2 * center and not list(tmp_path.iterdir())
    assert torch.equal(here.atoms, there.atoms) and here.info == there.info
    assert all(np.array_equal(array, there.arrays[name]) for name, array in here.arrays.items())


def test_vectors_without_room_on_the_disk_are_held_in_memory(in_files, tmp_path) -> None:
    vectors = relu_vectors(200, 9, 5)
    found = bisecting_kmeans(vectors, 20, seed=0, scratch=tmp_path / "nowhere")
    assert not in_files
    assert_same(found, bisecting_kmeans(vectors, 20, seed=0))


def test_vectors_that_may_not_be_written_to_stay_as_they_are(tmp_path) -> None:
    np.save(tmp_path / "vectors.npy", relu_vectors(300, 16, 2).numpy())
    before = (tmp_path / "vectors.npy").read_bytes()
    mapped = torch.from_numpy(np.asarray(np.load(tmp_path / "vectors.npy", mmap_mode="c")))
    here = build("bisecting", torch.from_numpy(np.load(tmp_path / "vectors.npy")), 30, 0, center=True)
    assert torch.equal(build("bisecting", mapped, 30, 0, center=True).atoms, here.atoms)
    assert (tmp_path / "vectors.npy").read_bytes() == before


@pytest.mark.parametrize("channels", [1, 7, 61])
def test_a_mean_in_a_file_is_the_mean_to_the_last_bit(channels, in_files, tmp_path) -> None:
    vectors = relu_vectors(40_000, channels, 1)
    for count in (1, 2):
        with threads(count):
            assert torch.equal(mean_of(vectors, tmp_path), vectors.mean(0, dtype=torch.float64))
    assert len(in_files) == 2


HELD = """
import sys, threading
from pathlib import Path
import numpy as np, torch
from vismech.dictionaries import build
def held():
    told = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("RssAnon"))
folder, n = Path(sys.argv[1]), int(sys.argv[2])
vectors = torch.from_numpy(np.asarray(np.load(folder / "vectors.npy", mmap_mode="c")))[:n]
build("bisecting", vectors[:500], 16, 0, center=True, scratch=folder)
peak, before, ended = 0, held(), threading.Event()
def look():
    global peak
    while not ended.wait(0.002):
        peak = max(peak, held())
thread = threading.Thread(target=look)
thread.start()
build("bisecting", vectors, 16, 0, center=True, scratch=folder)
ended.set()
thread.join()
print(peak - before)
"""


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell anonymous memory")
def test_memory_hardly_grows_with_the_vectors(tmp_path) -> None:
    """A copy of the further vectors would be 47 MB; allowed are 300 bytes for each of them."""
    sizes, c = (16_000, 64_000), 256
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).random((sizes[1], c), dtype=np.float32))
    found = []
    for n in sizes:
        command = [sys.executable, "-c", HELD, str(tmp_path), str(n)]
        found.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert found[1] - found[0] < 300 * (sizes[1] - sizes[0]) / 1024
