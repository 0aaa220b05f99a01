"""Planted circuits: networks do what their equations say, edges are what interventions show, and scores are right."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.metrics import average_precision_score

from oracles.planted_twin import dependences
from vismech.attribution.engine import Settings
from vismech.config.choices import DataSource, Evaluation, LoggerKind, Method, Stage
from vismech.config.schema import Config
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Code, Coding
from vismech.errors import UserError
from vismech.measures.planted.circuits import (
    GRID,
    Circuit,
    Source,
    Unit,
    Wire,
    draw_codes,
    simulate,
    true_effects,
)
from vismech.measures.planted.models import plant
from vismech.measures.planted.networks import NETWORKS, circuit_of
from vismech.measures.planted.scores import average_precision, match, matched_edges, score
from vismech.measures.planted.trial import (
    METHODS,
    activations,
    cut,
    image_edges,
    measure,
    true_dictionary,
)
from vismech.stages.run import run


def hand() -> Circuit:
    """One relay shifted by a column; target = 2 relu(a − 0.5) − relu(b) + min(1, a)."""
    relays = ((Unit((Wire(0, 1.0, (0, 1)),)),), (Unit((Wire(1, 3.0),)),))
    target = (Unit((Wire(0, 1.0),), -0.5, 2.0), Unit((Wire(1, 1.0),), 0.0, -1.0), *_minimum(0))
    return Circuit("hand", 0, (Source(), Source(), Source()), (relays, (target,)))


def _minimum(source: int) -> tuple[Unit, Unit]:
    return Unit((Wire(source, 1.0),)), Unit((Wire(source, 1.0),), -1.0, -1.0)


def test_structural_equations_by_hand() -> None:
    circuit = hand()
    codes = torch.zeros(1, 3, GRID, GRID)
    codes[0, 0, 4, 5], codes[0, 1, 4, 4], codes[0, 2, 4, 4] = 2.0, 0.25, 9.0
    relays, target = simulate(circuit, codes)[1:]
    # The first relay at (4, 4) reads the source one column to its right.
    assert relays[0, 0, 4, 4] == 2.0 and relays[0, 0].count_nonzero() == 1 and relays[0, 1, 4, 4] == 0.75
    assert target[0, 0, 4, 4] == 2 * 1.5 - 0.75 + 1
    # Without a: −0.75; without b: 3 + 1; nothing reads the third.
    assert true_effects(circuit, codes).tolist() == [[[4.0, -0.75, 0.0]]]
    assert circuit.edges().tolist() == [[True, True, False]]


@pytest.mark.parametrize(("name", "seed"), [("hand", 0), *product(NETWORKS, range(2))])
def test_networks_compute_their_equations(name, seed) -> None:
    """The convolutions and the equations agree on the data and on interventions, in the planted directions."""
    circuit = hand() if name == "hand" else circuit_of(name, seed)
    network, codes = plant(circuit), draw_codes(circuit, 4)
    codes = torch.cat([codes, codes * (torch.arange(circuit.widths[0]) % 2)[:, None, None], 0.5 * codes])
    found = activations(network, network.images(codes))
    assert len(found) == 1 + len(circuit.layers) == len(network.frames) and 3 <= len(found) <= 5
    for activation, maps, frame in zip(found, simulate(circuit, codes), network.frames, strict=True):
        assert torch.allclose(activation, torch.einsum("nkhw,kc->nchw", maps, frame), atol=1e-5)
        assert torch.allclose(frame.norm(dim=1), torch.ones(len(frame)))
        assert frame.abs().max() < 0.999  # no concept is a channel


@pytest.mark.parametrize("name", NETWORKS)
def test_known_edges_are_what_interventions_show(name) -> None:
    circuit = circuit_of(name, 0)
    known = circuit.edges()
    assert (known == dependences(circuit, draw_codes(circuit, 8), draws=2)).all()
    assert 0 < known.sum() < known.size


def test_everything_follows_from_name_and_seed() -> None:
    one, same, other = (circuit_of("multi_hop", seed) for seed in (0, 0, 1))
    assert one == same and one != other
    first, again = plant(one), plant(same)
    assert all(torch.equal(*pair) for pair in zip(first.frames, again.frames, strict=True))
    assert torch.equal(draw_codes(one, 3), draw_codes(same, 3))
    codes = draw_codes(one, 2)
    assert torch.equal(first.images(codes, 0.1), again.images(codes, 0.1))
    assert 0.08 < (first.images(codes, 0.1) - first.images(codes)).std() < 0.12
    with pytest.raises(UserError, match="there is no planted network 'linaer': choose among linear, "):
        circuit_of("linaer", 0)


def test_edges_of_a_linear_network_are_the_effects_of_removal() -> None:
    """Where everything is linear, all methods that intervene or differentiate agree image by image."""
    network = plant(circuit_of("linear", 3))
    codes = draw_codes(network.circuit, 6)
    given_ = cut(network, network.images(codes), true_dictionary(network, 0), true_dictionary(network, -1))
    edges, truth = image_edges(given_, Settings(steps=2), 0), true_effects(network.circuit, codes)
    for method in ("gig", "left_ig", "idg", "gig_code", "u_x_gradient", "leave_one_out"):
        expected = truth if method != "left_ig" else edges["gig"] - edges["right_ig"]
        assert torch.allclose(edges[method], expected, atol=1e-4), method


def test_gig_is_complete_and_the_slope_is_blind_where_targets_saturate() -> None:
    found = measure(plant(circuit_of("saturated", 0)), images=8, settings=Settings(steps=64)).methods
    assert list(found) == list(METHODS)
    assert found["gig"].average_precision >= 0.95 > 0.6 > found["u_x_gradient"].average_precision
    assert found["magnitude"].average_precision < 0.5
    redundant = measure(plant(circuit_of("redundant_or", 0)), images=8, settings=Settings(steps=64)).methods
    assert redundant["leave_one_out"].average_precision < 0.6 < 0.95 <= redundant["gig"].average_precision


@settings(max_examples=40)
@given(
    arrays(np.float64, 12, elements=st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0])),
    arrays(np.bool_, 12).filter(lambda relevant: relevant.any()),
)
def test_average_precision_is_scikit_learns(values, relevant) -> None:
    assert average_precision(values, relevant) == pytest.approx(average_precision_score(relevant, values), abs=1e-12)


def test_average_precision_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one known edge"):
        average_precision(np.ones(3), np.zeros(3, dtype=bool))


def test_scores_by_hand() -> None:
    known, effects = np.array([[True, True, False, False]]), np.array([[1.0, -0.5, 0.0, 0.0]])
    # Edges that cancel over the two images are found by the mean of |edge| only.
    edges = torch.tensor([[[2.0, 1.0, 0.1, 0.0]], [[2.0, -1.0, 0.1, 0.0]]])
    found = score(edges, known, effects)
    assert found.average_precision == pytest.approx(0.5 * 1 + 0.5 * 2 / 4)
    assert found.average_precision_absolute == 1.0 and found.sign_agreement == 0.5
    assert score(torch.zeros(1, 1, 4), known, effects).rank_correlation == 0.0
    assert score(torch.from_numpy(effects)[None], known, effects).rank_correlation == pytest.approx(1.0)
    assert score(edges, known, np.zeros((1, 4))).sign_agreement is None
    with pytest.raises(FloatingPointError):
        score(edges / 0, known, effects)


def test_matching_undoes_a_permutation_and_leaves_out_what_is_missing() -> None:
    planted = torch.eye(4)
    order = [2, 0, 3, 1]
    found = match(planted, torch.cat([planted[order], -planted[:1]]))
    assert [order[at] for at in found.learned] == [0, 1, 2, 3] and (found.cosine == 1).all()
    few = match(planted, planted[[3, 1]])
    assert few.learned[[1, 3]].tolist() == [1, 0] and sorted(few.learned)[:2] == [-1, -1]
    assert few.cosine.tolist() == [0, 1, 0, 1]
    edges = torch.arange(2.0 * 5).view(1, 2, 5)
    moved = matched_edges(edges, found, few)
    assert torch.equal(moved[0, 1], edges[0, 1, found.learned]) and not moved[0, 0].any()


def test_learned_concepts_in_another_order_give_the_same_scores() -> None:
    """The planted vectors, permuted, in the place of learned ones."""
    network = plant(circuit_of("cancelling", 1))
    shuffled = []
    for frame in (network.frames[0], network.frames[-1]):
        order = torch.randperm(len(frame), generator=torch.Generator().manual_seed(0))
        shuffled.append(Dictionary(frame[order], Coding(Code.omp, l0=len(frame))))
    own = measure(network, images=6, settings=Settings(steps=8))
    found = measure(network, images=6, settings=Settings(steps=8), learned=(shuffled[0], shuffled[1]))
    assert found.concepts["lower"].recovered == 1.0 and found.concepts["upper"].matched_cosine == pytest.approx(1.0)
    for method in ("gig", "leave_one_out", "magnitude"):
        assert found.methods[method] == pytest.approx(own.methods[method], abs=1e-3), method


def config_of(folder) -> Config:
    config = Config(name="planted", until=Stage.evaluate)
    config.data.source, config.data.root = DataSource.imagefolder, str(folder / "nowhere")
    config.evaluate.kinds, config.evaluate.networks = [Evaluation.planted], ["linear", "superposed"]
    config.evaluate.images, config.evaluate.seeds, config.evaluate.noise = 4, 2, [0.0]
    config.evaluate.training_images, config.attribute.steps = 16, 4
    config.dictionary.method, config.logger.kind = Method.bisecting, LoggerKind.none
    config.store.root = str(folder / "store")
    return config


def test_a_run_needs_neither_model_nor_data_and_fills_the_table(tmp_path) -> None:
    result = run(config_of(tmp_path), tmp_path / "run")
    assert [row["unit"] for row in result.plan] == [
        f"{name} {dictionary}" for name in ("linear", "superposed") for dictionary in ("planted", "bisecting")
    ]
    table = pd.read_csv(tmp_path / "run/tables/planted.csv")
    assert list(table)[:4] == ["network", "dictionary", "noise", "method"]
    assert set(table.method) == {*METHODS, "none"} and set(table.network) == {"linear", "superposed", "all"}
    assert not table.duplicated(["network", "dictionary", "noise", "method", "metric"]).any()
    assert table.value.abs().max() <= 1 + 1e-6 and (table.ci_low <= table.value + 1e-6).all()
    assert result.metrics["planted/linear/planted/0/gig/average_precision"] >= 0.95
    recovered = table[(table.metric == "matched_cosine_lower") & (table.network == "superposed")]
    assert recovered.value.item() > 0.9
    assert (tmp_path / "run/figures/planted.png").is_file()
    again = run(config_of(tmp_path), tmp_path / "again")
    assert again.metrics["computed"] == 0


def test_planted_images_have_a_number(tmp_path) -> None:
    config = config_of(tmp_path)
    config.evaluate.images = None
    with pytest.raises(UserError, match="planted images are made, not found"):
        run(config, tmp_path / "run")
