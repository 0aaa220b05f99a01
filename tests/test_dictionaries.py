"""The contract of every dictionary: one body of tests over every method and code."""

import json
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

from vismech.config.choices import Method
from vismech.config.schema import Config, DictionaryConfig
from vismech.dictionaries import METHODS, Dictionary, build
from vismech.dictionaries.base import ENCODERS, load
from vismech.dictionaries.coding import TWO_STAGES, Code, Coding
from vismech.errors import UserError
from vismech.stages.dictionary import fit_inputs

BASES = ("pca", "channels", "rotation")
CONTROLS = ("random", "random_pfv", "rotation")
# What the seed does not change.
FIXED = ("pca", "channels")
OPTIONS: dict[str, dict[str, Any]] = {
    "bisecting": {"min_size": 2},
    "nmf": {"iterations": 30},
    "semi_nmf": {"iterations": 30},
    "dictionary_learning": {"iterations": 10, "batch_size": 64},
    "sae": {"steps": 20, "batch_size": 64},
    "transcoder": {"steps": 20, "batch_size": 64},
}
TRAINED = ("sae", "transcoder")
CASES = [(method, center) for method in METHODS for center in (False, True) if (method, center) != ("nmf", True)]
CODES = [code for code in Code if code is not Code.custom]
CODED = [(*case, code) for case in CASES for code in CODES if code is not Code.encoder or case[0] in ENCODERS]


@cache
def sample():
    generator = torch.Generator().manual_seed(0)
    return torch.relu(torch.randn(300, 8, generator=generator) @ torch.randn(8, 8, generator=generator)) + 0.1


@pytest.fixture
def vectors():
    return sample()


def fit(method, k=20, seed=3, **how):
    if method == "sae" and find_spec("vismech.dictionaries.sae.training") is None:
        pytest.skip("this version has no sparse autoencoder")
    k = min(k, 8) if method in BASES else k
    how |= {"reads": sample()} if method == "transcoder" else {}
    return build(method, sample(), k, seed, **how, **OPTIONS.get(method, {}))


@cache
def fitted(method, center):
    return fit(method, center=center)


@pytest.fixture(params=CASES, ids=str)
def built(request):
    return fitted(*request.param)


@pytest.fixture(params=CODED, ids=str)
def coded(request):
    method, center, code = request.param
    return fitted(method, center).coded(code, 0.02, 4)


def test_encode_and_decode_agree_with_the_atoms(coded, vectors):
    codes = coded.encode(vectors)
    assert codes.shape == (300, coded.k) and coded.atoms.shape == (coded.k, coded.c) == (len(coded.atoms), 8)
    torch.testing.assert_close(coded.atoms.norm(dim=1), torch.ones(coded.k))
    torch.testing.assert_close(coded.decode(codes), codes @ coded.atoms)
    method, code = coded.info["method"], coded.coding.code
    if method not in TRAINED or code is not Code.encoder:
        # No code is worse than none at all, which leaves x, or x − m.
        left = (vectors - coded.decode(codes)).norm(dim=1)
        nothing = vectors if coded.mean_index is None else vectors - vectors.mean(0)
        assert (left <= nothing.norm(dim=1) * (1 + 1e-5)).all()
    if method not in (*CONTROLS, *TRAINED) and code is Code.lasso:
        explained = 1 - (vectors - coded.decode(codes)).square().sum() / (vectors - vectors.mean(0)).square().sum()
        assert explained > 0.9


def test_a_code_is_that_of_the_vector_alone_but_for_pursuits_by_image(coded, vectors):
    codes = coded.encode(vectors)
    if coded.coding.code not in (Code.simultaneous_omp, *TWO_STAGES):
        torch.testing.assert_close(coded.encode(vectors[7:9]), codes[7:9], rtol=0, atol=1e-5)
    images = vectors.view(2, 3, 50, 8)
    by_image = torch.stack([torch.stack([coded.encode(image) for image in row]) for row in images])
    torch.testing.assert_close(coded.encode(images), by_image, rtol=0, atol=1e-5)


def test_an_encoder_gives_exact_zeros_and_its_sign(vectors):
    for method in ("nmf", "semi_nmf"):
        codes = fitted(method, False).coded(Code.encoder, 0.02, None).encode(vectors)
        assert codes.min() == 0 and 0.1 < (codes == 0).float().mean() < 0.95


def test_what_is_saved_is_what_is_loaded_byte_for_byte(built, vectors, tmp_path):
    built.save(tmp_path / "one")
    loaded = Dictionary.load(tmp_path / "one")
    loaded.save(tmp_path / "two")
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert set(names) - {"encoder.safetensors"} == {"arrays.safetensors", "atoms.safetensors", "dictionary.json"}
    assert ("encoder.safetensors" in names) == bool(built.encoder)
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert torch.equal(loaded.atoms, built.atoms)
    assert (loaded.coding, loaded.mean_index, loaded.info) == (built.coding, built.mean_index, built.info)
    assert all(np.array_equal(loaded.arrays[name], array) for name, array in built.arrays.items())
    codes = (Code.lasso, Code.encoder) if built.info["method"] in ENCODERS else (Code.lasso,)
    for code in codes:
        one, other = (each.coded(code, 0.02, None).encode(vectors) for each in (loaded, built))
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_builds_the_same_bytes(method, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(method, seed=seed, device="cpu").save(tmp_path / name)
    a, b, c = ((tmp_path / name / "atoms.safetensors").read_bytes() for name in "abc")
    assert a == b and (a == c) == (method in FIXED)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in (*TRAINED, *FIXED)])
def test_the_order_of_the_rows_changes_nothing(method, vectors):
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    k = 8 if method in BASES else 20
    one, other = (build(method, v, k, 3, **OPTIONS.get(method, {})) for v in (vectors, vectors[order]))
    assert torch.equal(one.atoms, other.atoms)


@pytest.mark.parametrize("method", [method for method in METHODS if method not in ("nmf", *TRAINED)])
def test_the_mean_concept_is_one_more_atom_with_a_constant_code(method, vectors):
    centred = fit(method, 12, seed=0, center=True)
    k, mean = len(centred.concepts), vectors.double().mean(0).float()
    alone = load(METHODS[method])(vectors - mean, k, seed=0, center=True, **OPTIONS.get(method, {}))
    assert torch.equal(centred.concepts, alone.atoms)
    assert centred.mean_index == k == centred.k - 1
    torch.testing.assert_close(centred.atoms[k], mean / mean.norm())
    codes = centred.encode(vectors)
    torch.testing.assert_close(codes[:, k], mean.norm().expand(300))
    without = Dictionary(centred.concepts, centred.coding)
    torch.testing.assert_close(codes[:, :k], without.encode(vectors - mean), rtol=0, atol=1e-4)
    # A vector equal to the mean is the mean concept and nothing else.
    torch.testing.assert_close(centred.decode(centred.encode(mean[None])), mean[None])
    assert fitted(method, False).mean_index is None


def test_raw_vectors_are_in_the_key_only_where_they_are_asked_for():
    for method, wanted in (
        ("bisecting", {"min_size": 2}),
        ("kmeans", {"iterations": 200}),
        ("nmf", {"iterations": 200}),
    ):
        config = Config(dictionary=DictionaryConfig(method=Method(method)))
        assert fit_inputs(config) == wanted
        config.dictionary.unit = False
        assert fit_inputs(config) == wanted | ({} if method == "nmf" else {"unit": False})


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
