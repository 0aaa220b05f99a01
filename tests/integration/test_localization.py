"""What survives of concepts in the pixels of their maps, through the whole run."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from integration.conftest import digest, tiny_config
from vismech.config.choices import Evaluation, Stage
from vismech.config.schema import Config
from vismech.errors import UserError
from vismech.measures.localization.loop import LocalizeLoop
from vismech.measures.localization.scores import Place, Region
from vismech.stages.run import run
from vismech.store.artifacts import Artifact, Store

KEYS = ["layer", "dictionary", "k", "code", "center", "mean_rule", "budget", "map", "fraction", "place"]


def _config(pictures: Path, store: Path) -> Config:
    config = tiny_config(pictures, store)
    config.until, config.evaluate.kinds, config.evaluate.fractions = (
        Stage.evaluate,
        [Evaluation.localization],
        [0.2, 1.0],
    )
    config.attribute.steps, config.graph.images_per_class, config.report.page = 2, 4, False
    return config


@pytest.fixture
def config(pictures, tmp_path) -> Config:
    return _config(pictures, tmp_path / "store")


@pytest.fixture(scope="module")
def first(pictures, tmp_path_factory):
    """One finished run that several tests read."""
    base = tmp_path_factory.mktemp("localization")
    config = _config(pictures, base / "store")
    return config, run(config, base / "run")


def _artifacts(config: Config) -> dict[str, Artifact]:
    """Layer → artifact of the measurement."""
    found = (Artifact(path) for path in Store(config.store.root).artifacts())
    return {each.manifest["unit"]: each for each in found if each.manifest["stage"] == "evaluate"}


def _table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "tables/localization.csv")


def test_every_layer_map_fraction_and_place_is_measured(first) -> None:
    result = first[1]
    table = _table(result.folder)
    assert list(table.columns) == [*KEYS, "metric", "value", "n", "ci_low", "ci_high", "units"]
    assert not table.duplicated([*KEYS, "metric"]).any()
    assert set(table["map"]) == set(Region) and set(table.place) == set(Place) and set(table.fraction) == {0.2, 1.0}
    assert set(table.layer) == {"layer1", "layer2", "layer3"}
    measured = table[table.metric == "recovery"]
    assert ((measured.ci_low <= measured.value) & (measured.value <= measured.ci_high)).all()
    skipped = table[table.metric == "skipped"]
    assert (skipped.n == 20).all()  # two concepts in each of ten images
    pairs = measured.merge(skipped, on=KEYS)
    assert (pairs.n_x == pairs.n_y - pairs.value_y).all()
    # All of the pixels are the image itself.
    whole = table[(table.fraction == 1.0) & table.metric.isin(["recovery", "surviving_projection"])]
    assert whole.value.to_numpy() == pytest.approx(1, abs=1e-4)
    name = "localization/layer2/receptive_fields/0.2/same/recovery"
    row = measured[(measured.layer == "layer2") & (measured["map"] == "receptive_fields") & (measured.place == "same")]
    assert result.metrics[name] == pytest.approx(row[row.fraction == 0.2].value.item())


def test_differences_are_those_of_the_mean_recoveries(first) -> None:
    table = _table(first[1].folder).set_index(KEYS)
    value = {metric: table[table.metric == metric].value for metric in table.metric.unique()}
    assert "receptive_fields" not in value["difference_to_receptive_fields"].index.get_level_values("map")
    for index, difference in value["difference_to_receptive_fields"].items():
        mine = [*index[:7], "receptive_fields", *index[8:]]
        assert difference == pytest.approx(value["recovery"][tuple(mine)] - value["recovery"][index], abs=1e-9)


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers(first, config, tmp_path) -> None:
    config.runtime.workers = 2
    run(config, tmp_path / "run")
    assert digest(Path(config.store.root)) == digest(Path(first[0].store.root))


def test_a_killed_measurement_is_continued(first, config, tmp_path, monkeypatch) -> None:
    step, seen = LocalizeLoop.step, []

    def killed(self, images, rows):
        seen.append(rows)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return step(self, images, rows)

    monkeypatch.setattr(LocalizeLoop, "step", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(config, tmp_path / "killed")
    run(config, tmp_path / "continued")
    assert seen[2] == seen[1]  # the first batch was kept
    assert digest(Path(config.store.root)) == digest(Path(first[0].store.root))


def test_each_image_has_its_own_two_concepts(first) -> None:
    artifact = _artifacts(first[0])["layer3"]
    concepts = np.asarray(artifact.array("concepts.npy"))
    assert concepts.shape == (10, 2) and (concepts[:, 0] != concepts[:, 1]).all() and concepts.max() < 12
    assert len(artifact.json("images.json")["ids"]) == 10
    clean, kept = np.asarray(artifact.array("clean.npy")), np.asarray(artifact.array("kept.npy"))
    assert (clean[:, :, 0] <= clean[:, :, 1]).all() and (kept[..., 0] <= kept[..., 1]).all()


def test_a_network_without_rules_has_no_receptive_fields_and_says_so_once_a_layer(config, tmp_path, caplog) -> None:
    config.model.target = "tiny:gated"
    with caplog.at_level(logging.WARNING, "vismech"):
        run(config, tmp_path / "run")
    table = _table(tmp_path / "run")
    assert "receptive_fields" not in set(table[table.layer != "layer1"]["map"])
    assert set(table[table.layer == "layer1"]["map"]) == set(Region)
    assert set(table[table.layer == "layer3"].metric) == {"surviving_projection", "recovery", "skipped"}
    said = [record.getMessage() for record in caplog.records if "without receptive fields" in record.getMessage()]
    assert [message.split()[0] for message in said] == ["layer2", "layer3"]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("fractions", [], r"evaluate\.fractions=\[\]: give shares"),
        ("fractions", [0.2, 0.0], "above 0 and at most 1"),
        ("fractions", [1.5], "above 0 and at most 1"),
        ("concepts_per_image", 0, r"evaluate\.concepts_per_image=0: layer1 has 1 to 12"),
        ("concepts_per_image", 13, r"evaluate\.concepts_per_image=13: layer1 has 1 to 12"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is_computed(
    field, value, message, config, tmp_path
) -> None:
    setattr(config.evaluate, field, value)
    with pytest.raises(UserError, match=message):
        run(config, tmp_path / "run")
    assert not list(Path(config.store.root).glob("*/*/manifest.json"))
