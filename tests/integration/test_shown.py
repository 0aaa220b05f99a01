"""What a run shows: cards and page are planned artifacts, names are joined last, and page, graph and CSV agree."""

from __future__ import annotations

import copy
import json

import numpy as np
import pandas as pd
import pytest

from integration.conftest import tiny_config
from report_sample import Elements
from vismech.config.choices import Evaluation, Scope, Stage
from vismech.errors import UserError
from vismech.stages.naming import given_names
from vismech.stages.run import run


@pytest.fixture(scope="module")
def measured(pictures, tmp_path_factory):
    """A run that measures insertion too, over two classes."""
    base = tmp_path_factory.mktemp("shown")
    config = tiny_config(pictures, base / "store")
    config.graph.scope, config.graph.classes, config.graph.images = Scope["pair"], [0, 2], config.graph.images.labelled
    config.evaluate.kinds = [Evaluation.reconstruction, Evaluation.insertion]
    config.evaluate.budgets, config.evaluate.images = [2, 4], 6
    config.report.figure = True
    run(config, base / "run")
    return config, base


def test_page_graph_and_csv_tell_the_same_numbers(measured) -> None:
    _, base = measured
    page = Elements((base / "run/report/index.html").read_text())
    words = [word.strip() for word in page.words if word.strip()]
    extraction = pd.read_csv(base / "run/tables/extraction.csv")
    curves = extraction[extraction.metric == "auc_difference"]
    # A row for every variant and order of every layer: what stood there before was their mean.
    at = words.index("Difference")
    for row in curves.to_dict("records"):
        shown = f"{row['value']:.6f}"[:5].rstrip("0").replace("-", "−")
        assert any(word.startswith(shown[:4]) for word in words[at:]), row
    variants = extraction[extraction.variant != "reconstruction"][["layer", "variant", "order"]].drop_duplicates()
    assert sum(word in set(variants.variant) for word in words[at:]) == len(variants)
    rebuilt = extraction[(extraction.metric == "r2") & (extraction.variant == "reconstruction")]
    assert len(rebuilt) == 3
    scores = pd.read_csv(base / "run/tables/graph.csv")
    graph = json.loads((base / "run/graph.json").read_text())
    for layer, accounts in graph["account"].items():
        for key, parts in accounts.items():
            rows = scores[(scores.layer == layer) & (scores.group.astype(str) == key)].set_index("metric").value
            for name, value in parts.items():
                assert rows[name] == pytest.approx(value)
            assert rows["drawn_share"] == pytest.approx(parts["drawn"] / parts["value"])
    figure = (base / "run/figures/graph.svg").read_text()
    first = next(word for word in words if word.startswith("The drawn concepts of"))
    assert first in figure or first[:60] in figure


def test_drawn_values_are_those_of_the_networks_own_logits(measured) -> None:
    _, base = measured
    (logits,) = (folder for folder in (base / "store/extract").iterdir() if (folder / "logits.npy").is_file())
    values, images = np.load(logits / "logits.npy"), json.loads((logits / "images.json").read_text())
    graph = json.loads((base / "run/graph.json").read_text())
    for key in ("0", "2"):
        own = values[np.array(images["labels"]) == int(key), int(key)].mean()
        for accounts in graph["account"].values():
            assert accounts[key]["value"] == pytest.approx(own, rel=1e-5)


def test_cards_and_page_are_in_the_plan_and_cached(measured) -> None:
    config, base = measured
    again = run(config, base / "again")
    stages = [row["stage"] for row in again.plan]
    assert stages.count("cards") == 3 and stages[-2:] == ["cards", "report"]
    # What a page needs comes before what is measured.
    assert stages.index("cards") < stages.index("evaluate")
    assert again.metrics["computed"] == 0
    for name in ("report/index.html", "figures/graph.svg", "figures/graph.png", "tables/concepts.csv"):
        assert (base / "again" / name).read_bytes() == (base / "run" / name).read_bytes()
    cards = sorted(path.relative_to(base / "run") for path in (base / "run/cards").rglob("*.png"))
    assert cards and all((base / "again" / card).read_bytes() == (base / "run" / card).read_bytes() for card in cards)
    timings = pd.read_csv(base / "again/tables/timings.csv")
    assert {"cards", "report"} <= set(timings.stage) and timings.cached.all()


def test_forced_cards_are_drawn_again_and_nothing_else(measured) -> None:
    config, base = measured
    forced = copy.deepcopy(config)
    forced.force = [Stage.cards]
    result = run(forced, base / "forced")
    timings = pd.read_csv(base / "forced/tables/timings.csv")
    assert set(timings[~timings.cached].stage) == {"cards"} and result.metrics["computed"] == 3


@pytest.mark.thorough
def test_other_class_names_are_shown_at_once_and_compute_no_number_again(measured) -> None:
    config, base = measured
    renamed = copy.deepcopy(config)
    renamed.model.classes = ["points", "bars", "swell"]
    run(renamed, base / "renamed")
    timings = pd.read_csv(base / "renamed/tables/timings.csv")
    assert set(timings[~timings.cached].stage) <= {"cards", "report"}
    graph = json.loads((base / "renamed/graph.json").read_text())
    assert [group["name"] for group in graph["groups"]] == ["points", "swell"]
    assert "points" in (base / "renamed/graph.graphml").read_text()
    page = (base / "renamed/report/index.html").read_text()
    assert "points" in page and "“dots”" not in page


@pytest.mark.thorough
def test_names_given_to_concepts_are_shown_everywhere_and_compute_no_number_again(measured, tmp_path, caplog) -> None:
    """As the page saves them: by the dictionary's key, which another dictionary's concepts do not share."""
    config, base = measured
    graph = json.loads((base / "run/graph.json").read_text())
    drawn = set(pd.read_csv(base / "run/tables/concepts.csv")[["layer", "concept"]].itertuples(index=False, name=None))
    node = next(n for n in graph["nodes"] if n["kind"] == "concept" and (n["layer"], n["concept"]) in drawn)
    plan = json.loads((base / "run/plan.json").read_text())
    (key,) = {row["key"] for row in plan if row["stage"] == "dictionary" and row["unit"] == node["layer"]}
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"names": {key: {str(node["concept"]): "a\nround  <dot>"}, "f" * 64: {"1": "ghost"}}}))
    given = copy.deepcopy(config)
    given.report.names = str(file)
    run(given, base / "given")
    assert "names of other dictionaries than this run's are not shown: 1" in caplog.text
    timings = pd.read_csv(base / "given/tables/timings.csv")
    assert set(timings[~timings.cached].stage) == {"cards", "report"}
    named = json.loads((base / "given/graph.json").read_text())
    assert {n["id"]: n["name"] for n in named["nodes"] if n.get("name") and n["kind"] == "concept"} == {
        node["id"]: "a round <dot>"
    }
    assert "a round &lt;dot&gt;" in (base / "given/graph.graphml").read_text()
    assert "a round &lt;dot&gt;" in (base / "given/report/index.html").read_text()
    assert "ghost" not in (base / "given/report/index.html").read_text()
    assert "a round <dot>" in (base / "given/attribution_graph.json").read_text()
    concepts = pd.read_csv(base / "given/tables/concepts.csv").set_index(["layer", "concept"])["name"]
    assert concepts.dropna().to_dict() == {(node["layer"], node["concept"]): "a round <dot>"}
    card = f"cards/{node['layer']}/{node['concept']}.png"
    assert (base / "given" / card).read_bytes() != (base / "run" / card).read_bytes()


@pytest.mark.parametrize(
    "text", [None, "[", "{}", '{"names": 1}', '{"names": {"a": []}}', '{"names": {"a": {"1": 2}}}']
)
def test_a_file_without_names_is_refused_in_one_sentence(text, tmp_path) -> None:
    file = tmp_path / "names.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=rf"^report.names={file} (cannot be read|holds no names)[^\n]*$"):
        given_names(str(file), {})


def test_a_data_set_of_more_images_than_the_cap_explains_each_class(pictures, tmp_path) -> None:
    config = tiny_config(pictures, tmp_path / "store")
    config.graph.images_per_class = 3
    run(config, tmp_path / "run")
    graph = json.loads((tmp_path / "run/graph.json").read_text())
    (trace,) = {
        tuple(json.loads(path.read_text())["classes"]) for path in (tmp_path / "store/trace").glob("*/trace.json")
    }
    counts = {one: trace.count(one) for one in set(trace)}
    assert max(counts.values()) == 3 and graph["groups"][0]["images"] == sum(counts.values())
    page = (tmp_path / "run/report/index.html").read_text()
    assert f"{len(trace)} of the 30 images are explained, at most 3 of each predicted" in page


def test_errors_among_the_photographs_say_so(measured, tmp_path) -> None:
    """Images that are predicted as a class stand for it, also those that are of another."""
    config, _ = measured
    config = copy.deepcopy(config)
    (logits,) = (path.parent for path in (measured[1] / "store/extract").glob("*/logits.npy"))
    said = np.load(logits / "logits.npy").argmax(1)
    labels = np.array(json.loads((logits / "images.json").read_text())["labels"])
    chosen = int(np.bincount(said).argmax())
    assert (labels[said == chosen] != chosen).any(), "the tiny network errs"
    config.graph.scope, config.graph.classes = Scope["class"], [chosen]
    config.graph.images = type(config.graph.images).predicted
    config.evaluate.kinds = [Evaluation.reconstruction]
    run(config, tmp_path / "run")
    words = " ".join(Elements((tmp_path / "run/report/index.html").read_text()).words)
    assert "taken for" in words and "are errors of the network" in words
