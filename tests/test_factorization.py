"""Matrix factorisations against scikit-learn and SciPy, and against the conditions that define them."""

import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF, MiniBatchDictionaryLearning

from vismech.dictionaries.dictionary_learning import fit_dictionary_learning, learn
from vismech.dictionaries.factorization import (
    _rescale,
    _update_atoms,
    _update_codes,
    encode_nonnegative,
    fit_nmf,
    fit_semi_nmf,
)
from vismech.dictionaries.lasso import lasso
from vismech.errors import UserError


def relu_vectors(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=generator)
    return torch.relu(torch.randn(n, c, generator=generator) @ mixing / c**0.5 + 0.3)


def relative_error(vectors, atoms):
    """Of the best non-negative codes, by Lawson and Hanson's method."""
    vectors, atoms = vectors.double().numpy(), atoms.double().numpy()
    return np.sqrt(sum(nnls(atoms.T, x)[1] ** 2 for x in vectors) / (vectors**2).sum())


@pytest.mark.parametrize("k", [4, 8])
def test_nmf_is_as_good_as_scikit_learns_after_as_many_iterations(k):
    vectors = relu_vectors(600, 20, 0)
    ours, theirs = [], []
    for seed in range(4):
        ours.append(fit_nmf(vectors, k, seed=seed, iterations=60, tolerance=0.0).info["relative_error"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # It warns that 60 iterations were all that it was given.
            peer = NMF(k, init="random", solver="cd", max_iter=60, tol=0, random_state=seed).fit(vectors.numpy())
        theirs.append(peer.reconstruction_err_ / vectors.norm().item())
    assert np.median(ours) <= 1.01 * np.median(theirs)


def test_one_iteration_is_one_of_scikit_learns():
    vectors, k = relu_vectors(50, 6, 1), 9
    generator = torch.Generator().manual_seed(0)
    codes, atoms = torch.rand(k, 50, generator=generator), torch.rand(k, 6, generator=generator)
    peer = NMF(k, init="custom", solver="cd", max_iter=1, tol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peer.fit_transform(vectors.numpy(), W=codes.T.numpy().copy(), H=atoms.numpy().copy())
    residuals = (vectors - codes.T @ atoms).split(20)
    parts = [part.contiguous() for part in codes.split(20, 1)]
    for residual, part in zip(residuals, parts, strict=True):
        _update_codes(residual, part, atoms)
    _update_atoms(residuals, parts, atoms, nonnegative=True)
    np.testing.assert_allclose(torch.cat(parts, 1).T.numpy(), theirs, atol=2e-5)
    np.testing.assert_allclose(atoms.numpy(), peer.components_, atol=2e-5)
    torch.testing.assert_close(torch.cat(residuals), vectors - torch.cat(parts, 1).T @ atoms, rtol=0, atol=2e-5)


def test_nmf_finds_the_parts_that_vectors_are_made_of():
    generator = torch.Generator().manual_seed(2)
    parts = torch.nn.functional.normalize(torch.eye(6).repeat_interleave(2, 1) * (0.5 + torch.rand(6, 12)), dim=1)
    vectors = (torch.rand(400, 6, generator=generator) * (torch.rand(400, 6, generator=generator) < 0.4)) @ parts
    fitted = fit_nmf(vectors, 6, seed=0)
    assert (fitted.atoms @ parts.T).amax(0).min() > 0.99
    assert (fitted.atoms >= 0).all() and fitted.info["zero_vectors"] == (vectors == 0).all(1).sum()


def test_the_error_on_record_is_that_of_the_atoms():
    vectors = relu_vectors(300, 10, 3)
    for fitted in (fit_nmf(vectors, 5, seed=0), fit_semi_nmf(vectors - vectors.mean(0), 5, seed=0)):
        data = vectors if bool((fitted.atoms >= 0).all()) else vectors - vectors.mean(0)
        assert fitted.info["relative_error"] == pytest.approx(relative_error(data, fitted.atoms), rel=0.02)


def test_semi_nmf_fits_better_than_nmf_and_k_means():
    vectors = relu_vectors(400, 12, 4)
    semi, nmf = fit_semi_nmf(vectors, 6, seed=0), fit_nmf(vectors, 6, seed=0)
    assert semi.info["relative_error"] < nmf.info["relative_error"]
    centred = vectors - vectors.mean(0)
    fitted = fit_semi_nmf(centred, 6, seed=0)
    # k-means is a semi-NMF whose codes are one-hot (Ding et al. 2010).
    inertia = KMeans(6, n_init=3, random_state=0).fit(centred.numpy()).inertia_
    assert fitted.info["relative_error"] < np.sqrt(inertia) / centred.norm().item()
    assert (fitted.atoms < 0).any()


def test_more_vectors_than_are_needed_are_drawn_from_and_it_says_so():
    vectors = relu_vectors(300, 6, 5)
    fitted = fit_nmf(vectors, 4, seed=0, max_vectors=100)
    assert fitted.info["fitted_vectors"] == 100
    assert not torch.equal(fitted.atoms, fit_nmf(vectors, 4, seed=1, max_vectors=100).atoms)


def test_iterations_end_early_once_little_is_gained():
    vectors = relu_vectors(300, 6, 6)
    assert fit_nmf(vectors, 3, seed=0).info["iterations"] < 200
    assert fit_nmf(vectors, 3, seed=0, tolerance=-1.0, iterations=203).info["iterations"] == 203


def test_an_atom_that_vanished_comes_back_as_the_worst_explained_vector():
    vectors = relu_vectors(30, 5, 7)
    atoms = torch.nn.functional.normalize(vectors[:3], dim=1)
    codes = torch.zeros(3, 30)
    codes[0] = vectors @ atoms[0]
    atoms[2] = 0
    residual = vectors - codes.T @ atoms
    before = residual.clone()
    assert _rescale([residual], [codes], atoms, vectors) == 1
    worst = residual.norm(dim=1).argmax()
    torch.testing.assert_close(atoms[2], vectors[worst] / vectors[worst].norm())
    torch.testing.assert_close(before, vectors - codes.T @ atoms)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(("k", "c"), [(5, 12), (96, 12)])
def test_nonnegative_codes_are_nearly_the_best(k, c, signed):
    generator = torch.Generator().manual_seed(8)
    atoms = torch.nn.functional.normalize(torch.rand(k, c, generator=generator) - 0.5 * signed, dim=1)
    vectors = relu_vectors(60, c, 8) - 0.2 * signed
    codes = encode_nonnegative(vectors, atoms, {}, {})
    left = (vectors - codes @ atoms).norm(dim=1)
    best = torch.tensor([nnls(atoms.double().T.numpy(), x.numpy())[1] for x in vectors.double()])
    assert codes.min() == 0
    assert (left <= best + 0.02 * vectors.norm(dim=1)).all()
    assert (left.square().sum() <= 1.01 * best.square().sum() + 1e-4 * vectors.square().sum()).all()


def test_vectors_that_cannot_be_factorised_are_refused():
    vectors = relu_vectors(30, 5, 9)
    with pytest.raises(UserError, match=r"negative values, down to -0\.7: use semi_nmf"):
        fit_nmf(vectors.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(-0.7)), 3, seed=0)
    with pytest.raises(UserError, match=r"center=true gives vectors with negative values.*use semi_nmf"):
        fit_nmf(vectors, 3, seed=0, center=True)
    for fit in (fit_nmf, fit_semi_nmf, fit_dictionary_learning):
        with pytest.raises(UserError, match="31 concepts were asked of 30 distinct directions among 30 vectors"):
            fit(vectors + 0.01 * torch.rand(30, 5), 31, seed=0)
        with pytest.raises(UserError, match="not finite"):
            fit(vectors.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(float("inf"))), 3, seed=0)
    with pytest.raises(UserError, match="not finite"):
        encode_nonnegative(torch.full((2, 5), float("nan")), torch.eye(5), {}, {})


def test_dictionary_learning_takes_scikit_learns_steps():
    vectors = relu_vectors(160, 8, 10).double()
    start = torch.nn.functional.normalize(vectors[:20], dim=1)
    oracle = MiniBatchDictionaryLearning(
        20, alpha=0.1, max_iter=1, batch_size=32, fit_algorithm="lars", shuffle=False, dict_init=start.numpy(), tol=0
    ).fit(vectors.numpy())
    atoms, replaced = learn(vectors, start, 0.1, 5, 32, torch.Generator().manual_seed(0))
    assert replaced == 0
    np.testing.assert_allclose(atoms.numpy(), oracle.components_, atol=1e-4)


def test_learning_lowers_the_objective_on_new_vectors():
    vectors = relu_vectors(1200, 8, 11)
    train, test = vectors[:1000], vectors[1000:]
    penalty = 0.02 * train.norm(dim=1).mean().item()

    def objective(atoms):
        codes = lasso(test, atoms, penalty)
        return (0.5 * (test - codes @ atoms).square().sum() + penalty * codes.abs().sum()).item()

    few, many = (fit_dictionary_learning(train, 24, seed=0, iterations=steps) for steps in (1, 40))
    assert objective(many.atoms) < 0.9 * objective(few.atoms)
    assert many.info["penalty"] == pytest.approx(penalty, rel=1e-6)
    torch.testing.assert_close(many.atoms.norm(dim=1), torch.ones(24))


def test_an_atom_that_is_not_used_is_replaced():
    vectors = relu_vectors(200, 6, 12)
    start = torch.nn.functional.normalize(torch.cat([vectors[:6], vectors[:1]]), dim=1)
    start[-1] = torch.tensor([1.0, -1, 0, 0, 0, 0]) / 2**0.5 * 1e-6
    atoms, replaced = learn(vectors, start, 0.5, 3, 50, torch.Generator().manual_seed(0))
    assert replaced > 0 and atoms[-1].norm() > 0.5
