"""Ratios sum to one, relevance is conserved at every layer of real architectures, and nothing leaves its window."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import Tensor, nn

from tiny import seeded
from vismech.network.cut import Network, open_network
from vismech.receptive_field import SharingRatios, sharing_ratios
from vismech.sources.models import open_model

pytestmark = pytest.mark.thorough

slow = pytest.mark.slow


def random_batch(size: int, count: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, size, size, generator=generator, dtype=torch.float64).to(dtype)


def check_conservation(network: Network, images: Tensor, patterns: list[str], tolerance: float) -> SharingRatios:
    """All the relevance that starts at the head, or at seeds where the head gives none, arrives at every layer."""
    ratios = sharing_ratios(network, images)
    for one in ratios.maps:
        shares = [share.ratios for share in one.shares if share.ratios is not None]
        if shares:
            every = torch.cat(shares, 1)
            error = (every.sum(1) - 1).abs() / every.abs().sum(1).clamp(min=1)
            assert error.max() < tolerance
    layers, seeds = [layer for pattern in patterns for layer in network.resolve([pattern])], None
    start = ratios.logits.gather(1, ratios.target[:, None])[:, 0]
    if ratios.head is None:
        last = layers.pop()
        generator = torch.Generator().manual_seed(2)
        seed = torch.randn(len(images), *ratios.maps[ratios.layers[last][0]].size, generator=generator).to(images)
        seeds, start = {last: seed}, seed.sum((1, 2))
    found = ratios.relevance(layers, seeds=seeds) | {"pixels": ratios.saliency(seeds=seeds)}
    for layer, relevance in found.items():
        gap = (relevance.sum((1, 2)) - start).abs() / relevance.abs().sum((1, 2))
        assert gap.max() < tolerance, (layer, gap)
    return ratios


RANDOM = {
    "resnet18": (["layer?", "layer?.?"], 64),
    "mobilenet_v2": (["features.*"], 64),
    "densenet121": (["features.denseblock?", "features.transition?", "features.norm5"], 64),
    "vgg16": (["features.1", "features.3", "features.11", "features.20", "features.29"], 64),
    "vgg16_bn": (["features.2", "features.5", "features.12", "features.25", "features.42"], 64),
    "resnet50": (["layer?", "layer?.?"], 96),
    "regnet_x_400mf": (["trunk_output.*"], 64),
    "googlenet": (["inception*"], 96),
    "inception_v3": (["Mixed*"], 160),
}
QUICK = ("mobilenet_v2",)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=slow) for name in RANDOM])
def test_relevance_is_conserved_with_random_weights(name):
    patterns, size = RANDOM[name]
    kwargs = {"init_weights": False, "aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    model = seeded(torchvision.models.get_model(name, **kwargs))
    check_conservation(
        open_network(model, random_batch(size, dtype=torch.float32)), random_batch(size).float(), patterns, 1e-5
    )
    model = model.double()
    check_conservation(open_network(model, random_batch(size)), random_batch(size), patterns, 1e-10)


def test_relevance_is_conserved_on_a_trained_cifar_resnet(shared):
    from vismech.sources.pictures import load_image

    weights = shared / "weights" / "cifar_resnet20.safetensors"
    model = open_model("cifar_resnet", "cifar_resnet20", checkpoint=weights)
    photos = sorted((shared / "data" / "cifar10_test").glob("*/*"))[::500][:8]
    images = torch.stack([model.preprocess(load_image(photo)) for photo in photos])
    check_conservation(open_network(model.module, images), images, ["layer?", "layer?.?"], 1e-5)
    double = model.module.double()
    check_conservation(open_network(double, images.double()), images.double(), ["layer?", "layer?.?"], 1e-10)


@slow
def test_relevance_is_conserved_on_a_trained_efficientnet_lite(shared):
    from vismech.sources.pictures import load_image

    model = open_model("efficientnet_lite", "efficientnet_lite0")
    photos = sorted((shared / "data" / "imagenet_sample").glob("*/*"))[::100][:4]
    images = torch.stack([model.preprocess(load_image(photo)) for photo in photos])
    check_conservation(open_network(model.module, images), images, ["blocks.?", "blocks.?.?"], 1e-5)
    double = model.module.double()
    check_conservation(open_network(double, images.double()), images.double(), ["blocks.?", "blocks.?.?"], 1e-10)


class Padded(nn.Module):
    """Strides, dilation, pools and padding on both sides of even kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.act1 = nn.Conv2d(3, 6, 4, 2, 1), nn.MaxPool2d(3, 2, 1), nn.ELU()
        self.conv2, self.act2 = nn.Conv2d(6, 8, 3, 1, 2, dilation=2), nn.ELU()
        self.average, self.conv3, self.act3 = nn.AvgPool2d(2, 1), nn.Conv2d(8, 8, 3, 2), nn.ELU()
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act2(self.conv2(self.pool(self.act1(self.conv1(x)))))
        return self.head(self.act3(self.conv3(self.average(x))).mean((2, 3)))


def test_a_field_is_zero_outside_the_theoretical_receptive_field():
    """A pixel of NaN reaches exactly the positions that read it, through zero weights and activations alike."""
    model = seeded(Padded())
    image = random_batch(26, 1, torch.float32)
    network = open_network(model, image)
    ratios = sharing_ratios(network, image)
    pixels = image.repeat(26 * 26, 1, 1, 1)
    pixels.flatten(2)[torch.arange(26 * 26), :, torch.arange(26 * 26)] = float("nan")
    with torch.no_grad():
        reached = network.activations(pixels, ["act1", "act2", "act3"])
    for layer, values in reached.items():
        reads = values.isnan().any(1).flatten(1).T.unflatten(1, (26, 26))  # [positions, pixels]
        fields = ratios.receptive_fields(layer, range(len(reads)))
        assert not fields[~reads].any()
        assert (fields[reads] != 0).float().mean() > 0.7  # a max pool passes some by
        assert 0 < (~reads).float().mean() < 1
