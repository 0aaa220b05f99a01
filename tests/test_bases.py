"""Bases, random controls and flat k-means against scikit-learn and their definitions."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from vismech.dictionaries.bases import (
    encode_projection,
    fit_channels,
    fit_pca,
    fit_random,
    fit_random_pfv,
    fit_rotation,
)
from vismech.dictionaries.kmeans import fit_kmeans
from vismech.errors import UserError


def relu_vectors(n, c, seed):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(c, c, generator=generator)
    return torch.relu(torch.randn(n, c, generator=generator) @ mixing / c**0.5 + 0.3)


def unit(vectors):
    return torch.nn.functional.normalize(vectors.double(), dim=1)


def sum_of_squares(vectors, labels):
    groups = (vectors[labels == label] for label in labels.unique())
    return sum((group - group.mean(0)).square().sum().item() for group in groups)


def test_pca_of_centred_vectors_is_scikit_learns():
    vectors = relu_vectors(500, 10, 0)
    centred = vectors - vectors.mean(0)
    ours, theirs = fit_pca(centred, 4, seed=0), PCA(4, svd_solver="full").fit(centred.double().numpy())
    signs = np.sign((ours.atoms.double().numpy() * theirs.components_).sum(1))
    np.testing.assert_allclose(ours.atoms.numpy(), signs[:, None] * theirs.components_, atol=1e-5)
    assert ours.info["energy"] == pytest.approx(theirs.explained_variance_ratio_.sum(), rel=1e-5)
    assert (ours.atoms.gather(1, ours.atoms.abs().argmax(1, keepdim=True)) > 0).all()


def test_pca_of_vectors_as_they_are_is_their_svd():
    vectors = relu_vectors(300, 7, 1)
    expected = torch.linalg.svd(vectors.double(), full_matrices=False)[2]
    cosines = (fit_pca(vectors, 7, seed=0).atoms.double() * expected).sum(1).abs()
    torch.testing.assert_close(cosines, torch.ones_like(cosines))


@pytest.mark.parametrize("fit", [fit_pca, fit_channels, fit_rotation])
def test_a_complete_basis_is_orthonormal_and_rebuilds_everything(fit):
    vectors = relu_vectors(50, 9, 2)
    atoms = fit(vectors, 9, seed=0).atoms
    torch.testing.assert_close(atoms @ atoms.T, torch.eye(9), rtol=0, atol=1e-6)
    codes = encode_projection(vectors, atoms, {}, {})
    torch.testing.assert_close(codes @ atoms, vectors, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match=r"10 concepts were asked of 9 channels: use 1 … 9"):
        fit(vectors, 10, seed=0)


def test_channels_are_the_codes_of_channels():
    vectors = relu_vectors(50, 6, 3) * torch.tensor([1, 5, 0.1, 3, 1, 1])
    assert torch.equal(fit_channels(vectors, 6, seed=0).atoms, torch.eye(6))
    assert fit_channels(vectors, 2, seed=0).atoms.argmax(1).tolist() == [1, 3]


def test_random_directions_are_even():
    vectors = relu_vectors(3, 5, 4)
    drawn = fit_random(vectors, 20_000, seed=0).atoms
    rotated = torch.cat([fit_rotation(vectors, 5, seed=seed).atoms for seed in range(3000)])
    for atoms in (drawn, rotated):
        # Of even directions the mean is 0 and the mean of v vᵀ is I / c, within four standard errors.
        assert atoms.mean(0).abs().max() < 4 * (0.2 / len(atoms)) ** 0.5
        torch.testing.assert_close(atoms.T @ atoms / len(atoms), torch.eye(5) / 5, rtol=0, atol=4 * 0.25 / 100)


def test_random_vectors_of_the_layer_are_distinct_ones():
    vectors = relu_vectors(30, 6, 5).repeat(3, 1)
    vectors[30:60] *= 2
    vectors[0] = 0
    atoms = fit_random_pfv(vectors, 30, seed=0).atoms
    assert len(atoms.unique(dim=0)) == 30
    assert ((unit(atoms) @ unit(vectors[1:]).T).amax(1) > 1 - 1e-6).all()
    with pytest.raises(UserError, match="random_pfv: 31 concepts were asked of 30 distinct directions among 90"):
        fit_random_pfv(vectors, 31, seed=0)


@pytest.mark.parametrize("spherical", [True, False])
def test_clusters_are_as_tight_as_scikit_learns(spherical):
    vectors = relu_vectors(3000, 12, 6)
    data = unit(vectors) if spherical else vectors.double()
    ours, theirs = [], []
    for seed in range(3):
        fitted = fit_kmeans(vectors, 20, seed=seed, unit=spherical)
        ours.append(fitted.info["sse"])
        peer = KMeans(20, init="random", n_init=1, random_state=seed).fit(data.float().numpy())
        theirs.append(sum_of_squares(data, torch.from_numpy(peer.labels_)))
        assert fitted.arrays["cluster_size"].sum() == 3000 - fitted.info["zero_vectors"]
    assert np.mean(ours) <= 1.02 * np.mean(theirs)


def test_a_concept_is_the_direction_of_its_clusters_mean():
    generator = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.rand(5, 8, generator=generator), dim=1)
    lengths = 2.0 ** torch.randint(6, (200,), generator=generator)
    vectors = directions[torch.arange(200) % 5] * lengths[:, None]
    found = min((fit_kmeans(vectors, 5, seed=seed) for seed in range(20)), key=lambda fitted: fitted.info["sse"])
    torch.testing.assert_close((found.atoms @ directions.T).amax(0), torch.ones(5))
    assert found.info["sse"] < 1e-6 and found.info["empty"] == 0


def test_raw_clusters_tell_lengths_apart():
    vectors = torch.cat([torch.eye(2), 10 * torch.eye(2)]).repeat(20, 1)
    vectors += 0.01 * torch.rand(80, 2, generator=torch.Generator().manual_seed(8))
    raw = min((fit_kmeans(vectors, 4, seed=s, unit=False) for s in range(20)), key=lambda fitted: fitted.info["sse"])
    assert sorted(raw.arrays["cluster_size"].tolist()) == [20] * 4 and raw.info["sse"] < 0.1
    torch.testing.assert_close(raw.atoms.norm(dim=1), torch.ones(4))


def test_clusterings_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="kmeans: 4 concepts were asked of 2 distinct directions among 40 vectors"):
        fit_kmeans(torch.eye(2).repeat(20, 1), 4, seed=0)
    with pytest.raises(UserError, match=r"kmeans: k=0 concepts: ask for at least 1"):
        fit_kmeans(torch.eye(2), 0, seed=0)
    with pytest.raises(UserError, match="the mean of cluster 0 is zero and has no direction"):
        fit_kmeans(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), 1, seed=0)
    with pytest.raises(UserError, match="not finite"):
        fit_kmeans(torch.tensor([[1.0, float("nan")]]), 1, seed=0)
