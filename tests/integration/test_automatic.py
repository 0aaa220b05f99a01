"""attribute.rule=auto in a run: what is chosen, that it is kept, and that the table and the page tell of it."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from integration.conftest import tiny_config
from vismech.attribution.automatic import Choice
from vismech.config.choices import Evaluation, Order, Rule, Stage
from vismech.passes.nodes import NODES, chosen_nodes, read_nodes
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.report import _incomplete
from vismech.stages.run import run

pytestmark = pytest.mark.thorough


def config_of(pictures, folder, target="tiny:normed"):
    config = tiny_config(pictures, folder / "store")
    config.model.target, config.until = target, Stage.graph
    config.extract.layers, config.dictionary.k, config.attribute.steps = ["layer1", "layer2"], 8, 32
    config.graph.images_per_class, config.describe.cards, config.report.page = 8, 0, False
    return config


def chosen(folder) -> dict[str, dict]:
    """Unit → the nodes that an artifact keeps."""
    found = {}
    for path in (folder / "store").glob(f"*/*/{NODES}"):
        unit = json.loads((path.parent / "manifest.json").read_text())["unit"]
        found[unit] = json.loads(path.read_text())
    return found


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    run(config_of(pictures, folder), folder / "run")
    return folder


def table_of(folder) -> pd.DataFrame:
    table = pd.read_csv(folder / "run/tables/completeness.csv")
    assert list(table)[:6] == ["lower", "upper", "path", "rule", "steps", "power"]
    return table


def test_crowded_nodes_are_taken_where_a_norm_needs_them_and_are_in_the_table(finished):
    table = table_of(finished)
    nodes = {f"{row.lower}->{row.upper}": (row.rule, row.steps, row.power) for row in table.itertuples()}
    assert nodes == {unit: (one["rule"], one["steps"], one["power"]) for unit, one in chosen(finished).items()}
    for unit in ("layer1->layer2", "layer1->logits"):  # the norm is between the two
        assert nodes[unit][0] == "gauss_legendre" and nodes[unit][2] > 1
    gaps = table[table.metric == "gap_median"].set_index(["lower", "upper"]).value
    assert gaps["layer1", "layer2"] < 0.02
    assert not any("layer1 → layer2" in note for note in _incomplete(table))


def test_midpoints_are_as_they_were_and_the_page_warns_of_them(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.attribute.rule = Rule.midpoint
    run(config, tmp_path / "run")
    table = table_of(tmp_path)
    assert {*zip(table.rule, table.steps, table.power, strict=True)} == {("midpoint", 32, 1)}
    assert not chosen(tmp_path)
    (note,) = _incomplete(table)
    assert "layer1 → layer2" in note and "attribute.rule=auto" in note
    assert table[table.metric == "gap_median"].set_index(["lower", "upper"]).value["layer1", "layer2"] > 0.5


def test_a_choice_depends_on_no_batch_and_on_no_number_of_path_points(finished, pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.runtime.batch_size, config.runtime.path_batch_size = 5, 64
    run(config, tmp_path / "run")
    assert chosen(tmp_path) == chosen(finished)


def test_an_earlier_try_s_choice_is_used_again(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    ctx = open_context(config)
    spec = make_plan(ctx).to_class["layer2"]
    partial = ctx.store.folder(spec).with_name(f"{spec.key}.partial")
    partial.mkdir(parents=True)
    chosen_nodes(partial, lambda: Choice(Rule.gauss_legendre, 24, 2, 0.00123))
    run(config, tmp_path / "run")
    artifact = ctx.store.open(spec)
    assert read_nodes(artifact.path(NODES)) == (Rule.gauss_legendre, 24, 2, 0.0012)
    assert set(np.asarray(artifact.array("steps.npy")).tolist()) == {24}


def test_what_is_kept_is_not_chosen_again(tmp_path):
    first = chosen_nodes(tmp_path, lambda: Choice(Rule.midpoint, 32, 1, 0.001))
    assert chosen_nodes(tmp_path, lambda: pytest.fail("chosen again")) == first
    assert [path.name for path in tmp_path.iterdir()] == [NODES]


def test_evaluations_choose_nodes_for_each_of_their_segments(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.until, config.evaluate.images = Stage.evaluate, 4
    config.evaluate.kinds = [Evaluation.interlayer, Evaluation.insertion]
    config.evaluate.orders, config.evaluate.budgets = [Order.gig, Order.random], [2]
    config.evaluate.random_images = 0
    run(config, tmp_path / "run")
    found = chosen(tmp_path)
    assert set(found) == {"layer1->layer2", "layer1", "layer2"}
    assert found["layer1->layer2"]["power"] > 1 and found["layer1"]["power"] > 1
    gaps = pd.read_csv(tmp_path / "run/tables/interlayer.csv").query("metric == 'completeness_gap'")
    assert len(gaps) and (gaps.value < 0.02).all()
