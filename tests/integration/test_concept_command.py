"""``vismech-concept``: the pictures it leaves, and its sentences for errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vismech.commands.concept import main, write_concept
from vismech.config.choices import Patches
from vismech.errors import UserError
from vismech.finished.localization import fitted
from vismech.finished.run import open_run
from vismech.report.cards import GAP, MARGIN, PANEL_SIDE
from vismech.sources.pictures import Preprocess
from vismech.stages import gallery
from vismech.stages.gallery import Gallery
from vismech.store.artifacts import Store

TRUST = ["--trust", "tiny"]  # where the run's own model is


def test_a_card_and_localisations_of_any_image(finished, tmp_path, capsys) -> None:
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (50, 40), np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(rng.integers(0, 256, (70, 90, 4), np.uint8)).save(tmp_path / "transparent.png")
    paths = [str(tmp_path / name) for name in ("grey.png", "transparent.png")]
    main([str(finished), "layer2", "3", *TRUST, "--image", *paths, "--out", str(tmp_path / "out")])
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in printed] == ["layer2_3.png", "layer2_3_0_grey.png", "layer2_3_1_transparent.png"]
    assert sorted((tmp_path / "out").iterdir()) == sorted(printed)
    for path in printed[1:]:
        with Image.open(path) as picture:
            assert picture.size[0] == 2 * MARGIN + 3 * PANEL_SIDE + 2 * GAP  # the image, by fields, by upsampling
    first = printed[0].read_bytes()
    main([str(finished), "layer2", "3", *TRUST])
    assert (finished / "concepts/layer2_3.png").read_bytes() == first


def test_cleaning_up_leaves_what_a_card_reads(finished, tmp_path, monkeypatch) -> None:
    noted = []

    def note(self, layer: str, concept: int):
        with Store(finished.parent / "store").uses.gated() as living:
            noted.append(living)
        return picture(self, layer, concept)

    picture = Gallery.picture
    monkeypatch.setattr(Gallery, "picture", note)
    write_concept(finished, "layer2", "3", out=tmp_path, trusted=["tiny"])
    keys = {path.name for path in (finished.parent / "store").glob("dictionary/*") if path.is_dir()}
    assert keys <= noted[0]


def test_a_card_has_the_name_that_people_gave(finished, tmp_path, capsys, monkeypatch) -> None:
    """From a file that is named, or that the run was given and is still there; a file that is gone names nothing."""
    shown = []
    drawn = gallery.card_picture
    monkeypatch.setattr(gallery, "card_picture", lambda view: shown.append(view.title) or drawn(view))
    plan = json.loads((finished / "plan.json").read_text())
    (key,) = (row["key"] for row in plan if (row["stage"], row["unit"]) == ("dictionary", "layer2"))
    names, out = tmp_path / "names.json", ["--out", str(tmp_path / "out")]
    names.write_text(json.dumps({"names": {key: {"3": "round <b>ears</b>"}, "other": {"3": "tail"}}}))
    main([str(finished), "layer2", "3", *TRUST, "--names", str(names), *out])
    other = tmp_path / "run"
    shutil.copytree(finished, other)
    written = (other / ".hydra/config.yaml").read_text()
    assert written.count("names: null") == 1
    (other / ".hydra/config.yaml").write_text(written.replace("names: null", f"names: {names}"))
    main([str(other), "layer2", "3", *TRUST, *out])
    concept = open_run(other, "tiny").concept("layer2", 3)
    assert concept.name == "round <b>ears</b>"
    assert "<b>round &lt;b&gt;ears&lt;/b&gt; (concept 3)</b>" in concept._repr_html_()
    names.unlink()
    main([str(other), "layer2", "3", *TRUST, *out])
    assert open_run(other, "tiny").concept("layer2", 3).name is None
    assert shown == ["round <b>ears</b> (concept 3)"] * 3 + ["Concept 3"]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main([str(finished), "layer2", "3", *TRUST, "--names", str(names)])
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith(f"vismech-concept: report.names={names} cannot be read")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["layer4", "0"], "the run has no layer 'layer4'; nearest: layer"),
        (["layer2", "30"], "layer 'layer2' has no concept '30', they are 0 to 11; nearest: 3"),
        (["layer2", "-1"], "no concept"),
        (["layer2", "eye"], "layer 'layer2' has no concept 'eye', they are 0 to 11"),
        (["layer2", "3", "--image", "nowhere.png"], "nowhere.png is not a readable image"),
        (["layer2", "3", "--image", "text.jpg"], "text.jpg is not a readable image"),
        (["layer2", "3", "--image", "cut.jpg"], "cut.jpg is not a readable image"),
        (["layer2", "3", "--image", "line.png"], "line.png is 300×2 pixels, too narrow"),
        (["layer2", "3", "--out", "text.jpg"], "text.jpg cannot be made"),
    ],
    ids=str,
)
def test_errors_are_one_sentence(arguments, words, finished, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)).save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:900])
    Image.new("RGB", (300, 2)).save("line.png")
    if "-1" in arguments:
        run_folder = [*TRUST, "--", str(finished), *arguments]
    else:
        run_folder = [str(finished), *arguments, *TRUST]
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


@pytest.mark.parametrize("patches", list(Patches))
def test_the_same_concept_can_be_traced_in_every_way(patches, finished, pictures, tmp_path) -> None:
    image = next(pictures.rglob("*.png"))
    if patches is Patches.rollout:
        with pytest.raises(UserError, match="rollout has nothing to follow: no attention"):
            write_concept(finished, "layer2", "3", [image], tmp_path, patches, ["tiny"])
        return
    written = write_concept(finished, "layer2", "3", [image], tmp_path, patches, ["tiny"])
    with Image.open(written[1]) as picture:
        panels = 2 if patches is Patches.upsampling else 3
        assert picture.size[0] == 2 * MARGIN + panels * PANEL_SIDE + (panels - 1) * GAP


def test_every_mode_and_size_of_the_same_picture_is_the_same_picture(finished, pictures, tmp_path) -> None:
    """Grey, palette, CMYK, 16 bits, transparent and tiny pictures are converted, so that their panels look alike."""
    with Image.open(next(pictures.rglob("*.png"))) as opened:
        grey = opened.convert("L")
    grey.save(tmp_path / "grey.png")
    grey.convert("RGB").save(tmp_path / "rgb.png")
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("RGBA").save(tmp_path / "rgba.png")
    grey.convert("CMYK").save(tmp_path / "cmyk.tif")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(tmp_path / "deep.png")
    grey.resize((128, 128), Image.Resampling.NEAREST).save(tmp_path / "large.png")
    names = ["grey.png", "rgb.png", "palette.png", "rgba.png", "cmyk.tif", "deep.png", "large.png"]
    paths = [tmp_path / name for name in names]
    written = write_concept(finished, "layer1", "3", paths, tmp_path / "out", trusted=["tiny"])
    seen = [np.asarray(Image.open(path))[136 : 136 + PANEL_SIDE, MARGIN : MARGIN + PANEL_SIDE] for path in written[1:]]
    for picture in seen[1:]:
        assert np.abs(picture.astype(int) - seen[0].astype(int)).mean() < 10


def test_a_small_picture_is_enlarged_and_the_log_says_so(tmp_path, caplog) -> None:
    """This network has no resizing of its own: without it the picture would get a black frame."""
    Image.new("RGB", (9, 12), "white").save(tmp_path / "tiny.png")
    preprocess = Preprocess(None, 32)
    with caplog.at_level("WARNING", "vismech"):
        picture = fitted("tiny.png", Image.open(tmp_path / "tiny.png"), preprocess)
    assert preprocess.geometry(picture).getextrema() == ((255, 255),) * 3
    assert "9×12 pixels" in caplog.text


def test_help_answers_without_torch() -> None:
    code = (
        "import sys\nfrom vismech.commands.concept import main\ntry:\n    main(['--help'])\nexcept SystemExit: pass\n"
    )
    code += "print({'torch', 'torchvision', 'lightning', 'numpy', 'PIL', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "usage: vismech-concept" in done.stdout and done.stdout.endswith("set()\n")
