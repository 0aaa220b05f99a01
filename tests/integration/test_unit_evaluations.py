"""Saturation and attribution metrics in a run: tables, figures, and numbers that do not depend on the batches."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from integration.conftest import tiny_config
from vismech.attribution.autoencoder import Autoencoder
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import (
    AttributionMethod,
    Baseline,
    Evaluation,
    Images,
    PathWeight,
    Rule,
    Scope,
    SourceKind,
    Stage,
)
from vismech.errors import UserError
from vismech.measures.attribution.loop import METHODS, AttributionLoop
from vismech.measures.saturation.scores import WEIGHTS
from vismech.network.cut import LOGITS, PIXELS
from vismech.stages.pipeline import open_context
from vismech.stages.run import run

pytestmark = pytest.mark.thorough

UNITS = [(PIXELS, LOGITS), ("layer1", "layer3"), ("layer3", LOGITS)]
TAIL = ["metric", "value", "n", "ci_low", "ci_high", "units"]


def config_of(pictures, folder, batch_size=4):
    config = tiny_config(pictures, folder / "store")
    config.extract.layers, config.dictionary.k = ["layer1", "layer3"], 8
    config.attribute.steps, config.graph.images_per_class, config.graph.important = 4, 5, 2
    config.evaluate.kinds = [Evaluation.saturation, Evaluation.attribution]
    config.evaluate.sources, config.evaluate.images = [SourceKind.pixels, SourceKind.concepts], None
    config.evaluate.sensitivity_images, config.runtime.batch_size = 2, batch_size
    config.describe.cards, config.report.page = 0, False
    return config


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("units")
    return folder, run(config_of(pictures, folder), folder / "run")


def artifacts(folder, measure):
    """unit → folder of the artifact."""
    found = {}
    for manifest in (folder / "store" / "evaluate").glob("*/manifest.json"):
        content = json.loads(manifest.read_text())
        if content["inputs"]["measure"] == measure:
            found[content["unit"]] = manifest.parent
    return found


def test_tables_hold_every_source_under_the_contract(finished):
    folder, result = finished
    saturation = pd.read_csv(folder / "run/tables/saturation.csv")
    assert list(saturation) == ["lower", "upper", "path", "phi", *TAIL]
    assert list(dict.fromkeys(zip(saturation["lower"], saturation["upper"], strict=True))) == UNITS
    assert set(saturation["phi"]) == {0.9}
    here = saturation[(saturation["lower"] == PIXELS) & (saturation["metric"] == "sensitivity")]
    assert set(here["n"]) <= {1, 2}
    attribution = pd.read_csv(folder / "run/tables/attribution.csv")
    assert list(attribution) == ["source", "target", "path", *TAIL]
    own = set(AttributionLoop.scores) - {"focus", "filter_kept"}  # neither mosaics nor a filter were asked for
    assert {name for name in attribution["metric"] if not name.endswith("_minus_ig")} == own
    assert set(attribution["path"]) == set(METHODS)
    for table in (saturation, attribution):
        intervals = table.dropna(subset=["ci_low"])
        assert ((intervals["ci_low"] <= intervals["value"]) & (intervals["value"] <= intervals["ci_high"])).all()
    row = saturation[(saturation["lower"] == "layer1") & (saturation["metric"] == "abpc_minus_ig")].iloc[0]
    assert result.metrics[f"saturation/layer1->layer3/{row['path']}/abpc_minus_ig"] == pytest.approx(row["value"])


def test_figures_are_drawn_and_named(finished):
    _, result = finished
    names = {path.name for path in result.written}
    assert {f"saturation_{name}.png" for name in ("curves", "ratios", "paths", "maps")} <= names
    for path in result.written:
        with Image.open(path) as picture:
            assert picture.width >= 1400


def test_numbers_of_an_image_follow_from_its_own_pixels(finished, pictures):
    folder, _ = finished
    config = config_of(pictures, folder)
    ctx = open_context(config)
    found = artifacts(folder, "saturation")[f"{PIXELS}->{LOGITS}"]
    row = 3
    sample = json.loads((found / "images.json").read_text())["ids"][row]
    index = json.loads((found / "units.json").read_text())["classes"][row]
    image = ctx.model.preprocess(ctx.data.load(ctx.data.ids.index(sample)))[None]
    layout, segment = ctx.layout(PIXELS), ctx.network.segment(PIXELS, LOGITS)
    # Pixels have no trace that could have chosen other nodes.
    settings = Settings(Rule.midpoint, config.attribute.steps, WEIGHTS, config.attribute.phi)
    source = UnitSource(SourceKind.pixels, layout.vectors(image))
    told = attribute(segment, layout, source, image, LogitTargets(torch.tensor([index])), settings)

    def logit(kept):
        with torch.no_grad():
            return float(segment(image * kept.view(32, 32))[0, index])

    full, blank = logit(torch.ones(1024)), logit(torch.zeros(1024))
    for column, weight in enumerate(WEIGHTS):
        if not np.load(found / "abpc_defined.npy")[row, 0, column]:
            continue
        signed = told.edges[weight].units[0, 0] * np.sign(full - blank)
        order, total = signed.argsort(descending=True, stable=True), 0.0
        for tenth in range(1, 10):
            count, shares = round(tenth * 1024 / 10), []
            for removed in (order[1024 - count :], order[:count]):
                kept = torch.ones(1024)
                kept[removed] = 0
                shares.append(min(1.0, max(0.0, (logit(kept) - blank) / (full - blank))))
            total += max(0.0, shares[0] - shares[1])
        assert np.load(found / "abpc.npy")[row, 0, column] == pytest.approx(total / 10, abs=1e-3)
    assert np.load(found / "crossing.npy")[row, 0] == pytest.approx(float(told.crossing))


def test_concepts_are_measured_at_the_nodes_that_their_traces_chose(finished):
    folder, _ = finished
    table = pd.read_csv(folder / "run/tables/completeness.csv").drop_duplicates(["lower", "upper"])
    steps = {f"{row.lower}->{row.upper}": row.steps for row in table.itertuples()}
    for unit, path in artifacts(folder, "saturation").items():
        assert np.load(path / "norms.npy").shape[2] == steps.get(unit, 4), unit


def test_other_batches_give_the_same_numbers(finished, pictures, tmp_path):
    folder, _ = finished
    other = config_of(pictures, tmp_path, batch_size=5)
    other.evaluate.sources = [SourceKind.concepts]
    run(other, tmp_path / "run")
    for measure in ("saturation", "attribution"):
        first, second = artifacts(folder, measure), artifacts(tmp_path, measure)
        assert len(second) == 2
        for unit, path in second.items():
            for array in path.glob("*.npy"):
                assert np.load(array) == pytest.approx(np.load(first[unit] / array.name), rel=1e-3, abs=1e-4), (
                    array.name
                )


def test_what_cannot_be_measured_is_refused_before_anything_is_computed(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.evaluate.sources = [SourceKind.channels]
    with pytest.raises(UserError, match=r"evaluate.sources=\['channels'\]: give concepts, pixels or both"):
        run(config, tmp_path / "run")
    config.evaluate.sources, config.attribute.baseline = [SourceKind.concepts], Baseline.images
    config.attribute.baselines = 2
    with pytest.raises(UserError, match="measures straight paths from zero"):
        run(config, tmp_path / "run")
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


@pytest.mark.thorough
def test_further_methods_are_measured_beside_the_weights(pictures, tmp_path):
    config = config_of(pictures, tmp_path)
    config.evaluate.kinds, config.evaluate.to_class = [Evaluation.attribution], True
    config.evaluate.methods = [*AttributionMethod][:3] + [*AttributionMethod][4:]
    config.evaluate.method_options = {"guided_ig": {"max_dist": 0.3}, "occlusion": {"patch": 8}}
    config.evaluate.filter, config.evaluate.mosaics, config.evaluate.sensitivity_images = 0.2, True, 1
    config.evaluate.neighbours = 4
    # The network answers with one class, and a mosaic needs two.
    config.graph.scope, config.graph.classes, config.graph.images = Scope["pair"], [0, 1], Images.labelled
    result = run(config, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/tables/attribution.csv")
    assert list(dict.fromkeys(zip(table["source"], table["target"], strict=True))) == [
        (PIXELS, LOGITS),
        ("layer1", LOGITS),
        ("layer3", LOGITS),
    ]
    plain = {*METHODS, *(name.value for name in config.evaluate.methods)}
    filtered = {f"{name}+filter" for name in plain - {"left_ig", "right_ig", "idg", "random"}}
    assert set(table[table["source"] == "layer1"]["path"]) == plain
    assert set(table[table["source"] == PIXELS]["path"]) == plain | filtered
    # Spectral IG is complete to the order of its rule; only pixels are filled in from their neighbours.
    assert set(table[table["metric"] == "road"]["source"]) == {PIXELS}
    told = table.set_index(["source", "path", "metric"])["value"]
    assert told["layer3", "spectral_ig", "completeness"] < 0.3
    assert told[PIXELS, "idgi", "completeness"] < 1e-3
    assert ((told.xs("focus", level="metric") >= 0) & (told.xs("focus", level="metric") <= 1)).all()
    assert set(table[table["metric"] == "filter_kept"]["path"]) == filtered
    assert (told.xs("filter_kept", level="metric") > 0).all() and (told.xs("filter_kept", level="metric") <= 1).all()
    paired = table[table["metric"] == "diffid_minus_ig"]
    assert (paired["ci_low"] <= paired["ci_high"]).all() and set(paired["path"]) == (plain | filtered) - {"ig"}
    cases = pd.read_csv(tmp_path / "run/cases/attribution.csv.gz")
    whole = cases.groupby(["source", "path", "metric"])["value"].mean()
    assert whole["layer3", "guided_ig", "diffid"] == pytest.approx(told["layer3", "guided_ig", "diffid"])
    assert result.metrics["attribution/layer3->logits/guided_ig/diffid"] == pytest.approx(
        told["layer3", "guided_ig", "diffid"]
    )


def test_an_autoencoder_of_images_is_refused_for_concepts_while_planning(pictures, tmp_path):
    """Before anything is computed; as the path of a graph, too."""
    decoder = tmp_path / "decoder.safetensors"
    save_file(dict(Autoencoder(32, 3, (3, 4), 5).state_dict()), decoder)
    config = config_of(pictures, tmp_path, 8)
    config.evaluate.kinds, config.evaluate.sources = [Evaluation.attribution], [SourceKind.pixels, SourceKind.concepts]
    config.evaluate.methods = [AttributionMethod.manifold_ig]
    config.evaluate.method_options = {"manifold_ig": {"decoder": str(decoder)}}
    with pytest.raises(UserError, match=r"is for images of 32 × 32 pixels .* leave the source out"):
        run(config, tmp_path / "run")
    config.evaluate.kinds, config.evaluate.methods, config.evaluate.method_options = [], [], {}
    config.attribute.path, config.attribute.options = PathWeight.manifold_ig, {"decoder": str(decoder)}
    with pytest.raises(UserError, match="is an autoencoder of images, but a graph's paths lead through codes"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists() and not [*tmp_path.glob("store/*/*/manifest.json")]


@pytest.mark.thorough
def test_further_methods_of_pixels_do_not_depend_on_the_batches(pictures, tmp_path):
    decoder = tmp_path / "decoder.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(dict(Autoencoder(32, 3, (3, 4), 5).state_dict()), decoder)
    found = []
    for batch in (8, 3):
        config = config_of(pictures, tmp_path / str(batch), batch)
        config.evaluate.kinds, config.evaluate.sources = [Evaluation.attribution], [SourceKind.pixels]
        names = ("guided_ig", "ig2", "manifold_ig", "smooth_grad_variance", "expected_gradients_variance")
        config.evaluate.methods = [AttributionMethod(name) for name in names]
        config.evaluate.method_options = {"guided_ig": {"max_dist": 0.3}, "manifold_ig": {"decoder": str(decoder)}}
        config.evaluate.filter, config.evaluate.mosaics, config.evaluate.sensitivity_images = 0.2, True, 1
        config.graph.scope, config.graph.classes, config.graph.images = Scope["pair"], [0, 1], Images.labelled
        run(config, tmp_path / str(batch) / "run")
        (artifact,) = artifacts(tmp_path / str(batch), "attribution").values()
        found.append({array.name: np.load(array) for array in artifact.glob("*.npy")})
    assert np.isfinite(found[0]["diffid.npy"]).all() and found[0]["focus_defined.npy"][..., -1].any()
    assert set(found[0]) == set(found[1])
    for name, array in found[0].items():
        assert np.array_equal(array, found[1][name]), name


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("method_options", {"ig2": {}}, r"method_options.ig2 is for no method of evaluate.methods"),
        ("method_options", {"guided_ig": {"far": 1}}, "far is no option of attribute.path=guided_ig"),
        ("method_options", {"guided_ig": 3}, "give the options of attribute.path=guided_ig"),
        ("filter", 2.0, r"filter=2.0 must be above 0 and at most 1"),
        ("neighbours", 2, r"neighbours=2 must be at least 3"),
    ],
)
def test_wrong_methods_are_refused_in_one_sentence(pictures, tmp_path, key, value, sentence):
    config = config_of(pictures, tmp_path)
    config.evaluate.kinds, config.evaluate.methods = [Evaluation.attribution], [AttributionMethod.guided_ig]
    setattr(config.evaluate, key, value)
    with pytest.raises(UserError, match=sentence):
        run(config, tmp_path / "run")


@pytest.mark.parametrize(
    "path",
    [PathWeight.guided_ig, *(pytest.param(path, marks=pytest.mark.thorough) for path in ("ig2", "occlusion"))],
)
def test_a_trace_along_another_path_tells_its_cost(pictures, tmp_path, path):
    config = config_of(pictures, tmp_path)
    config.evaluate.kinds, config.until = [], Stage.graph
    path = PathWeight(path)
    config.attribute.path, config.attribute.rule, config.attribute.steps = path, Rule.riemann_left, 6
    run(config, tmp_path / "run")
    table = pd.read_csv(tmp_path / "run/tables/completeness.csv")
    calls = table[table["metric"] == "model_calls"].set_index(["lower", "upper"])["value"]
    targets = json.loads(next((tmp_path / "store/trace").glob("*/trace.json")).read_text())
    assert set(table["path"]) == {path.value} and targets
    assert calls["layer3", LOGITS] == {"guided_ig": 12, "ig2": 18, "occlusion": 9}[path.value]
    config.attribute.options = {"step": 0}
    with pytest.raises(UserError, match=r"options.step"):
        run(config, tmp_path / "again")
