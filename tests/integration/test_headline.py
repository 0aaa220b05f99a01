"""Twelve runs, good and hopeless: whether the first thing that the page says of each is right."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from vismech.attribution.account import is_absence
from vismech.config.choices import Along
from vismech.config.schema import Config, register
from vismech.report.verdict import verdict
from vismech.stages import graph as graph_stage
from vismech.stages import tables, trace
from vismech.stages.dictionary import coding_of
from vismech.stages.dictionary import read as read_dictionary
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.running import Events, run_plan
from vismech.stages.work import read_images

pytestmark = pytest.mark.slow
NET = ("model=cifar_resnet20", "extract=uniform", "extract.per_image=8", "extract.layers=[layer1.2,layer2.2,layer3.2]")
CAT = ("graph=class", "graph.classes=[3]", "graph.images_per_class=10")
BASE = ("describe.cards=0", "until=graph", "logger=none", "data=cifar10", "data.limit=500", *NET, *CAT)


class Run(NamedTuple):
    """A run, and whether its drawn concepts may be read as the reason for the class."""

    name: str
    good: bool
    overrides: tuple[str, ...]


def _run(name: str, good: bool, *overrides: str) -> Run:
    return Run(name, good, overrides)


RUNS = [
    _run("the defaults", True, "graph.important=10"),
    _run("two classes", True, "graph=pair", "graph.classes=[3,5]", "graph.important=10"),
    _run("one photograph", True, "graph=image", "graph.image=cat/0001.jpg", "extract.layers=[layer3.0,layer3.2]"),
    _run("an autoencoder", True, "dictionary=sae_topk", "dictionary.sae.steps=1500", "dictionary.k_per_channel=2"),
    _run("the paper's setting, five concepts drawn", False, "attribute=gig", "dictionary.k_per_channel=8"),
    _run("four concepts, rebuilt", False, "attribute=gig", "dictionary.k=4"),
    _run("four concepts", False, "dictionary.k=4"),
    _run("few photographs", False, "data.limit=10", "graph.images_per_class=null"),
    _run("random directions", False, "dictionary=random", "dictionary.k=16"),
    _run("wrong preprocessing", False, "model.mean=[0,0,0]", "model.std=[0.02,0.02,0.02]", "graph=dataset"),
    _run("initial weights", False, "model.checkpoint=null", "model.weights=null", "graph=dataset"),
    _run("a layer far from the class", False, "extract.layers=[layer1.2,layer2.0]"),
]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("headline")


def _composed(shared: Path, store: Path, overrides: tuple[str, ...]) -> Config:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vismech.config.composition import conf_folder

    register()
    files = (
        f"data.root={shared}/data/cifar10_test",
        f"model.checkpoint={shared}/weights/cifar_resnet20.safetensors",
        f"store.root={store}",
    )
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", [*BASE, *files, *overrides]))
    assert isinstance(config, Config)
    return config


@pytest.mark.parametrize("case", RUNS, ids=lambda case: case.name)
def test_the_headline_of_a_run_is_right(case, shared, store, tmp_path) -> None:
    ctx = open_context(_composed(shared, store, case.overrides))
    plan = make_plan(ctx)
    run_plan(ctx, plan, Events(tmp_path / "events.jsonl"))
    assert plan.graph is not None and plan.logits is not None
    graph = graph_stage.read(ctx, plan.graph)
    told = verdict(graph, False, tables.answered(ctx, plan.logits))
    assert told.misleads is not case.good, told
    assert told.misleads == any(fact.warns for fact in told.facts if "untraced" not in fact.text), told

    # What it says is so: the numbers anew, from the network and the dictionary, and no trace.
    who = trace.who_is_explained(ctx, plan)
    assert who is not None
    ids = read_images(ctx.store.open(plan.logits)).ids
    samples = [ids[row] for row in who.rows]
    images = torch.stack([ctx.model.preprocess(ctx.data.load(ctx.data.place[sample])) for sample in samples])
    classes = torch.as_tensor(who.classes)[:, None]
    for layer, spec in plan.dictionaries.items():
        layout, dictionary = ctx.layout(layer), read_dictionary(ctx, spec, coding_of(ctx.config))
        activation = ctx.network.activations(images, [layer])[layer]
        vectors = layout.vectors(activation)
        codes = dictionary.encode(vectors)
        to_class = ctx.network.segment(layer, "logits")
        concepts = [n["concept"] for n in graph["nodes"] if n["kind"] == "concept" and n["layer"] == layer]
        with torch.no_grad():
            clean = to_class(activation).gather(1, classes)[:, 0]
            rebuilt = to_class(layout.activation(dictionary.decode(codes), activation)).gather(1, classes)[:, 0]
            drawn = codes[..., concepts] @ dictionary.atoms[concepts]
            without = to_class(layout.activation(vectors - drawn, activation)).gather(1, classes)[:, 0]
        for index, group in enumerate(who.groups):
            mine, parts = torch.as_tensor(who.group == index), graph["account"][layer][group.key]
            assert parts["value"] == pytest.approx(clean[mine].mean().item(), rel=1e-3)
            if ctx.config.attribute.along is Along.reconstruction:
                assert parts["value"] - parts["lost"] == pytest.approx(rebuilt[mine].mean().item(), rel=1e-2, abs=1e-2)
            elif (
                layer == "layer3.2"
            ):  # from here on the network is linear, and what concepts carry is lost without them
                lost = (clean - without)[mine].mean().item()
                assert parts["drawn"] == pytest.approx(lost, rel=1e-2, abs=1e-2)
        # Nothing is drawn as a cause, rather than as its absence, that is in no photograph it was kept for.
        present = (codes > 0).any(1).numpy()
        for node in graph["nodes"]:
            if node["kind"] != "concept" or node["layer"] != layer or is_absence(node):
                continue
            kept_for = [str(key) for key in node["selected_for"]] or [group.key for group in who.groups]
            groups = [index for index, group in enumerate(who.groups) if group.key in kept_for]
            assert present[np.isin(who.group, groups), node["concept"]].any(), node["id"]
