"""Folded segments against the segments themselves: the same function, fewer operations, and the model's own weights."""

from __future__ import annotations

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

import tiny
from tiny import images, same
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Mode, PathWeight, SourceKind
from vismech.network.capture import operation
from vismech.network.cut import LOGITS, PIXELS, ExportedNetwork, open_network
from vismech.network.pfv import layout_of


class Parts(nn.Module):
    """What can be folded in every form, and beside it what cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Sequential(nn.Conv2d(3, 12, 3, groups=3, padding="same"), nn.BatchNorm2d(12), nn.ReLU())
        self.plain = nn.Sequential(nn.Conv2d(12, 8, 3, bias=False), nn.BatchNorm2d(8, affine=False), nn.ReLU6())
        self.early = nn.Sequential(nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3))
        self.back = nn.Sequential(nn.ConvTranspose2d(8, 8, 3), nn.BatchNorm2d(8))
        self.twice, self.norm = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.back(self.early(self.plain(self.grouped(x))))
        read_twice = self.twice(x)
        return self.head((self.norm(read_twice) * read_twice).mean((2, 3)))


def random_statistics(model: nn.Module) -> nn.Module:
    """Every parameter and moment away from where it starts, so that no factor is one and no shift is zero."""
    generator = torch.Generator().manual_seed(0)
    for part in model.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            moments = part.running_mean, part.running_var, part.weight, part.bias
            for tensor, (least, most) in zip(moments, ((-0.5, 0.5), (0.3, 2), (-1.5, 1.5), (-0.5, 0.5)), strict=True):
                if tensor is not None:
                    tensor.data.uniform_(least, most, generator=generator)
    return model.eval().requires_grad_(False)


def opened(model: nn.Module, size: int = 32) -> ExportedNetwork:
    kind = next(model.parameters()).dtype
    network = open_network(random_statistics(model), torch.zeros(1, 3, size, size, dtype=kind))
    assert isinstance(network, ExportedNetwork)
    return network


def norms(segment: nn.Module) -> int:
    graphs = [part.graph for part in segment.modules() if isinstance(part, torch.fx.GraphModule)]
    return sum("batch_norm" in operation(node) for graph in graphs for node in graph.nodes)


def value_and_slope(segment: nn.Module, at: Tensor) -> tuple[Tensor, Tensor]:
    at = at.detach().requires_grad_()
    value = segment(at)
    weights = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).reshape(value.shape)
    return value.detach(), torch.autograd.grad((value * weights).sum(), at)[0]


FAMILIES = {
    "parts": (Parts, 32, PIXELS, LOGITS, (6, 3)),
    "tiny": (tiny.network, 32, PIXELS, LOGITS, (7, 0)),
    "resnet": (lambda: torchvision.models.resnet18(num_classes=10), 64, "layer1.0", LOGITS, (17, 0)),
    "convnext": (lambda: timm.create_model("convnext_atto", num_classes=10), 64, "stages.1", LOGITS, (0, 0)),
}
MORE = {
    "mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=10), 64, "features.2", LOGITS, (46, 0)),
    "lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), 64, "blocks.1", LOGITS, (40, 0)),
    "regnet": (lambda: torchvision.models.regnet_x_400mf(num_classes=10), 64, "stem", LOGITS, (70, 0)),
    "densenet": (lambda: torchvision.models.densenet121(num_classes=10), 64, PIXELS, LOGITS, (121, 62)),
}
PARAMETERS = [*FAMILIES.items(), *(pytest.param(*item, marks=pytest.mark.thorough) for item in MORE.items())]


@pytest.mark.parametrize(("name", "family"), PARAMETERS, ids=[*FAMILIES, *MORE])
def test_a_folded_segment_is_the_same_function(name, family) -> None:
    build, size, lower, upper, counts = family
    network = opened(build().double(), size)
    with torch.no_grad():
        at = network.activations(images(3, size).double(), [lower])[lower]
    plain, folded = (network.segment(lower, upper, folded=way) for way in (False, True))
    assert (norms(plain), norms(folded)) == counts
    for found, expected in zip(value_and_slope(folded, at), value_and_slope(plain, at), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


def test_a_convolution_whose_own_output_is_wanted_or_given_stays() -> None:
    network = opened(tiny.network())
    assert norms(network.segment("layer1.conv1", "layer1.bn1", folded=True)) == 1
    assert norms(network.segment("stem", "layer1.bn1", folded=True)) == 0
    batch = images(2)
    with torch.no_grad():
        before = network.activations(batch, ["layer1.conv1", LOGITS])
        network.segment("stem", LOGITS, folded=True)(network.activations(batch, ["stem"])["stem"])
        after = network.activations(batch, ["layer1.conv1", LOGITS])
    assert all(same(after[layer], before[layer]) for layer in before)


def test_cuts_share_folded_weights_and_follow_the_model() -> None:
    model = tiny.network()
    network = opened(model)
    batch = images(2)
    long, short = (network.segment(lower, LOGITS, folded=True) for lower in ("stem", "layer2"))
    shared = {id(value) for value in short.cut.buffers()} & {id(value) for value in long.cut.buffers()}
    assert len(shared) >= 4  # weight and bias of both convolutions of layer3

    def agree(kind: torch.dtype) -> None:
        with torch.no_grad():
            found = network.activations(batch.to(kind), ["stem", LOGITS])
            torch.testing.assert_close(long(found["stem"]), found[LOGITS], rtol=1e-4, atol=1e-5)
            assert long(found["stem"]).dtype is kind

    agree(torch.float32)
    with torch.no_grad():
        model.layer3.conv1.weight *= 1.5  # written to
    agree(torch.float32)
    model.layer3.bn2.running_mean = model.layer3.bn2.running_mean + 1  # replaced
    agree(torch.float32)
    model.double()  # moved
    agree(torch.float64)
    model.float()
    agree(torch.float32)


@pytest.mark.parametrize(("kind", "least"), [(torch.bfloat16, 0.02), (torch.float32, 3e-7)], ids=str)
def test_rounding_is_no_worse_than_before(kind, least) -> None:
    model = tiny.network().to(kind)
    network = opened(model)
    plain, folded = (network.segment("stem", "layer1", folded=way) for way in (False, True))
    with torch.no_grad():
        at = network.activations(images(2).to(kind), ["stem"])["stem"]
        found = plain(at).double(), folded(at).double()
        model.double()
        exact = plain(at.double())
    errors = [float((value - exact).norm() / exact.norm()) for value in found]
    assert 0 < errors[1] < 1.2 * errors[0] < least


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
def test_edges_are_those_of_the_segment(mode) -> None:
    network = opened(tiny.network().double())
    with torch.no_grad():
        found = network.activations(images(2).double(), ["layer2", LOGITS])
    layout = layout_of(network.shape("layer2"), "layer2")
    source = UnitSource(SourceKind.channels, layout.vectors(found["layer2"]).contiguous())
    targets = LogitTargets(found[LOGITS].argmax(1))
    plain, folded = (
        attribute(
            network.segment("layer2", LOGITS, folded=way), layout, source, found["layer2"], targets, Settings(mode=mode)
        ).edges[PathWeight.ig]
        for way in (False, True)
    )
    assert plain.units.abs().max() > 1e-3
    torch.testing.assert_close(folded.units, plain.units, rtol=1e-9, atol=1e-11)
