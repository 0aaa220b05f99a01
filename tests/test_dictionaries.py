"""The contract of every dictionary: one body of tests over every method and code."""

import json

import numpy as np
import pytest
import torch

from vismech.coding import Code, Coding
from vismech.dictionaries import METHODS, Dictionary, build
from vismech.errors import UserError

OPTIONS = {"bisecting": {"min_size": 2}}


@pytest.fixture(scope="module")
def vectors():
    generator = torch.Generator().manual_seed(0)
    return torch.relu(torch.randn(300, 8, generator=generator) @ torch.randn(8, 8, generator=generator)) + 0.1


@pytest.fixture(params=[(m, code, center) for m in METHODS for code in Code for center in (False, True)], ids=str)
def built(request, vectors):
    method, code, center = request.param
    return build(method, vectors, 20, seed=3, code=code, center=center, **OPTIONS.get(method, {}))


def test_encode_and_decode_agree_with_the_atoms(built, vectors):
    codes = built.encode(vectors)
    assert codes.shape == (300, built.k) and built.atoms.shape == (built.k, built.c) == (len(built.atoms), 8)
    torch.testing.assert_close(built.atoms.norm(dim=1), torch.ones(built.k))
    torch.testing.assert_close(built.decode(codes), codes @ built.atoms)
    explained = 1 - (vectors - built.decode(codes)).square().sum() / (vectors - vectors.mean(0)).square().sum()
    assert explained > 0.5
    assert (codes == 0).any()
    torch.testing.assert_close(built.encode(vectors[7:9]), codes[7:9], rtol=0, atol=1e-5)


def test_what_is_saved_is_what_is_loaded_byte_for_byte(built, vectors, tmp_path):
    built.save(tmp_path / "one")
    loaded = Dictionary.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    names = ["arrays.safetensors", "atoms.safetensors", "dictionary.json"]
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert torch.equal(loaded.atoms, built.atoms)
    assert (loaded.coding, loaded.mean_index, loaded.info) == (built.coding, built.mean_index, built.info)
    assert all(np.array_equal(loaded.arrays[name], array) for name, array in built.arrays.items())
    assert torch.equal(loaded.encode(vectors), built.encode(vectors))


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_builds_the_same_bytes(method, vectors, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        build(method, vectors, 20, seed, device="cpu").save(tmp_path / name)
    a, b, c = ((tmp_path / name / "atoms.safetensors").read_bytes() for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_concept_is_one_more_atom_with_a_constant_code(method, vectors):
    centred = build(method, vectors, 12, seed=0, center=True)
    mean = vectors.double().mean(0).float()
    assert torch.equal(centred.atoms[:12], METHODS[method](vectors - mean, 12, seed=0, center=True).atoms)
    assert centred.mean_index == 12 == centred.k - 1
    torch.testing.assert_close(centred.atoms[12], mean / mean.norm())
    codes = centred.encode(vectors)
    torch.testing.assert_close(codes[:, 12], mean.norm().expand(300))
    alone = Dictionary(centred.atoms[:12], centred.coding)
    torch.testing.assert_close(codes[:, :12], alone.encode(vectors - mean), rtol=0, atol=1e-4)
    # A vector equal to the mean is the mean concept and nothing else.
    torch.testing.assert_close(centred.decode(centred.encode(mean[None])), mean[None])
    assert build(method, vectors, 12, seed=0).mean_index is None


@pytest.mark.parametrize("center", [False, True])
def test_the_penalty_is_a_fraction_of_the_mean_norm_of_the_raw_vectors(center, vectors):
    dictionary = build("bisecting", vectors, 6, seed=0, penalty_fraction=0.05, center=center)
    assert dictionary.coding.penalty == pytest.approx(0.05 * vectors.norm(dim=1).mean().item(), rel=1e-6)


def test_matching_pursuit_uses_half_the_channels_unless_told(vectors):
    assert build("bisecting", vectors, 6, seed=0, code=Code.omp).coding.l0 == 4
    assert build("bisecting", vectors, 3, seed=0, code=Code.omp, center=True).coding.l0 == 3
    assert build("bisecting", vectors, 6, seed=0, code=Code.omp, l0=2).encode(vectors).count_nonzero(1).max() == 2


def test_another_coding_is_what_building_with_it_gives(vectors):
    one = build("bisecting", vectors, 6, seed=0)
    for code, l0 in ((Code.omp, 2), (Code.lasso_nonnegative, None)):
        other = build("bisecting", vectors, 6, seed=0, code=code, penalty_fraction=0.1, l0=l0)
        assert one.coded(code, 0.1, l0).coding == other.coding
        assert torch.equal(one.coded(code, 0.1, l0).encode(vectors), other.encode(vectors))


def test_the_tree_of_a_clustering_is_kept(vectors, tmp_path):
    build("bisecting", vectors, 6, seed=0).save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert loaded.arrays["tree_parent"].shape == (11,)
    leaves = loaded.arrays["tree_atom"] >= 0
    assert torch.equal(
        torch.from_numpy(loaded.arrays["tree_centroid"][leaves]).sort(0).values, loaded.atoms.sort(0).values
    )
    assert loaded.info["stopped"] == "reached k" and loaded.info["sse"] > 0


def test_arrays_in_another_memory_order_are_stored_right(tmp_path):
    columns = np.arange(6.0).reshape(2, 3).T
    atoms = torch.eye(3)[:, :2].T
    Dictionary(atoms, Coding(Code.lasso, 0.1), arrays={"columns": columns}).save(tmp_path)
    loaded = Dictionary.load(tmp_path)
    assert np.array_equal(loaded.arrays["columns"], columns) and torch.equal(loaded.atoms, atoms)


def test_moving_a_dictionary_keeps_everything_but_the_device(vectors):
    dictionary = build("bisecting", vectors, 6, seed=0, center=True)
    moved = dictionary.to("cpu")
    assert moved is not dictionary and torch.equal(moved.atoms, dictionary.atoms)
    assert torch.equal(moved.encode(vectors), dictionary.encode(vectors))
    assert (moved.coding, moved.mean_index, moved.info) == (dictionary.coding, dictionary.mean_index, dictionary.info)


def test_what_cannot_work_is_refused(vectors, tmp_path):
    with pytest.raises(UserError, match="dictionary 'kmedoids' is unknown: choose one of bisecting"):
        build("kmedoids", vectors, 6, seed=0)
    with pytest.raises(UserError, match="mean norm of 4 vectors is nan"):
        build("bisecting", torch.full((4, 3), float("nan")), 2, seed=0)
    with pytest.raises(UserError, match="mean norm of 0 vectors"):
        build("bisecting", vectors[:0], 2, seed=0)
    with pytest.raises(UserError, match="set center=false"):
        build("bisecting", torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), 2, seed=0, center=True)
    with pytest.raises(UserError, match="an atom is not finite"):
        Dictionary(torch.full((1, 2), float("nan")), Coding(Code.lasso, 0.1))
    with pytest.raises(UserError, match="mean_index is 0 of 2 atoms"):
        Dictionary(torch.eye(2), Coding(Code.lasso, 0.1), mean_index=0, info={"mean_norm": 1.0})
    with pytest.raises(UserError, match=r"holds no dictionary\.json"):
        Dictionary.load(tmp_path)


def test_the_record_is_readable_json(vectors, tmp_path):
    build("bisecting", vectors, 6, seed=9, code=Code.omp, l0=3).save(tmp_path)
    record = json.loads((tmp_path / "dictionary.json").read_text())
    assert record["coding"]["code"] == "omp" and record["coding"]["l0"] == 3
    assert record["info"]["method"] == "bisecting" and record["info"]["seed"] == 9
