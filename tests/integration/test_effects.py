"""Measured effects of a graph: against hooks on the network, in graph, tables and page, whatever the batches."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import networkx
import numpy as np
import pandas as pd
import pytest
import torch

from integration.conftest import tiny_config
from vismech import open_run
from vismech.config.choices import EditValue, Scope, Stage
from vismech.errors import UserError
from vismech.passes.resources import model_of
from vismech.stages.run import run


def settings(pictures: Path, base: Path):
    config = tiny_config(pictures, base / "store")
    config.graph.measured = True
    config.evaluate.kinds = []
    config.report.figure = False
    return config


@pytest.fixture(scope="module")
def measured(pictures, tmp_path_factory):
    base = tmp_path_factory.mktemp("measured")
    config = settings(pictures, base)
    run(config, base / "run")
    return config, base


def arrays(base: Path, unit: str) -> tuple[dict[str, np.ndarray], dict]:
    for manifest in base.glob("store/effects/*/manifest.json"):
        if json.loads(manifest.read_text())["unit"] == unit:
            folder = manifest.parent
            return {file.stem: np.load(file) for file in folder.glob("*.npy")}, json.loads(
                (folder / "effects.json").read_text()
            )
    raise AssertionError(unit)


def test_effects_are_those_of_hooks(measured) -> None:
    config, base = measured
    found, facts = arrays(base, "layer2->layer3")
    from vismech.sources.data import open_data

    model, data = model_of(config.model), open_data(config.data.source, config.data.root)
    images = torch.stack([model.preprocess(data.load(data.place[sample])) for sample in facts["images"]])
    dictionaries = {layer: _dictionary(base, layer, config) for layer in ("layer2", "layer3")}
    with torch.no_grad():
        clean = model.module(images)
        classes = clean.argmax(1)
        before = _at(model.module, images, "layer3")
        codes3 = dictionaries["layer3"].encode(before)
        for place, concept in enumerate(facts["concepts"]):

            def remove(_module, _inputs, output, concept=concept):
                vectors = output.flatten(2).transpose(1, 2)
                atoms, codes = dictionaries["layer2"].atoms, dictionaries["layer2"].encode(vectors)
                left = vectors - codes[..., concept, None] * atoms[concept]
                return left.transpose(1, 2).reshape(output.shape)

            hook = model.module.get_submodule("layer2").register_forward_hook(remove)
            answer, after = model.module(images), _at(model.module, images, "layer3")
            hook.remove()
            own = (clean - answer).gather(1, classes[:, None])[:, 0]
            np.testing.assert_allclose(found["own"][:, place], own.numpy(), atol=1e-4)
            for row, target in enumerate(facts["targets"]):
                atom = dictionaries["layer3"].atoms[target]
                scores = (before @ atom).masked_fill(codes3[..., target] <= 0, -torch.inf)
                best = scores.argmax(1)
                change = ((before - after) @ atom).gather(1, best[:, None])[:, 0]
                change[scores.amax(1) == -torch.inf] = 0
                np.testing.assert_allclose(found["effect"][:, row, place], change.numpy(), atol=1e-4)
    assert np.abs(found["effect"]).max() > 0.01


def _dictionary(base: Path, layer: str, config):
    from vismech.dictionaries import Dictionary

    for manifest in base.glob("store/dictionary/*/manifest.json"):
        if json.loads(manifest.read_text())["unit"] == layer:
            return Dictionary.load(manifest.parent).coded(config.dictionary.code, config.dictionary.penalty, None)
    raise AssertionError(layer)


def _at(module, images: torch.Tensor, layer: str) -> torch.Tensor:
    found = []
    hook = module.get_submodule(layer).register_forward_hook(lambda _m, _i, out: found.append(out.clone()))
    module(images)
    hook.remove()
    return found[0].flatten(2).transpose(1, 2)


def test_graph_tables_and_page_tell_the_same(measured) -> None:
    _, base = measured
    graph = json.loads((base / "run/graph.json").read_text())
    links = pd.read_csv(base / "run/tables/links.csv")
    drawn = [link for link in graph["links"] if "effects" in link]
    assert len(links) == len(drawn) > 0 and graph["edit"] == "zero"
    for link, row in zip(drawn, links.to_dict("records"), strict=True):
        assert (row["source"], row["target"]) == (link["source"], link["target"])
        assert row["effect"] == pytest.approx(link["effects"]["all"]["value"])
        assert row["edge"] == pytest.approx(link["weights"]["all"])
        assert row["ci_low"] <= row["effect"] <= row["ci_high"]
        assert row["contradicted"] == link["contradicted"]
    effect = {node["id"]: node["effects"]["all"]["value"] for node in graph["nodes"] if node["kind"] == "concept"}
    for link in drawn:
        if link["upper"] == "logits":
            assert link["effects"]["all"]["value"] == pytest.approx(effect[link["source"]])
    told = networkx.read_graphml(base / "run/graph.graphml")
    first = drawn[0]
    assert told.edges[first["source"], first["target"]]["effect_all"] == pytest.approx(first["effects"]["all"]["value"])
    page = (base / "run/report/index.html").read_text()
    assert "what it claims was tested" in page and "Tested by editing the lower concept in" in page
    wrong = sum(link["contradicted"] for link in drawn)
    assert f"{wrong} of {len(drawn)} links, with " in page
    table = pd.read_csv(base / "run/tables/effects.csv")
    assert {"gig", "u_x_gradient", "magnitude", "none"} == set(table.order)
    assert {"rank_correlation", "pearson", "sign_agreement", "slope", "achieved"} <= set(table.metric)
    assert open_run(base / "run").tables["effects"].equals(table)


def test_other_batches_give_the_same_effects(measured, tmp_path) -> None:
    config, base = measured
    other = copy.deepcopy(config)
    other.runtime.batch_size, other.runtime.path_batch_size = 5, 8
    other.store.root, other.until = str(tmp_path / "store"), Stage.graph
    run(other, tmp_path / "run")
    for unit in ("layer1->layer2", "layer3->logits"):
        mine, theirs = arrays(tmp_path, unit)[0], arrays(base, unit)[0]
        for name, values in mine.items():
            np.testing.assert_allclose(values, theirs[name], atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("edit", [EditValue.mean, EditValue.resample])
def test_the_other_edits_are_other_artifacts_of_the_same_traces(edit, measured, tmp_path) -> None:
    config, base = measured
    other = copy.deepcopy(config)
    other.graph.edit, other.until, other.describe.cards = edit, Stage.graph, 0
    again = run(other, tmp_path / "run")
    assert {row["stage"] for row in again.plan if not row["hit"]} == {"effects", "graph"}
    effects = pd.read_csv(tmp_path / "run/tables/links.csv").effect
    assert not np.allclose(effects, pd.read_csv(base / "run/tables/links.csv").effect)


def test_a_pair_has_effects_for_each_class(pictures, tmp_path) -> None:
    config = settings(pictures, tmp_path)
    config.graph.scope, config.graph.classes = Scope["pair"], [0, 2]
    config.graph.images = type(config.graph.images).labelled
    config.until = Stage.graph
    run(config, tmp_path / "run")
    graph = json.loads((tmp_path / "run/graph.json").read_text())
    both = [link for link in graph["links"] if link["upper"] == "layer3" and "effects" in link]
    assert both and all(set(link["effects"]) == {"0", "2"} for link in both)


def test_an_edit_without_one_meaning_is_refused(pictures, tmp_path) -> None:
    config = settings(pictures, tmp_path)
    config.graph.edit = EditValue.scale
    with pytest.raises(UserError, match=r"graph\.edit=scale must be one of zero, mean, resample"):
        run(config, tmp_path / "run")
