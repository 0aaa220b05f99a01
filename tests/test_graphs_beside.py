"""Two graphs side by side: planted permutations of concepts, what only one draws, links, and the page."""

import copy
import re

import numpy as np
import pytest

from report_sample import sample_graph
from vismech.compare.graphs import BOTH, FIRST, SECOND, Drawn, beside, matched
from vismech.errors import UserError
from vismech.report.beside import Side, render_beside
from vismech.report.verdict import verdict


def drawn(per_layer: int = 4, seed: int = 0) -> Drawn:
    graph = sample_graph(per_layer=per_layer, specials=("offset", "error"))
    random = np.random.default_rng(seed)
    return Drawn(graph, {layer: random.normal(size=(4000, 64)) for layer in graph["layers"]})


def renumbered(run: Drawn, shift: int, noise: float = 0.0) -> Drawn:
    """The same run under other numbers: concept n is n + shift, its atom a little off."""
    graph = copy.deepcopy(dict(run.graph))
    names = {}
    for node in graph["nodes"]:
        if node["kind"] == "concept":
            before, node["concept"] = node["id"], node["concept"] + shift
            names[before] = node["id"] = f"{node['layer']}/{node['concept']}"
    for link in graph["links"]:
        link["source"], link["target"] = (names.get(link[end], link[end]) for end in ("source", "target"))
    random = np.random.default_rng(9)
    atoms = {
        layer: 3 * np.roll(own, shift, axis=0) + noise * random.normal(size=own.shape)
        for layer, own in run.atoms.items()
    }
    return Drawn(graph, atoms)


def test_other_numbers_and_lengths_are_the_same_graph():
    first = drawn()
    found = beside(first, renumbered(first, 7, noise=0.1))
    assert (found.concepts.drawn == BOTH).all() and (found.concepts.second == found.concepts["first"] + 7).all()
    assert (found.concepts.cosine > 0.99).all()
    assert len(found.links) == len(first.graph["links"]) and (found.links["first"] == found.links.second).all()
    assert (found.layers.matched == found.layers.drawn_first).all()
    np.testing.assert_allclose(found.layers[["correlation", "share_first", "share_second"]], 1.0)


def test_a_concept_that_only_one_draws_stands_beside_its_nearest():
    first = drawn()
    second = renumbered(first, 7)
    gone = next(node for node in second.graph["nodes"] if node["kind"] == "concept")
    second.graph["nodes"].remove(gone)
    second.graph["links"][:] = [
        link for link in second.graph["links"] if gone["id"] not in (link["source"], link["target"])
    ]
    (row,) = (found := beside(first, second)).concepts.query("drawn != 'both'").to_dict("records")
    assert (row["drawn"], row["first"], row["second"]) == (FIRST, gone["concept"] - 7, gone["concept"])
    assert row["cosine"] == pytest.approx(1) and np.isnan(row["importance_second.129"])
    assert found.layers.set_index("layer").share_first[gone["layer"]] < 1
    (row,) = beside(second, first).concepts.query("drawn != 'both'").to_dict("records")
    assert (row["drawn"], row["second"]) == (SECOND, gone["concept"] - 7)


def test_matching_is_for_the_largest_sum_and_drops_what_is_unlike():
    first = np.eye(3)
    second = np.array([[0.8, 0.6, 0.0], [1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    assert matched(first, second) == [(0, 1, 1.0), (1, 0, 0.6)]
    assert matched(first[:0], second) == []


def test_what_cannot_be_compared_is_one_sentence():
    first, second = drawn(), drawn()
    other = second._replace(graph={**second.graph, "layers": ["elsewhere"]})
    with pytest.raises(UserError, match="no layer in common"):
        beside(first, other)
    narrow = second._replace(atoms={layer: own[:, :32] for layer, own in second.atoms.items()})
    with pytest.raises(UserError, match="has 64 and 32 channels"):
        beside(first, narrow)


def test_the_page_holds_every_pair_and_reaches_nothing(tmp_path):
    first = drawn()
    found = beside(first, renumbered(first, 7))
    sides = [Side(name, verdict(first.graph).facts, tmp_path) for name in ("one", "<two>")]
    text = render_beside(sides, found.concepts, found.layers, {"129": "spoonbill", "130": "goose"})
    assert text.count('class="pair"') == len(found.concepts) and "&lt;two&gt;" in text and "<two>" not in text
    assert not re.search(r"https?://|<script", text)
    assert text == render_beside(sides, found.concepts, found.layers, {"129": "spoonbill", "130": "goose"})
