"""Stability in a run: variants join the plan, what they share is one artifact, and the table says what comes back."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from integration.conftest import tiny_config
from vismech.config.choices import Evaluation, Stage
from vismech.errors import UserError
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.planned import prices
from vismech.stages.run import run

AGAINST = ["seed=1", "data.half=choosing", "dictionary.k=6 extract.per_image=3"]


def config_of(pictures, folder, against):
    config = tiny_config(pictures, folder / "store")
    config.extract.layers, config.until = ["layer1", "layer3"], Stage.evaluate
    config.attribute.steps, config.graph.images_per_class = 4, 6
    config.evaluate.kinds, config.evaluate.against = [Evaluation.stability], against
    return config


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stability")
    return folder, run(config_of(pictures, folder, AGAINST), folder / "run")


def test_the_table_says_what_comes_back(finished) -> None:
    folder, result = finished
    table = pd.read_csv(folder / "run/tables/stability.csv")
    assert list(table)[:4] == ["layer", "dictionary", "against", "metric"]
    assert table["against"].drop_duplicates().tolist() == AGAINST
    wide = table.pivot(index=["layer", "against"], columns="metric", values="value")
    assert wide.notna().all(axis=None) and len(wide) == 6
    assert (wide["matched_cosine"] > wide["chance_cosine"]).all() and (wide["matched_cosine"] <= 1 + 1e-6).all()
    assert (wide.filter(like="overlap") >= 0).all(axis=None) and (wide["graph_overlap"] <= 1).all()
    # Of the last layer both are the edges to the class.
    last = wide.loc["layer3"]
    assert last["graph_overlap"].tolist() == last["importance_overlap"].tolist()
    counts = table[table["metric"] == "matched_cosine"].set_index(["layer", "against"])["n"]
    assert counts["layer1", AGAINST[2]] == 6 and counts["layer1", AGAINST[0]] == 12
    intervals = table.dropna(subset=["ci_low"])
    assert ((intervals["ci_low"] <= intervals["value"]) & (intervals["value"] <= intervals["ci_high"])).all()
    assert result.metrics["stability/layer1/seed=1/matched_cosine"] == wide.loc[("layer1", "seed=1"), "matched_cosine"]


def test_what_variants_share_is_one_artifact_and_the_rest_is_theirs(finished) -> None:
    folder, result = finished
    keys = [row["key"] for row in result.plan]
    assert len(set(keys)) == len(keys)
    stages = pd.DataFrame(result.plan).groupby("stage").size()
    assert stages["dictionary"] == 8 and stages["evaluate"] == 6 and "describe" not in stages
    assert stages["trace"] == 12
    # Another seed draws other positions; no variant predicts the same images twice.
    logits = [row for row in result.plan if row["unit"] == "logits"]
    assert len(logits) == 2
    seeds = {
        json.loads(manifest.read_text())["inputs"]["seed"]
        for manifest in (folder / "store/dictionary").glob("*/manifest.json")
    }
    assert seeds == {0, 1}


def test_a_plan_tells_what_every_comparison_costs(pictures, tmp_path) -> None:
    ctx = open_context(config_of(pictures, tmp_path, ["seed=1", "dictionary.k=24"]))
    plan = make_plan(ctx)
    told = prices(ctx, plan, [spec.key for spec in plan.specs()]).rows
    assert all(row.cost is not None and row.seconds > 0 for row in told)
    compared = {row.unit: row.cost.flops for row in told if row.stage == "evaluate"}
    assert compared["stability layer1 dictionary.k=24"] > compared["stability layer1 seed=1"] > 0
    assert len(compared) == 4


def test_a_variant_is_what_a_run_of_its_own_computes(finished, pictures) -> None:
    folder, _ = finished
    other = config_of(pictures, folder, [])
    other.seed = 1
    plan = make_plan(ctx := open_context(other))
    assert all(ctx.store.find(spec) is not None for spec in plan.specs()) and len(plan.dictionaries) == 2


@pytest.mark.parametrize(
    ("against", "sentence"),
    [
        ("describe.nearest=3", "changes describe: a variant changes attribute, data, dictionary"),
        ("seed=0", "changes nothing"),
        ("extract.layers=[layer1]", "has the same layers"),
        ("dictionary.kk=3", "there is no key 'dictionary.kk'"),
        ("dictionary.k=0", "dictionary.k=0 must be at least 1"),
    ],
)
def test_what_is_no_variant_is_refused_before_anything_is_computed(pictures, tmp_path, against, sentence) -> None:
    with pytest.raises(UserError) as error:
        run(config_of(pictures, tmp_path, [against]), tmp_path / "run")
    assert sentence in str(error.value)
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


def test_the_key_of_data_without_halves_is_what_it_was(pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path, [])
    assert "half" not in json.dumps(dict(open_context(config).source))
