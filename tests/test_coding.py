"""Sparse codes against scikit-learn, against slow twins, and against the conditions that define them."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Lasso, orthogonal_mp

import vismech.dictionaries.lasso as lasso_module
from vismech.dictionaries import build
from vismech.dictionaries.coding import Code, Coding, encode
from vismech.dictionaries.lasso import Geometry, lasso
from vismech.dictionaries.pursuit import (
    least_squares,
    orthogonal_matching_pursuit,
    simultaneous_orthogonal_matching_pursuit,
)
from vismech.errors import UserError

CODES = [code for code in Code if code not in (Code.encoder, Code.custom)]
# Pursuits that look at all vectors of an image.
OF_AN_IMAGE = (Code.simultaneous_omp, Code.coarse_to_fine, Code.coarse_to_fine_nonnegative)
OF_THE_VECTOR_ALONE = [code for code in CODES if code not in OF_AN_IMAGE]


def crowded_atoms(k, c, seed):
    """Unit vectors inside the positive cone, like centroids of ReLU activations: V Vᵀ is ill-conditioned."""
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.rand(k, c, generator=generator) + 0.3, dim=1)


def relu_vectors(n, c, seed, scale=3.0):
    generator = torch.Generator().manual_seed(1000 + seed)
    mixing = torch.randn(c, c, generator=generator)
    return scale * torch.relu(torch.randn(n, c, generator=generator) @ mixing / c**0.5 + 0.3)


def objective(vectors, atoms, codes, penalty):
    vectors, atoms, codes = vectors.double(), atoms.double(), codes.double()
    return 0.5 * (vectors - codes @ atoms).square().sum(1) + penalty * codes.abs().sum(1)


def coordinate_descent(vector, atoms, penalty, nonnegative, sweeps=20000):
    """Slow twin: minimise over one code at a time, in float64, until nothing moves."""
    vector, atoms = vector.double().numpy(), atoms.double().numpy()
    code, residual = np.zeros(len(atoms)), vector.copy()
    for _ in range(sweeps):
        before = code.copy()
        for j, atom in enumerate(atoms):
            square = atom @ atom
            pull = atom @ residual + square * code[j]
            new = np.sign(pull) * max(abs(pull) - penalty, 0) / square
            new = max(new, 0) if nonnegative else new
            residual += (code[j] - new) * atom
            code[j] = new
        if np.abs(code - before).max() < 1e-13:
            break
    return code


def greedy_pursuit(vector, atoms, l0):
    """Slow twin of matching pursuit: refit all chosen atoms by least squares after each choice."""
    vector, atoms = vector.double().numpy(), atoms.double().numpy()
    chosen, code, residual = [], np.zeros(len(atoms)), vector
    for _ in range(l0):
        chosen.append(int(np.argmax(np.abs(atoms @ residual))))
        fit = np.linalg.lstsq(atoms[chosen].T, vector, rcond=None)[0]
        residual = vector - fit @ atoms[chosen]
    code[chosen] = fit
    return code


@pytest.mark.parametrize("nonnegative", [False, True])
@pytest.mark.parametrize(("k", "c"), [(96, 12), (10, 24)])
def test_lasso_reaches_scikit_learns_objective(k, c, nonnegative):
    atoms, vectors = crowded_atoms(k, c, 0), relu_vectors(40, c, 0)
    penalty = 0.02 * vectors.norm(dim=1).mean().item()
    codes = lasso(vectors, atoms, penalty, nonnegative=nonnegative)
    # scikit-learn minimises ‖x − uV‖² / (2c) + α‖u‖₁, so α = λ / c.
    oracle = Lasso(alpha=penalty / c, fit_intercept=False, positive=nonnegative, tol=1e-11, max_iter=10**6)
    oracle.fit(atoms.double().T.numpy(), vectors.double().T.numpy())
    theirs = torch.from_numpy(oracle.coef_)
    reached, best = (objective(vectors, atoms, u, penalty) for u in (codes, theirs))
    torch.testing.assert_close(reached, best, rtol=1e-5, atol=0)
    torch.testing.assert_close(codes.double(), theirs, rtol=0, atol=2e-4)
    assert codes.count_nonzero(1).max() <= min(k, c)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_lasso_equals_its_slow_twin(nonnegative):
    atoms, vectors = crowded_atoms(9, 6, 1), relu_vectors(3, 6, 1)
    codes = lasso(vectors, atoms, 0.2, nonnegative=nonnegative)
    for vector, code in zip(vectors, codes, strict=True):
        expected = coordinate_descent(vector, atoms, 0.2, nonnegative)
        np.testing.assert_allclose(code.numpy(), expected, atol=2e-6)
        np.testing.assert_array_equal(code.numpy() != 0, expected != 0)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    k=st.integers(1, 40),
    c=st.integers(1, 12),
    penalty=st.floats(1e-3, 3),
    nonnegative=st.booleans(),
    crowded=st.booleans(),
)
def test_lasso_satisfies_the_optimality_conditions(seed, k, c, penalty, nonnegative, crowded):
    atoms = crowded_atoms(k, c, seed)
    if not crowded:
        atoms = torch.nn.functional.normalize(torch.randn(k, c, generator=torch.Generator().manual_seed(seed)), dim=1)
    vectors = relu_vectors(5, c, seed)
    codes = lasso(vectors, atoms, penalty, nonnegative=nonnegative)
    slope = (vectors.double() - codes.double() @ atoms.double()) @ atoms.double().T
    slack = 1e-4 * penalty + 1e-5
    active = codes != 0
    assert (slope[active] - penalty * codes.sign()[active]).abs().max().item() <= slack if active.any() else True
    assert (slope if nonnegative else slope.abs()).max().item() <= penalty + slack
    assert not nonnegative or codes.min() >= 0


@pytest.mark.parametrize("code", OF_THE_VECTOR_ALONE)
def test_a_code_does_not_depend_on_the_rows_beside_it(code, monkeypatch):
    monkeypatch.setattr(lasso_module, "CPU_NUMBERS", 6000)
    atoms, vectors = crowded_atoms(64, 16, 2), relu_vectors(150, 16, 2)
    how = Coding(code, penalty=0.1, l0=6)
    together = encode(vectors, atoms, how)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(0))
    shuffled = encode(vectors[order], atoms, how)
    alone = torch.cat([encode(vectors[i : i + 1], atoms, how) for i in range(20)])
    torch.testing.assert_close(shuffled, together[order], rtol=0, atol=1e-5)
    torch.testing.assert_close(alone, together[:20], rtol=0, atol=1e-5)


@pytest.mark.parametrize("code", CODES)
def test_threads_and_gradient_modes_change_nothing(code, monkeypatch):
    monkeypatch.setattr(lasso_module, "CPU_NUMBERS", 6000)
    atoms, vectors = crowded_atoms(64, 16, 2), relu_vectors(150, 16, 2)
    how = Coding(code, penalty=0.1, l0=6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = encode(vectors, atoms, how)
        torch.set_num_threads(3)
        with torch.inference_mode():
            assert torch.equal(encode(vectors, atoms, how), one)
        codes = encode(vectors.clone().requires_grad_(), atoms, how)
        assert torch.equal(codes, one) and not codes.requires_grad
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("code", CODES)
def test_zeros_are_exact_and_a_zero_vector_has_no_code(code):
    atoms = crowded_atoms(30, 8, 3)
    vectors = torch.cat([relu_vectors(6, 8, 3), torch.zeros(1, 8)])
    codes = encode(vectors, atoms, Coding(code, penalty=0.3, l0=3))
    assert (codes[:-1] != 0).any(1).all()
    assert codes[:-1].count_nonzero(1).max() <= 8
    assert not codes[-1].any()
    assert encode(vectors[:0], atoms, Coding(code, penalty=0.3, l0=3)).shape == (0, 30)


def test_a_penalty_above_every_correlation_leaves_nothing():
    atoms, vectors = crowded_atoms(30, 8, 4), relu_vectors(6, 8, 4)
    largest = (vectors @ atoms.T).abs().max().item()
    assert not lasso(vectors, atoms, 1.001 * largest).any()
    assert lasso(vectors, atoms, 0.999 * largest).count_nonzero() == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_equal_and_opposite_atoms_share_a_code(sign):
    atoms, vectors = crowded_atoms(6, 8, 5), relu_vectors(4, 8, 5)
    twice = torch.cat([atoms, sign * atoms[2:3]])
    single, double = lasso(vectors, atoms, 0.1), lasso(vectors, twice, 0.1)
    double[:, 2] += sign * double[:, 6]
    torch.testing.assert_close(double[:, :6], single, rtol=0, atol=1e-5)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_the_method_for_the_last_vectors_finds_the_same_minimum(nonnegative, monkeypatch):
    atoms, vectors = crowded_atoms(60, 12, 6), relu_vectors(30, 12, 6)
    usual = lasso(vectors, atoms, 0.05, nonnegative=nonnegative)
    monkeypatch.setattr(lasso_module, "ROUNDS", ())
    torch.testing.assert_close(lasso(vectors, atoms, 0.05, nonnegative=nonnegative), usual, rtol=0, atol=1e-5)
    with pytest.warns(
        UserWarning, match=r"of 30 codes have a relative duality gap above 1e-05.*raise max_iterations above 1"
    ):
        lasso(vectors, atoms, 0.05, nonnegative=nonnegative, max_iterations=1)


@pytest.mark.parametrize("l0", [1, 5, 12])
def test_matching_pursuit_equals_scikit_learns(l0):
    atoms, vectors = crowded_atoms(80, 16, 7), relu_vectors(40, 16, 7)
    codes = orthogonal_matching_pursuit(vectors, atoms, l0)
    theirs = orthogonal_mp(atoms.double().T.numpy(), vectors.double().T.numpy(), n_nonzero_coefs=l0).T
    np.testing.assert_array_equal(codes.numpy() != 0, theirs != 0)
    np.testing.assert_allclose(codes.numpy(), theirs, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 40), c=st.integers(1, 12), data=st.data())
def test_matching_pursuit_leaves_a_residual_orthogonal_to_its_atoms(seed, k, c, data):
    l0 = data.draw(st.integers(1, min(k, c)))
    atoms, vectors = crowded_atoms(k, c, seed), relu_vectors(4, c, seed)
    codes = orthogonal_matching_pursuit(vectors, atoms, l0)
    residual = vectors.double() - codes.double() @ atoms.double()
    assert codes.count_nonzero(1).max() <= l0
    touching = (residual @ atoms.double().T)[codes != 0]
    # Codes are rounded to float32, which large codes of opposite sign make felt.
    assert touching.abs().sum().item() <= 1e-5 * (vectors.norm() + codes.abs().sum()).item() * (1 + len(touching))


def test_matching_pursuit_equals_its_slow_twin():
    atoms, vectors = crowded_atoms(20, 8, 8), relu_vectors(5, 8, 8)
    codes = orthogonal_matching_pursuit(vectors, atoms, 4)
    expected = np.stack([greedy_pursuit(vector, atoms, 4) for vector in vectors])
    np.testing.assert_allclose(codes.numpy(), expected, atol=2e-5)


def test_matching_pursuit_stops_when_nothing_is_left():
    atoms = torch.eye(6)
    codes = orthogonal_matching_pursuit(torch.tensor([[0.0, 2.0, 0.0, -3.0, 0.0, 0.0]]), atoms, 5)
    assert codes.tolist() == [[0, 2, 0, -3, 0, 0]]
    crowded = crowded_atoms(30, 8, 9)
    assert orthogonal_matching_pursuit(-2 * crowded[5:6], crowded, 4).nonzero().tolist() == [[0, 5]]


def pursue_together(vectors, atoms, l0):
    """Slow twin: the atom of most energy in the residuals of an image, then all of them fitted anew."""
    vectors, atoms = vectors.double().numpy(), atoms.double().numpy()
    chosen, codes, residual = [], np.zeros((len(vectors), len(atoms))), vectors
    for _ in range(l0):
        chosen.append(int(np.argmax(((residual @ atoms.T) ** 2).sum(0))))
        fit = np.linalg.lstsq(atoms[chosen].T, vectors.T, rcond=None)[0].T
        residual = vectors - fit @ atoms[chosen]
    codes[:, chosen] = fit
    return codes


@pytest.mark.parametrize("l0", [1, 4, 7])
@pytest.mark.parametrize("n", [3, 40])
def test_simultaneous_pursuit_equals_its_slow_twin(n, l0):
    atoms, images = crowded_atoms(40, 8, 10), relu_vectors(4 * n, 8, 10).view(4, n, 8)
    codes = simultaneous_orthogonal_matching_pursuit(images, atoms, min(l0, n))
    expected = np.stack([pursue_together(image, atoms, min(l0, n)) for image in images])
    np.testing.assert_array_equal((codes != 0).any(1).numpy(), (expected != 0).any(1))
    np.testing.assert_allclose(codes.numpy(), expected, atol=2e-4)


def test_simultaneous_pursuit_of_single_vectors_is_matching_pursuit():
    atoms, vectors = crowded_atoms(60, 12, 11), relu_vectors(30, 12, 11)
    together = simultaneous_orthogonal_matching_pursuit(vectors[:, None], atoms, 5)[:, 0]
    torch.testing.assert_close(together, orthogonal_matching_pursuit(vectors, atoms, 5), rtol=0, atol=1e-4)


@pytest.mark.parametrize("code", CODES)
def test_leading_dimensions_tell_images_apart(code, monkeypatch):
    atoms, images = crowded_atoms(40, 8, 12), relu_vectors(60 * 6, 8, 12).view(5, 12, 6, 8)
    how = Coding(code, penalty=0.1, l0=3)
    expected = torch.stack([torch.stack([encode(image, atoms, how) for image in row]) for row in images])
    torch.testing.assert_close(encode(images, atoms, how), expected, rtol=0, atol=1e-5)
    monkeypatch.setattr(lasso_module, "CPU_NUMBERS", 16)
    torch.testing.assert_close(encode(images, atoms, how), expected, rtol=0, atol=1e-5)


def test_simultaneous_pursuit_stops_when_an_image_is_explained():
    atoms, images = crowded_atoms(30, 8, 13), relu_vectors(2 * 20, 8, 13).view(2, 20, 8)
    images[1] = torch.outer(torch.linspace(-1, 1, 20), atoms[4]) + torch.outer(torch.ones(20), atoms[9])
    codes = simultaneous_orthogonal_matching_pursuit(images, atoms, 30)
    assert (codes[0] != 0).any(0).sum() == 8
    assert (codes[1] != 0).any(0).nonzero()[:, 0].tolist() == [4, 9]
    torch.testing.assert_close(codes @ atoms, images, rtol=0, atol=1e-4)
    assert not simultaneous_orthogonal_matching_pursuit(torch.zeros(2, 5, 8), atoms, 4).any()


@pytest.mark.parametrize("l0", [0, 31])
def test_simultaneous_pursuit_refuses_an_impossible_l0(l0):
    with pytest.raises(UserError, match=f"l0 is {l0} for 30 atoms: use 1 … 30"):
        simultaneous_orthogonal_matching_pursuit(relu_vectors(2, 8, 0)[None], crowded_atoms(30, 8, 0), l0)


def test_least_squares_equals_numpys():
    atoms, vectors = crowded_atoms(15, 12, 14).view(3, 5, 12), relu_vectors(30, 12, 14).view(3, 10, 12)
    codes = least_squares(vectors, atoms)
    for code, vector, atom in zip(codes, vectors, atoms, strict=True):
        expected = np.linalg.lstsq(atom.double().T.numpy(), vector.double().T.numpy(), rcond=None)[0].T
        np.testing.assert_allclose(code.numpy(), expected, atol=2e-4)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), c=st.integers(1, 12), s=st.integers(1, 40), zeros=st.integers(0, 3))
def test_least_squares_takes_any_atoms(seed, c, s, zeros):
    """More atoms than channels, equal, opposite and all-zero ones: the best fit, by codes of ordinary size."""
    atoms, vectors = crowded_atoms(s, c, seed), relu_vectors(6, c, seed)
    atoms = torch.cat([atoms, atoms[:2], -atoms[:1], torch.zeros(zeros, c)])
    codes = least_squares(vectors[None], atoms[None])[0]
    best = np.linalg.lstsq(atoms.double().T.numpy(), vectors.double().T.numpy(), rcond=1e-9)[0].T
    left, least = ((vectors.double() - u @ atoms.double()).norm() for u in (codes.double(), torch.from_numpy(best)))
    scale = vectors.norm() + codes.norm()
    assert left <= least + 1e-5 * scale
    assert codes.norm() <= np.linalg.norm(best) * (1 + 1e-3) + 1e-4
    assert not codes[:, len(atoms) - zeros :].any()


@pytest.mark.parametrize("l0", [0, 9])
def test_matching_pursuit_refuses_an_impossible_l0(l0):
    with pytest.raises(UserError, match=f"l0 is {l0} for 30 atoms of 8 channels: use 1 … 8"):
        orthogonal_matching_pursuit(relu_vectors(2, 8, 0), crowded_atoms(30, 8, 0), l0)


def test_codings_that_cannot_work_are_refused():
    with pytest.raises(UserError, match="omp needs l0"):
        Coding(Code.omp, penalty=0.1)
    with pytest.raises(UserError, match=r"penalty 0\.0: λ must be above zero"):
        Coding(Code.lasso, penalty=0.0)
    with pytest.raises(UserError, match="not finite"):
        lasso(torch.tensor([[float("nan"), 1.0]]), torch.eye(2), 0.1)
    with pytest.raises(UserError, match="λ must be positive"):
        lasso(torch.ones(1, 2), torch.eye(2), -1.0)


@pytest.mark.parametrize("nonnegative", [False, True])
def test_active_sets_without_the_gram_matrix_give_the_same_minimum(monkeypatch, nonnegative) -> None:
    """Of more atoms than V Vᵀ is held for."""
    atoms = torch.nn.functional.normalize(torch.rand(90, 20, generator=torch.Generator().manual_seed(0)), dim=1)
    vectors = torch.rand(70, 20, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    held = lasso(vectors, atoms, 0.05, nonnegative=nonnegative)
    monkeypatch.setattr("vismech.dictionaries.lasso.GRAM_BYTES", 0)
    made = lasso(vectors, atoms, 0.05, nonnegative=nonnegative)
    assert Geometry.of(atoms).gram is None and torch.allclose(held, made, atol=1e-12) and (held != 0).any()


def test_a_dictionary_makes_what_its_codes_share_once(monkeypatch) -> None:
    """V Vᵀ and its eigenvalues were made again for every batch: at 16,384 atoms for longer than the codes took."""
    made: list[int] = []
    of = Geometry.of

    def counted(atoms: torch.Tensor) -> Geometry:
        made.append(len(atoms))
        return of(atoms)

    monkeypatch.setattr(Geometry, "of", counted)
    vectors = torch.rand(60, 12, generator=torch.Generator().manual_seed(0))
    for center in (False, True):
        made.clear()
        concepts = build("kmeans", vectors, k=9, seed=0, center=center).coded(Code.lasso, 0.02, None)
        first, again = concepts.encode(vectors), concepts.encode(vectors[:7])
        assert made == [9] and torch.equal(first[:7], again)
        copy = pickle.loads(pickle.dumps(concepts))
        assert torch.equal(copy.encode(vectors), first) and made == [9, 9]  # another process makes its own
        other = concepts.coded(Code.lasso_nonnegative, 0.02, None)
        assert not torch.equal(other.encode(vectors), first)
