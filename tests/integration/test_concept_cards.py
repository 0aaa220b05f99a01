"""The concept cards of a run: files, table, W&B, and concepts without members."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from integration.conftest import tiny_config
from vismech.config.choices import LoggerKind, Scope, Stage
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Code, Coding
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.describe import Descriptions
from vismech.stages.fields import fields_settings
from vismech.stages.gallery import Gallery
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run
from vismech.store.artifacts import hash_file


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A run that explains two classes, with cards of three concepts a layer."""
    base = tmp_path_factory.mktemp("cards")
    config = tiny_config(pictures, base / "store")
    config.describe.cards = 3
    config.graph.scope, config.graph.classes, config.graph.images = Scope["pair"], [0, 2], config.graph.images.labelled
    run(config, base / "run")
    return config, base / "run"


def test_every_row_of_the_table_has_its_card(finished) -> None:
    _, folder = finished
    table = pd.read_csv(folder / "tables/concepts.csv")
    assert table.layer.tolist() == [layer for layer in ("layer1", "layer2", "layer3") for _ in range(3)]
    assert sorted(table.file) == sorted(path.relative_to(folder).as_posix() for path in folder.glob("cards/*/*.png"))
    for row in table.to_dict("records"):
        assert row["file"] == f"cards/{row['layer']}/{row['concept']}.png"
        with Image.open(folder / row["file"]) as card:
            assert card.size[0] == 1600
        assert len(json.loads(row["samples"])) == len(json.loads(row["cosines"])) == 4
        assert row["tree_path"] == row["tree_path"].strip("LR") + row["tree_path"]
        assert len(row["tree_path"]) == row["tree_depth"]
        counts = [int(each.rpartition(" ")[2]) for each in row["classes"].split("; ")]
        assert sum(counts) == row["members"] == round(row["share"] * 180)
        shares = np.array(counts) / sum(counts)
        assert row["entropy_bits"] == pytest.approx(-(shares * np.log2(shares)).sum(), abs=1e-9)
        assert {each.rpartition(" ")[0] for each in row["classes"].split("; ")} <= {"dots", "stripes", "waves"}


def test_the_concepts_are_the_most_important_for_any_group(finished) -> None:
    _, folder = finished
    table = pd.read_csv(folder / "tables/concepts.csv")
    graph = json.loads((folder / "graph.json").read_text())
    names = [group["name"] for group in graph["groups"]]
    nodes = {node["id"]: node for node in graph["nodes"] if node["kind"] == "concept"}
    for layer, rows in table.groupby("layer"):
        largest = rows[[f"importance {name}" for name in names]].abs().max(axis=1).tolist()
        assert largest == sorted(largest, reverse=True)
        strongest = sorted(
            (node for node in nodes.values() if node["layer"] == layer),
            key=lambda node: -max(abs(value) for value in node["importance"].values()),
        )
        assert rows.concept.tolist() == [node["concept"] for node in strongest[:3]]


def test_before_the_trace_the_largest_concepts_have_cards(tiny, tmp_path) -> None:
    tiny.until, tiny.describe.cards = Stage.describe, 2
    run(tiny, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/tables/concepts.csv")
    ctx = open_context(tiny)
    plan = make_plan(ctx)
    for layer, rows in table.groupby("layer"):
        shares = Descriptions(ctx, str(layer), plan.descriptions[layer]).shares
        assert rows.share.tolist() == pytest.approx(sorted(shares, reverse=True)[:2])
    assert not [name for name in table.columns if name.startswith("importance")]


def test_no_cards_leave_no_files(tiny, tmp_path) -> None:
    tiny.describe.cards = 0
    run(tiny, tmp_path / "run")
    assert not (tmp_path / "run/cards").exists() and not (tmp_path / "run/tables/concepts.csv").exists()
    assert (tmp_path / "run/report/index.html").is_file()


def test_shares_members_and_classes_fit_the_vectors(finished) -> None:
    config, _ = finished
    ctx = open_context(config)
    plan = make_plan(ctx)
    for layer, spec in plan.descriptions.items():
        described = Descriptions(ctx, layer, spec)
        concepts = [described.concept(number) for number in range(len(described))]
        vectors = ctx.store.open(plan.vectors[layer]).array("vectors.npy")
        directed = int(np.any(vectors.reshape(-1, vectors.shape[-1]) != 0, axis=1).sum())
        assert sum(each.members for each in concepts) == directed
        for each in concepts:
            assert sum(count for _, count in each.classes) == each.members
            assert each.tightness is not None and 0 < each.tightness <= 1 + 1e-6


def _with_an_orphan(monkeypatch, centred: bool) -> None:
    """Dictionaries whose first atom points away from every vector, and maybe a mean concept at their end."""
    load = dictionary_stage.load

    def orphan(work, spec):
        found = load(work, spec)
        atoms = found.atoms.clone()
        atoms[0] = -torch.nn.functional.normalize(atoms.sum(0), dim=0)
        info, mean_index = dict(found.info), None
        if centred:
            atoms[-1] = torch.nn.functional.normalize(atoms[1:].sum(0), dim=0)
            info["mean_norm"], mean_index = 1.0, len(atoms) - 1
        return Dictionary(atoms, Coding(Code.lasso, 0.1), mean_index, info, {} if centred else found.arrays)

    monkeypatch.setattr(dictionary_stage, "load", orphan)


@pytest.mark.parametrize("centred", [False, True])
def test_a_concept_without_members_is_described_shown_and_listed(centred, tiny, tmp_path, monkeypatch) -> None:
    _with_an_orphan(monkeypatch, centred)
    tiny.until, tiny.describe.cards, tiny.extract.layers = Stage.describe, 12, ["layer2"]
    run(tiny, tmp_path / "run")
    ctx = open_context(tiny)
    plan = make_plan(ctx)
    lonely = 11 if centred else 0
    for layer, spec in plan.descriptions.items():
        facts = ctx.store.open(spec).path("concepts.json").read_text()
        assert "NaN" not in facts
        described = Descriptions(ctx, layer, spec).concept(lonely)
        assert (described.members, described.share, described.classes) == (0, 0.0, [])
        assert described.tightness is described.entropy is None
        assert all(math.isfinite(cosine) for cosine in described.cosines)
        card = Gallery(ctx, plan, [(layer, lonely)], fields_settings(ctx)).card(layer, lonely)
        assert "Tightness" not in card.facts and card.classes == []
    table = pd.read_csv(tmp_path / "run/tables/concepts.csv")
    rows = table[(table.concept == lonely)]
    assert len(rows) == 1 and (rows.members == 0).all()
    assert rows[["tightness", "entropy_bits", "classes"]].isna().all().all()
    assert all((tmp_path / "run" / file).is_file() for file in rows.file)
    text = (tmp_path / "run/tables/concepts.csv").read_text()
    assert "nan" not in text.lower()


class _Wandb:
    """Stands for a run of W&B: keeps what it is given."""

    def __init__(self, **_) -> None:
        self.logged: dict = {}
        _Wandb.last = self

    def log(self, values) -> None:
        self.logged |= values

    def finish(self) -> None: ...


def test_each_layer_is_a_wandb_table_with_pictures(tiny, tmp_path, monkeypatch) -> None:
    import wandb

    monkeypatch.setattr(wandb, "init", _Wandb)
    tiny.logger.kind, tiny.until, tiny.describe.cards = LoggerKind.wandb, Stage.describe, 2
    run(tiny, tmp_path / "run")
    cards = {key: table for key, table in _Wandb.last.logged.items() if key.startswith("cards/")}
    assert list(cards) == ["cards/layer1", "cards/layer2", "cards/layer3"]
    for table in cards.values():
        assert table.columns[:3] == ["card", "layer", "concept"] and len(table.data) == 2
        assert all(isinstance(row[0], wandb.Image) and len(row) == len(table.columns) for row in table.data)


@pytest.mark.thorough
def test_offline_runs_keep_the_pictures(finished, tmp_path, monkeypatch) -> None:
    config, _ = finished
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    config.logger.kind, config.describe.cards = LoggerKind.wandb, 1
    try:
        run(config, tmp_path / "run")
    finally:
        config.logger.kind, config.describe.cards = LoggerKind.none, 3
    # W&B uploads a table's pictures from its own folder of artifacts, offline when the run is synced.
    kept = {hash_file(path) for path in (tmp_path / "data").rglob("*") if path.is_file()}
    cards = {hash_file(path) for path in (tmp_path / "run/cards").glob("*/*.png")}
    assert len(cards) == 3 and cards <= kept
    assert len(list(tmp_path.glob("run/wandb/offline-run-*/files/media/table/cards/*.table.json"))) == 3
