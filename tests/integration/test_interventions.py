"""Circuits, audits and shortcut removal of a tiny run: against hooks on the network, whatever the batches."""

from __future__ import annotations

import copy
import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import tiny as tiny_network
from integration.conftest import draw_pictures, tiny_config
from vismech.config.choices import CircuitOrder, EditOrder, EditValue, Evaluation, Scope, Stage
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.measures.circuit.scores import SHARES
from vismech.passes.resources import model_of
from vismech.sources.data import open_data
from vismech.stages.run import run


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """Pictures enough for class effects."""
    return draw_pictures(tmp_path_factory.mktemp("many") / "pictures", per_class=32)


def settings(pictures: Path, base: Path, kind: Evaluation):
    config = tiny_config(pictures, base / "store")
    config.extract.layers = ["layer2", "layer3"]
    config.evaluate.kinds, config.evaluate.images = [kind], None
    config.until, config.describe.cards = Stage.evaluate, 0
    config.graph.images_per_class = None
    config.runtime.batch_size = 16
    return config


def artifact(base: Path, unit: str, stage: str = "evaluate") -> Path:
    for manifest in base.glob(f"store/{stage}/*/manifest.json"):
        if json.loads(manifest.read_text())["unit"] == unit:
            return manifest.parent
    raise AssertionError(unit)


def dictionary(base: Path, layer: str, config) -> Dictionary:
    wanted = config.dictionary
    return Dictionary.load(artifact(base, layer, "dictionary")).coded(wanted.code, wanted.penalty, None)


def pixels(config, ids: list[str]) -> torch.Tensor:
    data, model = open_data(config.data.source, config.data.root), model_of(config.model)
    return torch.stack([model.preprocess(data.load(data.place[sample])) for sample in ids])


# Circuits


@pytest.fixture(scope="module")
def circuit(pictures, tmp_path_factory):
    base = tmp_path_factory.mktemp("circuit")
    config = settings(pictures, base, Evaluation.circuit)
    config.evaluate.groups = {"all": [[0, 2]]}
    run(config, base / "run")
    return config, base


def test_circuits_are_those_of_hooks(circuit) -> None:
    config, base = circuit
    folder = artifact(base, "circuit")
    facts, ids = (
        json.loads((folder / "circuit.json").read_text()),
        json.loads((folder / "images.json").read_text())["ids"],
    )
    arrays = {name: np.load(folder / f"{name}.npy") for name in ("clean", "empty", "circuit", "complement", "part")}
    model, images = model_of(config.model).module, pixels(config, ids)
    with torch.no_grad():
        clean = model(images)
    classes = clean.argmax(1)
    np.testing.assert_allclose(arrays["clean"][:, 0], clean.gather(1, classes[:, None])[:, 0], atol=1e-4)
    means = {}
    for layer in ("layer2", "layer3"):
        own = dictionary(base, layer, config)
        vectors = torch.from_numpy(np.load(artifact(base, layer, "extract") / "vectors.npy"))
        means[layer] = own.encode(vectors).mean((0, 1))

    def answers(inside: dict[str, list[int]]) -> torch.Tensor:
        hooks = []
        for layer in inside:

            def rewrite(_module, _inputs, output, layer=layer):
                own, vectors = dictionary(base, layer, config), output.flatten(2).transpose(1, 2)
                codes = own.encode(vectors)
                left, new = vectors - codes @ own.atoms, means[layer].expand_as(codes).clone()
                new[..., inside[layer]] = codes[..., inside[layer]]
                return (new @ own.atoms + left).transpose(1, 2).reshape(output.shape)

            hooks.append(model.get_submodule(layer).register_forward_hook(rewrite))
        with torch.no_grad():
            found = model(images).gather(1, classes[:, None])[:, 0]
        for hook in hooks:
            hook.remove()
        return found

    empty = answers({"layer2": [], "layer3": []})
    np.testing.assert_allclose(arrays["empty"][:, 0], empty, atol=1e-3)
    half = np.array(facts["half"])
    for here in np.unique(half):
        drawn = dict(zip(("layer2", "layer3"), facts["drawn"][here], strict=True))
        whole, first = answers(drawn), drawn["layer2"][0]
        without = answers({**drawn, "layer2": drawn["layer2"][1:]})
        assert first not in drawn["layer2"][1:]
        np.testing.assert_allclose(arrays["part"][half == here][:, 0, 0], (whole - without)[half == here], atol=1e-3)
    # Everything is the network itself, and what is left without it is nothing.
    np.testing.assert_allclose(arrays["circuit"][:, :, -1], np.repeat(arrays["clean"][:, None], 5, 1), atol=1e-4)
    np.testing.assert_allclose(arrays["complement"][:, :, -1], np.repeat(arrays["empty"][:, None], 5, 1), atol=1e-4)
    assert (np.abs(arrays["circuit"][:, :, 2] - arrays["clean"][:, None]) > 1e-3).any()


def test_the_table_has_every_order_and_both_ends(circuit) -> None:
    _, base = circuit
    table = pd.read_csv(base / "run/tables/circuit.csv")
    assert set(table.order) == {*(order.value for order in CircuitOrder), "none"}
    assert {"cpr", "cmd", "cpr_log", "cmd_log", "cpr_minus_random", "smallest_concepts"} <= set(table.metric)
    curves = pd.read_csv(base / "run/tables/curves.csv")
    last = curves[curves.x == SHARES[-1]]
    np.testing.assert_allclose(last.insertion, 1, atol=1e-4)
    np.testing.assert_allclose(last.deletion, 0, atol=1e-4)
    cases = pd.read_csv(base / "run/cases/circuit.csv.gz")
    for (order, score), part in cases[cases.metric == "cpr"].groupby(["order", "score"]):
        row = table[(table.order == order) & (table.score == score) & (table.metric == "cpr")]
        assert part.value.mean() == pytest.approx(row.value.item(), abs=1e-6)
    assert (base / "run/figures/circuit.png").stat().st_size > 0


def test_other_batches_and_a_second_process_give_the_same_circuits(circuit, tmp_path) -> None:
    config, base = circuit
    other = copy.deepcopy(config)
    other.runtime.batch_size, other.runtime.path_batch_size = 7, 24
    other.store.root = str(tmp_path / "store")
    run(other, tmp_path / "run")
    for name in ("clean", "empty", "circuit", "complement"):
        mine, theirs = (np.load(artifact(where, "circuit") / f"{name}.npy") for where in (tmp_path, base))
        np.testing.assert_allclose(mine, theirs, atol=1e-3)


# Shortcuts


@pytest.fixture(scope="module")
def shortcut(many, tmp_path_factory):
    base = tmp_path_factory.mktemp("shortcut")
    config = settings(many, base, Evaluation.shortcut)
    config.graph.scope, config.graph.classes = Scope["class"], [_common(config, base)]
    config.graph.images_per_class, config.graph.images = 6, type(config.graph.images).predicted
    with (base / "groups.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "stamp"])
        ids = open_data(config.data.source, config.data.root).ids
        table.writerows([sample, place % 2] for place, sample in enumerate(ids))
    config.data.groups = str(base / "groups.csv")
    save_file(tiny_network.network().state_dict(), base / "twin.safetensors")
    config.edit.target, config.edit.counts = config.graph.classes[0], [1, 3]
    config.edit.concepts, config.edit.twin = ["layer3/2", "layer3/5"], str(base / "twin.safetensors")
    run(config, base / "run")
    return config, base


def _common(config, base: Path) -> int:
    first = copy.deepcopy(config)
    first.evaluate.kinds, first.until = [], Stage.trace
    run(first, base / "first")
    return int(np.bincount(np.load(artifact(base, "logits", "extract") / "logits.npy").argmax(1)).argmax())


def test_edits_are_those_of_hooks_and_every_order_is_there(shortcut) -> None:
    config, base = shortcut
    folder = artifact(base, "layer3")
    ids = json.loads((folder / "images.json").read_text())["ids"]
    after, sets = np.load(folder / "after.npy"), json.loads((folder / "sets.json").read_text())
    names = [
        (order, count, value)
        for order in [*config.edit.orders, EditOrder.given]
        for count in config.edit.counts
        for value in config.edit.values
    ]
    assert len(sets) == len(names) == after.shape[1]
    model, images, own = model_of(config.model).module, pixels(config, ids), dictionary(base, "layer3", config)
    vectors = torch.from_numpy(np.load(artifact(base, "layer3", "extract") / "vectors.npy"))
    means = own.encode(vectors).mean((0, 1))
    for (order, count, value), concepts, column in zip(names, sets, after.T, strict=True):
        chosen = [concept for concept in concepts if concept >= 0]
        assert len(chosen) == min(count, 2 if order is EditOrder.given else count)

        def rewrite(_module, _inputs, output, chosen=chosen, value=value):
            codes = own.encode(output.flatten(2).transpose(1, 2))[..., chosen]
            into = means[chosen] if value is EditValue.mean else torch.zeros(len(chosen))
            changed = output.flatten(2).transpose(1, 2) + (into - codes) @ own.atoms[chosen]
            return changed.transpose(1, 2).reshape(output.shape)

        hook = model.get_submodule("layer3").register_forward_hook(rewrite)
        with torch.no_grad():
            logits = model(images)
        hook.remove()
        best = logits.topk(2, dim=1).values
        clear = (best[:, 0] - best[:, 1]).numpy() > 1e-3
        assert (logits.argmax(1).numpy() == column)[clear].all()


def test_what_is_chosen_is_chosen_on_one_half_and_scored_on_the_other(shortcut) -> None:
    _, base = shortcut
    table = pd.read_csv(base / "run/tables/shortcut.csv")
    assert {"choosing", "confirming"} <= set(table.half)
    before = table[(table.order == "none") & (table.metric == "collateral")]
    assert (before.value == 0).all()
    # The twin has the same weights, so that there is nothing to recover.
    assert (table[table.metric == "scr"].value == 0).all()
    assert (base / "run/figures/shortcut.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concepts": ["layer3/99"]}, r"layer3 has 12 concepts"),
        ({"concepts": ["layer9/1"]}, r"no concept of layer2, layer3"),
        ({"target": None}, r"edit\.target=None"),
        ({"target": "dot"}, r"edit\.target: 'dot' is not a class of this model; nearest: dots"),
        ({"present": "yes"}, r"images with and without it are needed"),
        ({"attribute": "colour"}, r"none of data\.groups' attributes: stamp"),
        ({"counts": [0]}, r"counts of at least 1"),
    ],
)
def test_shortcuts_that_cannot_be_measured_are_one_sentence(change, said, shortcut, tmp_path) -> None:
    config = copy.deepcopy(shortcut[0])
    for name, value in change.items():
        setattr(config.edit, name, value)
    with pytest.raises(UserError, match=said):
        run(config, tmp_path / "run")


# Audit


def test_an_audit_tells_every_class_and_where_its_concepts_look(many, tmp_path) -> None:
    config = settings(many, tmp_path, Evaluation.audit)
    config.edit.candidates, config.graph.images_per_class, config.edit.threshold = 2, 4, 0.001
    ids = open_data(config.data.source, config.data.root).ids
    rows = ["id,side,left,top,right,bottom"] + [f"{sample},{place % 2},0,0,1,1" for place, sample in enumerate(ids)]
    (tmp_path / "groups.csv").write_text("\n".join(rows))
    config.data.groups = str(tmp_path / "groups.csv")
    run(config, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/tables/audit.csv")
    wanted = {"class_effect", "logit_effect", "accuracy", "rank", "active", "used_by", "conflicts", "entropy_side"}
    assert wanted <= set(table.metric)
    inside = table[table.metric == "inside"]
    assert len(inside) and np.allclose(inside.value, 1, atol=1e-5)  # the boxes are the whole pictures
    effects = table[table.metric == "class_effect"]
    assert (effects.n >= 30).all() and (effects.value.abs() > 1e-4).all()
    assert ((effects.ci_low <= effects.value) & (effects.value <= effects.ci_high)).all()
    assert (tmp_path / "run/figures/audit.png").stat().st_size > 0


def test_an_audit_of_few_images_is_refused(pictures, tmp_path) -> None:
    config = settings(pictures, tmp_path, Evaluation.audit)
    with pytest.raises(UserError, match=r"at least 30 images of a class, but the largest class has 10 of the 30"):
        run(config, tmp_path / "run")
