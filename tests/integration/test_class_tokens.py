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
from vismech.config.choices import Along, Baseline, Positions, Stage
from vismech.config.schema import AttributeConfig, Config
from vismech.errors import UserError
from vismech.passes.baselines import draw_baselines
from vismech.stages.pipeline import open_context
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


def test_a_network_without_class_token_has_no_share(pictures, tmp_path) -> None:
    config = tiny_config(pictures, tmp_path / "store")
    config.until = Stage.graph
    run(config, tmp_path / "run")
    metrics = set(pd.read_csv(Path(tmp_path / "run" / "tables" / "completeness.csv")).metric)
    assert "gap_median" in metrics and "prefix_share" not in metrics
