"""The whole pipeline on a tiny network: outputs, caching, byte identity, kills, and the sentences for errors."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import tiny as tiny_network
from integration.conftest import FileLimit, digest, draw_pictures, run_apart, tiny_config
from vismech.config.choices import Code, Evaluation, Positions, Rule, Scope, Stage, Unreadable
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.passes import loop
from vismech.stages.run import run
from vismech.store.artifacts import Store
from vismech.store.rows import Rows

LONG = ["metric", "value", "n", "ci_low", "ci_high", "units"]


@pytest.fixture(scope="module")
def first(pictures, tmp_path_factory):
    """One finished run that the tests below compare with."""
    base = tmp_path_factory.mktemp("first")
    config = tiny_config(pictures, base / "store")
    config.graph.measured = True
    return config, run(config, base / "run"), base


def test_a_run_leaves_everything_behind(first) -> None:
    _, result, base = first
    folder = base / "run"
    for name in ("events.jsonl", "plan.json", "metrics.json", "graph.json", "graph.graphml", "report/index.html"):
        assert (folder / name).stat().st_size > 0, name
    completeness = pd.read_csv(folder / "tables/completeness.csv")
    assert list(completeness.columns) == ["lower", "upper", "path", "rule", "steps", "power", *LONG]
    assert {*zip(completeness.lower, completeness.upper, strict=True)} == {
        ("layer1", "layer2"), ("layer2", "layer3"), ("layer1", "logits"), ("layer2", "logits"), ("layer3", "logits"),
    }  # fmt: skip
    assert list(pd.read_csv(folder / "tables/graph.csv").columns) == ["group", "layer", *LONG]
    extraction = pd.read_csv(folder / "tables/extraction.csv")
    keys = ["layer", "dictionary", "k", "code", "center", "mean_rule", "variant", "order", "budget"]
    assert list(extraction.columns) == [*keys, *LONG]
    assert {"r2", "l0", "relative_error", "accuracy_spliced", "accuracy_clean", "dead", "dense"} <= set(
        extraction.metric
    )
    timings = pd.read_csv(folder / "tables/timings.csv")
    assert list(timings.columns) == ["stage", "unit", "seconds", "peak_rss_bytes", "items", "cached"]
    assert not timings.cached.any()
    assert (timings["items"] > 0).all()
    events = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in events].count("computed") == len(result.plan)
    assert all(isinstance(value, (int, float)) for value in json.loads((folder / "metrics.json").read_text()).values())


def test_importance_in_the_graph_is_the_edge_into_the_class(first) -> None:
    _, _, base = first
    graph = json.loads((base / "run/graph.json").read_text())
    importance = {node["id"]: node["importance"]["all"] for node in graph["nodes"] if node["kind"] == "concept"}
    links = {link["source"]: link["weight"] for link in graph["links"] if link["target"] == "class/all"}
    last = {name: value for name, value in importance.items() if name.startswith("layer3/")}
    assert last
    for name, value in last.items():
        assert links[name] == pytest.approx(value)


def test_the_same_run_again_is_only_hits(first, tmp_path) -> None:
    config, _, base = first
    untouched = digest(base / "store")
    again = run(config, tmp_path)
    assert all(row["hit"] for row in again.plan)
    assert again.metrics["computed"] == 0
    assert digest(base / "store") == untouched
    assert pd.read_csv(tmp_path / "tables/timings.csv").cached.all()


def test_plan_computes_nothing(tiny, tmp_path) -> None:
    tiny.plan = True
    result = run(tiny, tmp_path / "run")
    assert not any(row["hit"] for row in result.plan)
    assert not Path(tiny.store.root).exists()


def test_until_stops_and_needs_no_logits(tiny, tmp_path) -> None:
    tiny.until = Stage.extract
    result = run(tiny, tmp_path / "run")
    assert [row["unit"] for row in result.plan] == ["layer1", "layer2", "layer3"]


def test_force_computes_again_the_same_bytes(first, tmp_path) -> None:
    config, _, base = first
    untouched = digest(base / "store")
    forced = dataclasses.replace(config, force=[Stage.dictionary])
    result = run(forced, tmp_path)
    assert result.metrics["computed"] == 3
    assert digest(base / "store") == untouched


def test_other_workers_threads_file_order_and_store_give_the_same_bytes(first, tmp_path) -> None:
    _, _, base = first
    other = tiny_config(draw_pictures(tmp_path / "elsewhere", reverse=True), tmp_path / "store")
    other.graph.measured = True
    other.runtime.workers = 1
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run(other, tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    assert digest(tmp_path / "store") == digest(base / "store")


@pytest.mark.thorough
def test_portions_of_a_batch_at_once_give_the_same_bytes(tiny, tmp_path, monkeypatch) -> None:
    """Every pass that may: three threads, each of which has eight images of a batch."""
    tiny.runtime.batch_size, tiny.graph.measured = 24, True
    measures = ("reconstruction", "insertion", "transfer", "interlayer", "circuit")
    tiny.evaluate.kinds, tiny.evaluate.images = [Evaluation(name) for name in measures], 16
    at_once, whole, found = [], loop.in_portions, {}
    monkeypatch.setattr(loop, "in_portions", lambda *given: at_once.append(given[-1]) or whole(*given))
    threads = torch.get_num_threads()
    for count in (1, 3):
        tiny.store.root = str(tmp_path / f"store{count}")
        torch.set_num_threads(count)
        try:
            run(tiny, tmp_path / f"run{count}")
        finally:
            torch.set_num_threads(threads)
        found[count] = digest(Path(tiny.store.root))
    assert found[1] == found[3]
    assert len(at_once) >= 5 and {*at_once} == {3}


@pytest.mark.thorough
@pytest.mark.parametrize("last", [Stage.extract, pytest.param(Stage.graph, marks=pytest.mark.slow)])
def test_two_processes_give_the_same_bytes(last, first, tmp_path) -> None:
    config, _, base = first
    two = dataclasses.replace(config, store=dataclasses.replace(config.store, root=str(tmp_path / "store")), until=last)
    two.runtime = dataclasses.replace(config.runtime, devices=2, strategy="ddp_spawn")
    assert run_apart(two, tmp_path / "run", limit=600) == 0
    mine = digest(tmp_path / "store")
    assert len(mine) == {Stage.extract: 3, Stage.graph: 22}[last]
    assert mine.items() <= digest(base / "store").items()


def test_another_batch_size_gives_the_same_rows_and_close_values(first, tmp_path) -> None:
    config, _, base = first
    other = dataclasses.replace(
        config, store=dataclasses.replace(config.store, root=str(tmp_path)), until=Stage.extract
    )
    other.runtime = dataclasses.replace(config.runtime, batch_size=7)
    run(other, tmp_path / "run")
    found = {row["key"] for row in json.loads((tmp_path / "run/plan.json").read_text())}
    for key in found:
        mine, theirs = tmp_path / "extract" / key, base / "store/extract" / key
        assert np.array_equal(np.load(mine / "positions.npy"), np.load(theirs / "positions.npy"))
        assert (mine / "images.json").read_bytes() == (theirs / "images.json").read_bytes()
        np.testing.assert_allclose(np.load(mine / "vectors.npy"), np.load(theirs / "vectors.npy"), rtol=1e-5, atol=1e-5)


class KillInCommit:
    """SIGKILL when the first artifact of a stage is about to be committed: payload written, manifest not."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __call__(self) -> None:
        commit = Store._commit

        def killed(store, spec, partial) -> None:
            if spec.stage == self.stage:
                os.kill(os.getpid(), signal.SIGKILL)
            commit(store, spec, partial)

        Store._commit = killed


class KillInRows:
    """SIGKILL in the middle of a pass over images: after a number of batches, before their journal line is written."""

    def __init__(self, stage: str, batches: int) -> None:
        self.stage, self.batches = stage, batches

    def __call__(self) -> None:
        write, count = Rows.write, 0

        def killed(rows, *arguments) -> None:
            nonlocal count
            if self.stage in str(rows.folder):
                count += 1
                if count > self.batches:
                    os.kill(os.getpid(), signal.SIGKILL)
            write(rows, *arguments)

        Rows.write = killed


PASSES = [KillInRows("extract", 9), KillInRows("evaluate", 1), KillInRows("trace", 2), KillInRows("effects", 1)]
KILLS = [KillInCommit("dictionary"), PASSES[2]]
KILLS += [pytest.param(each, marks=pytest.mark.thorough) for each in (PASSES[0], PASSES[1], PASSES[3])]
KILLS += [pytest.param(KillInCommit(stage), marks=pytest.mark.thorough) for stage in ("describe", "graph")]
KILLS += [pytest.param(KillInCommit(each.stage), marks=pytest.mark.slow) for each in PASSES]


@pytest.mark.parametrize("kill", KILLS, ids=lambda kill: f"{type(kill).__name__}-{kill.stage}")
def test_a_killed_run_is_continued_to_the_same_bytes(kill, first, tmp_path) -> None:
    config, _, base = first
    mine = dataclasses.replace(config, store=dataclasses.replace(config.store, root=str(tmp_path / "store")))
    assert run_apart(mine, tmp_path / "killed", kill) == -signal.SIGKILL
    before = digest(tmp_path / "store")
    assert before.items() <= digest(base / "store").items()
    assert not any(name.startswith(f"{kill.stage}/") for name in before)
    run(mine, tmp_path / "again")
    assert digest(tmp_path / "store") == digest(base / "store")


def test_a_continued_pass_does_not_repeat_finished_batches(first, tmp_path) -> None:
    config, _, _ = first
    mine = dataclasses.replace(
        config, store=dataclasses.replace(config.store, root=str(tmp_path / "store")), until=Stage.extract
    )
    assert run_apart(mine, tmp_path / "killed", KillInRows("extract", 9)) == -signal.SIGKILL
    assert run_apart(mine, tmp_path / "again", CountBatches(tmp_path / "count")) == 0
    assert int((tmp_path / "count").read_text()) == 5  # of 8 batches, three layers each, 9 writes were finished


class CountBatches:
    """Notes how many batches a pass computes."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __call__(self) -> None:
        from vismech.passes.extract import ExtractLoop

        step, count = ExtractLoop.step, 0

        def counted(loop, *arguments):
            nonlocal count
            count += 1
            self.file.write_text(str(count))
            return step(loop, *arguments)

        ExtractLoop.step = counted


def refuse(config: Config, folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        run(config, folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_unknown_layer_names_the_nearest(tiny, tmp_path) -> None:
    tiny.extract.layers = ["layer1", "layr2"]
    assert "no layer 'layr2'; nearest: layer2" in refuse(tiny, tmp_path)


def test_layers_in_the_wrong_order(tiny, tmp_path) -> None:
    tiny.extract.layers = ["layer2", "layer1"]
    assert "layer 'layer1' does not come after 'layer2'" in refuse(tiny, tmp_path)


def test_more_concepts_than_vectors(tiny, tmp_path) -> None:
    tiny.dictionary.k = 1000
    message = refuse(tiny, tmp_path)
    assert "1000" in message
    assert "180" in message  # 30 images, 6 positions
    assert len(list(Store(tiny.store.root).artifacts())) == 4  # what was extracted stays


def test_an_empty_folder(tiny, tmp_path) -> None:
    (tmp_path / "nothing").mkdir()
    tiny.data.root = str(tmp_path / "nothing")
    assert "there is no image" in refuse(tiny, tmp_path / "run")


def truncated(tmp_path: Path) -> Path:
    root = draw_pictures(tmp_path / "pictures")
    victim = root / "stripes" / "03.png"
    victim.write_bytes(victim.read_bytes()[:400])
    return root


def test_a_truncated_image_is_named(tiny, tmp_path) -> None:
    tiny.data.root = str(truncated(tmp_path))
    assert "stripes/03.png is not a readable image" in refuse(tiny, tmp_path / "run")


def test_a_truncated_image_is_skipped_and_counted(tiny, tmp_path, caplog) -> None:
    tiny.data.root, tiny.data.unreadable = str(truncated(tmp_path)), Unreadable.skip
    result = run(tiny, tmp_path / "run")
    assert result.metrics["unreadable_images"] == 1
    assert "stripes/03.png" in caplog.text
    assert "stripes/03.png" in (tmp_path / "run/report/index.html").read_text()
    for folder in Path(tiny.store.root).glob("extract/*"):
        if folder.is_dir():
            ids = json.loads((folder / "images.json").read_text())["ids"]
            assert len(ids) == 29
            assert "stripes/03.png" not in ids
            assert all(len(np.load(file)) == 29 for file in folder.glob("*.npy"))


def test_one_class_where_two_are_asked_for(tiny, tmp_path) -> None:
    tiny.graph.scope, tiny.graph.classes, tiny.data.classes = Scope["pair"], [0, 1], [0]
    tiny.graph.images = type(tiny.graph.images).labelled
    assert "none of the 10 images is labelled as class 1 stripes" in refuse(tiny, tmp_path)


def test_nan_activations_name_the_first_layer(tiny, tmp_path) -> None:
    state = tiny_network.network().state_dict()
    name = next(name for name in state if name.startswith("layer2.") and name.endswith("weight"))
    state[name] = state[name] * torch.nan
    save_file(state, tmp_path / "nan.safetensors")
    tiny.model.checkpoint = str(tmp_path / "nan.safetensors")
    message = refuse(tiny, tmp_path / "run")
    assert f"not finite from layer {name.rsplit('.', 1)[0]!r} on" in message


def test_weights_of_another_architecture(tiny, tmp_path) -> None:
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    tiny.model.checkpoint = str(tmp_path / "other.safetensors")
    assert "another architecture" in refuse(tiny, tmp_path / "run")


def test_a_corrupted_artifact_is_named_with_its_remedy(tiny, tmp_path) -> None:
    tiny.until = Stage.dictionary
    run(tiny, tmp_path / "run")
    victim = next(Path(tiny.store.root).glob("extract/*/vectors.npy"))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    tiny.dictionary.k = 11
    message = refuse(tiny, tmp_path / "again")
    assert f"extract/{victim.parent.name} is corrupted: vectors.npy has another content" in message
    assert "force=[extract]" in message
    tiny.force = [Stage.extract]
    run(tiny, tmp_path / "mended")


def test_a_full_disk_is_one_sentence_and_earlier_artifacts_stay(tiny, tmp_path) -> None:
    tiny.until = Stage.extract
    run(tiny, tmp_path / "run")
    before = digest(Path(tiny.store.root))
    tiny.extract.positions = Positions.all
    assert run_apart(tiny, tmp_path / "full", FileLimit(20_000)) == 1
    assert "full: free some space or set store.root" in (tmp_path / "full/error.txt").read_text()
    assert digest(Path(tiny.store.root)) == before
    run(tiny, tmp_path / "again")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"dictionary.k": 9},
        {"dictionary.penalty": 0.05},
        {"dictionary.code": Code.omp},
        {"dictionary.code": Code.omp, "dictionary.refine": 2},
        {"dictionary.center": True},
        {"attribute.steps": 9},
        {"extract.per_image": 5},
        {"graph.important": 2},
        {"data.limit": 20},
        {"model.kwargs": {"width": 9}},
        {"runtime.tf32": True},
        {"model.mean": [0.5, 0.5, 0.5]},
    ],
    ids=str,
)
def test_what_changes_numbers_changes_keys(change, first, tmp_path) -> None:
    assert _key(first[0], change, tmp_path) != _key(first[0], {}, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"runtime.batch_size": 9},
        {"runtime.workers": 2},
        {"runtime.devices": 2},
        {"runtime.job": 3},
        {"name": "other"},
        {"report.figure": True},
        {"logger.project": "x"},
        {"describe.nearest": 7},
        {"data.unreadable": Unreadable.skip},
    ],
    ids=str,
)
def test_what_does_not_change_numbers_changes_no_key(change, first, tmp_path) -> None:
    assert _key(first[0], change, tmp_path) == _key(first[0], {}, tmp_path)


@pytest.mark.thorough
def test_refined_atoms_are_those_of_the_code_that_they_are_fitted_to(first, tmp_path) -> None:
    def key(code: Code, l0: float, refine: int) -> str:
        change = {"dictionary.code": code, "dictionary.l0_per_channel": l0, "dictionary.refine": refine}
        return _key(first[0], change, tmp_path, "dictionary")

    wanted = [(Code.omp, 0.5), (Code.omp, 0.25), (Code.omp_nonnegative, 0.5)]
    assert len({key(*code, refine=0) for code in wanted}) == 1
    assert len({key(*code, refine=2) for code in wanted} | {key(*wanted[0], refine=n) for n in (0, 1)}) == 5
    assert key(Code.omp, 0.5, refine=2) == key(Code.coarse_to_fine, 0.5, refine=2)


def _key(config: Config, change: dict, folder: Path, stage: str = "graph") -> str:
    import copy

    mine = copy.deepcopy(config)
    mine.plan = True
    for key, value in change.items():
        group, _, name = key.rpartition(".")
        setattr(getattr(mine, group) if group else mine, name, value)
    return next(row["key"] for row in run(mine, folder / "plan").plan if row["stage"] == stage)


@pytest.mark.thorough
@pytest.mark.parametrize("scope", [pytest.param("class", marks=pytest.mark.slow), "pair", "image"])
def test_every_scope_gives_a_graph(scope, tiny, tmp_path) -> None:
    common = int(np.bincount(_predictions(tiny, tmp_path)).argmax())
    tiny.graph.scope, tiny.graph.images = Scope[scope], type(tiny.graph.images).labelled
    tiny.graph.classes = {"class": [common], "pair": [0, 2], "image": []}[scope]
    tiny.graph.image = "waves/04.png" if scope == "image" else None
    run(tiny, tmp_path / "run")
    graph = json.loads((tmp_path / "run/graph.json").read_text())
    assert len(graph["groups"]) == (2 if scope == "pair" else 1)
    assert {node["layer"] for node in graph["nodes"] if node["kind"] == "concept"} == {"layer1", "layer2", "layer3"}
    if scope == "pair":
        assert any(len(link["weights"]) == 2 for link in graph["links"])


def _predictions(config: Config, folder: Path) -> np.ndarray:
    run(config, folder / "first")
    file = next(Path(config.store.root).glob("extract/*/logits.npy"))
    return np.load(file).argmax(1)


def test_a_damaged_manifest_is_computed_anew_by_the_next_run(tiny, tmp_path, caplog) -> None:
    tiny.until = Stage.extract
    run(tiny, tmp_path / "run")
    before = digest(Path(tiny.store.root))
    victim = next(Path(tiny.store.root).glob("extract/*/manifest.json"))
    victim.write_text('{"files": {}}')
    again = run(tiny, tmp_path / "again")
    assert [row["hit"] for row in again.plan].count(False) == 1 == again.metrics["computed"]
    assert f"extract/{victim.parent.name} is corrupted: manifest.json" in caplog.text
    assert digest(Path(tiny.store.root)) == before


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("attribute.steps", 8, "Simpson's rule has an odd number of nodes"),
        ("graph.scope", Scope["image"], "graph.scope=image needs graph.image"),
        ("graph.scope", Scope["pair"], "explains 2 classes"),
        ("dictionary.refine", 2, "dictionary.refine is 2 with dictionary.code=lasso"),
        ("dictionary.refine", -1, "dictionary.refine is -1"),
        ("graph.prune", 1.5, "graph.prune=1.5 must be above 0 and at most 1"),
        ("runtime.accelerator", "abacus", "runtime.accelerator=abacus is not known here"),
    ],
)
def test_bad_values_are_refused_before_anything_is_computed(key, value, sentence, tiny, tmp_path) -> None:
    tiny.attribute.rule = Rule.simpson if "steps" in key else tiny.attribute.rule
    group, _, name = key.partition(".")
    setattr(getattr(tiny, group), name, value)
    assert sentence in refuse(tiny, tmp_path / "run")
    assert not list(Store(tiny.store.root).artifacts())
