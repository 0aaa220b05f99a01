"""Reconstruction metrics: against their definitions and scikit-learn, whatever the batches."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from vismech.errors import UserError
from vismech.measures.reconstruction.scores import Reconstruction, loss_recovered, moments


def sample(n, seed, offset=0.0):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 5, generator=generator) + offset
    codes = torch.relu(torch.randn(n, 9, generator=generator) - 0.5)
    return vectors, codes, vectors + 0.3 * torch.randn(n, 5, generator=generator)


def accumulate(batches):
    metrics = Reconstruction(5)
    for batch in batches:
        metrics.update(*batch)
    return metrics.result()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 80), size=st.integers(1, 80))
def test_metrics_follow_their_definitions_whatever_the_batches(seed, n, size):
    x, u, y = sample(n, seed)
    result = accumulate(zip(x.split(size), u.split(size), y.split(size), strict=True))
    assert result.r2 == pytest.approx(r2_score(x.double(), y.double(), multioutput="uniform_average"), rel=1e-9)
    assert result.relative_error == pytest.approx(((x - y).double().norm() / x.double().norm()).item(), rel=1e-6)
    assert result.l0 == pytest.approx((u != 0).sum().item() / n)
    share = (u != 0).double().mean(0)
    assert (result.dead, result.dense) == (int((share == 0).sum()), int((share > 0.5).sum()))


def test_exactly_half_is_not_dense_and_a_negative_code_is_active():
    codes = torch.tensor([[1.0, -1, 0, 2], [0, -3, 0, 0], [0, 2, 0, 1], [1, 0, 0, 1]])
    vectors = torch.arange(20.0).reshape(4, 5)
    result = accumulate([(vectors, codes, vectors)])
    assert result == (1.0, 0.0, 2.0, 1, 2)


def test_a_large_mean_does_not_drown_the_variance():
    small, large = sample(200, 0), sample(200, 0, offset=1000.0)
    assert accumulate([tuple(t[:90] for t in large), tuple(t[90:] for t in large)]).r2 == pytest.approx(
        accumulate([small]).r2, abs=1e-4
    )


def test_channels_that_never_change_are_left_out():
    x, u, y = sample(50, 1)
    x[:, 2], y[:, 2] = 0.1, 7.0
    result = accumulate([(x[:20], u[:20], y[:20]), (x[20:], u[20:], y[20:])])
    varying = [0, 1, 3, 4]
    assert result.r2 == pytest.approx(r2_score(x[:, varying].double(), y[:, varying].double()), rel=1e-6)


def test_moments_of_parts_add_up_to_the_whole():
    x, u, y = sample(60, 4, offset=5.0)
    parts = Reconstruction(5)
    for rows in torch.arange(60).split(13):
        parts.add(moments(x[rows], u[rows], y[rows]))
    assert parts.result() == pytest.approx(accumulate([(x, u, y)]), rel=1e-12)


def test_an_empty_batch_adds_nothing():
    batch = sample(10, 2)
    assert accumulate([batch, tuple(t[:0] for t in batch)]) == accumulate([batch])


def test_what_has_no_value_is_refused():
    x, u, y = sample(4, 3)
    with pytest.raises(UserError, match="R² of 0 vectors is undefined"):
        Reconstruction(5).result()
    with pytest.raises(UserError, match="R² of 2 vectors is undefined: no channel varies"):
        accumulate([(torch.zeros(2, 5), u[:2], y[:2])])
    with pytest.raises(UserError, match="not finite"):
        accumulate([(x, u, y * float("nan"))])
    with pytest.raises(UserError, match="5 channels and 9 atoms: got 5 channels and 3 atoms"):
        accumulate([(x, u, y), (x, u[:, :3], y)])
    with pytest.raises(UserError, match="of 5 channels and 9 atoms: got 4 channels"):
        accumulate([(x[:, :4], u, y[:, :4])])


def test_the_loss_recovered_is_one_for_the_clean_network_and_zero_for_the_ablated_one():
    clean, ablated = np.random.default_rng(0).uniform(size=(2, 40)) + np.array([[0.0], [1.5]])
    for spliced, expected in ((clean, 1.0), (ablated, 0.0), ((clean + ablated) / 2, 0.5)):
        found = loss_recovered(np.stack([clean, spliced, ablated], 1))
        assert found == pytest.approx((expected, 40, expected, expected))
    worse = loss_recovered(np.stack([clean, ablated + np.linspace(0, 1, 40), ablated], 1))
    assert worse is not None
    assert worse.low < worse.value < worse.high < 0
    assert loss_recovered(np.stack([ablated, clean, clean], 1)) is None
