"""What the drawn concepts account for, what acts by its absence, and what is said of both before anything else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from report_sample import sample_account, sample_graph
from vismech.attribution.account import PARTS, ClassValues, absences, account, is_absence, misleads, shares
from vismech.report.verdict import verdict

numbers = st.floats(-20, 20, allow_subnormal=False)


@given(arrays(np.float64, (4, 2), elements=numbers), arrays(np.float64, (2, 6), elements=numbers), st.data())
def test_the_parts_sum_to_the_networks_own_value(values, importance, data) -> None:
    kept = data.draw(st.lists(st.integers(0, 5), unique=True))
    found = account(ClassValues(*values), importance, kept, ["a", "b"])
    for group, key in enumerate("ab"):
        parts = found[key]
        assert sum(parts[name] for name in PARTS[1:]) == pytest.approx(values[0, group], abs=1e-9)
        assert parts["drawn"] == pytest.approx(importance[group, kept].sum())
        assert parts["lost"] == values[0, group] - values[1, group]


@pytest.mark.parametrize(("share", "wrong"), [(0.49, True), (0.5, False), (1.0, False), (2.0, False), (2.1, True)])
def test_too_little_and_far_too_much_mislead(share, wrong) -> None:
    assert misleads(share) is wrong
    assert misleads(-share) and misleads(None)


def test_nothing_is_shared_of_nothing() -> None:
    assert shares({"value": 0.0, "drawn": 1.0, "lost": 0.0}) == (None, None)
    assert shares({"value": 8.0, "drawn": 4.0, "lost": 6.0}) == (0.5, 0.25)


def test_an_edge_without_a_positive_code_is_an_absence() -> None:
    edges = np.array([[1.0, 2.0, 0.0], [3.0, -2.0, 0.0], [5.0, 1.0, 0.0]])
    present = np.array([[True, False, False], [False, False, True], [True, True, False]])
    found = absences(edges, present, np.array([0, 0, 1]), 2)
    np.testing.assert_allclose(found, [[0.75, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_a_node_is_an_absence_for_the_groups_that_it_is_kept_for() -> None:
    assert is_absence({"absent": {"3": 0.9, "5": 0.0}, "selected_for": ["3"]})
    assert not is_absence({"absent": {"3": 0.9, "5": 0.0}, "selected_for": ["5"]})
    assert not is_absence({"absent": {"3": 0.9, "5": 0.0}, "selected_for": []})
    assert not is_absence({"kind": "offset"})


def graph_of(value: float, drawn: float, lost: float) -> dict:
    graph = sample_graph("class", groups=[("129", "spoonbill")], layers=["blocks.6"])
    graph["account"] = {"blocks.6": {"129": sample_account(value, drawn, lost)}}
    return graph


def test_the_first_sentence_tells_what_the_drawn_concepts_carry() -> None:
    told = verdict(graph_of(8.5, 7.7, 0.8))
    assert told.facts[0].text == "The drawn concepts of blocks.6 carry 7.7 of 8.5 logits (91 %)."
    assert not told.misleads and not told.remedy


def test_a_complete_graph_of_another_network_warns() -> None:
    """The case of 750 photographs and K = 100: complete to .1 %, and it explains 0.8 of 11.5 logits."""
    told = verdict(graph_of(11.5, 0.7, 10.7))
    assert told.misleads and "dictionary.k" in told.remedy
    assert [fact.warns for fact in told.facts] == [True, True]
    assert "(6 %)" in told.facts[0].text
    assert told.facts[1].text.endswith("the network keeps 0.8 of 11.5 (7 %).")


def test_what_ends_untraced_and_in_errors_is_said() -> None:
    graph = sample_graph("pair", specials=("offset", "error"))
    graph["scores"]["all"] |= {"replacement_score": 0.3, "untraced_share": 0.63}
    facts = verdict(graph).facts
    assert "for “spoonbill” and" in facts[0].text
    assert facts[1] == (
        "70 % of what is traced to the earliest layer or to an error node ends in error nodes: it is what the concepts "
        "miss.",
        True,
    )
    assert facts[2] == ("63 % of the influence on the class ends untraced, at concepts that are not drawn.", True)
    assert verdict(graph, probability=True).facts[0].text.count("probability") == 2
