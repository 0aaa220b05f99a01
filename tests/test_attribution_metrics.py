"""Metrics of attributions: limits that are known, slow twins, and captum where its definitions agree."""

from __future__ import annotations

import captum.metrics
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vismech.measures.attribution.scores import (
    ABPC_SHARES,
    Change,
    Removals,
    abpc,
    areas,
    completeness,
    curves,
    infidelity,
    max_sensitivity,
    removals,
    sensitivity_n,
)

SEEDS = st.integers(0, 10**6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def linear(units, seed=0, positive=False, targets=1):
    """F(m) = 0.3 + Σ_q m_q φ_q for every target, with its exact attribution [T, 1, Q]."""
    phi = torch.randn(targets, units, generator=generator(seed))
    phi = phi.abs() if positive else phi + 0.2
    return (
        (lambda kept: 0.3 + kept.float() @ phi.T),
        phi[:, None],
        Change(0.3 + phi.sum(1), torch.full((targets,), 0.3)),
    )


def curved(units, seed=0, targets=2):
    """Something with interactions, some attributions of it [T, 2, Q], and its ends."""
    weight = torch.randn(units, 6, generator=generator(seed))
    out = torch.randn(6, targets, generator=generator(seed + 1))

    def outputs(kept):
        return torch.tanh(kept.float() @ weight) @ out

    everything = torch.ones(1, units, dtype=torch.bool)
    ends = Change(outputs(everything)[0], outputs(~everything)[0])
    return outputs, torch.randn(targets, 2, units, generator=generator(seed + 2)), ends


def normalised(outputs, ends, target, kept):
    value = outputs(torch.tensor(kept)[None])[0, target]
    return float((value - ends.baseline[target]) / (ends.value - ends.baseline)[target])


def ranking(phi, ends, target):
    return np.argsort(-np.asarray(phi) * np.sign(float(ends.change[target])), kind="stable")


@settings(max_examples=12)
@given(seed=SEEDS, units=st.integers(2, 23))
def test_abpc_and_curves_follow_their_definitions(seed, units):
    outputs, phi, ends = curved(units, seed)
    area, found = abpc(outputs, phi, ends), curves(outputs, phi, ends, steps=7)
    for target in range(2):
        for method in range(2):
            order = ranking(phi[target, method], ends, target)
            total = 0.0
            for share in ABPC_SHARES:
                count = round(share * units)
                low, high = [True] * units, [True] * units
                for unit in order[units - count :]:
                    low[unit] = False
                for unit in order[:count]:
                    high[unit] = False
                low, high = (min(1, max(0, normalised(outputs, ends, target, kept))) for kept in (low, high))
                total += max(0.0, low - high)
            assert float(area.value[target, method]) == pytest.approx(total / 10, abs=1e-5)
            for step in range(8):
                count = round(step * units / 7)
                first = [bool(unit in order[:count]) for unit in range(units)]
                mass = phi[target, method].abs()
                assert float(found.share[step]) == pytest.approx(count / units)
                assert float(found.mass[target, method, step]) == pytest.approx(
                    float(mass[first].sum() / mass.sum()), abs=1e-5
                )
                for curve, kept in ((found.insertion, first), (found.deletion, [not one for one in first])):
                    expected = normalised(outputs, ends, target, kept)
                    assert float(curve[target, method, step]) == pytest.approx(expected, rel=1e-3, abs=1e-4)


@settings(max_examples=12)
@given(seed=SEEDS)
def test_areas_are_trapezoids_and_magnitude_alignment_lies_in_the_unit_interval(seed):
    found = curves(*curved(19, seed), steps=6)
    result, share = areas(found), found.share.numpy()
    assert all(((part >= 0) & (part <= 1)).all() for part in (result.mas_insertion, result.mas_deletion))
    for target in range(2):
        up, down = (part[target, 0].numpy() for part in (found.insertion, found.deletion))
        mass = found.mass[target, 0].numpy()
        expected = []
        for response, due, sign, monotone in (
            (up, mass, -1, np.maximum.accumulate),
            (down, 1 - mass, 1, np.minimum.accumulate),
        ):
            response = monotone(response.clip(0, 1))
            expected.append(np.trapezoid((response + sign * np.abs(due - response)).clip(0, 1), share))
        expected = [np.trapezoid(up, share), np.trapezoid(down, share), *expected]
        assert [float(part[target, 0]) for part in result] == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_exact_attributions_of_a_linear_model_are_perfect():
    outputs, phi, ends = linear(40, targets=3)
    drawn = removals(outputs, ends, 40, 0.3, generator())
    assert drawn.removed.sum(1).eq(12).all()
    assert completeness(phi, ends).value == pytest.approx(0, abs=1e-5)
    assert infidelity(phi, drawn) == pytest.approx(0, abs=1e-8)
    assert sensitivity_n(phi, drawn).value == pytest.approx(1, abs=1e-5)
    twice = torch.cat([phi, 2 * phi], 1)
    assert completeness(twice, ends).value[:, 1] == pytest.approx(1, abs=1e-5)
    assert infidelity(twice, drawn)[:, 1].numpy() == pytest.approx(drawn.drop.square().mean(0).numpy(), rel=1e-4)


def test_an_exact_positive_attribution_is_aligned_with_its_response():
    found = curves(*linear(64, positive=True))
    result = areas(found)
    assert float(result.mas_insertion) == pytest.approx(float(result.insertion), abs=1e-5)
    assert float(result.mas_deletion) == pytest.approx(float(result.deletion), abs=1e-5)
    assert float(result.insertion) == pytest.approx(1 - float(result.deletion), abs=1e-5)


def test_the_opposite_order_has_no_area_and_a_random_one_no_correlation():
    outputs, phi, ends = linear(200, positive=True)
    assert float(abpc(outputs, phi, ends).value) > 0.2
    assert float(abpc(outputs, -phi, ends).value) == 0
    noise = torch.randn(1, 200, 200, generator=generator(5))
    drawn = removals(outputs, ends, 200, 0.5, generator(6), draws=300)
    found = sensitivity_n(noise, drawn).value
    assert float(found.mean()) == pytest.approx(0, abs=0.02)
    assert float(found.abs().max()) < 0.4


@settings(max_examples=12)
@given(seed=SEEDS)
def test_a_falling_target_is_measured_as_a_rising_one(seed):
    outputs, phi, ends = curved(15, seed)
    mirrored, fallen = (lambda kept: -outputs(kept)), Change(-ends.value, -ends.baseline)
    for first, second in (
        (abpc(outputs, phi, ends).value, abpc(mirrored, -phi, fallen).value),
        *zip(areas(curves(outputs, phi, ends)), areas(curves(mirrored, -phi, fallen)), strict=True),
    ):
        assert torch.equal(first, second)


def test_correlation_is_numpys():
    outputs, phi, ends = curved(30)
    drawn = removals(outputs, ends, 30, 0.2, generator(3))
    found = sensitivity_n(phi, drawn).value
    for target in range(2):
        for method in range(2):
            told = (drawn.removed.double() @ phi[target, method].double()).numpy()
            assert float(found[target, method]) == pytest.approx(
                np.corrcoef(told, drawn.drop[:, target])[0, 1], abs=1e-5
            )


def test_infidelity_and_max_sensitivity_are_captums():
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    with torch.no_grad():
        for index, part in enumerate(model.parameters()):
            part.copy_(torch.randn(part.shape, generator=generator(index)))
    x, b = torch.randn(2, 12, generator=generator(9))
    phi = torch.randn(1, 1, 12, generator=generator(10))

    def outputs(kept):
        with torch.no_grad():
            return model(torch.where(kept, x, b))

    ends = Change(model(x).detach(), model(b).detach())
    drawn = removals(outputs, ends, 12, 0.5, generator(11))

    def perturb(inputs):
        return drawn.removed.float(), torch.where(drawn.removed, b, inputs)

    theirs = captum.metrics.infidelity(model, perturb, x[None], phi[0], n_perturb_samples=len(drawn.removed))
    assert float(infidelity(phi, drawn)) == pytest.approx(float(theirs), rel=1e-5)

    def explain(inputs):
        with torch.enable_grad():
            inputs = inputs.detach().requires_grad_()
            return torch.autograd.grad(model(inputs).sum(), inputs)[0] * inputs.detach()

    noise = torch.rand(10, 12, generator=generator(12)) * 0.1 - 0.05
    theirs = captum.metrics.sensitivity_max(
        lambda inputs: (explain(*inputs),),
        (x[None],),
        lambda inputs, _: (inputs[0] + noise,),
        n_perturb_samples=10,
    )
    ours = max_sensitivity(explain(x[None])[None], explain(x + noise)[:, None, None])
    assert float(ours.value) == pytest.approx(float(theirs), rel=1e-5)


def test_what_does_not_exist_is_marked_and_not_zero():
    outputs, phi, ends = curved(8)
    nothing = torch.zeros_like(phi)
    flat = Removals(removals(outputs, ends, 8, 0.5, generator()).removed, torch.zeros(100, 2))
    assert not abpc(outputs, nothing, ends).defined.any()
    assert not sensitivity_n(phi, flat).defined.any()
    assert not max_sensitivity(nothing, phi[None]).defined.any()
    assert not completeness(phi, Change(ends.value, ends.value)).defined.any()
    with pytest.raises(ValueError, match="cannot be normalised by changes of"):
        abpc(outputs, phi, Change(ends.value, ends.value))
