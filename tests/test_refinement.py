"""Atoms fitted anew to their codes, against a slow twin, planted atoms, and k-means."""

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from vismech.dictionaries import build
from vismech.dictionaries.coding import Code
from vismech.dictionaries.pursuit import orthogonal_matching_pursuit
from vismech.dictionaries.refinement import Refinement, refine


def planted(k: int, c: int, l0: int, n: int = 3000, nonnegative: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors that are sums of l0 of k unit atoms, and the atoms."""
    generator = torch.Generator().manual_seed(0)
    atoms = normalize(torch.randn(k, c, generator=generator), dim=1)
    codes = torch.zeros(n, k)
    for row in codes:
        chosen = torch.randperm(k, generator=generator)[:l0]
        row[chosen] = torch.rand(l0, generator=generator) + 0.5
        if not nonnegative:
            row[chosen] *= torch.randint(0, 2, (l0,), generator=generator) * 2.0 - 1
    return codes @ atoms, atoms


@pytest.mark.parametrize("nonnegative", [False, True])
def test_planted_atoms_come_back_from_atoms_far_off(nonnegative):
    vectors, truth = planted(24, 16, 2, nonnegative=nonnegative)
    noise = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    start = normalize(truth + 0.2 * noise, dim=1)
    found = refine(vectors, start, Refinement(20, 2, nonnegative))
    before, after = ((start * truth).sum(1), (found.atoms * truth).sum(1))
    assert before.mean() < 0.85
    assert after.median() > 0.999
    assert (after > 0.99).float().mean() > 0.9
    assert found.errors[-1] < 0.1 * found.errors[0]
    torch.testing.assert_close(found.atoms.norm(dim=1), torch.ones(24))


def test_one_round_is_the_slow_twins():
    vectors, truth = planted(12, 8, 2, n=200)
    found = refine(vectors, truth.flip(1), Refinement(1, 3)).atoms
    x, atoms = vectors.double().numpy(), truth.flip(1).double().numpy()
    codes = orthogonal_matching_pursuit(vectors, truth.flip(1), 3).double().numpy()
    for _ in range(3):
        for atom in range(12):
            others = np.delete(np.arange(12), atom)
            missed = x - codes[:, others] @ atoms[others]
            direction = codes[:, atom] @ missed
            atoms[atom] = direction / np.linalg.norm(direction)
    np.testing.assert_allclose(found.numpy(), atoms, atol=1e-5)


def test_fixed_codes_never_get_worse():
    vectors, truth = planted(24, 16, 3)
    start = truth.flip(1)
    codes = orthogonal_matching_pursuit(vectors, start, 3)
    after = refine(vectors, start, Refinement(1, 3)).atoms
    assert (vectors - codes @ after).square().sum() < (vectors - codes @ start).square().sum()


def test_one_concept_per_vector_is_a_step_of_k_means_of_directions():
    vectors, _ = planted(6, 5, 1, n=400, nonnegative=True)
    vectors = vectors + 0.1 * torch.randn(vectors.shape, generator=torch.Generator().manual_seed(2))
    start = normalize(vectors[:6], dim=1)
    found = refine(vectors, start, Refinement(1, 1, nonnegative=True)).atoms
    scores, labels = (vectors @ start.T).max(1)
    weighted = torch.zeros(6, 5).index_add_(0, labels, scores[:, None] * vectors)  # Each by how much it is of its own.
    torch.testing.assert_close(found, normalize(weighted, dim=1), atol=1e-5, rtol=0)


def test_an_atom_that_no_vector_uses_becomes_a_vector_that_is_rebuilt_worst():
    vectors = torch.eye(4)[[0] * 50 + [1] * 50 + [2]] * 2.0
    start = torch.eye(4)[[0, 1, 3]]
    found = refine(vectors, start, Refinement(2, 1))
    torch.testing.assert_close(found.atoms, torch.eye(4)[[0, 1, 2]])
    assert found.errors[1] == 0 < found.errors[0]


def test_neither_the_order_of_vectors_nor_the_number_of_threads_shows():
    vectors, truth = planted(24, 16, 2)
    generator = torch.Generator().manual_seed(3)
    threads = torch.get_num_threads()
    found = []
    for rows, count in ((slice(None), 1), (torch.randperm(len(vectors), generator=generator), 2)):
        torch.set_num_threads(count)
        found.append(refine(vectors[rows], truth.flip(1), Refinement(3, 2)))
    torch.set_num_threads(threads)
    assert torch.equal(found[0].atoms, found[1].atoms)
    assert found[0].errors == found[1].errors


def test_clusters_rebuild_better_under_the_l0_that_they_are_refined_for():
    vectors, _ = planted(24, 16, 3)
    rounds = []
    refinement = Refinement(6, 3)
    found = build("bisecting", vectors, 24, 0, center=True, refinement=refinement, on_round=lambda: rounds.append(1))
    assert len(rounds) == 6
    errors = found.info["refinement_errors"]
    assert len(errors) == 6
    assert errors[-1] < 0.7 * errors[0]
    assert found.arrays == {}  # The tree tells of the clusters.
    mean = vectors.mean(0)
    torch.testing.assert_close(found.atoms[-1], mean / mean.norm())


def test_vectors_are_those_that_the_dictionary_codes_without_a_methods_own_bias():
    vectors = planted(24, 16, 3, nonnegative=True)[0] + 0.3
    options = {"center": True, "activation": "topk", "l0_per_channel": 0.25, "steps": 100, "batch_size": 256}
    plain = build("sae", vectors, 24, 0, Code.omp, l0=3, **options)
    refined = build("sae", vectors, 24, 0, refinement=Refinement(1, 3), **options)
    missed = (vectors - plain.decode(plain.encode(vectors))).square().sum()
    energy = (vectors - plain.info["mean_norm"] * plain.atoms[-1]).square().sum()
    assert plain.encoder  # Whose bias has moved the mean concept.
    assert not torch.allclose(plain.atoms[-1], normalize(vectors.mean(0), dim=0), atol=1e-3)
    assert refined.info["refinement_errors"][0] == pytest.approx((missed / energy).item(), rel=1e-3)
