"""Non-negative and coarse-to-fine pursuit against slow twins and the conditions that define them."""

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from vismech.dictionaries.pursuit import (
    coarse_to_fine_pursuit,
    nonnegative_orthogonal_matching_pursuit,
    orthogonal_matching_pursuit,
    simultaneous_orthogonal_matching_pursuit,
)
from vismech.errors import UserError


def problem(n=60, k=40, c=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    atoms = torch.nn.functional.normalize(torch.randn(k, c, generator=generator), dim=1)
    return torch.randn(n, c, generator=generator), atoms


def slow_nonnegative(vector, atoms, l0):
    """One vector, by scipy's non-negative least squares after each choice."""
    chosen, code, residual = [], np.zeros(len(atoms)), vector.copy()
    for _ in range(l0):
        fit = atoms @ residual
        fit[chosen] = -1
        if fit.max() <= 1e-6 * np.linalg.norm(vector):
            break
        chosen.append(int(fit.argmax()))
        code[:] = 0
        code[chosen] = nnls(atoms[chosen].T, vector)[0]
        residual = vector - code @ atoms
    return code


def slow_coarse_to_fine(image, atoms, l0, coarse, fine):
    first = simultaneous_orthogonal_matching_pursuit(image[None], atoms, coarse)[0].any(0).nonzero()[:, 0]
    codes = torch.zeros(len(image), len(atoms))
    codes[:, first] = orthogonal_matching_pursuit(image, atoms[first], min(l0 // 2, len(first)))
    rest = image - codes @ atoms
    energy = orthogonal_matching_pursuit(rest, atoms, l0 - l0 // 2).square().sum(0)
    kept = energy.argsort(descending=True)[:fine].sort().values
    codes[:, kept] += orthogonal_matching_pursuit(rest, atoms[kept], min(l0 - l0 // 2, fine))
    return codes


@pytest.mark.parametrize("l0", [1, 3, 8])
def test_nonnegative_pursuit_is_its_slow_twin(l0):
    vectors, atoms = problem()
    codes = nonnegative_orthogonal_matching_pursuit(vectors, atoms, l0).double()
    assert (codes >= 0).all() and codes.count_nonzero(1).max() <= l0
    exact = vectors.double()
    twins = torch.tensor(np.stack([slow_nonnegative(row, atoms.double().numpy(), l0) for row in exact.numpy()]))
    ours, theirs = ((exact - code @ atoms.double()).square().sum(1) / exact.square().sum(1) for code in (codes, twins))
    # A near tie may fall the other way later on, for better or for worse.
    assert abs(float(ours.mean() - theirs.mean())) <= 0.02 * float(theirs.mean())
    same = (codes - twins).abs().amax(1) < 1e-2
    assert same.double().mean() >= (0.95 if l0 <= 3 else 0.5)


def test_nonnegative_pursuit_of_a_vector_that_no_atom_points_to_is_zero():
    atoms = torch.eye(4)
    codes = nonnegative_orthogonal_matching_pursuit(torch.tensor([[-1.0, -2, -1, -3], [0, 0, 0, 0]]), atoms, 2)
    assert not codes.any()


def test_a_nonnegative_code_does_not_depend_on_the_vectors_beside_it():
    vectors, atoms = problem(n=33)
    codes = nonnegative_orthogonal_matching_pursuit(vectors, atoms, 6)
    torch.testing.assert_close(nonnegative_orthogonal_matching_pursuit(vectors[5:9], atoms, 6), codes[5:9])


@pytest.mark.parametrize(("coarse", "fine"), [(3, 7), (5, 40), (12, 1)])
def test_coarse_to_fine_is_its_slow_twin(coarse, fine):
    vectors, atoms = problem(n=120)
    images = vectors.view(3, 40, 12)
    codes = coarse_to_fine_pursuit(images, atoms, 6, coarse, fine)
    twins = torch.stack([slow_coarse_to_fine(image, atoms, 6, coarse, fine) for image in images])
    torch.testing.assert_close(codes, twins, rtol=0, atol=1e-4)
    assert codes.count_nonzero(2).max() <= 6
    assert codes.any(1).sum(1).max() <= coarse + fine


def test_coarse_to_fine_without_a_limit_takes_any_atom():
    vectors, atoms = problem(n=200)
    images = vectors.view(2, 100, 12)
    free = coarse_to_fine_pursuit(images, atoms, 6, 3, None)
    assert torch.equal(free, coarse_to_fine_pursuit(images, atoms, 6, 3, len(atoms)))
    assert free.any(1).sum(1).min() > coarse_to_fine_pursuit(images, atoms, 6, 3, 5).any(1).sum(1).max()


def test_coarse_to_fine_may_be_nonnegative():
    vectors, atoms = problem(n=80)
    codes = coarse_to_fine_pursuit(vectors.view(2, 40, 12), atoms, 6, 4, 10, nonnegative=True)
    assert (codes >= 0).all() and codes.any()


def test_an_empty_image_has_no_code():
    _, atoms = problem()
    assert not coarse_to_fine_pursuit(torch.zeros(1, 5, 12), atoms, 4, 2, 3).any()


@pytest.mark.parametrize(("l0", "coarse", "fine"), [(1, 3, 3), (13, 3, 3), (4, 0, 3), (4, 3, 0)])
def test_numbers_that_cannot_be_are_one_sentence(l0, coarse, fine):
    vectors, atoms = problem()
    with pytest.raises(UserError, match=f"coarse_to_fine: l0={l0}, coarse={coarse}, fine={fine}"):
        coarse_to_fine_pursuit(vectors[None], atoms, l0, coarse, fine)
    with pytest.raises(UserError, match="omp_nonnegative: l0 is 13"):
        nonnegative_orthogonal_matching_pursuit(vectors, atoms, 13)
