"""Aggregation, selection, the graph and its export; and who is explained."""

import json

import networkx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vismech.attribution.account import PARTS, ClassValues
from vismech.attribution.aggregation import group_means, select_concepts, shared_scores
from vismech.attribution.exchange import attribution_graph
from vismech.attribution.graph import LayerConcepts, LayerEdges, build_graph, named, write_graphml
from vismech.attribution.influence import Inflow
from vismech.config.choices import Images, Scope
from vismech.config.schema import GraphConfig
from vismech.errors import UserError
from vismech.stages.explained import ExplainedSettings, check_scope, explained, spread

importances = arrays(np.float64, (2, 9), elements=st.floats(-5, 5, allow_subnormal=False))


def test_group_means_average_each_group_and_refuse_an_empty_one() -> None:
    values = np.array([[1.0], [2.0], [6.0]], dtype=np.float32)
    assert group_means(values, np.array([0, 1, 0]), 2).tolist() == [[3.5], [2.0]]
    with pytest.raises(ValueError, match="group 1 has no images"):
        group_means(values, np.array([0, 0, 0]), 2)


@given(importances)
def test_shared_scores_are_symmetric_and_scale_free(importance) -> None:
    scores = shared_scores(importance)
    assert np.array_equal(scores, shared_scores(importance[::-1]))
    np.testing.assert_allclose(scores, shared_scores(importance * np.array([[2.0], [8.0]])))
    assert (scores[(importance <= 0).any(0)] == 0).all()
    assert scores.sum() <= 1 + 1e-9


@given(importances, st.integers(1, 9), st.integers(0, 9))
def test_selection_keeps_the_largest(importance, important, shared) -> None:
    kept = select_concepts(importance, important, shared)
    assert kept.concepts == sorted(set(kept.concepts))
    for group in (0, 1):
        chosen = [concept for concept, groups in kept.chosen_for.items() if group in groups]
        others = np.delete(np.abs(importance[group]), chosen)
        assert len(chosen) == min(important, np.count_nonzero(importance[group]))
        if chosen and len(others):
            assert np.abs(importance[group][chosen]).min() >= others.max()
    assert len(kept.shared) <= shared
    assert kept.shared <= set(kept.concepts)


def test_a_single_group_shares_nothing() -> None:
    kept = select_concepts(np.array([[0.0, 3.0, -4.0]]), 5, 3)
    assert kept.concepts == [1, 2]
    assert kept.shared == set()


GROUPS = [
    {"key": "3", "index": 3, "images": 2},
    {"key": "5", "index": 5, "images": 1},
]


def build(prune: float | None = None, errors: bool = False) -> dict:
    low, high = np.array([[3.0, 0.0, 1.0], [0.0, 2.0, 1.0]]), np.array([[1.0, -2.0], [0.5, 0.0]])
    values = ClassValues(np.array([9.0, 4.0]), np.array([6.0, 4.0]), np.array([0.5, 0.0]), np.array([0.0, 0.0]))
    layers = [
        LayerConcepts("layer1", low, select_concepts(low, 1, 1), values, np.zeros_like(low)),
        LayerConcepts("layer2", high, select_concepts(high, 1, 1), values, np.array([[0.0, 0.9], [0.2, 0.0]])),
    ]
    inflows = [Inflow(np.arange(12.0).reshape(2, 2, 3), np.ones((2, 2))), Inflow(high[:, None], np.zeros((2, 1)))]
    if errors:
        inflows = [inflow._replace(error=-np.ones_like(inflow.offset)) for inflow in inflows]
    sizes = [Inflow(*(np.abs(part) for part in inflow if part is not None)) for inflow in inflows]
    pairs = [
        LayerEdges("layer1", "layer2", layers[1].selection.concepts, inflows[0], sizes[0]),
        LayerEdges("layer2", "logits", [], inflows[1], sizes[1]),
    ]
    return build_graph("pair", GROUPS, layers, pairs, prune)


@pytest.fixture
def graph() -> dict:
    return build()


def test_graph_holds_kept_concepts_offsets_and_classes(graph) -> None:
    kinds = {node["id"]: node["kind"] for node in graph["nodes"]}
    assert {name for name, kind in kinds.items() if kind == "concept"} == {
        "layer1/0", "layer1/1", "layer1/2", "layer2/0", "layer2/1",
    }  # fmt: skip
    assert kinds["layer1/offset"] == "offset"
    assert kinds["class/5"] == "class"
    shared = next(node for node in graph["nodes"] if node["id"] == "layer1/2")
    assert shared["shared"]
    assert shared["selected_for"] == []
    assert shared["share"] == {"3": 0.25, "5": pytest.approx(1 / 3)}


def test_links_carry_each_groups_mean_edge(graph) -> None:
    links = {(link["source"], link["target"]): link for link in graph["links"]}
    assert links["layer1/2", "layer2/1"]["weights"] == {"3": 5.0, "5": 11.0}
    assert links["layer1/2", "layer2/1"]["weight"] == 8.0
    assert links["layer2/1", "class/3"]["weights"] == {"3": -2.0}
    assert links["layer1/offset", "layer2/0"]["weight"] == 1.0
    assert ("layer2/1", "class/5") not in links  # a zero edge is no link
    assert ("layer2/offset", "class/3") not in links


def test_errors_are_nodes_with_links(graph) -> None:
    assert not any(node["kind"] == "error" for node in graph["nodes"])
    found = build(errors=True)
    assert [node["id"] for node in found["nodes"] if node["kind"] == "error"] == ["layer1/error", "layer2/error"]
    links = {(link["source"], link["target"]): link for link in found["links"]}
    assert links["layer2/error", "class/5"]["weights"] == {"5": -1.0}
    assert links["layer2/error", "class/5"]["shares"] == {"5": pytest.approx(1 / 1.5)}
    assert links["layer1/error", "layer2/0"]["shares"] == {"3": pytest.approx(1 / 5), "5": pytest.approx(1 / 23)}


def test_scores_are_given_for_each_class_and_for_the_mean_over_them() -> None:
    scores = build(errors=True)["scores"]
    assert list(scores) == ["3", "5", "all"]
    # Into the class: a third of the inflow of cat is error, and so is what errs below; nothing is dropped.
    into_cat = np.array([1, 2, 0, 1]) / 4
    below = into_cat[0] * np.array([0 + 1 + 2, 1, 1]) / 5 + into_cat[1] * np.array([3 + 4 + 5, 1, 1]) / 14
    assert scores["3"]["replacement_score"] == pytest.approx(below[0] / (below[0] + below[2] + into_cat[3]))
    assert scores["3"]["offset_share"] == pytest.approx(below[1])
    assert scores["3"]["untraced_share"] == pytest.approx(0)
    assert build()["scores"]["all"]["replacement_score"] is None


def test_pruning_drops_concepts_and_their_links_and_leaves_the_rest_as_it_is() -> None:
    whole, pruned = build(errors=True), build(prune=0.5, errors=True)
    assert pruned["scores"] == whole["scores"]
    kept, every = pruned["account"]["layer1"]["3"], whole["account"]["layer1"]["3"]
    assert (every["drawn"], every["other"]) == (4.0, 0.0) and (kept["drawn"], kept["other"]) == (1.0, 3.0)
    concepts = [node["id"] for node in pruned["nodes"] if node["kind"] == "concept"]
    assert concepts == ["layer1/1", "layer1/2", "layer2/0"]
    named = {node["id"] for node in pruned["nodes"]}
    assert pruned["nodes"] == [node for node in whole["nodes"] if node["id"] in named]
    assert pruned["links"] == [link for link in whole["links"] if {link["source"], link["target"]} <= named]


def test_names_are_joined_to_a_graph_that_has_none(graph) -> None:
    assert "cat" not in json.dumps(graph)
    found = named(graph, {"3": "cat", "5": "dog"})
    assert [group["name"] for group in found["groups"]] == ["cat", "dog"]
    assert {node["id"]: node["name"] for node in found["nodes"] if node["kind"] == "class"} == {
        "class/3": "cat",
        "class/5": "dog",
    }
    assert "cat" not in json.dumps(graph)


def test_the_account_of_a_layer_sums_to_the_class(graph) -> None:
    assert list(graph["account"]) == ["layer1", "layer2"]
    for accounts in graph["account"].values():
        for key, parts in accounts.items():
            assert tuple(parts) == PARTS
            assert sum(parts[name] for name in PARTS[1:]) == pytest.approx(parts["value"]), key
    assert graph["account"]["layer1"]["3"]["lost"] == 3.0
    absent = {node["id"]: node["absent"] for node in graph["nodes"] if node["kind"] == "concept"}
    assert absent["layer2/1"] == {"3": 0.9, "5": 0.0}


def test_graph_is_json_and_graphml(graph, tmp_path) -> None:
    assert json.loads(json.dumps(graph, allow_nan=False)) == graph
    write_graphml(graph, tmp_path / "graph.graphml")
    read = networkx.read_graphml(tmp_path / "graph.graphml")
    assert set(read.nodes) == {node["id"] for node in graph["nodes"]}
    assert read.edges["layer1/2", "layer2/1"]["weight_5"] == 11.0
    assert read.nodes["layer1/2"]["importance_3"] == 1.0
    assert read.nodes["layer1/offset"]["influence_3"] == graph["nodes"][3]["influence"]["3"]


IDS = [f"{index:02}.png" for index in range(8)]
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2])
LOGITS = np.eye(3)[[0, 0, 1, 1, 1, 1, 2, 0]]


def who(**fields):
    graph = GraphConfig(**fields)
    check_scope(graph)
    return explained(
        ExplainedSettings.of(graph, graph.classes, len(IDS), {}), IDS, LABELS, LOGITS, {0: "cat", 1: "dog"}
    )


def test_a_pair_takes_the_images_predicted_or_labelled_so() -> None:
    chosen = who(scope=Scope["pair"], classes=[1, 0])
    assert chosen.rows.tolist() == [0, 1, 2, 3, 4, 5, 7]
    assert chosen.group.tolist() == [1, 1, 0, 0, 0, 0, 1]
    assert chosen.classes.tolist() == [0, 0, 1, 1, 1, 1, 0]
    labelled = who(scope=Scope["pair"], classes=[1, 0], images=Images.labelled, images_per_class=2)
    assert labelled.rows.tolist() == [0, 1, 3, 4]
    assert labelled.classes.tolist() == [0, 0, 1, 1]


def test_the_dataset_explains_each_image_as_what_it_is_predicted_to_be() -> None:
    chosen = who(scope=Scope["dataset"])
    assert chosen.rows.tolist() == [*range(8)]
    assert chosen.classes.tolist() == [0, 0, 1, 1, 1, 1, 2, 0]
    # At most so many of each predicted class, not of all images together.
    chosen = who(scope=Scope["dataset"], images_per_class=2)
    assert chosen.rows.tolist() == [0, 1, 2, 4, 6]
    assert chosen.classes.tolist() == [0, 0, 1, 1, 2]
    assert [group.key for group in chosen.groups] == ["all"]


def test_one_image() -> None:
    chosen = who(scope=Scope["image"], image="03.png")
    assert (chosen.rows.tolist(), chosen.classes.tolist()) == ([3], [1])


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"scope": Scope["pair"], "classes": [0]}, r"explains 2 classes, but graph.classes=\[0\]"),
        ({"scope": Scope["pair"], "classes": [0, 0]}, "explains 2 classes"),
        ({"scope": Scope["class"], "classes": []}, r"explains 1 class, .* give graph.classes=\[CLASS\]"),
        ({"scope": Scope["class"], "classes": [7]}, "7 is not a class of this model, which has 3"),
        ({"scope": Scope["class"], "classes": [-1]}, "-1 is not a class"),
        ({"scope": Scope["image"], "image": "x.png"}, "x.png is not a sample id"),
    ],
)
def test_what_cannot_be_explained_is_one_sentence(fields, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        who(**fields)


def test_a_class_without_images_names_those_that_have_some() -> None:
    graph = ExplainedSettings.of(GraphConfig(scope=Scope["class"]), [2], 3, {})
    with pytest.raises(
        UserError, match=r"none of the 3 images is predicted as class 2; most are 1 dog \(2\), 0 cat \(1\)"
    ):
        explained(graph, IDS[:3], LABELS[:3], LOGITS[1:4], {0: "cat", 1: "dog"})


@given(st.integers(0, 50), st.integers(1, 60))
def test_spread_is_even_and_distinct(length, count) -> None:
    chosen = spread(list(range(length)), count)
    assert len(chosen) == len(set(chosen)) == min(length, count)
    gaps = np.diff(chosen)
    assert not len(gaps) or gaps.max() - gaps.min() <= 1


def test_the_exchange_format_has_the_graph_and_what_its_viewers_ask_for(tmp_path) -> None:
    """Ids as circuit-tracer's `graph_models.Node` makes and its viewers parse them; every link between two of them."""
    graph = named(build(errors=True), dict(zip([group["key"] for group in GROUPS], ("zero", "one"), strict=True)))
    found = json.loads(json.dumps(attribution_graph(graph, "tiny", "network"), allow_nan=False))
    assert found.keys() == {"metadata", "qParams", "nodes", "links"}
    assert found["metadata"]["prompt"] == "zero and one" and found["metadata"]["schema_version"] == 1
    assert found["qParams"].keys() == {"pinnedIds", "supernodes", "linkType", "clickedId", "sg_pos"}
    views = dict(zip([node["id"] for node in graph["nodes"]], found["nodes"], strict=True))
    for key in ("node_id", "jsNodeId"):
        assert len({view[key] for view in found["nodes"]}) == len(found["nodes"])
    for node in graph["nodes"]:
        view = views[node["id"]]
        layer, number, position = view["node_id"].split("_")
        assert (view["layer"], view["ctx_idx"], position) == (layer, 0, "0")
        if node["kind"] == "class":
            assert layer == str(len(graph["layers"])) and view["feature_type"] == "logit"
        elif node["kind"] == "offset":
            assert layer == "E" and view["feature_type"] == "embedding"
        else:
            assert int(layer) == graph["layers"].index(node["layer"])
            assert int(number) == (-1 if node["kind"] == "error" else node["concept"])
            assert 0 <= view["influence"] <= 1
    concepts = [view["feature"] for view in found["nodes"] if view["feature_type"] == "cross layer transcoder"]
    assert len(set(concepts)) == len(concepts) > 0
    assert max(view["influence"] or 0 for view in found["nodes"]) == pytest.approx(1)
    assert [view["is_target_logit"] for view in found["nodes"] if view["feature_type"] == "logit"].count(True) == 1
    assert [(link["source"], link["target"], link["weight"]) for link in found["links"]] == [
        (views[link["source"]]["node_id"], views[link["target"]]["node_id"], link["weight"]) for link in graph["links"]
    ]
