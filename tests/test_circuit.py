"""Numbers of circuits, of shortcut removal and of an audit, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vismech.attribution.engine import Settings
from vismech.config.choices import Rule
from vismech.intervene.coded import Coded, Layer
from vismech.intervene.edits import Edit
from vismech.intervene.effects import measured_effects
from vismech.measures.audit.scores import LEAST_IMAGES, class_effects, conflicts, group_entropy, used_by
from vismech.measures.circuit.scores import (
    FAITHFUL,
    SHARES,
    areas,
    counts,
    faithfulness,
    ranked,
    resampled,
    smallest,
)
from vismech.measures.planted.circuits import draw_codes, true_effects
from vismech.measures.planted.models import plant
from vismech.measures.planted.networks import NETWORKS
from vismech.measures.planted.scores import score
from vismech.measures.planted.trial import cut, image_edges, true_dictionary
from vismech.measures.shortcut.scores import (
    Answers,
    by_attribute,
    chosen,
    confusion,
    removal,
    told_apart,
)

# Circuits


def test_faithfulness_is_one_for_everything_and_zero_for_nothing() -> None:
    found = faithfulness(np.array([2.0, 5.0, 11.0]), np.array(2.0), np.array(11.0))
    assert found.tolist() == [0, pytest.approx(1 / 3), 1]
    assert np.isnan(faithfulness(np.array([1.0]), np.array(2.0), np.array(2.0))).all()


def test_areas_of_known_curves() -> None:
    whole = areas(np.ones(len(SHARES)))
    # Nothing is kept at k = 0, so that even a circuit which is faithful from the first concept on misses a triangle.
    assert whole["cpr"] == pytest.approx(1 - SHARES[0] / 2) and whole["cmd"] == pytest.approx(SHARES[0] / 2)
    assert whole["cpr_log"] == pytest.approx(1) and whole["cmd_log"] == pytest.approx(0)
    proportional = areas(np.array(SHARES))
    assert proportional["cpr"] == pytest.approx(0.5) and proportional["cmd"] == pytest.approx(0.5)
    overshoot = areas(np.full(len(SHARES), 1.5))
    assert overshoot["cpr"] > 1.49 and overshoot["cmd"] == pytest.approx(0.5, abs=0.001)


def test_counts_are_rounded_up() -> None:
    assert counts(1000).tolist() == [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    assert counts(64).tolist() == [1, 1, 1, 1, 2, 4, 7, 13, 32, 64]


def test_the_smallest_faithful_circuit_has_only_faithful_ones_above() -> None:
    assert smallest(np.array([0.1, 0.95, 0.5, FAITHFUL, 1.0])) == 3
    assert smallest(np.array([0.1, 0.2])) is None
    assert smallest(np.array([1.0, 1.0])) == 0


def test_concepts_are_ranked_by_size_and_unused_ones_last() -> None:
    assert ranked(np.array([0.1, -3.0, 9.0, 2.0]), np.array([0, 1, 3])).tolist() == [1, 3, 0, 2]


def test_resamples_draw_whole_halves() -> None:
    weights = resampled(np.array([0, 0, 1, 1, 1, 2]), draws=50)
    np.testing.assert_allclose(weights.sum(1), 1)
    assert (weights[:, 0] == weights[:, 1]).all() and (weights[:, 2] == weights[:, 4]).all()
    assert len(np.unique(weights[:, 5])) > 3


# Planted circuits


@pytest.mark.parametrize("name", ["linear", "saturated", "inhibition"])
def test_measured_effects_find_planted_edges(name) -> None:
    network = plant(NETWORKS[name](0))
    codes = draw_codes(network.circuit, 24)
    given = cut(network, network.images(codes, 0.0), true_dictionary(network, 0), true_dictionary(network, -1))
    layer = Layer(given.layouts[0], given.lower)

    def read(activation: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        return given.targets(given.segment(activation), image) * given.targets.present[image]

    with torch.no_grad():
        coded = Coded(given.clean, given.vectors, given.codes)
        effects = measured_effects(read, layer, coded, Edit(tuple(range(given.lower.k))), 64)
    others = image_edges(given, Settings(Rule.midpoint, 8), 0)
    # With planted atoms nothing is left over, so that the residual that is kept is zero.
    torch.testing.assert_close(effects, others["leave_one_out"], atol=1e-4, rtol=1e-3)
    known, true = network.circuit.edges(), true_effects(network.circuit, codes).double().mean(0).numpy()
    precision = {
        method: score(edges, known, true).average_precision
        for method, edges in {"effect": effects, "gig": others["gig"], "random": others["random"]}.items()
    }
    assert precision["effect"] > 0.99 and precision["gig"] > 0.99 and precision["random"] < 0.9


# Shortcuts


@pytest.fixture
def answers() -> Answers:
    """Ten images without s, all right; ten with s, of another class: the model has four right, a twin nine."""
    labels = np.array([0, 1] * 5 + [1] * 10)
    before = labels.copy()
    before[14:] = 0
    clean = labels.copy()
    clean[19] = 0
    return Answers(labels, np.arange(20) >= 10, 0, before, clean)


def test_shortcut_removal_by_hand(answers) -> None:
    nothing = removal(answers, answers.before)
    assert nothing.scr is not None and nothing.scr[0] == 0 and nothing.contradicting[0] == pytest.approx(0.4)
    assert nothing.collateral[0] == 0 and nothing.worst_group == pytest.approx(0.4)
    whole = removal(answers, answers.clean)
    assert whole.scr is not None and whole.scr[0] == pytest.approx(1)
    better = removal(answers, answers.labels)
    assert better.scr is not None and better.scr[0] == pytest.approx(0.6 / 0.5)  # it may exceed 1
    damaged = answers.labels.copy()
    damaged[0] = 1
    assert removal(answers, damaged).collateral[0] == pytest.approx(0.1)


def test_without_a_twin_or_a_gap_there_is_no_scr(answers) -> None:
    alone = Answers(answers.labels, answers.attribute, 0, answers.before, None)
    assert removal(alone, answers.labels).scr is None
    same = Answers(answers.labels, answers.attribute, 0, answers.before, answers.before)
    found = removal(same, answers.labels).scr
    assert found is not None and found[0] == 0


def test_the_edit_is_the_best_of_those_that_do_no_damage(answers) -> None:
    harmful = answers.labels.copy()
    harmful[:2] = [1, 0]
    edits = np.stack([answers.before, answers.clean, harmful, answers.clean], 1)
    choice = chosen(answers, edits)
    assert choice is not None and choice.place == 1 and choice.gain == pytest.approx(0.5)
    assert chosen(answers, edits[:, 2:3]) is None


def test_concepts_by_the_attribute_and_confusions(answers) -> None:
    codes = np.zeros((20, 3))
    codes[10:, 1], codes[:10, 2] = -2, 0.5
    assert by_attribute(codes, answers.attribute).tolist() == [0, 2, 0.5]
    assert told_apart(codes, answers.attribute).tolist() == [0.5, 1, 1]
    told = list(confusion(answers.labels[10:], answers.before[10:], 2))
    assert told == [(1, 0, 0.6), (1, 1, 0.4)]


# Audit


def test_class_effects_are_means_over_images_that_have_the_concept() -> None:
    labels = np.repeat([0, 3, -1], [40, 40, 5])
    active = np.zeros((85, 2), bool)
    active[:40, 0], active[40:60, 0], active[40:, 1] = True, True, True
    probability = np.where(active, 0.5, 0.0)
    probability[40:, 1] = -0.2
    found = class_effects(labels, probability, 2 * probability, (probability > 0).astype(float), active)
    assert found.classes.tolist() == [0, 3]
    assert found.effect[0, 0] == pytest.approx(0.5) and found.effect[1, 1] == pytest.approx(-0.2)
    assert np.isnan(found.effect[0, 1]) and np.isnan(found.effect[1, 0])  # none, and 20 images only
    assert found.images[1, 0] == 20 < LEAST_IMAGES
    assert found.logit[1, 0] == pytest.approx(0.5) and found.active[1, 0] == pytest.approx(0.5)
    assert found.low[0, 0] <= 0.5 <= found.high[0, 0]


def test_conflicts_and_shared_use() -> None:
    effect = np.array([[0.3, 0.2, np.nan], [-0.1, 0.2, 0.0], [-0.2, np.nan, 0.05]])
    assert conflicts(effect, 0.01).tolist() == [[2, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert used_by(effect, 0.01).tolist() == [[0, 1, 1], [1, 1, 1], [1, 2, 0]]


def test_entropy_over_groups() -> None:
    groups, active = np.repeat([0, 1], 10), np.ones((20, 3), bool)
    probability = np.ones((20, 3))
    probability[10:, 1] = 0
    probability[:, 2] = 0
    alike, alone, nothing = group_entropy(probability, active, groups)
    assert alike == pytest.approx(1) and alone == pytest.approx(0) and np.isnan(nothing)
    assert np.isnan(group_entropy(probability, active, np.zeros(20, int))).all()
