"""``vismech-concept``: the pictures it leaves, and its sentences for errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from integration.conftest import tiny_config
from vismech.concept_cli import main
from vismech.run import run
from vismech.store import plain


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory) -> Path:
    """The folder of a run, with what Hydra leaves there."""
    base = tmp_path_factory.mktemp("finished")
    config = tiny_config(pictures, base / "store")
    folder = base / "run"
    run(config, folder)
    (folder / ".hydra").mkdir()
    OmegaConf.save(OmegaConf.create({**plain(config), "store": {"root": "store"}}), folder / ".hydra/config.yaml")
    OmegaConf.save(OmegaConf.create({"hydra": {"runtime": {"cwd": str(base)}}}), folder / ".hydra/hydra.yaml")
    return folder


def test_a_card_and_localisations_of_any_image(finished, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 40), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 256, (70, 90, 4), np.uint8)).save(tmp_path / "transparent.png")
    paths = [str(tmp_path / name) for name in ("grey.png", "transparent.png")]
    main([str(finished), "layer2", "3", "--image", *paths, "--out", str(tmp_path / "out")])
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == ["layer2_3.png", "layer2_3_0_grey.png", "layer2_3_1_transparent.png"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(printed)
    for path in printed[1:]:
        with Image.open(path) as picture:
            assert picture.size == (3 * 40 + 8, 32 + 32)  # the image, by receptive fields, by upsampling
    first = printed[0].read_bytes()
    main([str(finished), "layer2", "3"])
    assert (finished / "concepts/layer2_3.png").read_bytes() == first


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layer4", "0"], "the run has no layer 'layer4'; nearest: layer"),
        (["layer2", "30"], "layer 'layer2' has no concept '30', they are 0 to 11; nearest: 3"),
        (["layer2", "-1"], "no concept"),
        (["layer2", "eye"], "layer 'layer2' has no concept 'eye', they are 0 to 11"),
        (["layer2", "3", "--image", "nowhere.png"], "nowhere.png is not a readable image"),
    ],
    ids=str,
)
def test_errors_are_one_sentence(arguments, words, finished, capsys) -> None:
    if "-1" in arguments:
        arguments = ["--", *arguments]
        run_folder = [arguments[0], str(finished), *arguments[1:]]
    else:
        run_folder = [str(finished), *arguments]
    with pytest.raises(SystemExit) as stopped:
        main(run_folder)
    said = capsys.readouterr().err
    assert stopped.value.code == 1
    assert words in said
    assert said.startswith("vismech-concept: ") and said.count("\n") == 1


def test_a_folder_that_is_no_run(tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "layer2", "3"])
    assert "is not the folder of a run" in capsys.readouterr().err
