"""One of each thing that can be added, from a package outside of this one: a module, and a YAML for each."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from integration.conftest import Said, command, draw_pictures
from vismech.config.composition import choices
from vismech.errors import UserError
from vismech.finished.configuration import config_of

pytestmark = pytest.mark.thorough

OUTSIDE = Path(__file__).parents[1] / "outside"
GROUPS = ("model", "data", "dictionary", "attribute", "evaluate", "report")


class Importable:
    """The package outside is on the path, as with PYTHONPATH, and what else stands in the folder."""

    def __init__(self, folder: Path) -> None:
        self.folders = [str(OUTSIDE), str(folder)]

    def __call__(self) -> None:
        sys.path[:0] = self.folders


def vismech(folder: Path, *arguments: str) -> Said:
    return command(["--config-dir", str(OUTSIDE / "conf"), *arguments], folder / "here", Importable(folder))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory) -> Path:
    """The tiny pictures as arrays in two files, which no source of ours reads."""
    folder = tmp_path_factory.mktemp("arrays")
    pictures = sorted(draw_pictures(folder / "pictures").rglob("*.png"))
    kinds = sorted({path.parent.name for path in pictures})
    np.save(folder / "images.npy", np.stack([np.asarray(Image.open(path)) for path in pictures]))
    np.save(folder / "labels.npy", np.array([kinds.index(path.parent.name) for path in pictures]))
    return folder


def arguments(arrays: Path) -> list[str]:
    return [
        *(f"{group}=outside" for group in GROUPS),
        *(f"data.root={arrays}", "extract.layers=[layer*]", "graph=dataset", "graph.important=3"),
        *("describe.nearest=3", "describe.cards=1", "attribute.rule=midpoint", "attribute.steps=8"),
        *("runtime=cpu", "runtime.batch_size=10", "logger=none", "report.figure=false", "hydra.run.dir=run"),
    ]


@pytest.fixture(scope="module")
def finished(arrays, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    done = vismech(folder, *arguments(arrays))
    assert done.status == 0, done.err
    return folder / "here"


def test_each_needs_a_module_and_one_yaml() -> None:
    assert sorted(path.name for path in (OUTSIDE / "conf").iterdir()) == sorted(GROUPS)
    assert all(len(list((OUTSIDE / "conf" / group).iterdir())) == 1 for group in GROUPS)
    assert not any("outside" in names for names in choices().values())


def test_a_run_uses_all_of_them(finished) -> None:
    run = finished / "run"
    norms = pd.read_csv(run / "tables/norms.csv")  # the measure
    assert norms.layer.tolist() == ["layer1", "layer2", "layer3"] and (norms.value > 0).all()
    assert {f"norms/{layer}/norm" for layer in norms.layer} <= json.loads((run / "metrics.json").read_text()).keys()
    assert "<p id='mine'>" in (run / "report/index.html").read_text()  # the element of the page
    store = finished / "outputs/artifacts"
    records = [json.loads(path.read_text()) for path in store.glob("dictionary/*/dictionary.json")]
    assert {record["info"]["scale"] for record in records} == {3.0}  # the method and its option
    traces = [path.parent for path in store.glob("trace/*/manifest.json")]
    settings = [json.loads((path / "manifest.json").read_text())["inputs"] for path in traces]
    assert {one["code"] for one in settings} == {"custom"} and {one["path"] for one in settings} == {"custom"}
    assert {one["own"]["target"] for one in settings} == {"outside:encode"}
    assert {one["weight"]["target"] for one in settings} == {"outside:late"}
    assert all(np.load(path / "edges.npy").any() for path in traces)
    completeness = pd.read_csv(run / "tables/completeness.csv")
    assert set(completeness.path) == {"custom"}
    assert "share_median" in set(completeness.metric) and "gap_median" not in set(completeness.metric)
    assert "Edges are not complete" not in (run / "report/index.html").read_text()


def test_the_weight_is_what_it_says(finished, arrays) -> None:
    """Twice the second half of the path: with ig's edges it makes those of the first half, doubled."""
    store, edges = finished / "outputs/artifacts", {}
    plain = ("attribute=gig", "attribute.rule=midpoint", "attribute.steps=8", "until=trace", "hydra.run.dir=plain")
    done = vismech(finished.parent, *arguments(arrays), *plain)
    assert done.status == 0, done.err
    for manifest in store.glob("trace/*/manifest.json"):
        content = json.loads(manifest.read_text())
        if content["unit"] == "layer3->logits":
            edges[content["inputs"]["path"]] = np.load(manifest.parent / "edges.npy")
    # The way from the last layer to the logits is linear, so every point of the path has the same gradient.
    np.testing.assert_allclose(edges["custom"], edges["ig"], rtol=1e-4, atol=1e-6)


def test_other_options_are_another_key(finished, arrays) -> None:
    def keys(*more: str) -> dict[str, str]:
        done = vismech(finished.parent, *arguments(arrays), "plan=true", "until=dictionary", *more)
        assert done.status == 0, done.err
        lines = [line.split() for line in done.out.splitlines() if line.startswith(("hit", "miss"))]
        return {f"{stage} {unit}": key for _, stage, unit, key in lines}

    before, changed = keys(), keys("dictionary.options.scale=2")
    assert before["extract layer1"] == changed["extract layer1"]
    assert before["dictionary layer1"] != changed["dictionary layer1"]
    assert before["extract layer1"] != keys("data.options.names=[dots,stripes,rest]")["extract layer1"]


def test_other_code_of_a_measure_is_another_key(finished, arrays) -> None:
    """A measure whose code was changed was served what its old code had measured."""

    def keys(measure: str) -> set[str]:
        changed = [each.replace("hydra.run.dir=run", "hydra.run.dir=again") for each in arguments(arrays)]
        plan = ("plan=true", f"evaluate.own=[{measure}]")
        done = vismech(finished.parent, *changed, *plan)
        assert done.status == 0, done.err
        lines = [line.split() for line in done.out.splitlines() if line.startswith(("hit", "miss"))]
        return {key for _, stage, *_, key in lines if stage == "evaluate"}

    stored = {path.parent.name for path in (finished / "outputs/artifacts").glob("evaluate/*/manifest.json")}
    first = keys("outside:NORMS")
    assert first <= stored and len(first) == 3
    code = (OUTSIDE / "outside.py").read_text().replace("outside:NORMS", "other_measure:NORMS")
    found = []
    for computed in ("norms.mean()", "norms.sum()", "norms.mean()"):
        (finished.parent / "other_measure.py").write_text(code.replace("norms.mean()", computed))
        found.append(keys("other_measure:NORMS"))
    assert found[0] == found[2] and found[0].isdisjoint(found[1])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("dictionary.target=outside:nothing", "dictionary.target=outside:nothing cannot be imported"),
        ("dictionary.code_target=null", "dictionary.code_target=None must be package.module:name"),
        ("attribute.weight=null", "attribute.weight=None must be package.module:name"),
        ("evaluate.own=[outside:fit]", "evaluate.own=outside:fit is function, not a vismech.measures.base.Kind"),
        (
            "data.target=pathlib:Path data.options={}",
            "data.target=pathlib:Path returned PosixPath, not a vismech.sources.data",
        ),
        (
            "+dictionary.options.sacle=2",
            "dictionary.target=outside:fit does not take the options",
        ),
        ("+data.options.nmes=[a]", "data.target=outside:open_arrays does not take the options"),
        ("report.elements=[nowhere:section]", "report.elements=nowhere:section cannot be imported"),
    ],
)
def test_what_is_none_is_one_sentence(change, sentence, arrays, tmp_path) -> None:
    done = vismech(tmp_path, *arguments(arrays), *change.split(), "plan=true")
    assert done.status == 1 and done.sentence.startswith(sentence)


def test_opening_the_run_does_not_run_its_code(finished, monkeypatch) -> None:
    with pytest.raises(UserError, match=r"outside:network, code of 'outside' .* give --trust outside"):
        config_of(finished / "run")
    monkeypatch.syspath_prepend(str(OUTSIDE))
    config = config_of(finished / "run", trusted=["outside"])
    assert (config.dictionary.target, config.evaluate.own, config.report.elements) == ("outside:fit", [], [])
    assert config.attribute.weight is None
