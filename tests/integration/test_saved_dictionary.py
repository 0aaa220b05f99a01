"""A dictionary leaves the store as a folder with a model card, and comes back as it was: one key for one content."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from vismech.commands.store import main
from vismech.config.choices import Evaluation, Method, Stage
from vismech.config.schema import Config
from vismech.dictionaries.saved import content_of, read_saved
from vismech.errors import UserError
from vismech.stages.pipeline import make_plan, open_context
from vismech.stages.run import run


@pytest.fixture
def measured(tiny) -> Config:
    """Two layers' dictionaries and what they rebuild."""
    tiny.extract.layers, tiny.until = ["layer2", "layer3"], Stage.evaluate
    tiny.describe.cards, tiny.evaluate.kinds = 0, [Evaluation.reconstruction]
    return tiny


def store(config: Config, *arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        main(["--root", config.store.root, *arguments])
    return left.value.code or 0


def exported(config: Config, folder: Path) -> Path:
    """Every dictionary of the run, each in a folder called as its layer."""
    for layer, spec in make_plan(open_context(config)).dictionaries.items():
        assert store(config, "export", spec.key, str(folder / layer)) == 0
    return folder


def keys(config: Config) -> dict[str, str]:
    return {layer: spec.key for layer, spec in make_plan(open_context(config)).dictionaries.items()}


@pytest.mark.thorough
def test_there_and_back(measured, tmp_path, capsys) -> None:
    first = run(measured, tmp_path / "one")
    folder = exported(measured, tmp_path / "shared")
    assert "huggingface-cli upload OWNER/NAME" in capsys.readouterr().out
    before = keys(measured)
    measured.dictionary.method, measured.dictionary.path = Method.saved, str(folder)
    second = run(measured, tmp_path / "two")
    same = [name for name in first.metrics if name.startswith("extraction/")]
    assert same and {name: second.metrics[name] for name in same} == {name: first.metrics[name] for name in same}
    root = Path(measured.store.root) / "dictionary"
    for layer, key in keys(measured).items():
        assert key != before[layer]
        for name in ("atoms.safetensors", "dictionary.json"):
            assert (root / key / name).read_bytes() == (root / before[layer] / name).read_bytes()


def test_keys_are_those_of_the_content(measured, tmp_path) -> None:
    measured.until = Stage.dictionary
    run(measured, tmp_path / "one")
    folder = exported(measured, tmp_path / "shared")
    measured.dictionary.method, measured.dictionary.path = Method.saved, str(folder)
    before = keys(measured)
    shutil.copytree(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "layer2" / "README.md").write_text("mine")
    measured.dictionary.path = str(tmp_path / "elsewhere")
    assert keys(measured) == before  # neither the place nor the card
    atoms = load_file(folder / "layer2" / "atoms.safetensors")["atoms"]
    save_file({"atoms": np.ascontiguousarray(atoms[::-1])}, tmp_path / "elsewhere" / "layer2" / "atoms.safetensors")
    after = keys(measured)
    assert after["layer2"] != before["layer2"] and after["layer3"] == before["layer3"]


def test_a_card_says_what_it_is_and_ls_what_each_is_of(measured, tmp_path, capsys) -> None:
    measured.until = Stage.dictionary
    run(measured, tmp_path / "one")
    folder, plan = exported(measured, tmp_path / "shared"), make_plan(open_context(measured))
    text = (folder / "layer2" / "README.md").read_text()
    front = yaml.safe_load(re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)[1])
    assert front["library_name"] == "vismech" and "mechanistic-interpretability" in front["tags"]
    facts = dict(re.findall(r"^\| (.+?) \| `(.*)` \|$", text, re.MULTILINE))
    assert (facts["layer"], facts["network"], facts["method"], facts["run"]) == ("layer2", "tiny", "bisecting", "tiny")
    assert json.loads(facts["settings"])["k"] == 12 and facts["key in the store"] == plan.dictionaries["layer2"].key
    assert facts["content (SHA-256)"] == content_of(folder / "layer2")
    assert facts["images (fingerprint)"] == plan.vectors["layer2"].inputs["data"]
    capsys.readouterr()
    assert store(measured, "ls", "dictionary") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.split()[-3:] == ["tiny", "bisecting", "tiny"] for line in lines[:2])
    with pytest.raises(UserError, match="is of the stage extract: only dictionaries are exported"):
        _export(measured, plan.vectors["layer2"].key, tmp_path / "x")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "photo.png").touch()
    with pytest.raises(UserError, match=r"x holds photo.png: give a folder of its own"):
        _export(measured, plan.dictionaries["layer2"].key, tmp_path / "x")


def _export(config: Config, key: str, folder: Path) -> None:
    from vismech.commands.export import export
    from vismech.store.artifacts import Artifact, Store
    from vismech.store.lineage import Lineages

    opened = Store(config.store.root)
    (found,) = (each for each in opened.artifacts() if each.name == key)
    export(Artifact(found), Lineages(opened).of(found), folder)


def test_what_does_not_fit_is_one_sentence(measured, tmp_path) -> None:
    measured.until = Stage.dictionary
    run(measured, tmp_path / "one")
    folder = exported(measured, tmp_path / "shared")
    wanted = measured.dictionary
    wanted.method = Method.saved

    def refused(sentence: str) -> None:
        with pytest.raises(UserError, match=sentence) as error:
            keys(measured)
        assert "\n" not in str(error.value)

    refused(r"dictionary=saved needs dictionary.path=FOLDER")
    wanted.path = str(tmp_path)
    refused(r"dictionary.path=.* has no dictionary of layer2")
    wanted.path = str(folder / "layer2")
    refused("is one dictionary, but the run has 2 layers")
    wanted.path, wanted.center = str(folder), True
    refused(r"layer2 has no mean concept: give dictionary.center=false")
    wanted.center, wanted.refine = False, 2
    refused("a saved dictionary stays as it is")
    wanted.refine = 0
    shutil.copytree(folder / "layer3", folder / "layer1")
    measured.extract.layers = ["layer1"]
    refused("has concepts of 16 channels, but the layer has 8")
    measured.extract.layers = ["layer2"]
    (folder / "layer2" / "dictionary.json").write_text("{}")
    refused(r"layer2 holds no dictionary that can be read \(KeyError")
    (folder / "layer2" / "dictionary.json").write_text("no JSON")
    refused(r"layer2 holds no dictionary that can be read \(JSONDecodeError")
    (folder / "layer3" / "atoms.safetensors").write_bytes(b"x")
    measured.extract.layers = ["layer3"]
    refused(r"layer3 holds no dictionary that can be read \(SafetensorError")


def test_a_saved_code_of_somebodys_own_is_not_run(measured, tmp_path) -> None:
    measured.until = Stage.dictionary
    run(measured, tmp_path / "one")
    folder = exported(measured, tmp_path / "shared") / "layer2"
    record = json.loads((folder / "dictionary.json").read_text())
    record["coding"] |= {"code": "custom", "own": {"target": "os:abort", "options": {}}}
    (folder / "dictionary.json").write_text(json.dumps(record))
    found = read_saved(folder)
    assert found.coding.own is None and found.coding.code == "lasso"
    assert found.encode(found.atoms).isfinite().all()
