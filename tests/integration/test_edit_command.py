"""``vismech-edit``: the file that it leaves, what it says of photographs, and its sentences for errors."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tiny
import vismech
from vismech.commands.edit import main
from vismech.config.choices import EditValue
from vismech.edit.finished import edit_of
from vismech.finished.opened import Opened
from vismech.stages import dictionary as dictionary_stage

TRUST = ["--trust", "tiny"]  # where the run's own model is
GUIDE = (Path(__file__).parents[2] / "docs/guide.md").read_text()


@pytest.fixture
def photos(pictures, tmp_path, monkeypatch) -> list[str]:
    """Two photographs in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, source in zip("ab", sorted(pictures.rglob("*.png")), strict=False):
        shutil.copyfile(source, f"{name}.png")
    return ["a.png", "b.png"]


def test_an_edit_to_keep_and_what_it_does(finished, photos, capsys) -> None:
    names = ["layer3/2", "layer1/7", "layer1/3"]
    main([str(finished), *names, *TRUST, "--value", "scale=-2", "--out", "edit.safetensors", "--try", *photos])
    printed = capsys.readouterr().out
    edit = vismech.edit.load("edit.safetensors")
    assert [(name, edits[0].concepts) for name, (_, edits) in edit.layers.items()] == [
        ("layer1", (3, 7)),
        ("layer3", (2,)),
    ]
    assert edit.model == "tiny"
    size = Path("edit.safetensors").stat().st_size
    assert printed.endswith(
        f"\n\nedit.safetensors: {size / 1000:.1f} kB, 3 concepts scaled by -2 in tiny ({edit.weights})\n"
        "  layer1: 3, 7\n  layer3: 2\n"
    )
    model, preprocess = tiny.network(), vismech.open_run(finished, trust="tiny")._opened().ctx.model.preprocess
    for photo, said in zip(photos, re.split(r"\n(?=b\.png)|\n\n", printed), strict=False):
        image = preprocess(Image.open(photo).convert("RGB"))[None]
        head, titles, *rows = said.splitlines()
        assert head == photo and titles.split() == ["before", "after"] and len(rows) == 3
        with torch.no_grad():
            for column, logits in enumerate((model(image), edit.apply(model)(image))):
                wanted = logits[0].softmax(0).sort(descending=True)
                found = [re.findall(r"(\S+) +([\d.]+) %", row)[column] for row in rows]
                assert [name for name, _ in found] == [("dots", "stripes", "waves")[index] for index in wanted.indices]
                assert np.allclose([float(text) / 100 for _, text in found], wanted.values, atol=6e-5)
    assert len({row.index("%") for row in rows}) == 1


def test_photographs_alone_leave_no_file(finished, photos, capsys, tmp_path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    main([str(finished), "layer2/3", *TRUST, "--try", "a.png"])
    assert capsys.readouterr().out.startswith("a.png\n  before")
    assert {path.name for path in tmp_path.iterdir()} == {*photos}
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_the_order_of_names_is_no_part_of_an_edit(finished, tmp_path) -> None:
    for out, names in (("a", ["layer2/5", "layer1/0", "layer2/1"]), ("b", ["layer1/0", "layer2/1", "layer2/5"])):
        main([str(finished), *names, *TRUST, "--value", "mean", "--out", str(tmp_path / out)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_mean_is_that_of_the_runs_vectors(finished) -> None:
    opened = Opened(vismech.open_run(finished, trust="tiny").config)
    edit = edit_of(opened, {"layer2": [5, 1]}, EditValue.mean)
    (layer, (only,)) = edit.layers["layer2"]
    vectors = opened.ctx.store.open(opened.plan.vectors["layer2"]).array("vectors.npy")
    codes = layer.dictionary.encode(torch.from_numpy(np.array(vectors)))
    assert only.concepts == (1, 5) and len(vectors) == 30
    assert np.allclose(only.means, codes.mean((0, 1))[[1, 5]], rtol=1e-5) and any(only.means)
    run = dictionary_stage.coding_of(opened.ctx.config)
    assert layer.dictionary.coding.code is run.code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layer4/0"], "the run has no layer 'layer4'; nearest: layer"),
        (["layer3.1/99999"], "the run has no layer 'layer3.1'; nearest: layer3"),
        (["layer2/12"], "layer2/12: layer2 has 12 concepts, numbered from 0: give 0 to 11"),
        (["layer1/0", "layer2/99999"], "layer2/99999: layer2 has 12 concepts"),
        (["layer2"], "'layer2' names no concept"),
        (["layer2/3", "--try", "nowhere.png"], "nowhere.png is not a readable image"),
        (["layer2/3", "--try", "a.png", "text.jpg"], "text.jpg is not a readable image"),
        (["layer2/3", "--try", "line.png"], "line.png is 300×2 pixels, too narrow"),
        (["layer2/3", "--out", "a.png"], "a.png exists already: remove it, or give another file"),
        (["layer2/3", "--out", "no/edit.safetensors"], "no/edit.safetensors cannot be written, as no is no folder"),
        (["layer2/3", "--try", "a.png", "--value", "scale=1e38"], "not finite"),
    ],
    ids=str,
)
def test_errors_are_one_sentence_and_leave_nothing(arguments, words, finished, photos, tmp_path, capsys) -> None:
    Path("text.jpg").write_text("not a picture")
    Image.new("RGB", (300, 2)).save("line.png")
    before = {path.name for path in tmp_path.iterdir()}
    out = [] if "--out" in arguments else ["--out", "new.safetensors"]
    with pytest.raises(SystemExit) as stopped:
        main([str(finished), *arguments, *TRUST, *out])
    said = capsys.readouterr()
    assert stopped.value.code == 1 and words in said.err and not said.out
    assert said.err.startswith("vismech-edit: ") and said.err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == before


def test_a_folder_that_is_no_run_and_a_run_of_somebodys_code(finished, tmp_path, capsys) -> None:
    for arguments, words in (
        ([str(tmp_path), "layer2/3"], "is not the folder of a run"),
        ([str(tmp_path / "nowhere"), "layer2/3"], "is not the folder of a run"),
        ([str(finished), "layer2/3"], "give --trust tiny"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--out", str(tmp_path / "edit.safetensors")])
        said = capsys.readouterr().err
        assert stopped.value.code == 1 and words in said and said.count("\n") == 1
    assert not (tmp_path / "edit.safetensors").exists()


def test_the_example_of_an_edit_works(finished, tmp_path, monkeypatch) -> None:
    (example,) = [text for text in re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL) if "edit.load" in text]
    monkeypatch.chdir(tmp_path)
    main([str(finished), "layer2/3", *TRUST, "--out", "edit.safetensors"])
    model, images = tiny.network(), tiny.images(4)
    names: dict = {"model": model, "images": images}
    exec(compile(example, "README.md", "exec"), names)
    assert torch.equal(names["answers"], names["edited"](images)) and not torch.equal(names["answers"], model(images))
    assert (names["program"].module()(tiny.images(2)) - names["edited"](tiny.images(2))).abs().max() < 1e-6
