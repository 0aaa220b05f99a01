"""Insertion, deletion and transfer in a run: tables, values against plain passes, and what they do not depend on."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch

from integration.conftest import draw_pictures, tiny_config
from vismech.config.choices import Code, Evaluation, Half, MeanRule, Method, Positions, Rule, Stage
from vismech.errors import UserError
from vismech.measures.insertion.scores import share_counts
from vismech.measures.statistics import clustered_bootstrap
from vismech.network.cut import LOGITS
from vismech.sources.data import half_of
from vismech.stages.dictionary import coding_of, read
from vismech.stages.pipeline import open_context
from vismech.stages.run import run
from vismech.store.artifacts import Store

KEYS = ["layer", "dictionary", "k", "code", "center", "mean_rule", "variant", "order", "budget"]
LAYER = "layer2"


def config_of(pictures, folder, batch_size=4):
    config = tiny_config(pictures, folder / "store")
    config.extract.layers, config.dictionary.k = [LAYER, "layer3"], 10
    config.dictionary.center, config.dictionary.mean_rule = True, MeanRule.kept
    config.attribute.rule, config.attribute.steps = Rule.midpoint, 4
    config.until, config.describe.cards = Stage.evaluate, 0
    config.evaluate.kinds = [Evaluation.reconstruction, Evaluation.insertion, Evaluation.transfer]
    config.evaluate.images, config.evaluate.budgets, config.evaluate.random_images = None, [3], 20
    config.evaluate.budget_l0_per_channel = 0.25
    config.evaluate.greedy_images, config.evaluate.groups = 1, {"all": [[0, 2]]}
    config.runtime.batch_size = batch_size
    return config


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("insertion")
    config = config_of(pictures, folder)
    return config, folder, run(config, folder / "run")


def artifact(config, measure, layer=LAYER):
    for manifest in Store(config.store.root).root.glob("evaluate/*/manifest.json"):
        content = json.loads(manifest.read_text())
        if content["inputs"]["measure"] == measure and content["unit"] == layer:
            return manifest.parent
    raise AssertionError(measure)


def dictionary_of(ctx, layer=LAYER):
    from vismech.stages.pipeline import make_plan

    return read(ctx, make_plan(ctx).dictionaries[layer], coding_of(ctx.config))


def test_only_what_the_evaluations_read_is_planned(finished):
    _, _, result = finished
    assert {row["stage"] for row in result.plan} == {"extract", "dictionary", "evaluate"}


def test_the_clusters_of_cases_give_the_intervals_of_the_table(finished):
    """What a comparison draws together is what transfer's own interval does; other measures have no clusters."""
    _, folder, _ = finished
    table, cases = (
        pd.read_csv(folder / "run/tables/extraction.csv"),
        pd.read_csv(folder / "run/cases/extraction.csv.gz"),
    )
    shared = cases["metric"].str.startswith("transfer_")
    assert shared.any() and cases["cluster"].notna().equals(shared)
    for (layer, metric, order), some in cases[shared].groupby(["layer", "metric", "order"]):
        wanted = (table["layer"] == layer) & (table["metric"] == metric) & (table["order"] == order)
        found = clustered_bootstrap(some["value"].to_numpy(), some["cluster"].to_numpy().astype(int))
        assert table.loc[wanted, ["ci_low", "ci_high"]].to_numpy()[0] == pytest.approx([*found])


def test_tables_and_cases_agree(finished):
    _, folder, _ = finished
    table = pd.read_csv(folder / "run/tables/extraction.csv")
    assert list(table)[: len(KEYS)] == KEYS
    gig = table[(table["layer"] == LAYER) & (table["order"] == "gig")]
    assert set(gig["variant"]) == {"plain", "residual", "matched_3", "sparse_3"}
    wanted = {"c_insertion", "c_deletion", "auc_difference", "auc_first_8", "auc_first_32"}
    wanted |= {f"transfer_{name}_{first}" for name in ("first", "gain") for first in (8, 32)}
    assert wanted == set(gig.loc[gig["variant"] == "plain", "metric"])
    for variant in ("matched_3", "sparse_3"):
        assert set(gig.loc[gig["variant"] == variant, "metric"]) == {"c_insertion", "c_deletion", "auc_difference"}
    facts = table[(table["layer"] == LAYER) & (table["metric"] == "l0")].set_index("variant")["value"]
    # Four of sixteen channels would be allowed, of three concepts; the mean concept is kept beside them.
    assert facts["sparse_3"] <= facts["matched_3"] <= 4
    cases = pd.read_csv(folder / "run/cases/extraction.csv.gz")
    names = ["layer", "variant", "order", "metric"]
    means = cases.groupby(names)["value"].agg(["mean", "size"]).reset_index()
    for row in means.to_dict("records"):
        same = (table[names] == [row[name] for name in names]).all(axis=1)
        (here,) = table.loc[same].to_dict("records")
        assert (here["value"], here["n"]) == (pytest.approx(row["mean"], abs=1e-6), row["size"])
    both = cases[(cases["layer"] == LAYER) & (cases["metric"] == "transfer_first_8")]
    both = both.pivot(index="image", columns="order", values="value")
    gained = cases[(cases["layer"] == LAYER) & (cases["metric"] == "transfer_gain_8")].set_index("image")["value"]
    assert np.asarray(gained[both.index]) == pytest.approx(np.asarray(both["gig"] - both["random"]), abs=1e-9)
    assert np.ptp(np.asarray(gained)) > 0
    control = table[table["metric"] == "random_control"]
    assert len(control) == 2
    low, high = np.asarray(control["ci_low"]), np.asarray(control["ci_high"])
    assert low.max() <= 0 <= high.min()
    drawings = pd.read_csv(folder / "run/tables/curves.csv")
    assert set(drawings["order"]) == {"gig", "random"}


def test_curves_are_those_of_plain_passes_and_ends_are_exact(finished):
    config, _, _ = finished
    ctx, found, row = open_context(config), artifact(config, "insertion"), 5
    network, layout, concepts = ctx.network, ctx.layout(LAYER), dictionary_of(ctx)
    sample = json.loads((found / "images.json").read_text())["ids"][row]
    image = ctx.model.preprocess(ctx.data.load(ctx.data.ids.index(sample)))[None]
    segment = network.segment(LAYER, LOGITS)
    with torch.no_grad():
        clean = network.activations(image, [LAYER])[LAYER]
        predicted = int(segment(clean).argmax())
        vectors = layout.vectors(clean)
        codes = concepts.encode(vectors)

        def probability(kept, residual=False):
            some = codes * kept
            point = some @ concepts.atoms + (vectors - codes @ concepts.atoms if residual else 0)
            # Sixteen rows, as passes of fewer round differently.
            return segment(layout.activation(point.expand(16, -1, -1), clean)).softmax(1)[0, predicted]

        edges = torch.from_numpy(np.load(found / "edges.npy")[row])
        ranked = np.load(found / "ranked.npy")[row]
        assert not ranked[concepts.mean_index]
        order = [k for k in edges.argsort(descending=True, stable=True).tolist() if ranked[k]]
        grid = share_counts(len(order))
        for variant, residual in enumerate((False, True)):
            values = np.load(found / "share.npy")[row, variant]
            for line, kept in enumerate((0.0, 1.0)):
                for column in (0, 5, 16, 27, 32):
                    mask = torch.full((concepts.k,), kept)
                    mask[order[: grid[line][column]]] = 1 - kept
                    mask[concepts.mean_index] = 1
                    expected = probability(mask, residual)
                    assert values[line, column] == pytest.approx(float(expected), abs=1e-5)
        whole, nothing = torch.ones(concepts.k), torch.zeros(concepts.k)
        nothing[concepts.mean_index] = 1
        exact = np.array([float(probability(nothing)), float(probability(whole))], dtype=np.float32)
    values = np.load(found / "share.npy")[row, 0]
    assert (values[0, [0, -1]] == exact).all()
    assert (values[1, [-1, 0]] == exact).all()


def test_gig_is_that_of_the_path(finished):
    config, _, _ = finished
    ctx, found = open_context(config), artifact(config, "insertion")
    concepts, segment, layout = dictionary_of(ctx), ctx.network.segment(LAYER, LOGITS), ctx.layout(LAYER)
    images = torch.stack([ctx.model.preprocess(ctx.data.load(index)) for index in range(2)])
    codes = concepts.encode(layout.vectors(ctx.network.activations(images, [LAYER])[LAYER]))
    predicted = torch.from_numpy(np.load(found / "predicted.npy")[:2]).long()
    expected = torch.zeros(2, concepts.k)
    for step in range(4):
        scaled = (codes * ((step + 0.5) / 4)).detach().requires_grad_()
        logits = segment(layout.activation(scaled @ concepts.atoms, images))
        logits.gather(1, predicted[:, None]).sum().backward()
        assert scaled.grad is not None
        expected += (scaled.grad * codes).sum(1) / 4
    assert torch.allclose(torch.from_numpy(np.load(found / "edges.npy")[:2]), expected, atol=1e-4)


def test_other_batches_give_the_same_numbers(finished, pictures, tmp_path):
    config, _, _ = finished
    other = config_of(pictures, tmp_path, batch_size=7)
    run(other, tmp_path / "run")
    for measure in ("insertion", "transfer", "reconstruction"):
        first, second = artifact(config, measure), artifact(other, measure)
        for array in second.glob("*.npy"):
            assert np.load(array) == pytest.approx(np.load(first / array.name), rel=1e-4, abs=1e-5), array.name


def test_a_ranked_mean_is_a_concept_like_any_other(finished, pictures, tmp_path):
    config, folder, _ = finished
    ranked = config_of(pictures, tmp_path)
    ranked.store.root, ranked.dictionary.mean_rule = config.store.root, MeanRule.ranked
    ranked.evaluate.kinds = [Evaluation.insertion]
    result = run(ranked, tmp_path / "run")
    before, after = (
        pd.read_csv(path / "run/tables/extraction.csv").query("variant == 'plain' and metric == 'distinct_concepts'")
        for path in (folder, tmp_path)
    )
    assert (after["value"].to_numpy() == before["value"].to_numpy() + 1).all()
    assert sum(row["hit"] for row in result.plan) == 4


def test_a_complete_orthonormal_dictionary_ends_at_the_clean_network(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.dictionary.method, config.dictionary.code = Method.channels, Code.encoder
    config.dictionary.center, config.dictionary.k, config.dictionary.k_per_channel = False, None, 1
    config.extract.positions = Positions.uniform
    config.evaluate.kinds, config.evaluate.images = [Evaluation.insertion], 6
    run(config, tmp_path / "run")
    found = artifact(config, "insertion")
    values, clean = np.load(found / "share.npy"), np.load(found / "clean.npy")
    assert values[:, 0, 0, -1] == pytest.approx(clean, abs=1e-6)
    assert values[:, 0, 1, 0] == pytest.approx(clean, abs=1e-6)


def test_images_of_another_folder_the_correct_ones_and_a_half(finished, pictures, tmp_path):
    config, _, _ = finished
    other = config_of(pictures, tmp_path)
    other.store.root = config.store.root
    other.evaluate.root = str(draw_pictures(tmp_path / "more", per_class=14))
    other.evaluate.correct_only, other.evaluate.half = True, Half.choosing
    other.evaluate.kinds = [Evaluation.insertion]
    run(other, tmp_path / "run")
    cases = pd.read_csv(tmp_path / "run/cases/extraction.csv.gz")
    ctx = open_context(other)
    assert len(ctx.measured) == 42
    expected = set()
    for index, sample in enumerate(ctx.measured.samples):
        image = ctx.model.preprocess(ctx.measured.load(index))[None]
        if int(ctx.model.module(image).argmax()) == sample.label and half_of(sample.id) is Half.choosing:
            expected.add(sample.id)
    assert set(cases["image"]) == expected != set()


def test_what_cannot_be_measured_is_refused_before_anything_is_computed(pictures, tmp_path):
    for change, message in (
        ({"budgets": [0]}, r"evaluate.budgets=\[0\]: give different numbers"),
        ({"budget_l0_per_channel": 2.0}, "evaluate.budget_l0_per_channel=2.0 must be above 0 and at most 1, or null"),
        ({"greedy_images": -1}, "evaluate.greedy_images=-1 must not be negative"),
        ({"kinds": [Evaluation.transfer]}, "give insertion before transfer"),
        ({"groups": {"a": [[3, 1]]}}, r"evaluate.groups.a: \[3, 1\] is no range"),
    ):
        config = config_of(pictures, tmp_path)
        for name, value in change.items():
            setattr(config.evaluate, name, value)
        with pytest.raises(UserError, match=message):
            run(config, tmp_path / "run")
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))
