"""``vismech.open_run``: a finished run as an object says and draws what its files and its commands do."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

import vismech
from integration.conftest import CLASSES, draw_pictures, finish, tiny_config
from vismech.commands.concept import write_concept
from vismech.config.choices import Patches, Stage
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.finished.run import Run
from vismech.stages.gallery import Gallery
from vismech.store.artifacts import Store

README = (Path(__file__).parents[2] / "README.md").read_text()


@pytest.fixture
def run(finished) -> Run:
    return vismech.open_run(finished, trust=["tiny"])


@pytest.fixture
def alone(finished, tmp_path) -> Path:
    """The run's folder as it comes from another machine: nothing of its store, model or images is there."""
    folder = Path(shutil.copytree(finished, tmp_path / "copied"))
    hydra = {"hydra": {"runtime": {"cwd": "/on/another/machine"}}}
    (folder / ".hydra/hydra.yaml").write_text(yaml.safe_dump(hydra))
    return folder


def embedded(html: str, kind: str) -> bytes:
    """The picture that a text holds as a data URI."""
    (data,) = re.findall(rf'"data:image/{re.escape(kind)};base64,([A-Za-z0-9+/=]+)"', html)
    return base64.b64decode(data)


# The folder alone


def test_tables_are_the_files(run) -> None:
    files = {path.stem: path for path in (run.folder / "tables").glob("*.csv")}
    assert list(run.tables) == sorted(files) and len(run.tables) == len(files)
    assert {"extraction", "completeness", "graph", "concepts", "timings"} <= set(run.tables)
    for name, file in files.items():
        assert len(run.tables[name])
        pd.testing.assert_frame_equal(run.tables[name], pd.read_csv(file))
    mine = run.tables["extraction"]
    mine["value"] = 0
    assert (run.tables["extraction"]["value"] != 0).any()


def test_an_unknown_table_is_a_sentence_and_a_key_error(run) -> None:
    for kind in (UserError, KeyError):
        with pytest.raises(kind) as stopped:
            _ = run.tables["extractions"]
        assert str(stopped.value) == "the run has no table 'extractions'; nearest: extraction"
    assert run.tables.get("../metrics") is None and "extraction" in run.tables


def test_metrics_are_the_file_and_cannot_be_changed(run) -> None:
    assert dict(run.metrics) == json.loads((run.folder / "metrics.json").read_text())
    with pytest.raises(TypeError):
        run.metrics["images"] = 1


def test_the_graph_is_the_file_as_data_and_as_tables(run) -> None:
    content = json.loads((run.folder / "graph.json").read_text())
    assert dict(run.graph) == content and run.graph.layers == ["layer1", "layer2", "layer3"]
    run.graph["nodes"].clear()
    assert list(run.graph.nodes["id"]) == [node["id"] for node in content["nodes"]]
    (group,) = [group["key"] for group in content["groups"]]
    links = run.graph.links
    assert links["weight"].tolist() == [link["weight"] for link in content["links"]]
    assert links[f"shares.{group}"].tolist() == [link["shares"][group] for link in content["links"]]
    assert set(links["source"]) <= set(run.graph.nodes["id"])


def test_the_graph_shows_the_runs_figure(run) -> None:
    svg, png = ((run.folder / f"figures/graph.{suffix}").read_bytes() for suffix in ("svg", "png"))
    assert run.graph._repr_png_() == png and png.startswith(b"\x89PNG")
    assert embedded(run.graph._repr_html_(), "svg+xml") == svg
    shown = run.graph._repr_svg_()
    assert embedded(shown, "svg+xml") == svg and "<script" not in shown
    assert float(re.findall(r'^<svg [^>]*width="([\d.]+)"', shown)[0]) > 100


def test_a_run_without_a_figure_says_so(alone) -> None:
    shutil.rmtree(alone / "figures")
    graph = vismech.open_run(alone).graph
    assert graph._repr_png_() is None and graph._repr_svg_() is None
    assert f"The graph: {len(graph['nodes'])} nodes, " in graph._repr_html_()


def test_a_figure_of_somebody_elses_runs_no_script(alone) -> None:
    hostile = '<svg viewBox="0 0 9 9" onload="alert(1)"><script>alert(1)</script></svg>'
    (alone / "figures/graph.svg").write_text(hostile)
    graph = vismech.open_run(alone).graph
    for shown in (graph._repr_svg_(), graph._repr_html_()):
        assert shown and embedded(shown, "svg+xml").decode() == hostile
        assert "alert" not in shown and "onload" not in shown
    (alone / "figures/graph.svg").write_text('<svg viewBox="0 0 9 9 onload=alert(1)">')
    assert graph._repr_svg_() is None


# Notebooks


def test_the_page_is_shown_in_a_frame_that_reaches_nothing(run, alone, monkeypatch) -> None:
    monkeypatch.chdir(run.folder.parent)
    shown = run.show(height=300)
    assert 'src="run/report/index.html"' in shown._repr_html_() and 'height="300"' in shown._repr_html_()
    assert 'sandbox="allow-scripts"' in shown._repr_html_() and "report/index.html" in repr(shown)
    assert len(shown._repr_html_()) < 300
    whole = run.show(embed=True)._repr_html_()
    (content,) = re.findall(r'srcdoc="([^"]*)"', whole)
    assert unescape(content) == (run.folder / "report/index.html").read_text()
    shutil.rmtree(alone / "report")
    with pytest.raises(UserError, match=r"is not there: the run drew no page; run the same command with report=page"):
        vismech.open_run(alone).show()


def test_a_layer_of_the_graph_is_a_table_of_its_concepts(run) -> None:
    html = run.graph.show(layer="layer2")._repr_html_()
    nodes = run.graph.nodes.query("kind == 'concept' and layer == 'layer2'")
    assert html.count("<tr>") == 1 + len(nodes) > 2
    links = run.graph.links
    for _, node in nodes.iterrows():
        into = links[links.target == node["id"]]
        strongest = into.loc[into.weight.abs().idxmax()]
        assert re.search(rf"<tr><td>{node['concept']:.0f}</td>.*?<td>{re.escape(strongest['source'])} \(", html)
    assert "importance" in repr(run.graph.show(layer="layer2"))
    with pytest.raises(UserError, match="the graph has no layer 'layer9'; nearest: layer"):
        run.graph.show(layer="layer9")


def test_what_is_shown_is_small(run, pictures, alone) -> None:
    image = next(pictures.rglob("*.png"))
    for shown in (run.graph.show(width=300), run.concept("layer2", 3).show(width=300)):
        with Image.open(io.BytesIO(embedded(shown._repr_html_(), "jpeg"))) as picture:
            assert picture.width == 300
    html = run.concept("layer2", 3).show()._repr_html_()
    assert "Classes" in html and html.count("<div>") == html.count("</div>") == 1
    assert run.concept("layer2", 3).show(image, image)._repr_html_().count("<img ") == 2
    shutil.rmtree(alone / "figures")
    assert "drew no figure" in vismech.open_run(alone).graph.show()._repr_html_()


def test_names_in_a_table_are_no_html(alone) -> None:
    graph = json.loads((alone / "graph.json").read_text())
    graph["groups"][0]["name"] = "<img src=x>"
    (alone / "graph.json").write_text(json.dumps(graph))
    html = vismech.open_run(alone).graph.show(layer="layer1")._repr_html_()
    assert "&lt;img src=x&gt;" in html and "<img" not in html


def test_numbers_need_neither_store_nor_model_nor_torch(alone) -> None:
    code = f"import sys, vismech; run = vismech.open_run({str(alone)!r})\n"
    code += "run.tables['extraction'], run.metrics['images'], run.graph.nodes, run.graph._repr_html_()\n"
    code += "run.graph.show('layer1'), run.show()\n"
    code += "print({'torch', 'lightning', 'omegaconf', 'faiss', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_concepts_of_a_run_without_its_store_are_a_sentence(alone) -> None:
    with pytest.raises(UserError, match="the run's store /on/another/machine/store is not there: bring it back"):
        vismech.open_run(alone, trust="tiny").concept("layer2", 3)


def test_a_folder_that_is_no_run(tmp_path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match=re.escape(f"{folder} is not the folder of a run: name one such as")):
            vismech.open_run(folder)


def test_what_a_run_does_not_have_is_a_sentence(alone) -> None:
    run = vismech.open_run(str(alone), trust="tiny")
    (alone / "metrics.json").write_text("{")
    (alone / "graph.json").unlink()
    shutil.rmtree(alone / "tables")
    with pytest.raises(UserError, match=r"metrics.json cannot be read .*: take a run whose folder is whole"):
        _ = run.metrics
    with pytest.raises(UserError, match=r"copied has no graph.json: the run made no graph"):
        _ = run.graph
    with pytest.raises(UserError, match="the run has no table 'extraction', as it has no tables at all"):
        _ = run.tables["extraction"]
    (alone / ".hydra/config.yaml").unlink()
    with pytest.raises(UserError, match=r"\.hydra/config.yaml is missing, which says how the run was made"):
        _ = run.config


def test_a_run_of_networks_of_its_own_has_no_concepts(alone) -> None:
    config = yaml.safe_load((alone / ".hydra/config.yaml").read_text())
    config["until"], config["evaluate"]["kinds"] = "evaluate", ["planted"]
    (alone / ".hydra/config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=r"the run has no layers and no concepts: evaluate.kinds=\[planted\] makes"):
        _ = vismech.open_run(alone, trust="tiny").layers


# Configuration and trust


def test_the_configuration_is_the_runs(run, finished) -> None:
    assert run.config.dictionary.k == 12 and run.config.model.target == "tiny:network"
    assert run.config.store.root == str(finished.parent / "store")
    assert run.config.until is None  # not what concepts are read under


def test_code_of_the_runs_own_needs_trust(finished) -> None:
    for trust in ((), "", "tinyish", ["tin", "y"]):  # a name is no set of letters
        with pytest.raises(UserError, match=r"code of 'tiny' .*give --trust tiny \(in Python: trust='tiny'\)"):
            vismech.open_run(finished, trust=trust).concept("layer2", 3)
    assert vismech.open_run(finished, trust="tiny").layers == ["layer1", "layer2", "layer3"]


# Concepts


def test_a_concept_is_what_was_described(run) -> None:
    row = run.tables["concepts"].query("layer == 'layer2'").iloc[0]
    concept = run.concept("layer2", row["concept"])
    assert (concept.layer, concept.number, concept.members) == ("layer2", row["concept"], row["members"])
    assert (concept.share, concept.tightness) == pytest.approx((row["share"], row["tightness"]))
    assert concept.entropy == pytest.approx(row["entropy_bits"])
    assert concept.cosines == pytest.approx(json.loads(row["cosines"]), abs=1e-6)
    assert [place.sample for place in concept.places] == json.loads(row["samples"])
    assert {name for name, _ in concept.classes} <= set(CLASSES)
    assert "; ".join(f"{name} {count}" for name, count in concept.classes) == row["classes"]
    assert sum(count for _, count in concept.classes) == concept.members > 0


def test_pictures_are_those_of_the_command(run, pictures, tmp_path) -> None:
    images = [*pictures.rglob("*.png")][:2]
    card, *panels = write_concept(run.folder, "layer2", "3", images, tmp_path, trusted=["tiny"])
    concept = run.concept("layer2", 3)
    assert concept._repr_png_() == card.read_bytes() == embedded(concept._repr_html_(), "png")
    with Image.open(card) as picture:
        assert np.array_equal(np.asarray(concept.picture()), np.asarray(picture)) and np.asarray(picture).std() > 10
    loaded = Image.open(images[1])
    for found in (concept.localize(images), concept.localize([str(images[0]), loaded])):
        assert len(found) == 2
        for mine, file in zip(found, panels, strict=True):
            with Image.open(file) as picture:
                assert np.array_equal(np.asarray(mine), np.asarray(picture)) and np.asarray(picture).std() > 10
    assert len(concept.localize(images[0])) == len(concept.localize(loaded)) == 1
    assert concept.localize([]) == []


def test_vectors_can_be_traced_in_another_way(run, pictures, tmp_path) -> None:
    image = next(pictures.rglob("*.png"))
    written = write_concept(run.folder, "layer2", "3", [image], tmp_path, Patches.upsampling, ["tiny"])
    concept = run.concept("layer2", 3, patches="upsampling")
    assert concept._repr_png_() == written[0].read_bytes() != run.concept("layer2", 3)._repr_png_()
    with Image.open(written[1]) as picture:
        assert np.array_equal(np.asarray(concept.localize(image)[0]), np.asarray(picture))


def test_reading_a_concept_keeps_the_store_from_being_cleaned(run, monkeypatch) -> None:
    noted, store = [], Store(run.config.store.root)

    def note(original):
        def noting(*arguments, **options):
            with store.uses.gated() as living:
                noted.append(living)
            return original(*arguments, **options)

        return noting

    for owner, name in ((Gallery, "__init__"), (Gallery, "picture"), (Dictionary, "load")):
        monkeypatch.setattr(owner, name, note(getattr(owner, name)))
    run.concept("layer1", 2).picture()
    run.dictionary("layer1")
    keys = {path.name for path in Path(run.config.store.root).glob("dictionary/*") if path.is_dir()}
    assert len(noted) >= 3 and all(keys <= living for living in noted)
    with store.uses.gated() as living:
        assert not living


def test_a_dictionary_is_coded_as_configured(run) -> None:
    dictionary = run.dictionary("layer2")
    assert (dictionary.k, dictionary.coding.code.value) == (12, run.config.dictionary.code.value)
    fraction = run.config.dictionary.penalty
    assert dictionary.coding.penalty == pytest.approx(fraction * dictionary.info["vector_norm"])
    codes = dictionary.encode(torch.randn(5, dictionary.c, generator=torch.Generator().manual_seed(0)))
    assert codes.shape == (5, 12) and codes.any()


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda run: run.concept("layer4", 0), "the run has no layer 'layer4'; nearest: layer"),
        (lambda run: run.concept("layer2", 12), "layer 'layer2' has no concept 12, they are 0 to 11; nearest: 2"),
        (lambda run: run.concept("layer2", -1), "layer 'layer2' has no concept -1, they are 0 to 11"),
        (lambda run: run.concept("layer2", 1.0), "layer 'layer2' has no concept 1.0, they are 0 to 11"),
        (lambda run: run.concept("layer2", 3, "upsample"), "patches='upsample' is no way .*; nearest: upsampling"),
        (lambda run: run.dictionary("layer"), "the run has no layer 'layer'; nearest: layer"),
        (lambda run: run.concept("layer2", 3).localize("no.png"), "no.png is not a readable image"),
        (
            lambda run: run.concept("layer2", 3).localize(Image.new("RGB", (300, 2))),
            "image 0 is 300×2 pixels, too narrow for a network",
        ),
        (lambda run: run.concept("layer2", 3).localize(Image.new("F", (9, 9))), "image 0 has pixels of mode F"),
    ],
)
def test_mistakes_are_one_sentence(run, ask, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as stopped:
        ask(run)
    assert "\n" not in str(stopped.value)


def test_names_of_classes_are_no_html(tmp_path) -> None:
    """Folders name classes, and anybody can name a folder; nor do names hide what fills a template."""
    draw_pictures(tmp_path / "pictures")
    (tmp_path / "pictures/dots").rename(tmp_path / "pictures/<img src=x onerror=alert(1)> & {number}")
    config = tiny_config(tmp_path / "pictures", tmp_path / "store")
    config.until, config.describe.cards = Stage.describe, 0
    run = vismech.open_run(finish(config, tmp_path), trust="tiny")
    concepts = (run.concept("layer3", number) for number in range(12))
    concept = next(each for each in concepts if each.classes and each.classes[0][0].startswith("<img"))
    html = concept._repr_html_()
    assert "&lt;img src=x onerror=alert(1)&gt; &amp; {number} " in html and "<img src=x" not in html
    assert html.count("<img ") == 1 and html.count("<div>") == html.count("</div>") == 1


# The README


def test_the_example_of_a_finished_run_works(finished, pictures, tmp_path, monkeypatch) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
    shutil.copyfile(next(pictures.rglob("*.png")), tmp_path / "photo.jpg")
    for said, here in (
        ('"outputs/runs/quickstart/TIME")', f'{str(finished)!r}, trust="tiny")'),
        ('"blocks.6", 69', '"layer2", 3'),
        ('"blocks.6"', '"layer2"'),
    ):
        assert said in example
        example = example.replace(said, here)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["concept"].number == 3 and names["dictionary"].k == 12 and len(names["panels"]) == 1
