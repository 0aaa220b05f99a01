"""Influence of a graph's nodes on the class: a graph worked out by hand, and a slow twin from the formula."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vismech.attribution.influence import Inflow, fewest, influence

# Class ← B (kept 0 and 2 of three) ← A, the earliest layer.
INTO_B = Inflow(np.array([[[1.0, 0.0, 1.0], [0.0, 3.0, 0.0]]]), np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]))
INTO_CLASS = Inflow(np.array([[[4.0, 2.0, 2.0]]]), np.array([[1.0]]), np.array([[1.0]]))
KEPT = [[0], [0, 2]]


def test_a_graph_worked_out_by_hand() -> None:
    found = influence([INTO_B, INTO_CLASS], KEPT, np.ones(1))
    np.testing.assert_allclose(found.concepts[1], [0.4, 0.2, 0.2])
    np.testing.assert_allclose(found.concepts[0], [0.1, 0.15, 0.1])
    np.testing.assert_allclose(found.offset, [0.1, 0.1])
    np.testing.assert_allclose(found.error, [0.15, 0.1])
    assert found.untraced == pytest.approx(0.2)  # concept 1 of B is kept nowhere
    assert found.replacement == pytest.approx(0.35 / (0.35 + 0.25))
    # 90 % of the class's inflow is no error, 75 % of that of either concept: with influences 1, 0.4 and 0.2.
    assert found.completeness == pytest.approx((1 * 0.9 + 0.4 * 0.75 + 0.2 * 0.75) / 1.6)


def test_without_errors_there_is_nothing_to_score() -> None:
    found = influence([inflow._replace(error=None) for inflow in (INTO_B, INTO_CLASS)], KEPT, np.ones(1))
    assert (found.replacement, found.completeness, found.error) == (None, None, None)
    np.testing.assert_allclose(found.concepts[1], np.array([4, 2, 2]) / 9)


def test_a_kept_concept_without_inflow_is_untraced() -> None:
    nothing = Inflow(*(part * np.array([1.0, 0.0]).reshape(-1, *[1] * (part.ndim - 2)) for part in INTO_B))
    found = influence([nothing, INTO_CLASS], KEPT, np.ones(1))
    assert found.untraced == pytest.approx(0.2 + 0.2)
    assert found.completeness == pytest.approx((1 * 0.9 + 0.4 * 0.75) / 1.4)


def slow(inflows, kept, groups):
    """Σ_k A^k over all nodes at once: every class, every concept, an offset and an error for each layer."""
    names = [("class", group) for group in range(len(groups))]
    for level, inflow in enumerate(inflows):
        names += [(level, source) for source in [*range(inflow.concepts.shape[2]), "offset", "error"]]
    place = {name: index for index, name in enumerate(names)}
    size = np.zeros((len(names), len(names)))
    for level, inflow in enumerate(inflows):
        for row in range(inflow.concepts.shape[1]):
            for group in range(len(groups)):
                last = level == len(inflows) - 1
                target = ("class", group) if last else (level + 1, kept[level + 1][row])
                share = 1.0 if last else groups[group]
                for source in range(inflow.concepts.shape[2]):
                    size[place[target], place[level, source]] += share * inflow.concepts[group, row, source]
                size[place[target], place[level, "offset"]] += share * inflow.offset[group, row]
                size[place[target], place[level, "error"]] += share * inflow.error[group, row]
    total = size.sum(1, keepdims=True)
    a = np.divide(size, total, out=np.zeros_like(size), where=total > 0)
    reach = np.zeros(len(names))
    reach[: len(groups)] = groups
    row, power = reach.copy(), reach.copy()
    for _ in range(len(names)):
        power = power @ a
        row += power
    inputs = total[:, 0] > 0
    errors = [place[level, "error"] for level in range(len(inflows))]
    complete = (row * (1 - a[:, errors].sum(1)))[inputs].sum() / row[inputs].sum() if row[inputs].any() else None
    ends = {name: row[index] for name, index in place.items() if not inputs[index]}
    return {name: row[index] for name, index in place.items()}, ends, complete


@st.composite
def graphs(draw):
    groups, layers = draw(st.integers(1, 2)), draw(st.integers(1, 4))
    counts = [draw(st.integers(1, 4)) for _ in range(layers)]
    kept = [sorted(draw(st.sets(st.integers(0, count - 1), min_size=1))) for count in counts]

    def sizes(*shape):
        return draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.5, 1.0, 3.0])))

    rows = [len(some) for some in kept[1:]] + [1]
    inflows = [
        Inflow(sizes(groups, row, count), sizes(groups, row), sizes(groups, row))
        for row, count in zip(rows, counts, strict=True)
    ]
    return inflows, kept, np.full(groups, 1 / groups)


@given(graphs())
def test_the_sweep_is_the_power_series(graph) -> None:
    inflows, _, groups = graph
    found, (row, ends, complete) = influence(*graph), slow(*graph)
    for level, inflow in enumerate(inflows):
        expected = [row[level, source] for source in range(inflow.concepts.shape[2])]
        np.testing.assert_allclose(found.concepts[level], expected, atol=1e-12)
        assert found.offset[level] == pytest.approx(row[level, "offset"], abs=1e-12)
        assert found.error[level] == pytest.approx(row[level, "error"], abs=1e-12)
    assert found.completeness == pytest.approx(complete)
    traced = {(0, source) for source in range(inflows[0].concepts.shape[2])}
    others = sum(value for name, value in ends.items() if name not in traced and name[1] not in ("offset", "error"))
    assert found.untraced == pytest.approx(others, abs=1e-12)
    whole = found.concepts[0].sum() + found.offset.sum() + found.error.sum() + found.untraced
    assert whole == pytest.approx(groups.sum())


@given(arrays(np.float64, st.integers(0, 6), elements=st.sampled_from([0.0, 0.5, 1.0, 4.0])), st.floats(0.01, 1.0))
def test_the_fewest_reach_the_share_and_fewer_do_not(values, share) -> None:
    kept, wanted = fewest(values, share), share * values.sum() * (1 - 1e-9)
    assert kept == sorted(set(kept))
    assert values[kept].sum() >= wanted
    if kept:
        assert all(values[list(some)].sum() < wanted for some in combinations(range(len(values)), len(kept) - 1))
