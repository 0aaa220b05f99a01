"""A transformer's traces from every baseline: where they start, and what runs through the class token."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

import tiny as tiny_network
from integration.conftest import tiny_config
from integration.test_paths import Traced, pictures_of
from vismech.config.choices import Along, Around, Baseline, Evaluation, Positions, Rule, Stage
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.passes.baselines import draw_baselines
from vismech.stages.dictionary import coding_of, read
from vismech.stages.pipeline import describe_plan, make_plan, open_context
from vismech.stages.run import run

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def plain(pictures, tmp_path_factory) -> Config:
    """One block and six images, everything up to the dictionaries computed."""
    config = tiny_config(pictures, tmp_path_factory.mktemp("tokens") / "store")
    config.model.target = "tiny:attending"
    config.extract.layers, config.extract.positions = ["layer1"], Positions.all
    config.dictionary.k, config.graph.images_per_class, config.describe.cards = 8, 6, 0
    config.until = Stage.dictionary
    run(config, tmp_path_factory.mktemp("run"))
    config.until = Stage.graph
    config.attribute = AttributeConfig(along=Along.activation, steps=4)
    return config


def tokens_at_layer1(model, images: Tensor) -> Tensor:
    patches = model.stem(images).flatten(2).transpose(1, 2)
    return model.layer1(torch.cat([model.token.expand(len(images), -1, -1), patches], 1))


def starts(choice: Baseline, model, config: Config, samples: list[str]) -> list[Tensor]:
    """The baselines of each image at layer1 [e, tokens, C], written from the definitions."""
    ids = open_context(config).data.ids
    everything = pictures_of(config, ids)
    whole = tokens_at_layer1(model, everything)
    if choice is Baseline.zero:
        shared = torch.zeros_like(whole[:1])
    elif choice is Baseline.mean_position:
        shared = whole.mean(0, keepdim=True)
    elif choice is Baseline.mean:
        patches = whole[:, 1:].mean((0, 1)).expand(1, 16, -1)
        shared = torch.cat([whole[:, :1].mean(0, keepdim=True), patches], 1)
    elif choice is Baseline.mean_image:
        shared = tokens_at_layer1(model, everything.mean(0, keepdim=True))
    elif choice is Baseline.images:
        drawn = draw_baselines(ids, 0, 2)
        others = [[sample for sample in drawn if sample != mine][:2] for mine in samples]
        return [tokens_at_layer1(model, pictures_of(config, some)) for some in others]
    else:
        sharp = pictures_of(config, samples).numpy()
        soft = torch.from_numpy(gaussian_filter(sharp, 3.2, mode="nearest", axes=(2, 3), radius=10))
        return [tokens_at_layer1(model, image[None]) for image in soft]
    return [shared] * len(samples)


KINDS = ["zero", "mean", "mean_position", "mean_image", "blur", "images"]


@pytest.mark.parametrize("choice", KINDS)
@torch.no_grad()
def test_offsets_and_the_class_tokens_part_are_those_of_the_baseline(choice, plain, tmp_path) -> None:
    config, kind = copy.deepcopy(plain), Baseline(choice)
    config.attribute.baseline, config.attribute.baselines = kind, 2
    found, model = Traced(config, tmp_path), tiny_network.attending()
    facts, unit = found.facts("layer1->logits"), "layer1->logits"
    clean = tokens_at_layer1(model, pictures_of(config, facts["images"]))
    for row, (tokens, each, label) in enumerate(
        zip(clean, starts(kind, model, config, facts["images"]), facts["classes"], strict=True)
    ):
        held = torch.cat([tokens[None, :1].expand(len(each), -1, -1), each[:, 1:]], 1)
        kept, bare = (model.head(model.layer2(part)[:, 0])[:, label].mean() for part in (held, each))
        np.testing.assert_allclose(found[unit, "baseline"][row, 0], kept, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[unit, "prefix"][row, 0], kept - bare, rtol=1e-3, atol=1e-5)
    table = found.table("completeness").set_index(["lower", "upper", "metric"]).value
    own, change = (np.abs(part) for part in (found[unit, "prefix"], found[unit, "value"] - found[unit, "baseline"]))
    assert table["layer1", "logits", "prefix_share"] == pytest.approx(np.median(own / (own + change)))


def test_all_runs_through_the_class_token_where_the_head_reads_no_other(plain, tmp_path) -> None:
    config = copy.deepcopy(plain)
    config.extract.layers = ["layer2"]
    found = Traced(config, tmp_path / "alone")
    assert not found["layer2->logits", "edges"].any()
    table = found.table("completeness").set_index("metric")
    assert table.value["prefix_share"] == 1 and table.n["prefix_share"] == len(found["layer2->logits", "value"])
    config.extract.layers = ["layer1", "layer2"]
    with pytest.raises(UserError, match=r"no concept of layer2 .* class token alone, .* leave layer2 out of extract"):
        run(config, tmp_path / "both")


PARTS = ["layer1.attn", "layer1.mlp"]


@pytest.fixture(scope="module")
def parts(plain, pictures) -> Config:
    """The contributions of one block, the stream around them held."""
    config = copy.deepcopy(plain)
    config.extract.layers, config.attribute.around, config.until = PARTS, Around.hold, None
    config.attribute.steps, config.attribute.rule = 16, Rule.midpoint
    config.evaluate.kinds = []
    return config


def with_output(model, layer: str, images: Tensor, output: Tensor) -> dict[str, Tensor]:
    """All outputs with another one of one module."""
    handle = model.get_submodule(layer).register_forward_hook(lambda *_: output)
    found = tiny_network.outputs(model, images)
    handle.remove()
    return found


@torch.no_grad()
def test_contributions_to_the_stream_are_traced_with_the_stream_held(parts, tmp_path) -> None:
    found, model = Traced(parts, tmp_path), tiny_network.attending()
    images = {upper: found.facts(f"layer1.attn->{upper}") for upper in ("layer1.mlp", "logits")}
    for upper, facts in images.items():
        assert len(facts["held"]) == 1
        unit, batch = f"layer1.attn->{upper}", pictures_of(parts, facts["images"])
        clean = tiny_network.outputs(model, batch)
        start = torch.cat([clean["layer1.attn"][:, :1], torch.zeros_like(clean["layer1.attn"][:, 1:])], 1)
        moved = with_output(model, "layer1.attn", batch, start)
        for ends, name in ((clean, "value"), (moved, "baseline")):
            if upper == "logits":
                expected = ends[upper][torch.arange(len(batch)), facts["classes"]][:, None]
            else:
                ctx, plan = both(parts)
                atoms = read(ctx, plan.dictionaries[upper], coding_of(parts)).atoms[facts["targets"]]
                places = torch.from_numpy(found["layer1.mlp->logits", "anchors"][:, facts["targets"]]).long()
                rows = torch.arange(len(batch))[:, None]
                expected = (ends[upper][:, 1:][rows, places.clamp(min=0)] * atoms).sum(2) * (places >= 0)
            np.testing.assert_allclose(found[unit, name], expected, rtol=1e-3, atol=1e-5)
        inflow = found[unit, "edges"].sum(2) + found[unit, "error"] + found[unit, "baseline"]
        gap = np.abs(inflow - found[unit, "value"])
        change = np.abs(found[unit, "value"] - found[unit, "baseline"])
        np.testing.assert_allclose(gap, found[unit, "gap"] * change, rtol=1e-2, atol=1e-5)
        assert np.median(found[unit, "gap"][found[unit, "moves"]]) < 0.05
    table = found.table("completeness")
    held = table[table.metric == "held_around"].set_index(["lower", "upper"]).value
    pairs = [("layer1.attn", "layer1.mlp"), ("layer1.attn", "logits"), ("layer1.mlp", "logits")]
    assert held.to_dict() == dict.fromkeys(pairs, 1)
    assert set(found.graph["held"]) == {"->".join(pair) for pair in pairs}
    page = (tmp_path / "report" / "index.html").read_text()
    assert "What runs around layer1.attn, layer1.mlp is held at its value in the photograph" in page
    assert all(row["hit"] for row in describe_plan(*both(parts)))


def both(config: Config):
    ctx = open_context(config)
    return ctx, make_plan(ctx)


def test_keys_know_of_holding_only_where_something_is_held(parts, plain) -> None:
    refused, held = copy.deepcopy(plain), copy.deepcopy(plain)
    held.attribute.around = Around.hold
    keys = [[spec.key for spec in both(config)[1].specs()] for config in (refused, held)]
    assert keys[0] == keys[1]
    spec = both(parts)[1].pairs["layer1.attn", "layer1.mlp"]
    assert spec.settings.inputs()["around"] is Around.hold


def test_what_cannot_be_held_or_measured_so_is_one_sentence(parts) -> None:
    config = copy.deepcopy(parts)
    config.attribute.around = Around.refuse
    with pytest.raises(UserError, match=r"'layer1.mlp' can be reached around 'layer1.attn', .*; attribute.around=hold"):
        both(config)
    config = copy.deepcopy(parts)
    config.graph.measured = True
    with pytest.raises(UserError, match=r"attribute.around=hold holds .* graph.measured=true does not: give graph.mea"):
        both(config)
    config = copy.deepcopy(parts)
    config.evaluate.kinds = [Evaluation.circuit]
    with pytest.raises(UserError, match=r"which evaluate.kinds=circuit does not: give evaluate=none"):
        both(config)


def test_a_network_without_class_token_has_no_share(pictures, tmp_path) -> None:
    config = tiny_config(pictures, tmp_path / "store")
    config.until = Stage.graph
    run(config, tmp_path / "run")
    metrics = set(pd.read_csv(Path(tmp_path / "run" / "tables" / "completeness.csv")).metric)
    assert "gap_median" in metrics and "prefix_share" not in metrics
