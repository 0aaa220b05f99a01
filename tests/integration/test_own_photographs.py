"""Photographs of one's own with a model of one's own: no class is told by a folder's rank (accuracy, choice, names)."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from integration.conftest import CLASSES, draw_pictures
from vismech.config.choices import Evaluation, Images, Labels, Scope, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run

# The model's classes are not in the order of the folders (dots, stripes, waves).
NAMES = ["Waves", "dots", "stripes"]
INDEX = {"waves": 0, "dots": 1, "stripes": 2}


def uneven(root: Path, counts: dict[str, int]) -> Path:
    """Pictures of which every class has another number, so that no accuracy is right by chance."""
    draw_pictures(root)
    for name in CLASSES:
        for path in sorted((root / name).iterdir())[counts.get(name, 0) :]:
            path.unlink()
        if name not in counts:
            (root / name).rmdir()
    return root


@pytest.fixture
def own(tiny, tmp_path) -> Config:
    """Reconstruction only, of every image."""
    tiny.data.root = str(uneven(tmp_path / "own", {"dots": 10, "stripes": 7, "waves": 5}))
    tiny.data.labels, tiny.model.classes = Labels.names, NAMES
    tiny.extract.layers, tiny.until, tiny.evaluate.images = ["layer2", "layer3"], Stage.evaluate, None
    return tiny


def table(config: Config, folder: Path) -> pd.DataFrame:
    run(config, folder)
    frame = pd.read_csv(folder / "tables/extraction.csv")
    return frame[frame.layer == "layer3"].set_index("metric")


def answers(config: Config) -> dict[str, int]:
    """The network's answer to each measured image, by a plain pass."""
    ctx = open_context(config)
    images = [ctx.model.preprocess(ctx.measured.load(index)) for index in range(len(ctx.measured))]
    import torch

    with torch.no_grad():
        return dict(zip(ctx.measured.ids, ctx.model.module(torch.stack(images)).argmax(1).tolist(), strict=True))


def share(config: Config, index: dict[str, int]) -> float:
    found = {sample: answer for sample, answer in answers(config).items() if sample.split("/")[0] in index}
    return float(np.mean([answer == index[sample.split("/")[0]] for sample, answer in found.items()]))


def test_accuracy_is_by_name(own, tmp_path) -> None:
    by_name, by_rank = share(own, INDEX), share(own, {name: rank for rank, name in enumerate(CLASSES)})
    assert by_name != by_rank
    found = table(own, tmp_path / "run")
    assert found.value["accuracy_clean"] == pytest.approx(by_name) and found.n["accuracy_clean"] == 22


def test_accuracy_is_unknown_where_no_folder_is_a_class(own, tmp_path) -> None:
    own.model.classes = None
    found = table(own, tmp_path / "run")
    assert not {name for name in found.index if name.startswith(("accuracy", "loss"))}
    assert found.n["agreement_spliced"] == 22 and found.value["r2"] == found.value["r2"]
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert not [name for name in metrics if "accuracy" in name or "loss" in name]


def test_accuracy_is_over_the_images_whose_class_is_known(own, tmp_path) -> None:
    own.model.classes, own.data.class_map = None, {"waves": 0, "dots": 1}
    found = table(own, tmp_path / "run")
    known = {"waves": 0, "dots": 1}
    assert found.value["accuracy_clean"] == pytest.approx(share(own, known))
    assert found.n["accuracy_clean"] == found.n["loss_clean"] == 15 and found.n["agreement_spliced"] == 22
    cases = pd.read_csv(tmp_path / "run/cases/extraction.csv.gz")
    one = cases[(cases.metric == "accuracy_clean") & (cases.layer == "layer3")]
    assert {sample.split("/")[0] for sample in one.image} == {"waves", "dots"} and len(one) == 15


def test_folders_of_other_images_have_other_ranks(own, tmp_path) -> None:
    """evaluate.root without the first folder: every rank there is one less."""
    own.evaluate.root = str(uneven(tmp_path / "other", {"stripes": 6, "waves": 9}))
    own.data.classes = [1, 2]  # stripes and waves of data.root
    found = table(own, tmp_path / "run")
    assert found.value["accuracy_clean"] == pytest.approx(share(own, INDEX)) and found.n["accuracy_clean"] == 15


def test_correct_images_are_those_that_are_correct_by_name(own, tmp_path) -> None:
    own.evaluate.correct_only, own.evaluate.kinds = True, [Evaluation.reconstruction]
    found = table(own, tmp_path / "run")
    right = [sample for sample, answer in answers(own).items() if answer == INDEX[sample.split("/")[0]]]
    assert found.value["accuracy_clean"] == 1 and found.n["accuracy_clean"] == len(right) > 0


@pytest.mark.parametrize("what", ["correct_only", "labelled"])
def test_what_needs_classes_is_refused_before_anything_is_computed(own, tmp_path, what) -> None:
    own.model.classes = None
    if what == "correct_only":
        own.evaluate.correct_only = True
    else:
        own.graph.scope, own.graph.classes, own.graph.images, own.until = Scope["class"], [0], Images.labelled, None
    with pytest.raises(UserError, match=rf"{what}.* needs the images' classes, but none of the folders \(dots,"):
        run(own, tmp_path / "run")
    assert not Path(own.store.root).exists()


def test_labelled_images_are_those_of_the_folder_of_that_name(own, tmp_path) -> None:
    own.graph.scope, own.graph.classes, own.graph.images = Scope["pair"], [0, 1], Images.labelled
    own.until, own.data.limit = Stage.graph, 12
    run(own, tmp_path / "run")
    group = json.loads((tmp_path / "run/graph.json").read_text())["groups"]
    assert [each["name"] for each in group] == ["Waves", "dots"] and [each["images"] for each in group] == [4, 4]
    traces = [json.loads(file.read_text()) for file in Path(own.store.root).glob("trace/*/trace.json")]
    for facts in traces:
        folders = [sample.split("/")[0] for sample in facts["images"]]
        assert [INDEX[name] for name in folders] == facts["classes"]


def test_names_of_classes_and_of_folders_are_apart(own) -> None:
    ctx = open_context(own)
    assert [ctx.class_name(index) for index in range(3)] == NAMES
    assert [ctx.label_name(label) for label in range(3)] == list(CLASSES)
    own.model.classes, own.data.class_map = None, {"dots": 2}
    ctx = open_context(own)
    assert [ctx.class_name(index) for index in range(4)] == ["class 0", "class 1", "dots", "class 3"]


def keys(config: Config) -> dict[str, str]:
    ctx = open_context(config)
    return {f"{spec.stage} {spec.unit}": spec.key for spec in make_plan(ctx).specs()}


def test_only_what_reads_classes_has_another_key(own) -> None:
    own.until = None
    by_name = keys(own)
    own.model.classes, own.data.labels = None, Labels.rank
    by_rank = keys(own)
    shown = {"cards", "report"}  # names and classes are shown there
    assert {name.split()[0] for name in by_name if by_name[name] != by_rank[name]} == {"evaluate"} | shown
    own.graph.scope, own.graph.classes, own.graph.images = Scope["class"], [0], Images.labelled
    by_rank = keys(own)
    own.model.classes, own.data.labels = NAMES, Labels.names
    by_name = keys(own)
    assert {name.split()[0] for name in by_name if by_name[name] != by_rank[name]} == {
        "trace",
        "graph",
        "evaluate",
    } | shown
    own.model.classes = list(CLASSES)  # by name, but every folder is the class of its rank
    assert keys(own) == by_rank


@pytest.mark.parametrize("names", [["waves", "STRIPES"], [0, "stripes"], ["Waves", 2]])
def test_names_of_classes_have_the_keys_of_their_indices(own, names) -> None:
    def keys() -> list[str]:
        return [spec.key for spec in make_plan(open_context(own)).specs()]

    own.until, own.graph.scope, own.graph.classes = None, Scope["pair"], [0, 2]
    by_index = keys()
    own.graph.classes = names
    assert keys() == by_index
    own.model.classes, own.data.class_map = None, {"waves": 0, "stripes": 2}  # then folders give classes their names
    if "Waves" not in names:
        by_name = keys()
        own.graph.classes = [0, 2]
        assert by_name == keys()


@pytest.mark.parametrize(
    ("scope", "classes", "sentence"),
    [
        ("class", ["wave"], "graph.classes: 'wave' is not a class of this model; nearest: Waves"),
        ("pair", ["waves", 0], "graph.scope=pair explains 2 classes, but graph.classes=['waves', 0]"),
        ("class", [3], "graph.classes: 3 is not a class of this model, which has 3: give 0 to 2"),
        ("pair", [0, -1], "graph.classes: -1 is not a class of this model"),
        ("image", [], "graph.image=dots/00.png is not a sample id of this data; nearest: stripes/00.png, waves/00.png"),
    ],
)
def test_what_a_graph_cannot_explain_is_told_before_all(own, tmp_path, scope, classes, sentence) -> None:
    own.until, own.graph.scope, own.graph.classes = None, Scope[scope], classes
    own.graph.image, own.data.classes = "dots/00.png", [1, 2]
    with pytest.raises(UserError) as error:
        run(own, tmp_path / "run")
    assert str(error.value).startswith(sentence) and not Path(own.store.root).exists()


def test_the_preprocessing_in_use_is_told(own, tmp_path, caplog) -> None:
    own.model.resize, own.until = None, Stage.extract
    with caplog.at_level(logging.INFO, "vismech"):
        run(own, tmp_path / "run")
    assert "tiny takes images with their short side at 32 (bilinear), the middle 32 × 32 pixels" in caplog.text
    file = next(Path(own.store.root).glob("extract/*/provenance.json"))
    found = json.loads(file.read_text())["preprocess"]
    assert (found["resize"], found["crop"], found["interpolation"]) == (32, 32, "bilinear")
