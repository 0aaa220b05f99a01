"""Codes as targets: their gradient against finite differences of the coder itself."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curves import LOWER, UPPER, Segment, activations, clean, source, unit_vectors
from vismech.attribution.engine import Settings, attribute, choose_mode
from vismech.attribution.targets import ConceptTargets, codes_of
from vismech.config.choices import Code, Mode, PathWeight, ReadOut
from vismech.dictionaries.base import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.errors import UserError

CODINGS = [
    Coding(Code.lasso, 0.1, tolerance=1e-9),
    Coding(Code.lasso_nonnegative, 0.1, tolerance=1e-9),
    Coding(Code.omp, l0=3),
]
STEP = 1e-4


def dictionary(coding: Coding, k: int = 12, c: int = 5, centred: bool = False) -> Dictionary:
    atoms = unit_vectors(k, c, 4)
    return Dictionary(atoms, coding, k - 1 if centred else None, {"mean_norm": 0.7} if centred else {})


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.code.value)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=5)
def test_gradient_equals_finite_differences_where_the_active_set_is_stable(coding, centred, seed) -> None:
    words = dictionary(coding, centred=centred)
    vector = torch.randn(5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    moved = vector + STEP * torch.cat([torch.eye(5), -torch.eye(5)]).double()
    codes, around = words.encode(vector[None])[0], words.encode(moved)
    if not ((around != 0) == (codes != 0)).all():
        return  # at the edge of an active set there is no derivative
    concepts = tuple(range(words.k))
    point = vector.expand(1, words.k, 5).clone().requires_grad_()
    values = codes_of(point, words, concepts)
    torch.testing.assert_close(values[0], codes, rtol=1e-6, atol=1e-9)
    (slopes,) = torch.autograd.grad(values.sum(), point)
    expected = ((around[:5] - around[5:]) / (2 * STEP)).T  # [k, c]
    torch.testing.assert_close(slopes[0], expected, rtol=1e-3, atol=1e-4)
    assert (slopes[0][codes == 0] == 0).all()
    assert (slopes[0][codes != 0].any(1).sum() > 0) == bool(codes[: words.k - centred].any())
    if centred:
        assert codes[-1] == pytest.approx(0.7) and (slopes[0, -1] == 0).all()


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.code.value)
def test_active_sets_are_mostly_stable_at_the_step_of_the_differences(coding) -> None:
    """So that the test above is not passed by leaving it."""
    words, vectors = dictionary(coding), torch.randn(50, 5, generator=torch.Generator().manual_seed(1)).double()
    same = [
        ((words.encode(vector + STEP * torch.eye(5).double()) != 0) == (words.encode(vector[None]) != 0)).all()
        for vector in vectors
    ]
    assert sum(map(int, same)) > 40


@pytest.mark.parametrize("coding", CODINGS, ids=lambda coding: coding.code.value)
def test_edges_to_codes_are_complete_where_the_code_is_on_all_along(coding) -> None:
    vectors, words = activations(1), dictionary(coding)
    segment = Segment().double()
    upper = UPPER.vectors(segment(clean(vectors)))
    codes = words.encode(upper.flatten(0, 1)).unflatten(0, upper.shape[:2])
    concepts = (0, 3, 7)
    best = codes[..., list(concepts)].max(1)
    places = best.indices.masked_fill(best.values <= 0, -1)
    targets = ConceptTargets(words.atoms[list(concepts)], places, UPPER, ReadOut.code, words, concepts)
    # From a baseline close by, so that the active sets stay what they are on most paths.
    one = source("activation", vectors, vectors + 1e-4 * activations(2))
    assert choose_mode(targets, one) is Mode.reverse
    found = attribute(segment, LOWER, one, clean(vectors), targets, Settings(steps=8))
    torch.testing.assert_close(found.value, best.values.clamp(min=0), rtol=1e-5, atol=1e-8)
    edges = found.edges[PathWeight.ig]
    missed = (edges.units.sum(2) + edges.error - (found.value - found.baseline)).abs()
    change = (found.value - found.baseline).abs()
    assert found.present.any() and (change[found.present] > 0).all()
    assert missed.median() < 1e-2 * change[found.present].median()
    with pytest.raises(UserError, match="codes as targets have no forward derivative"):
        attribute(segment, LOWER, one, clean(vectors), targets, Settings(steps=8, mode=Mode.forward))
