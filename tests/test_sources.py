"""Sources that are not there are told before anything is loaded, and all of them before anything is computed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from test_config import composed, sentence_of
from test_imports import HEAVY, loaded_after
from vismech.config.choices import Evaluation
from vismech.errors import UserError
from vismech.measures.base import measure_of
from vismech.sources.checks import ALONE, check_config_sources

CIFAR = ["model=cifar_resnet20"]


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as error:
        check_config_sources(composed(*overrides))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["data=imagenet"], "data=imagenet needs data.root=FOLDER"),
        (["data=imagenet", "data.root=/nowhere"], "data.root=/nowhere is not a folder"),
        (["data=imagefolder", "data.root={empty}"], "there is no image below"),
        (
            ["data=imagefolder", "data.root={photos}", "evaluate.root=/nowhere"],
            "evaluate.root=/nowhere is not a folder",
        ),
        (["data=imagefolder", "data.root={photos}", "evaluate.root={empty}"], "there is no image below"),
        (["evaluate.root={photos}"], "evaluate.root=.* data=samples has none, give another data"),
        (
            ["data=imagefolder", "data.root={photos}", "graph=image", "graph.image=apple/7.png"],
            "graph.image=apple/7.png is not a sample id of this data: .* such as apple/00",
        ),
        (
            ["data=imagefolder", "data.root={photos}", "attribute.baseline=image", "attribute.baseline_image=x.png"],
            "attribute.baseline_image=x.png is not a sample id",
        ),
        (
            ["graph=image", "graph.image=x.jpg"],
            r"graph.image=x.jpg is not a sample id of this data: .* such as imagenet_\d",
        ),
        ([*CIFAR, "model.checkpoint=/nowhere.pt"], "model.checkpoint=/nowhere.pt is not a file"),
        (["model=custom", "model.target=mine.build"], "model.target=mine.build must be package.module:factory"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named(overrides, sentence, photos, tmp_path) -> None:
    pytest.importorskip("foolbox")
    (tmp_path / "empty").mkdir()
    overrides = [each.format(photos=photos, empty=tmp_path / "empty") for each in overrides]
    assert re.search(sentence, refusal(*overrides))


def test_what_is_there_passes(photos) -> None:
    image = ["graph=image", "graph.image=apple/000.png"]
    check_config_sources(composed("data=imagefolder", f"data.root={photos}", f"evaluate.root={photos}", *image))
    check_config_sources(composed("experiment=planted", "data=imagenet"))  # needs neither model nor data


def test_evaluations_that_need_nothing_are_those_that_say_so() -> None:
    assert {kind for kind in Evaluation if measure_of(kind).alone} == ALONE


@pytest.mark.parametrize(
    "overrides",
    [
        ["data=imagenet", "data.root=/nowhere"],
        [*CIFAR, "data=imagefolder", "data.root={photos}", "model.checkpoint=/x.pt"],
    ],
    ids=str,
)
def test_the_command_tells_it_without_torch(overrides, photos, tmp_path) -> None:
    arguments = ["vismech", *(each.format(photos=photos) for each in overrides), f"hydra.run.dir={tmp_path / 'run'}"]
    code = f"import sys; sys.argv = {arguments}\nfrom vismech.commands.main import main\n"
    code += "try: main()\nexcept SystemExit: pass"
    loaded, _ = loaded_after(code)
    assert "hydra" in loaded and not loaded & (HEAVY - {"PIL"})


def test_the_command_says_one_sentence(tmp_path) -> None:
    arguments = ["data=imagenet", "data.root=/nowhere", f"hydra.run.dir={tmp_path / 'run'}"]
    code = "from vismech.commands.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert sentence_of(done) == "data.root=/nowhere is not a folder"


def test_a_home_folder_may_be_written_as_a_tilde(photos, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(photos.parent))
    config = composed("data=imagefolder")
    config.data.root = f"~/{Path(photos).name}"
    check_config_sources(config)
