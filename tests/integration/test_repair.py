"""Errors in a run: the difference graph, its page, and repair against a slow twin of hooks."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tiny as networks
from integration.conftest import digest, tiny_config
from test_intervene import by_hooks, slowly
from vismech.config.choices import Evaluation, Half, Labels, Order, Output, Scope, Stage
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.measures.repair.loop import RepairLoop
from vismech.measures.repair.scores import COUNTS, ORDERS, Tried
from vismech.measures.statistics import wilson
from vismech.sources.data import half_of
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run

pytestmark = pytest.mark.thorough

LAYERS = ["layer1", "layer2", "layer3"]


def config_of(pictures, folder):
    config = tiny_config(pictures, folder / "store")
    config.model.target, config.describe.cards = "tiny:undecided", 0
    config.graph.scope, config.graph.classes = Scope["error"], [0, 1]
    config.evaluate.kinds, config.evaluate.images = [Evaluation.repair], 4
    return config


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("repair")
    config = config_of(pictures, folder)
    config.report.figure = True
    return folder / "run", config, run(config, folder / "run")


@pytest.fixture(scope="module")
def graph(finished):
    return json.loads((finished[0] / "graph.json").read_text())


def test_the_graph_is_of_the_difference_alone(finished, graph) -> None:
    ctx = open_context(finished[1])
    logits = ctx.store.open(make_plan(ctx).logits)
    labels, found = np.array(logits.json("images.json")["labels"]), logits.array("logits.npy")
    wrong = (labels == 0) & (found.argmax(1) == 1)
    (group,) = graph["groups"]
    assert wrong.sum() == 7 == group["images"]
    assert (group["key"], group["index"], group["against"]) == ("error", 1, 0)
    assert (group["name"], group["labelled"], group["answered"]) == ("stripes − dots", "dots", "stripes")
    margin = float((found[wrong, 1] - found[wrong, 0]).mean())
    for layer in LAYERS:
        parts = graph["account"][layer]["error"]
        assert parts["value"] == pytest.approx(margin, rel=1e-5)
        assert sum(value for name, value in parts.items() if name != "value") == pytest.approx(margin, rel=1e-5)
    assert {link["target"] for link in graph["links"] if link["upper"] == "logits"} == {"class/error"}


def test_the_page_and_the_figure_say_what_is_explained(finished) -> None:
    page = (finished[0] / "report/index.html").read_text()
    assert "<h1>Why “dots” was answered “stripes”: the concepts that lead the network to the one rather than" in page
    assert "the number read is the stripes − dots logit, how far the answer is ahead of the true class." in page
    assert "for “stripes − dots”" in page and "stand here because" not in page
    assert "the difference of two classes" in page
    assert "Why “dots” was answered “stripes”: the number read" in (finished[0] / "figures/graph.svg").read_text()


def test_a_probability_and_a_single_image(pictures, finished, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    config.store.root, config.until = finished[1].store.root, Stage.graph
    config.attribute.output, config.graph.image = Output.probability, "dots/00.png"
    ctx = open_context(config)
    logits = ctx.store.open(make_plan(ctx).logits)
    ids, found = logits.json("images.json")["ids"], np.array(logits.array("logits.npy"), dtype=np.float64)
    wrong = [row for row, sample in enumerate(ids) if sample.startswith("dots") and found[row].argmax() == 1]
    config.graph.image = ids[wrong[1]]
    run(config, tmp_path / "run")
    graph = json.loads((tmp_path / "run/graph.json").read_text())
    chances = np.exp(found[wrong[1]]) / np.exp(found[wrong[1]]).sum()
    assert graph["groups"][0]["images"] == 1
    assert graph["account"]["layer3"]["error"]["value"] == pytest.approx(chances[1] - chances[0], rel=1e-5)


def test_repair_is_that_of_hooks(finished) -> None:
    """The image's own concepts, and those that the other half gives, removed one by one from an ordinary network."""
    ctx = open_context(finished[1])
    plan, model = make_plan(ctx), networks.undecided()
    for name, spec in plan.evaluations[Evaluation.repair].items():
        artifact, traces = ctx.store.open(spec), {order: ctx.store.open(spec.parents[order]) for order in ORDERS[:2]}
        facts, images = artifact.json("repair.json"), artifact.json("images.json")
        answers, ids = artifact.array("answers.npy"), images["ids"]
        concepts = dictionary_stage.read(ctx, plan.dictionaries[name], spec.parents[Order.gig].settings.coding)
        layer, explained = Layer(ctx.layout(name), concepts), traces[Order.gig].json("trace.json")["images"]
        choosing = [half_of(sample) is Half.choosing for sample in explained]
        assert [sample for sample, what in zip(ids, facts["tried"], strict=True) if what == Tried.wrong] == explained
        for column, (order, trace) in enumerate(traces.items()):
            edges = np.asarray(trace.array("edges.npy"))[:, 0]
            mean = edges[choosing].mean(0, dtype=np.float64)
            for row, sample in enumerate(explained):
                place, batch = ids.index(sample), ctx.model.preprocess(ctx.data.load(ctx.data.place[sample]))[None]
                for index, count in enumerate(COUNTS):
                    for selection, values in enumerate((edges[row], mean)):
                        chosen = [q for q in np.argsort(-values, kind="stable").tolist() if values[q]][:count]
                        rewrite = partial(slowly, layer, lambda code, _: 0 * code, chosen, False)
                        answer = by_hooks(model, batch, {name: rewrite}).argmax(1)
                        assert answers[place, selection, column, index] == int(answer), (name, order, sample, count)


def test_the_table_counts_what_the_answers_say(finished) -> None:
    folder, _, result = finished
    table, cases = pd.read_csv(folder / "tables/repair.csv"), pd.read_csv(folder / "cases/repair.csv.gz")
    told = ["layer", "order", "selection", "count"]
    keys = ["layer", "dictionary", "k", "code", "center", "mean_rule", "budget", *told[1:]]
    assert list(table) == [*keys, "metric", "value", "n", "ci_low", "ci_high", "units"]
    assert list(cases) == [*keys, "metric", "image", "value"]
    means = cases.groupby([*told, "metric"]).value.agg(["mean", "size"]).reset_index()
    rates = table[~table.metric.str.startswith("gig_ahead")].merge(means, on=[*told, "metric"], validate="one_to_one")
    assert len(rates) == len(means) >= 3 * 3 * 3 * 4  # layers, orders, counts; of the group not all that are tried
    np.testing.assert_allclose(rates.value, rates["mean"])
    assert (rates.n == rates["size"]).all()
    for row in rates.itertuples():
        assert (row.ci_low, row.ci_high) == pytest.approx(wilson(row.value, row.n))
    repaired = rates[rates.metric == "repair_rate"].set_index(told)
    assert set(repaired.loc[:, "gig", "image", :].n) == {7} and (repaired.n <= 7).all()
    assert 0 < repaired.value.mean() < 1
    ahead = table[table.metric == "gig_ahead"].set_index(told)
    for key in ahead.index:
        gig = repaired.value[(key[0], "gig", *key[2:])]
        assert ahead.value[key] == pytest.approx(gig - repaired.value[key])
    assert result.metrics["repair/layer3/image/gig/3/repair_rate"] == repaired.value["layer3", "gig", "image", 3]
    assert (folder / "figures/repair.png").stat().st_size > 10_000


def test_only_traces_are_planned_and_batches_change_no_byte(pictures, finished, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    config.until, config.runtime.batch_size, config.runtime.path_batch_size = Stage.evaluate, 7, 32
    result = run(config, tmp_path / "run")
    assert [row["stage"] for row in result.plan].count("trace") == 3 + 2 + 3
    assert {row["stage"] for row in result.plan} == {"extract", "dictionary", "trace", "evaluate"}
    first, second = digest(Path(finished[1].store.root)), digest(Path(config.store.root))
    mine = [name for name in second if name.startswith("evaluate/")]
    assert len(mine) == 3 and all(first[name] == second[name] for name in mine)


def test_an_interrupted_pass_is_continued(pictures, finished, tmp_path, monkeypatch) -> None:
    config = config_of(pictures, tmp_path)
    config.store.root, config.until, config.evaluate.images = finished[1].store.root, Stage.evaluate, 1000
    step, seen = RepairLoop.step, []

    def once(self, images, rows):
        seen.append(rows)
        if len(seen) == 2:
            raise UserError("killed")
        return step(self, images, rows)

    monkeypatch.setattr(RepairLoop, "step", once)
    with pytest.raises(UserError, match="killed"):
        run(config, tmp_path / "run")
    run(config, tmp_path / "again")
    assert seen[0] != seen[2] and seen[1] == seen[2]
    first, second = (make_plan(open_context(each)).evaluations[Evaluation.repair] for each in (finished[1], config))
    store = open_context(config).store
    for layer in LAYERS:  # the same images, under another key
        one, two = (store.open(specs[layer]).array("answers.npy") for specs in (first, second))
        np.testing.assert_array_equal(one, two)


def test_a_class_without_errors_is_refused(pictures, finished, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    config.store.root, config.graph.classes = finished[1].store.root, [2, 0]
    with pytest.raises(
        UserError, match=r"none of the 10 images of class 2 waves is answered as 0 dots; the most common"
    ):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"classes": [1, 1]}, "graph.scope=error explains 2 classes"),
        ({"classes": [0, 3]}, "3 is not a class of this model, which has 3"),
        ({"scope": Scope["pair"]}, "evaluate.kinds=repair removes the concepts of errors"),
        ({"image": "dots/00.png"}, "and no graph.image"),
    ],
)
def test_what_repair_cannot_do_is_refused_before_anything_is_computed(change, sentence, pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    for name, value in change.items():
        setattr(config.graph, name, value)
    with pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


def test_images_of_unknown_classes_have_no_errors(pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    config.data.labels = Labels.names
    with pytest.raises(UserError, match=r"graph\.scope=error needs the images' classes"):
        run(config, tmp_path / "run")


def test_errors_of_one_half_choose_nothing(pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path)
    config.extract.layers, config.data.half, config.until = ["layer3"], Half.choosing, Stage.evaluate
    with pytest.raises(UserError, match=r"but the \d that there are are all in one half"):
        run(config, tmp_path / "run")
