"""Errors explained by the difference of two logits, and what removing concepts does: linearity, twins, refusals."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

import tiny
from test_intervene import by_hooks, layer_of, slowly
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets, MarginTargets, class_targets
from vismech.config.choices import Mode, Order, Output, PathWeight, Rule, Scope
from vismech.config.schema import GraphConfig
from vismech.errors import UserError
from vismech.intervene.effects import answers_without
from vismech.measures.repair.scores import ORDERS, Tried, first_concepts, group_orders, happened, leading
from vismech.network.cut import LOGITS, open_network
from vismech.stages.explained import ExplainedSettings, check_scope, explained

PAIR = torch.tensor([[0, 1], [0, 1], [2, 0]])


@pytest.fixture(scope="module")
def model():
    return tiny.network().double()


@pytest.fixture(scope="module")
def network(model):
    return open_network(model, torch.zeros(1, 3, 32, 32, dtype=torch.float64))


@pytest.fixture(scope="module")
def batch():
    return tiny.images(3).double()


# The difference graph


@pytest.mark.parametrize("output", list(Output))
@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_edges_of_the_difference_are_the_difference_of_the_edges(network, batch, output, mode) -> None:
    layer, segment = layer_of(network, "layer2"), network.segment("layer2", LOGITS)
    coded = layer.code(network.activations(batch, ["layer2"])["layer2"].detach())

    def edges(targets):
        source = ConceptSource(layer.dictionary.atoms, coded.codes, coded.vectors)
        return attribute(segment, layer.layout, source, coded.clean, targets, Settings(Rule.midpoint, 4, mode=mode))

    found, both = edges(MarginTargets(PAIR, output)), edges(LogitTargets(PAIR, output))
    apart = both.edges[PathWeight.ig].units
    assert found.edges[PathWeight.ig].units.shape == (3, 1, 12) and apart.abs().max() > 1e-3
    assert (found.edges[PathWeight.ig].units[:, 0] - (apart[:, 0] - apart[:, 1])).abs().max() < 1e-12
    assert (found.value[:, 0] - (both.value[:, 0] - both.value[:, 1])).abs().max() < 1e-12


def test_targets_of_one_class_or_of_the_difference_of_two() -> None:
    logits, rows = torch.tensor([[1.0, 5.0, 2.0], [0.5, 1.0, 9.0]]), torch.tensor([0, 2])
    margin = class_targets(PAIR)
    assert isinstance(margin, MarginTargets) and margin.present.shape == (3, 1) and margin.present.all()
    assert margin(logits, rows)[:, 0].tolist() == [-4.0, 8.5]
    assert margin.take(torch.tensor([2])).classes.tolist() == [[2, 0]]
    assert isinstance(class_targets(PAIR[:, 0]), LogitTargets)


IDS = [f"{index:02}.png" for index in range(8)]
LABELS = np.array([0, 0, 0, 1, 1, 1, 2, -1])
LOGITS_OF = np.eye(3)[[0, 1, 1, 1, 1, 0, 2, 1]]
NAMES = {0: "cat", 1: "dog"}


def errors(*classes: int, **fields):
    graph = GraphConfig(scope=Scope["error"], classes=list(classes), **fields)
    check_scope(graph)
    return explained(ExplainedSettings.of(graph, graph.classes, len(IDS), {}), IDS, LABELS, LOGITS_OF, NAMES)


def test_errors_are_images_of_one_class_that_are_answered_as_another() -> None:
    found = errors(0, 1)
    assert (found.rows.tolist(), found.classes.tolist()) == ([1, 2], [[1, 0], [1, 0]])
    assert found.groups == [("error", 1, 0)]
    assert errors(0, 1, images_per_class=1).rows.tolist() == [1]
    assert errors(0, 1, image="02.png").rows.tolist() == [2]


@pytest.mark.parametrize(
    ("classes", "fields", "sentence"),
    [
        ((0,), {}, r"explains 2 classes, but graph.classes=\[0\]: give graph.classes=\[LABELLED,ANSWERED\]"),
        ((1, 1), {}, r"explains 2 classes, but graph.classes=\[1, 1\]"),
        ((0, 7), {}, "7 is not a class of this model, which has 3"),
        ((0, 2), {}, r"none of the 3 images of class 0 cat is answered as 2; the most common confusions are "
         r"0 cat answered 1 dog \(2\), 1 dog answered 0 cat \(1\): choose graph.classes among them"),
        ((0, 1), {"image": "00.png"}, "00.png is labelled 0 cat and answered 0 cat, not 0 cat answered 1 dog"),
        ((0, 1), {"image": "07.png"}, "07.png is labelled unknown and answered 1 dog"),
        ((0, 1), {"image": "x.png"}, "x.png is not a sample id"),
    ],
)  # fmt: skip
def test_errors_that_are_none_are_refused_in_one_sentence(classes, fields, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        errors(*classes, **fields)


# Repair


@pytest.mark.parametrize("rows", [2, 64])
def test_answers_without_concepts_are_those_of_hooks(model, network, batch, rows) -> None:
    layer, segment = layer_of(network, "layer2"), network.segment("layer2", LOGITS)
    coded = layer.code(network.activations(batch, ["layer2"])["layer2"].detach())
    sets = torch.tensor([[[3, 1, -1], [-1, -1, -1]], [[0, 5, 11], [2, -1, -1]], [[7, 8, 9], [4, 6, -1]]])
    with torch.no_grad():
        found = answers_without(lambda x, _: segment(x), layer, coded, sets, rows)
        assert (found[0, 1] - model(batch)[0]).abs().max() < 1e-12
    for image, some in enumerate(sets.tolist()):
        for place, chosen in enumerate(some):
            rewrite = partial(slowly, layer, lambda code, _: 0 * code, {*chosen} - {-1}, False)
            twin = by_hooks(model, batch[image : image + 1], {"layer2": rewrite})
            assert (found[image, place] - twin[0]).abs().max() < 1e-9
    assert tiny.hooks(model) == 0


def test_the_first_concepts_are_active_ones_and_ties_go_to_the_lower_number() -> None:
    values = torch.tensor([[5.0, -1.0, 3.0, 3.0, 9.0], [0.0, 0.0, 0.0, 0.0, 1.0]])
    active = torch.tensor([[True, True, True, True, False], [False, True, True, False, False]])
    assert first_concepts(values, active, 4).tolist() == [[0, 2, 3, 1], [1, 2, -1, -1]]
    assert first_concepts(values, active, 7).shape == (2, 7)
    found = leading(torch.tensor([[4, 2, 7]]), (1, 3))
    assert found.tolist() == [[[4, -1, -1], [4, 2, 7]]]


def test_a_groups_orders_are_of_its_mean_edges() -> None:
    gig = np.array([[1.0, 0, 2, 0, 8], [3, 0, 1, 0, 8]])
    found = group_orders({Order.gig: gig, Order.u_x_gradient: -gig}, np.array([True] * 4 + [False]), 0, "here")
    assert found.shape == (len(ORDERS), 10)
    assert found[0, :3].tolist() == [0, 2, -1] and found[1, :3].tolist() == [2, 0, -1]
    assert set(found[2].tolist()) == {0, 2, -1}


def test_what_happened_to_images() -> None:
    answers = np.array([0, 1, 2])
    assert happened(answers, Tried.wrong, true=0, answered=1).tolist() == [True, False, False]
    assert happened(answers, Tried.right_t, true=0, answered=1).tolist() == [False, True, True]
    assert happened(answers, Tried.right_w, true=0, answered=1).tolist() == [True, False, True]
