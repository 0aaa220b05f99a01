"""Networks that end in features, with a linear layer of the user's own; timm's models by their folder or hub's name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import tiny
from test_config import composed
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.outline import outline_file
from vismech.sources.checks import check_config_sources
from vismech.sources.identity import identity_of
from vismech.sources.models import Model, open_model
from vismech.sources.probe import read_probe

WEIGHT = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
BIAS = torch.tensor([0.5, -1.0, 0.25, 2.0])
NAMES = ["ant", "bee", 'c, "d"', "e"]


def headless() -> nn.Module:
    """The tiny network up to what its head reads: images → features [B, 16]."""
    model = tiny.network()
    model.head = nn.Identity()
    return model


def flat() -> nn.Module:
    """Maps instead of features."""
    return nn.Sequential(nn.Conv2d(3, 16, 3))


def tensors(folder: Path, **metadata: str) -> Path:
    save_file({"weight": WEIGHT, "bias": BIAS}, folder / "probe.safetensors", metadata or None)
    return folder / "probe.safetensors"


def table(folder: Path) -> Path:
    import csv

    with (folder / "probe.csv").open("w", newline="") as file:
        rows = [
            [name, *map(repr, [bias.item(), *row.tolist()])]
            for name, bias, row in zip(NAMES, BIAS, WEIGHT, strict=True)
        ]
        csv.writer(file).writerows([["class", "bias", *(f"w{place}" for place in range(16))], *rows])
    return folder / "probe.csv"


def own(target: str, **options) -> Model:
    return open_model("custom", "mine", target=f"test_probe:{target}", preprocess={"crop": 32}, **options)


# Probes


@pytest.mark.parametrize("kind", [tensors, table])
def test_logits_are_the_probe_of_the_features(kind, tmp_path) -> None:
    model, images = own("headless", probe=kind(tmp_path)), tiny.images(3)
    with torch.no_grad():
        features = headless().eval()(images)
        assert torch.allclose(model.module(images), features @ WEIGHT.T + BIAS, atol=1e-5)
    assert not model.module.training and not any(each.requires_grad for each in model.module.parameters())
    assert model.classes == (dict(enumerate(NAMES)) if kind is table else {})
    network = open_network(model.module, model.example)
    assert network.shape("encoder.layer3") == (16, 4, 4) and network.shape("logits") == (4,)


def test_names_in_the_file_and_names_of_the_user(tmp_path) -> None:
    file = tensors(tmp_path, classes=json.dumps(NAMES))
    assert own("headless", probe=file).classes == dict(enumerate(NAMES))
    assert own("headless", probe=file, classes=list("wxyz")).classes == dict(enumerate("wxyz"))


def test_a_probe_without_bias_and_one_in_half_precision(tmp_path) -> None:
    save_file({"weight": WEIGHT.half()}, tmp_path / "x.safetensors")
    probe = read_probe(tmp_path / "x.safetensors")
    assert torch.equal(probe.weight, WEIGHT.half().float()) and torch.equal(probe.bias, torch.zeros(4))


@pytest.mark.thorough
def test_keys_see_the_probe(tmp_path) -> None:
    def told(bias: torch.Tensor) -> dict:
        save_file({"weight": WEIGHT, "bias": bias}, tmp_path / "x.safetensors")
        model = own("headless", probe=tmp_path / "x.safetensors")
        return identity_of(model, open_network(model.module, model.example))

    assert told(BIAS) == told(BIAS) != told(BIAS + 1)
    config = composed("model=timm", "model.name=test_resnet", "model.weights=null")
    assert outline_file(tmp_path, config.model) is not None
    config.model.probe = str(tmp_path / "x.safetensors")
    assert outline_file(tmp_path, config.model) is None  # no note of earlier runs


@pytest.mark.thorough
def test_timm_is_built_without_its_head(tmp_path) -> None:
    encoder = open_model("timm", "test_resnet", weights=None, kwargs={"num_classes": 0})
    with torch.no_grad():
        channels = encoder.module(encoder.example).shape[1]
    save_file({"weight": torch.ones(5, channels)}, tmp_path / "x.safetensors")
    model = open_model("timm", "test_resnet", weights=None, probe=tmp_path / "x.safetensors")
    assert model.preprocess == encoder.preprocess and model.classes == {}
    with torch.no_grad():
        assert torch.allclose(
            model.module(model.example), encoder.module(encoder.example).sum(1, keepdim=True).expand(1, 5), atol=1e-4
        )


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"weight": torch.ones(3)}, r"weight \[3\] and bias \[3\] must be \[classes, channels\]"),
        ({"weight": torch.ones(3, 2), "bias": torch.ones(2)}, r"weight \[3, 2\] and bias \[2\] must be"),
        ({"kernel": torch.ones(3, 2)}, "holds kernel: it must hold weight and maybe bias"),
        ({"weight": torch.full((3, 2), torch.nan)}, "has values that are not finite"),
    ],
)
def test_tensors_that_are_no_probe(content, sentence, tmp_path) -> None:
    save_file(content, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=sentence):
        read_probe(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "must have a first row class,bias"),
        ("class,bias,w\n", "must have a first row class,bias"),
        ("name,b,w\nx,1,2\n", "must have a first row class,bias"),
        ("class,bias,w\nx,1\n", "must have a first row class,bias"),
        ("class,bias,w\nx,1,two\n", "has a cell that is no number"),
        ("class,bias\nx,1\n", r"weight \[1, 0\] and bias \[1\] must be"),
    ],
)
def test_tables_that_are_no_probe(text, sentence, tmp_path) -> None:
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        read_probe(tmp_path / "x.csv")
    assert "\n" not in str(error.value)


def test_files_and_networks_that_do_not_fit(tmp_path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UserError, match=r"is no safetensors or .csv file"):
        read_probe(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match="has 2 names of classes for 4 rows"):
        read_probe(tensors(tmp_path, classes='["a", "b"]'))
    with pytest.raises(
        UserError, match=r"takes 16 channels, but the network returns \[1, 16, 30, 30\], not \[images, 16"
    ):
        own("flat", probe=tensors(tmp_path))
    with pytest.raises(UserError, match=r"model.probe=/nowhere.csv is not a file"):
        check_config_sources(composed("model=timm", "model.name=x", "model.probe=/nowhere.csv"))


# timm by folder and by the hub's name


def saved(folder: Path, **config) -> Path:
    """A folder as timm pushes it to the hub."""
    import timm

    model = timm.create_model("test_resnet", num_classes=3)
    folder.mkdir()
    save_file(model.state_dict(), folder / "model.safetensors")
    pretrained = {"input_size": [3, 96, 96], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.75, "num_classes": 3}
    told = {"architecture": "test_resnet", "num_classes": 3, "pretrained_cfg": {**pretrained, **config}}
    (folder / "config.json").write_text(json.dumps(told))
    return folder


def test_a_timm_model_with_its_own_folder(tmp_path) -> None:
    from safetensors.torch import load_file

    folder = saved(tmp_path / "model", label_names=["a", "b", "c"])
    model = open_model("timm", f"local-dir:{folder}")
    state = load_file(folder / "model.safetensors")
    assert all(torch.equal(model.module.state_dict()[name], tensor) for name, tensor in state.items())
    assert (model.preprocess.crop, model.preprocess.resize, model.preprocess.std) == (96, 128, (0.25,) * 3)
    assert model.classes == {0: "a", 1: "b", 2: "c"}
    with torch.no_grad():
        assert model.module(model.example).shape == (1, 3)


def test_a_name_on_the_hub_reaches_timm(tmp_path, monkeypatch) -> None:
    """What timm asks the hub for is answered from a folder."""
    folder, asked = saved(tmp_path / "model"), []

    def download(model_id, filename="pytorch_model.bin", *_, **__):
        asked.append((model_id, filename))
        return str(folder / filename)

    monkeypatch.setattr("timm.models._hub.download_from_hf", download)
    monkeypatch.setattr("timm.models._hub.hf_hub_download", lambda repo_id, filename, **_: download(repo_id, filename))
    model = open_model("timm", "hf-hub:somebody/pets@v2")
    assert asked[0] == ("somebody/pets@v2", "config.json") and ("somebody/pets", "model.safetensors") in asked
    assert model.preprocess.crop == 96


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "hf-hub:somebody/nothing"}, "cannot be opened .* which needs the network"),
        ({"name": "local-dir:/nowhere"}, "model.name=local-dir:/nowhere cannot be opened .Config file not found"),
        ({"name": "hf-hub:somebody/x", "weights": "a1"}, "model.weights=a1 does not suit hf-hub:somebody/x"),
    ],
)
def test_a_folder_or_hub_that_is_not_there_is_one_sentence(options, sentence, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=sentence) as error:
        open_model("timm", **options)
    assert "\n" not in str(error.value)


# open_clip


@pytest.fixture
def clip(tmp_path):
    """open_clip, with a model of its own that is small."""
    open_clip = pytest.importorskip("open_clip", reason="needs the extra 'open_clip'")
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-vit.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny-vit.json")
    return open_clip


def test_open_clip_is_its_tower_for_images(clip, tmp_path) -> None:
    whole = clip.create_model("tiny-vit").eval()
    torch.save(whole.state_dict(), tmp_path / "clip.pt")
    model = open_model("open_clip", "tiny-vit", checkpoint=tmp_path / "clip.pt", probe=tensors(tmp_path))
    images = tiny.images(2)
    with torch.no_grad():
        assert torch.allclose(model.module(images), whole.encode_image(images) @ WEIGHT.T + BIAS, atol=1e-4)
    assert model.preprocess.crop == model.preprocess.resize == 32 and model.preprocess.interpolation == "bicubic"
    assert model.preprocess.mean == pytest.approx((0.48145466, 0.4578275, 0.40821073))
    network = open_network(model.module, model.example)
    assert "encoder.transformer.resblocks.1" in network.layers


def test_what_open_clip_does_not_have_is_one_sentence(clip, tmp_path) -> None:
    probe = tensors(tmp_path)
    for options, sentence in [
        ({"name": "ViT-Z"}, "open_clip has no model 'ViT-Z'"),
        ({"name": "tiny-vit"}, "tiny-vit has no weights 'default' in open_clip: give model.checkpoint"),
        ({"name": "RN50"}, "RN50 has no weights 'default' in open_clip: it has openai"),
    ]:
        with pytest.raises(UserError, match=sentence):
            open_model("open_clip", probe=probe, **options)


def test_open_clip_needs_a_probe_and_its_extra(tmp_path, monkeypatch) -> None:
    import sys

    with pytest.raises(UserError, match=re.escape("model=open_clip ends in features: give model.probe=FILE")):
        open_model("open_clip", "ViT-B-32")
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="model=open_clip needs the extra 'open_clip'"):
        open_model("open_clip", "ViT-B-32", probe=tensors(tmp_path))
