"""Transcoders in a run: R² of what an MLP puts out, the network with that in its place, keys, and what is refused."""

from __future__ import annotations

import copy
import dataclasses
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import tiny as tiny_network
import vismech
from integration.conftest import digest, finish, tiny_config
from integration.test_class_tokens import with_output
from integration.test_paths import pictures_of
from vismech.config.choices import (
    Around,
    Baseline,
    Code,
    Evaluation,
    MeanRule,
    Method,
    Positions,
    ReadOut,
    Rule,
    Scope,
    Stage,
)
from vismech.config.schema import Config
from vismech.dictionaries import Dictionary, build
from vismech.edit.told import tell
from vismech.errors import UserError
from vismech.stages.dictionary import coding_of, load, read
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run
from vismech.stages.work import read_images

pytestmark = pytest.mark.thorough
LAYER, READ = "layer1.mlp", "layer1.norm2"
MEASURED = [Evaluation.reconstruction, Evaluation.insertion, Evaluation.transfer]


class Mlp(nn.Module):
    """An MLP that is a transcoder: ReLU between two linear maps."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x)))


def bent() -> nn.Module:
    """:func:`tiny.attending` with a ReLU in the MLP of its first block."""
    model = tiny_network.TinyTransformer(3, 8)
    model.layer1.mlp = Mlp(8, 12)
    return tiny_network.seeded(model)


def config_of(pictures: Path, store: Path) -> Config:
    config = tiny_config(pictures, store)
    config.model.target = "tiny:attending"
    config.extract.layers, wanted = [LAYER], config.dictionary
    wanted.method, wanted.code, wanted.center, wanted.k = Method.transcoder, Code.encoder, True, 12
    wanted.sae.steps, wanted.sae.batch_size, wanted.mean_rule = 80, 32, MeanRule.kept
    config.attribute.around, config.attribute.rule, config.attribute.steps = Around.hold, Rule.midpoint, 4
    config.until, config.describe.cards, config.graph.measured = Stage.evaluate, 0, False
    config.evaluate.kinds, config.evaluate.images, config.evaluate.groups = [*MEASURED], 8, {"all": [[0, 2]]}
    config.evaluate.budgets, config.evaluate.random_images, config.evaluate.greedy_images = [3], 2, 0
    return config


def planned(config: Config):
    ctx = open_context(config)
    return ctx, make_plan(ctx)


class Measured:
    """A finished run, and its measured images by a plain pass: what is read, what is rebuilt, with what codes."""

    def __init__(self, config: Config, folder: Path, model: nn.Module) -> None:
        self.config, self.folder = config, folder
        self.result = run(config, folder)
        self.ctx, self.plan = planned(config)
        self.dictionary = read(self.ctx, self.plan.dictionaries[LAYER], coding_of(config))
        self.model, self.images = model, read_images(self.artifact("reconstruction"))
        self.batch = pictures_of(config, self.images.ids)
        clean = tiny_network.outputs(model, self.batch)
        self.logits, self.clean = clean["logits"], clean[LAYER]
        self.reads, self.vectors = clean[READ][:, 1:], clean[LAYER][:, 1:]
        self.codes = self.dictionary.encode(self.reads)
        self.rebuilt = self.dictionary.decode(self.codes)

    def artifact(self, kind: str):
        return self.ctx.store.open(self.plan.evaluations[kind][LAYER])

    def answers(self, vectors: Tensor) -> Tensor:
        """The logits with these at the patch tokens of the MLP's output, all else as it comes."""
        output = torch.cat([self.clean[:, :1], vectors], 1)
        return with_output(self.model, LAYER, self.batch, output)["logits"]


@pytest.fixture(scope="module")
def found(pictures, tmp_path_factory) -> Measured:
    base = tmp_path_factory.mktemp("transcoder")
    return Measured(config_of(pictures, base / "store"), base / "run", tiny_network.attending())


@torch.no_grad()
def test_r2_is_of_what_the_mlp_puts_out(found) -> None:
    metrics = found.artifact("reconstruction").json("metrics.json")
    vectors, rebuilt = found.vectors.flatten(0, 1).double(), found.rebuilt.flatten(0, 1).double()
    missed = (vectors - rebuilt).square().sum(0) / (vectors - vectors.mean(0)).square().sum(0)
    assert metrics["r2"] == pytest.approx(1 - missed.mean().item(), rel=1e-4) and metrics["r2"] > 0.3
    assert metrics["relative_error"] == pytest.approx(float((vectors - rebuilt).norm() / vectors.norm()), rel=1e-4)
    assert metrics["l0"] == pytest.approx(float((found.codes != 0).sum(2).float().mean()), rel=1e-5)
    # What it is not: of the vectors that are read, which its concepts do not rebuild.
    read = found.reads.flatten(0, 1).double()
    assert (1 - (read - rebuilt).square().sum(0) / (read - read.mean(0)).square().sum(0)).mean() < 0


@torch.no_grad()
def test_the_network_answers_with_the_mlps_output_replaced_and_the_stream_as_it_was(found) -> None:
    artifact, spliced = found.artifact("reconstruction"), found.answers(found.rebuilt)
    both = torch.stack([found.logits.argmax(1), spliced.argmax(1)], 1)
    np.testing.assert_array_equal(artifact.array("predicted.npy"), both)
    labels = torch.from_numpy(found.ctx.measured_labels.classes(found.images.labels))[:, None]
    losses = [-logits.log_softmax(1).gather(1, labels)[:, 0] for logits in (found.logits, spliced)]
    np.testing.assert_allclose(artifact.array("losses.npy")[:, :2], torch.stack(losses, 1), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(spliced, found.logits, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_concepts_are_inserted_into_the_mlps_output(found) -> None:
    insertion, predicted = found.artifact("insertion"), found.logits.argmax(1)[:, None]
    mean = found.codes[..., -1:] * found.dictionary.atoms[-1]
    ends = [found.answers(vectors).softmax(1).gather(1, predicted)[:, 0] for vectors in (mean, found.rebuilt)]
    share = insertion.array("share.npy")[:, 0]
    for end, expected in zip((0, -1), ends, strict=True):
        np.testing.assert_allclose(share[:, 0, end], expected, rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(share[:, 1, -1 - end], expected, rtol=1e-3, atol=1e-5)
    ranked = found.codes.any(1)
    ranked[:, -1] = False  # the mean concept is kept
    np.testing.assert_array_equal(insertion.array("ranked.npy"), ranked)
    table = pd.read_csv(found.folder / "tables" / "extraction.csv")
    assert {"r2", "auc_difference", "transfer_first_8"} <= set(table.metric) and set(table.dictionary) == {"transcoder"}


def test_reads_and_rebuilds_the_same_positions_of_one_fit(found) -> None:
    spec = found.plan.dictionaries[LAYER]
    assert spec.parents["reads"].unit == READ and load(found.ctx, spec).info["reads"] == READ
    here, there = (found.ctx.store.open(spec.parents[name]) for name in ("vectors", "reads"))
    np.testing.assert_array_equal(here.array("positions.npy"), there.array("positions.npy"))
    reads, vectors = (torch.from_numpy(np.array(each.array("vectors.npy"))).flatten(0, 1) for each in (there, here))
    sae = dataclasses.asdict(found.config.dictionary.sae)
    again = build("transcoder", vectors, 12, 0, center=True, reads=reads, place=READ, **sae)
    assert torch.equal(again.atoms, found.dictionary.atoms)
    assert all(torch.equal(array, found.dictionary.encoder[name]) for name, array in again.encoder.items())


def test_what_is_read_is_in_the_key_of_the_dictionary_and_in_no_other(found) -> None:
    def keys(change: Any = None) -> dict[str, str]:
        config = copy.deepcopy(found.config)
        if change:
            change(config)
        return {f"{spec.stage} {spec.unit}": spec.key for spec in planned(config)[1].specs()}

    def reading(place: str):
        return lambda config: setattr(config.dictionary, "reads", place)

    before = keys()
    assert keys(reading(READ)) == before  # by its name, or as what the MLP takes in
    other = keys(reading("layer1.norm1"))
    changed = {name for name, key in other.items() if before.get(name) != key}
    assert changed == {"extract layer1.norm1", f"dictionary {LAYER}", f"evaluate {LAYER}"}

    def clustered(config: Config) -> None:
        config.dictionary.method, config.dictionary.code = Method.bisecting, Code.lasso

    def longer(config: Config) -> None:
        config.dictionary.sae.steps = 90

    assert f"extract {READ}" not in keys(clustered)
    assert keys(longer)[f"dictionary {LAYER}"] != before[f"dictionary {LAYER}"]


def change(**values: Any):
    """Sets fields, ``group__field``."""

    def changed(config: Config) -> None:
        for name, value in values.items():
            group, _, key = name.partition("__")
            if key:
                setattr(getattr(config, group), key, value)
            else:
                setattr(config, group, value)

    return changed


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (change(evaluate__kinds=[Evaluation.circuit]), r"evaluate.kinds=circuit needs codes of layer1.mlp's own"),
        (change(evaluate__kinds=[Evaluation.audit]), r"evaluate.kinds=audit needs .*reads them from layer1.norm2"),
        (change(evaluate__kinds=[Evaluation.interlayer]), r"evaluate.kinds=interlayer needs.* dictionary.code=lasso"),
        (change(until=None, graph__measured=True), "graph.measured=true needs codes of"),
        (change(until=None, attribute__readout=ReadOut.code), "attribute.readout=code needs codes of"),
        (change(until=None, attribute__baseline=Baseline.mean), "attribute.baseline=mean needs codes of"),
        (change(attribute__around=Around.refuse), r"can be reached around 'layer1.mlp'.*; attribute.around=hold"),
        (change(extract__layers=["layer1.mlp.fc2"]), r"layer1.mlp.fc2 does not take in the output of one layer "),
        (change(dictionary__reads="layer1.nrom2"), "the model has no layer 'layer1.nrom2'; nearest: layer1.norm2"),
        (change(dictionary__reads="layer2"), "dictionary.reads=layer2 does not come before layer1.mlp, which is"),
        (change(dictionary__reads=LAYER), "dictionary.reads=layer1.mlp does not come before layer1.mlp"),
        (change(dictionary__reads="pixels"), "dictionary.reads=pixels does not come before"),
        (change(dictionary__k=None), "dictionary.k=auto counts by vectors that are rebuilt from themselves"),
        (change(dictionary__refine=3), "dictionary.refine is 3 with dictionary.code=encoder"),
        (change(dictionary__method=Method.sae, dictionary__reads=READ), r"dictionary.reads=.* is for dictionary="),
        (change(extract__positions=Positions.gradient), "extract.positions=gradient draws other positions at"),
    ],
)  # fmt: skip
def test_what_has_no_meaning_is_one_sentence_while_planning(changed, sentence, pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path / "store")
    changed(config)
    from vismech.stages.checks import check

    with pytest.raises(UserError, match=sentence) as error:
        check(config)
        planned(config)
    assert "\n" not in str(error.value) and not list((tmp_path / "store").glob("*/*/manifest.json"))


def test_places_of_another_grid_are_refused(pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path / "store")
    config.model.target, config.extract.layers = "tiny:network", ["layer3"]
    config.dictionary.reads = "layer1"
    with pytest.raises(
        UserError, match=r"dictionary.reads=layer1 has \d+×\d+ positions and layer3 \d+×\d+, but a code"
    ):
        planned(config)


def test_an_edit_refuses_a_code_that_is_read_elsewhere(found) -> None:
    with pytest.raises(UserError, match=r"the code of layer1.mlp is read from layer1.norm2 \(a transcoder\)"):
        tell(found.dictionary, LAYER)


def saved_mlp(folder: Path, model: nn.Module) -> Dictionary:
    """The first block's MLP as a dictionary: all of its hidden units as concepts, its bias the mean concept."""
    mlp = model.get_submodule(LAYER)
    with torch.no_grad():
        write, offset = mlp.fc2.weight.T.clone(), mlp.fc2.bias.clone()
        norms = write.norm(dim=1, keepdim=True)
        encoder = {"weight": norms * mlp.fc1.weight, "bias": norms[:, 0] * mlp.fc1.bias}
        atoms = torch.cat([write / norms, offset[None] / offset.norm()])
    info: dict[str, Any] = {"method": "transcoder", "activation": "topk", "l0": len(write), "reads": READ}
    info |= {"vector_norm": 1.0, "mean_norm": offset.norm().item()}
    coding = build("random", torch.randn(9, 8), 2, 0).coded(Code.encoder, 0.02, None).coding
    dictionary = Dictionary(atoms, coding, len(write), info, encoder=encoder)
    dictionary.save(folder)
    return dictionary


def test_an_mlp_that_is_a_transcoder_is_rebuilt_to_the_last_digit(pictures, tmp_path) -> None:
    """A saved one: the run reads where it says that it reads."""
    saved_mlp(tmp_path / "saved", bent())
    config = config_of(pictures, tmp_path / "store")
    config.model.target = "integration.test_transcoder:bent"
    config.dictionary.method, config.dictionary.path = Method.saved, str(tmp_path / "saved")
    config.evaluate.kinds = [Evaluation.reconstruction]
    found = Measured(config, tmp_path / "run", bent())
    metrics = found.artifact("reconstruction").json("metrics.json")
    assert metrics["r2"] == pytest.approx(1, abs=1e-9) and metrics["relative_error"] < 1e-5
    predicted = found.artifact("reconstruction").array("predicted.npy")
    np.testing.assert_array_equal(predicted[:, 0], predicted[:, 1])
    losses = found.artifact("reconstruction").array("losses.npy")
    np.testing.assert_allclose(losses[:, 1], losses[:, 0], rtol=1e-5, atol=1e-6)
    config.model.target, narrow = "tiny:attending", Dictionary.load(tmp_path / "saved")
    narrow.encoder["weight"] = narrow.encoder["weight"][:, :5]
    narrow.save(tmp_path / "saved")
    with pytest.raises(UserError, match=r"saved reads layer1.norm2, which has 8 channels here and 5 there"):
        planned(config)
    for info, arrays in (({"reads": ""}, narrow.encoder), ({"reads": [1]}, narrow.encoder), ({}, {})):
        dataclasses.replace(narrow, info=narrow.info | info, encoder=arrays).save(tmp_path / "saved")
        if not arrays:
            (tmp_path / "saved" / "encoder.safetensors").unlink()
        with pytest.raises(
            UserError, match="saved is a transcoder that does not say which layer it reads, and how: fit"
        ):
            planned(config)


@pytest.mark.parametrize(
    "runtime",
    [
        {"batch_size": 8, "path_batch_size": 32},
        pytest.param({"devices": 2, "strategy": "ddp_spawn"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_neither_batches_nor_processes_show(runtime, found, pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path / "store")
    config.runtime = dataclasses.replace(config.runtime, **runtime)
    run(config, tmp_path / "run")
    ours, theirs = digest(Path(found.config.store.root)), digest(tmp_path / "store")
    assert theirs and theirs.items() <= ours.items()


@torch.no_grad()
def test_a_graph_a_page_and_cards_of_transcoders(pictures, tmp_path) -> None:
    config = config_of(pictures, tmp_path / "store")
    config.until, config.evaluate.kinds, config.describe.cards = None, [Evaluation.reconstruction], 1
    config.extract.layers, config.graph.scope = [LAYER, "layer2.norm1"], Scope["dataset"]
    folder = finish(config, tmp_path)
    ctx, plan = planned(config)
    trace = ctx.store.open(plan.to_class[LAYER])
    facts, dictionary = trace.json("trace.json"), read(ctx, plan.dictionaries[LAYER], coding_of(config))
    model = tiny_network.attending()
    batch = pictures_of(config, facts["images"])
    clean = tiny_network.outputs(model, batch)
    rebuilt = dictionary.decode(dictionary.encode(clean[READ][:, 1:]))
    rows = torch.arange(len(batch))
    for name, patches in (("value", rebuilt), ("baseline", torch.zeros_like(rebuilt))):  # along the reconstruction
        output = torch.cat([clean[LAYER][:, :1], patches], 1)
        expected = with_output(model, LAYER, batch, output)["logits"][rows, facts["classes"]]
        np.testing.assert_allclose(trace.array(f"{name}.npy")[:, 0], expected, rtol=1e-3, atol=1e-4)
    absent = ~dictionary.encode(clean[READ][:, 1:]).any(1)
    assert absent.any() and not trace.array("edges.npy")[:, 0][absent.numpy()].any()
    page = unescape((folder / "report" / "index.html").read_text())
    assert "The codes of layer1.mlp are a transcoder's: read from layer1.norm2, they rebuild" in page
    assert "The codes of layer2.norm1 are a transcoder's: read from layer1, they" in page
    opened = vismech.open_run(folder, trust=["tiny"])
    own = opened.dictionary(LAYER)
    assert own.reads == READ and torch.equal(own.encode(clean[READ]), dictionary.encode(clean[READ]))
    concept = opened.concept(LAYER, 3)
    concept.picture()
    (panel,) = concept.localize([str(next(Path(pictures).rglob("*.png")))])
    assert panel.width > 100
