"""Every choice of path, weight, baseline and target in a tiny run: what it computes, whatever the grouping."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

import tiny as tiny_network
from integration.conftest import digest, run_apart, tiny_config
from test_config import composed
from vismech.attribution import engine
from vismech.attribution.paths import Straight
from vismech.commands.main import choices
from vismech.config.choices import Along, Baseline, Mode, Output, PathWeight, Positions, ReadOut, Stage
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.passes import trace as trace_loop
from vismech.passes.baselines import Baselines, Begun, Start, draw_baselines
from vismech.passes.loop import PaddedBatches
from vismech.stages.pipeline import open_context
from vismech.stages.run import run

pytestmark = pytest.mark.thorough

OTHERS: dict[str, dict[str, Any]] = {
    "mean": {"baseline": Baseline.mean},
    "mean_position": {"baseline": Baseline.mean_position},
    "blank": {"baseline": Baseline.blank},
    "mean_image": {"baseline": Baseline.mean_image},
    "blur": {"baseline": Baseline.blur, "blur": 0.05},
    "image": {"baseline": Baseline.image, "baseline_image": "waves/04.png"},
    "images": {"baseline": Baseline.images, "baselines": 3, "along": Along.activation},
    "sum": {"readout": ReadOut.sum},
    "code": {"readout": ReadOut.code},
    "probability": {"output": Output.probability},
    "forward": {"mode": Mode.forward},
}


@pytest.fixture(scope="module")
def plain(pictures, tmp_path_factory) -> Config:
    """Two layers and six images, everything up to the traces computed."""
    config = tiny_config(pictures, tmp_path_factory.mktemp("paths") / "store")
    config.extract.layers, config.extract.positions = ["layer2", "layer3"], Positions.all
    config.dictionary.k, config.graph.images_per_class, config.describe.cards = 12, 6, 0
    config.until = Stage.dictionary
    run(config, tmp_path_factory.mktemp("run"))
    config.until = Stage.graph
    config.attribute = AttributeConfig(along=Along.reconstruction, steps=4, max_steps=16, phi=0.7)
    return config


def changed(config: Config, **attribute: Any) -> Config:
    mine = copy.deepcopy(config)
    for name, value in attribute.items():
        setattr(mine.attribute, name, value)
    return mine


class Traced:
    """A finished run's traces by unit, its tables and its graph."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.result = run(config, folder)
        self.keys = {row["unit"]: row["key"] for row in self.result.plan if row["stage"] == "trace"}
        self.graph = json.loads((folder / "graph.json").read_text())

    def __getitem__(self, place: tuple[str, str]) -> np.ndarray:
        unit, name = place
        return np.load(Path(self.config.store.root) / "trace" / self.keys[unit] / f"{name}.npy")

    def facts(self, unit: str) -> dict:
        return json.loads((Path(self.config.store.root) / "trace" / self.keys[unit] / "trace.json").read_text())

    def table(self, name: str) -> pd.DataFrame:
        return pd.read_csv(self.folder / "tables" / f"{name}.csv")


def pictures_of(config: Config, samples: list[str]) -> Tensor:
    ctx = open_context(config)
    return torch.stack([ctx.model.preprocess(ctx.data.load(ctx.data.ids.index(sample))) for sample in samples])


QUICK = ("activation", "left_ig", "expected_gradients")


@pytest.mark.parametrize(
    "choice",
    [
        choice
        if choice in ("activation", "left_ig", "expected_gradients")
        else pytest.param(choice, marks=pytest.mark.slow)
        for choice in (*choices()["attribute"], *OTHERS)
    ],
)
def test_every_choice_runs_and_the_order_of_batches_changes_no_byte(choice, plain, tmp_path, monkeypatch) -> None:
    asked = vars(AttributeConfig(**OTHERS[choice]) if choice in OTHERS else composed(f"attribute={choice}").attribute)
    differing = {name: value for name, value in asked.items() if value != getattr(AttributeConfig(), name)}
    mine = changed(plain, **{**differing, "steps": 4})
    mine.runtime.batch_size, mine.force = 2, [Stage.trace]
    run(mine, tmp_path / "run")
    before = digest(Path(mine.store.root))
    monkeypatch.setattr(PaddedBatches, "__iter__", lambda self: iter(self.batches[::-1]))
    assert run(mine, tmp_path / "again").metrics["computed"] == 3
    assert digest(Path(mine.store.root)) == before


@pytest.mark.slow
def test_two_processes_draw_the_same_baselines(plain, tmp_path) -> None:
    mine = changed(plain, **OTHERS["images"])
    run(mine, tmp_path / "one")
    before = digest(Path(mine.store.root))
    mine.force = [Stage.trace]
    mine.runtime.devices, mine.runtime.strategy = 2, "ddp_spawn"
    assert run_apart(mine, tmp_path / "two", limit=600) == 0
    assert digest(Path(mine.store.root)) == before


# Error nodes


def test_concepts_error_and_offset_are_what_the_network_gives_the_concept(plain, tmp_path) -> None:
    found = Traced(changed(plain, along=Along.activation, steps=128), tmp_path)
    facts, unit = found.facts("layer2->layer3"), "layer2->layer3"
    activations = tiny_network.outputs(tiny_network.network(), pictures_of(found.config, facts["images"]))
    maps = activations["layer3"].flatten(2).transpose(1, 2).numpy()
    dictionary = next(
        row["key"] for row in found.result.plan if (row["stage"], row["unit"]) == ("dictionary", "layer3")
    )
    from safetensors.numpy import load_file

    atoms = load_file(Path(found.config.store.root) / "dictionary" / dictionary / "atoms.safetensors")["atoms"]
    places = found["layer3->logits", "anchors"][:, facts["targets"]]
    expected = np.stack([(maps[row, places[row]] * atoms[facts["targets"]]).sum(1) for row in range(len(maps))])
    inflow = found[unit, "edges"].sum(2) + found[unit, "error"] + found[unit, "baseline"]
    present = found[unit, "present"]
    assert present.any()
    np.testing.assert_allclose(found[unit, "value"][present], expected[present], rtol=1e-4)
    change = np.abs(found[unit, "value"] - found[unit, "baseline"])
    assert (np.abs(inflow - expected)[present] <= (found[unit, "gap"] * change * 1.01 + 1e-4)[present]).all()
    assert found[unit, "gap"][present].max() < 0.05
    assert np.abs(found[unit, "error"][present]).max() > 0.01


def test_error_nodes_carry_the_mean_error(plain, tmp_path) -> None:
    found = Traced(changed(plain, along=Along.activation), tmp_path)
    assert {node["id"] for node in found.graph["nodes"] if node["kind"] == "error"} == {"layer2/error", "layer3/error"}
    links = {(link["source"], link["target"]): link for link in found.graph["links"]}
    for index, target in enumerate(found.facts("layer2->layer3")["targets"]):
        error = float(found["layer2->layer3", "error"][:, index].mean(dtype=np.float64))
        assert links["layer2/error", f"layer3/{target}"]["weight"] == pytest.approx(error)
    assert links["layer3/error", "class/all"]["weight"] == pytest.approx(
        found["layer3->logits", "error"].mean(dtype=np.float64)
    )
    table = found.table("graph").set_index("metric")["value"]
    assert {"replacement_score", "completeness_score", "untraced_share", "offset_share"} <= set(table.index)
    assert 0 < table["replacement_score"] < 1
    assert table["nodes"] == len(found.graph["nodes"])
    assert found.result.metrics["graph/all/completeness_score"] == table["completeness_score"]


def test_along_the_reconstruction_nothing_is_an_error(plain, tmp_path) -> None:
    found = Traced(plain, tmp_path)
    assert not found["layer2->layer3", "error"].any()
    assert not any(node["kind"] == "error" for node in found.graph["nodes"])
    scores = found.table("graph")
    assert set(scores[scores.layer.isna()].metric) == {
        *("accuracy", "untraced_share", "offset_share", "nodes", "links")
    }
    assert not scores[scores.metric == "error"].value.any()


def test_a_pruned_graph_is_smaller_and_keeps_its_scores(plain, tmp_path) -> None:
    whole = Traced(changed(plain, along=Along.activation), tmp_path / "whole")
    mine = changed(plain, along=Along.activation)
    mine.graph.prune = 0.4
    pruned = Traced(mine, tmp_path / "pruned")
    assert pruned.keys == whole.keys
    assert pruned.graph["scores"] == whole.graph["scores"]
    assert len(pruned.graph["nodes"]) < len(whole.graph["nodes"])


# Baselines


@pytest.mark.parametrize("choice", ["mean", "mean_position", "blank", "mean_image", "blur", "image", "images"])
def test_offsets_are_the_logits_of_the_baseline(choice, plain, tmp_path) -> None:
    found = Traced(changed(plain, **{**OTHERS[choice], "along": Along.activation}), tmp_path)
    model, facts, config = tiny_network.network(), found.facts("layer3->logits"), found.config
    rows, classes = range(len(facts["images"])), facts["classes"]
    with torch.no_grad():
        if choice == "blank":
            expected = model(torch.zeros(1, 3, 32, 32)).expand(len(classes), -1)
        elif choice == "image":
            expected = model(pictures_of(config, ["waves/04.png"])).expand(len(classes), -1)
        elif choice == "images":
            drawn = draw_baselines(open_context(config).data.ids, 0, 3)
            others = [[sample for sample in drawn if sample != mine][:3] for mine in facts["images"]]
            expected = torch.stack([model(pictures_of(config, some)).mean(0) for some in others])
        elif choice == "blur":
            sharp = pictures_of(config, facts["images"]).numpy()
            soft = gaussian_filter(sharp, 0.05 * 32, mode="nearest", axes=(2, 3), radius=5)
            expected = model(torch.from_numpy(soft))
        elif choice == "mean_image":
            expected = model(pictures_of(config, open_context(config).data.ids).mean(0, keepdim=True))
            expected = expected.expand(len(classes), -1)
        elif choice == "mean_position":
            everything = pictures_of(config, open_context(config).data.ids)
            mean = tiny_network.outputs(model, everything)["layer3"].mean(0)
            expected = model.head(mean.mean((1, 2))[None]).expand(len(classes), -1)
        else:  # layer3 is followed by a mean over positions and the head
            everything = pictures_of(config, open_context(config).data.ids)
            mean = tiny_network.outputs(model, everything)["layer3"].mean((0, 2, 3))
            expected = model.head(mean[None]).expand(len(classes), -1)
    np.testing.assert_allclose(
        found["layer3->logits", "baseline"][:, 0], [expected[row, classes[row]] for row in rows], rtol=1e-4, atol=1e-5
    )


def test_baselines_are_a_draw_of_the_seed_and_never_the_image_itself() -> None:
    ids = [f"{index:03}.png" for index in range(50)]
    drawn = draw_baselines(ids, 0, 4)
    assert drawn == draw_baselines(ids[::-1], 0, 4)
    assert drawn != draw_baselines(ids, 1, 4)
    assert len(set(drawn)) == 5
    first = [draw_baselines(ids, seed, 1)[0] for seed in range(300)]
    assert len(set(first)) > 40  # 50 ids, each expected six times
    vectors = torch.arange(5.0)[:, None, None]
    start = Start(Baseline.images, samples=(7, 3, 9, 1, 4))
    found = Baselines(start, Begun(vectors, 2 * vectors, 3 * vectors)).of([3, 0, 4])
    assert [one.vectors.flatten().tolist() for one in found] == [[0, 0, 0], [2, 1, 1], [3, 2, 2], [4, 3, 3]]
    for one in found:
        torch.testing.assert_close((one.codes, one.before), (2 * one.vectors, 3 * one.vectors))


# Weights and steps


def test_parts_of_the_path_report_their_share_and_sum_to_the_whole(plain, tmp_path) -> None:
    parts = [Traced(changed(plain, path=path), tmp_path / path) for path in (PathWeight.left_ig, PathWeight.right_ig)]
    whole = Traced(plain, tmp_path / "ig")
    unit = "layer3->logits"
    np.testing.assert_allclose(sum(one[unit, "edges"] for one in parts), whole[unit, "edges"], rtol=1e-4, atol=1e-5)
    table = parts[0].table("completeness")
    assert {"share_median", "uncrossed_targets", "still_targets"} <= set(table.metric)
    assert not {"gap_median", "gap_p95"} & set(table.metric)
    share = table[(table.lower == "layer3") & (table.metric == "share_median")].value.item()
    total, change = (parts[0][unit, "edges"].sum(2), parts[0][unit, "value"] - parts[0][unit, "baseline"])
    assert share == pytest.approx(np.median(total / change), rel=1e-4)


def test_with_a_tolerance_the_steps_of_each_image_are_told(plain, tmp_path) -> None:
    found = Traced(changed(plain, tolerance=0.02, max_steps=64), tmp_path)
    table = found.table("completeness").set_index(["lower", "upper", "metric"])["value"]
    steps, change = found["layer2->layer3", "steps"], found["layer2->layer3", "change"]
    assert len(set(steps.tolist())) > 1
    assert table["layer2", "layer3", "steps_mean"] == steps.mean()
    assert table["layer2", "layer3", "steps_max"] == steps.max() <= 64
    assert (change.max(1) <= 0.02)[steps < 64].all()


def test_the_mode_is_chosen_once_by_the_first_image(plain, tmp_path, monkeypatch) -> None:
    asked: list[Tensor] = []

    def choose(targets, source) -> Mode:
        asked.append(source.codes)
        return Mode.reverse

    monkeypatch.setattr(trace_loop, "choose_mode", choose)
    monkeypatch.setattr(PaddedBatches, "__iter__", lambda self: iter(self.batches[::-1]))
    mine = changed(plain)
    mine.runtime.batch_size, mine.force = 2, [Stage.trace]
    found = Traced(mine, tmp_path)
    assert len(asked) == 3  # once for each pair of layers
    assert all(len(codes) == 1 for codes in asked)
    first = pictures_of(mine, found.facts("layer3->logits")["images"][:1])
    expected = tiny_network.outputs(tiny_network.network(), first)["layer3"].flatten(2).transpose(1, 2)
    shown = next(codes for codes in asked if codes.shape[1] == expected.shape[1])
    assert shown.any()


def test_what_has_no_forward_derivative_is_traced_backward(plain, tmp_path, monkeypatch) -> None:
    def refuse(*_args, **_kwargs):
        raise NotImplementedError("an operation has no forward derivative")

    monkeypatch.setattr(trace_loop, "choose_mode", lambda targets, source: Mode.forward)
    monkeypatch.setattr(engine, "integrate_forward", refuse)
    mine = changed(plain, along=Along.activation, steps=5)
    traced = Traced(mine, tmp_path / "auto")
    before = digest(Path(mine.store.root))
    mine.attribute.mode, mine.force = Mode.reverse, [Stage.trace]
    run(mine, tmp_path / "reverse")
    assert digest(Path(mine.store.root)) == before
    assert traced["layer2->layer3", "edges"].any()
    mine.attribute.mode = Mode.forward
    with pytest.raises(UserError, match="an operation has no forward derivative; use mode=reverse"):
        run(mine, tmp_path / "forward")


class Late(Straight):
    """The straight path, walked slowly at first."""

    def __init__(self, power: float) -> None:
        self.power = power

    def coefficients(self, alpha: Tensor) -> Tensor:
        return super().coefficients(alpha**self.power)

    def speeds(self, alpha: Tensor) -> Tensor:
        return (self.power * alpha ** (self.power - 1))[:, None]


def test_a_path_of_ones_own(plain, tmp_path) -> None:
    curve = {"_target_": "integration.test_paths.Late", "power": 2.0}
    mine = Traced(changed(plain, curve=curve, steps=128), tmp_path / "late")
    straight = Traced(changed(plain, steps=128), tmp_path / "straight")
    both = [one["layer2->layer3", "edges"] for one in (mine, straight)]
    assert np.abs(both[0] - both[1]).sum() < 0.02 * np.abs(both[1]).sum()


# What is refused


def test_without_a_concept_that_matters_there_is_nothing_to_trace_to(plain, tmp_path) -> None:
    with pytest.raises(
        UserError, match=r"^no concept of layer3 has an edge to the class along attribute.path=right_ig"
    ):
        run(changed(plain, path=PathWeight.right_ig, phi=0.95), tmp_path)  # none of four midpoints is beyond 0.875


def brittle() -> nn.Module:
    """A network that is not defined on activations near zero."""

    class Brittle(tiny_network.TinyNetwork):
        def forward(self, x: Tensor) -> Tensor:
            pooled = self.layer3(self.layer2(self.layer1(self.stem(x)))).mean((2, 3))
            return self.head(pooled) + (pooled.mean(1, keepdim=True) - 0.05).sqrt()

    return tiny_network.seeded(Brittle(3, 8))


def test_nan_on_the_path_names_layers_image_and_alpha(tiny, tmp_path) -> None:
    tiny.model.target = "integration.test_paths:brittle"
    tiny.extract.layers, tiny.until = ["layer3"], Stage.trace
    with pytest.raises(UserError, match=r"^layer3 → logits, 'dots/00.png': the path is not finite at α = 0$"):
        run(tiny, tmp_path)


@pytest.mark.parametrize(
    ("attribute", "sentence"),
    [
        ({"baseline": Baseline.image}, "needs attribute.baseline_image=SAMPLE_ID"),
        ({"baseline": Baseline.image, "baseline_image": "x.png"}, "x.png is not a sample id of this data"),
        ({"baseline": Baseline.images, "baselines": 30}, "there are 30 in all: give at most 29"),
        ({"baselines": 0}, "attribute.baselines=0 must be at least 1"),
        ({"phi": 1.0}, "attribute.phi=1.0"),
        ({"baseline": Baseline.blur, "blur": 0.0}, r"attribute.blur=0.0 must be above 0"),
        ({"blur": float("nan")}, r"attribute.blur=nan must be above 0"),
        ({"tolerance": 0.0}, "attribute.tolerance=0.0"),
        ({"tolerance": 0.1, "max_steps": 8}, "attribute.max_steps=8"),
        ({"mode": Mode.forward, "readout": ReadOut.code}, "attribute.readout=code has no forward derivative"),
        ({"curve": {"_target_": "nowhere.Path"}}, "attribute.curve="),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_before_anything_is_computed(attribute, sentence, tiny, tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        run(changed(tiny, **attribute), tmp_path)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(tiny.store.root).exists()
