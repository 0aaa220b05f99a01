"""Sharing ratios against a slow twin that goes tap by tap, on networks that bring every rule together."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oracles import sharing_ratio_twin as twin
from tiny import seeded
from vismech.network.cut import open_network
from vismech.receptive_field import sharing_ratios
from vismech.sources.cifar_resnet import CifarResNet

Maps = dict[str, twin.Map]


def total(*summands: tuple[twin.Branch, tuple[int, int]]) -> twin.Map:
    return twin.total(*(branch for branch, _ in summands), shape=summands[0][1])


def relu(x: twin.Map) -> twin.Map:
    return twin.apply(F.relu, x)


class Side(nn.Module):
    """Maps side by side, as a layer with a name."""

    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


class Residual(nn.Module):
    """A max pool fused with both branches of a block, grouped and dilated kernels, a widening one, an identity."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.pool = nn.Conv2d(3, 8, 5, 2, 2, bias=False), nn.BatchNorm2d(8), nn.MaxPool2d(3, 2, 1)
        self.reduce, self.bn2 = nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.grouped, self.bn3 = nn.Conv2d(6, 6, 3, 1, 1, groups=2, bias=False), nn.BatchNorm2d(6)
        self.expand, self.bn4 = nn.Conv2d(6, 20, 1, bias=False), nn.BatchNorm2d(20)
        self.project, self.bn5, self.block = nn.Conv2d(8, 20, 1, bias=False), nn.BatchNorm2d(20), nn.ReLU()
        self.first, self.bn6 = nn.Conv2d(20, 8, 3, 1, 2, dilation=2), nn.BatchNorm2d(8)
        self.second, self.bn7, self.last = nn.Conv2d(8, 20, 3, 1, 1), nn.BatchNorm2d(20), nn.SiLU()
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        y = F.relu(self.bn3(self.grouped(F.relu(self.bn2(self.reduce(x))))))
        x = self.block(self.bn4(self.expand(y)) + self.bn5(self.project(x)))
        x = self.last(self.bn7(self.second(F.gelu(self.bn6(self.first(x))))) + x)
        return self.head(x.mean((2, 3)))

    def twin(self, x: twin.Map) -> Maps:
        x = relu(total(twin.convolution(x, self.conv1, self.bn1)))
        y = relu(total(twin.pooled_convolution(x, self.pool, self.reduce, self.bn2)))
        y = relu(total(twin.convolution(y, self.grouped, self.bn3)))
        x = total(
            twin.convolution(y, self.expand, self.bn4), twin.pooled_convolution(x, self.pool, self.project, self.bn5)
        )
        block = relu(x)
        y = twin.apply(F.gelu, total(twin.convolution(block, self.first, self.bn6)))
        return {
            "block": block,
            "last": twin.apply(F.silu, total(twin.convolution(y, self.second, self.bn7), twin.identity(block))),
        }


class Plain(nn.Module):
    """Biases without batch norm, pools fused with 3×3 kernels, a pool that an average reads, uneven bins."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 8, 3, 1, 1), nn.Conv2d(8, 24, 3, 1, 2, 2), nn.MaxPool2d(2)
        self.conv3, self.relu3 = nn.Conv2d(24, 16, 3, 1, 1, bias=False), nn.ReLU()
        self.overlapping, self.average = nn.MaxPool2d(3, 1), nn.AvgPool2d(2, 1, 1)
        self.conv4, self.relu4 = nn.Conv2d(16, 6, (2, 1), (2, 1)), nn.LeakyReLU()
        self.bins, self.head = nn.AdaptiveAvgPool2d((2, 3)), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv2(self.pool(F.relu(self.conv1(x))))))
        x = self.average(self.overlapping(self.relu3(self.conv3(x))))
        return self.head(self.bins(self.relu4(self.conv4(x))).flatten(1))

    def twin(self, x: twin.Map) -> Maps:
        x = relu(total(twin.convolution(x, self.conv1)))
        x = relu(total(twin.pooled_convolution(x, self.pool, self.conv2)))
        third = relu(total(twin.pooled_convolution(x, self.pool, self.conv3)))
        average = twin.average(twin.maximum(third, self.overlapping), self.average)
        fourth = twin.apply(self.relu4, total(twin.convolution(average, self.conv4)))
        return {
            "relu3": third,
            "average": average,
            "relu4": fourth,
            "bins": twin.average(fourth, self.bins),
        }


class Beside(nn.Module):
    """DenseNet's batch norm on a concatenation and its transition; an Inception block with a pool branch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0, self.pool = nn.Conv2d(3, 6, 3, 2, 1), nn.MaxPool2d(3, 2, 1)
        self.norm1, self.conv1 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3, 1, 1, bias=False)
        self.grown, self.norm2, self.conv2 = Side(), nn.BatchNorm2d(10), nn.Conv2d(10, 8, 1, bias=False)
        self.halve = nn.AvgPool2d(2)
        self.branch1, self.branch2 = nn.Conv2d(8, 4, (1, 3), padding=(0, 1)), nn.Conv2d(8, 5, 1)
        self.narrow, self.mixed = nn.MaxPool2d(3, 1, 1), Side()
        self.conv3, self.norm3 = nn.Conv2d(9, 6, 3, 1, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv0(x)))
        x = self.grown(x, self.conv1(F.relu(self.norm1(x))))
        x = self.halve(self.conv2(F.relu(self.norm2(x))))
        x = self.mixed(F.relu(self.branch1(x)), F.relu(self.branch2(self.narrow(x))))
        return self.head(F.relu(self.norm3(self.conv3(x))).mean((2, 3)))

    def twin(self, x: twin.Map) -> Maps:
        pooled = twin.maximum(relu(total(twin.convolution(x, self.conv0))), self.pool)
        parts = [pooled, total(twin.convolution(relu(twin.apply(self.norm1, pooled)), self.conv1))]
        half = relu(twin.concatenation(parts, self.norm2))
        half = twin.average(total(twin.convolution(half, self.conv2)), self.halve)
        branches = [twin.convolution(half, self.branch1), twin.pooled_convolution(half, self.narrow, self.branch2)]
        mixed = twin.concatenation([relu(total(branch)) for branch in branches])
        return {
            "grown": twin.concatenation(parts),
            "halve": half,
            "mixed": mixed,
            "norm3": total(twin.convolution(mixed, self.conv3, self.norm3)),
        }


class Mobile(nn.Module):
    """Inverted residuals with linear ends, depthwise kernels, "same" padding before strides, as EfficientNet-Lite."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn0 = nn.Conv2d(3, 6, 3, 2, bias=False), nn.BatchNorm2d(6)
        self.depthwise, self.bn1 = nn.Conv2d(6, 6, 5, 2, groups=6, bias=False), nn.BatchNorm2d(6)
        self.project, self.bn2 = nn.Conv2d(6, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.expand, self.bn3 = nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.again, self.bn4 = nn.Conv2d(12, 12, 3, 1, 1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.back, self.bn5, self.last = nn.Conv2d(12, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Dropout(0.2)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.bn0(self.stem(F.pad(x, (0, 1, 0, 1)))))
        x = self.bn2(self.project(F.relu6(self.bn1(self.depthwise(F.pad(x, (1, 2, 1, 2)))))))
        y = F.relu6(self.bn4(self.again(F.relu6(self.bn3(self.expand(x))))))
        return self.head(F.adaptive_avg_pool2d(self.last(self.bn5(self.back(y)) + x), 1).flatten(1))

    def twin(self, x: twin.Map) -> Maps:
        x = twin.apply(F.relu6, total(twin.convolution(x, self.stem, self.bn0, padding=((0, 0), (1, 1)))))
        x = twin.apply(F.relu6, total(twin.convolution(x, self.depthwise, self.bn1, padding=((1, 1), (2, 2)))))
        narrow = total(twin.convolution(x, self.project, self.bn2))
        y = twin.apply(F.relu6, total(twin.convolution(narrow, self.expand, self.bn3)))
        y = twin.apply(F.relu6, total(twin.convolution(y, self.again, self.bn4)))
        return {"bn2": narrow, "last": total(twin.convolution(y, self.back, self.bn5), twin.identity(narrow))}


class OptionA(CifarResNet):
    """The CIFAR ResNet with one block a stage: shortcuts are strided slices between channels of zeros."""

    def __init__(self) -> None:
        super().__init__(8, classes=5)
        self.head = self.linear

    def twin(self, x: twin.Map) -> Maps:
        x, found = relu(total(twin.convolution(x, self.conv1, self.bn1))), {}
        for name in ("layer1.0", "layer2.0", "layer3.0"):
            block = self.get_submodule(name)
            y = relu(total(twin.convolution(x, block.conv1, block.bn1)))
            shortcut = twin.identity(x, block.stride, block.added)
            x = found[name] = relu(total(twin.convolution(y, block.conv2, block.bn2), shortcut))
        return found


NETWORKS = (Residual, Plain, Beside, Mobile, OptionA)


def picture(kind: str, size: tuple[int, int]) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    image = torch.randn(3, *size, generator=generator, dtype=torch.float64)
    if kind == "half black":  # windows of zeros only
        image[:, :, : size[1] // 2 + 2] = 0
    return image


@pytest.mark.parametrize("kind", [pytest.param("noise", marks=pytest.mark.slow), "half black"])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_rule_equals_the_tap_by_tap_twin(network, kind):
    model, image = seeded(network()).double(), picture(kind, (20, 24))
    if kind == "half black":  # no offsets, so that black stays zero
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                nn.init.zeros_(part.bias), nn.init.zeros_(part.running_mean)
            elif isinstance(part, nn.Conv2d) and part.bias is not None:
                nn.init.zeros_(part.bias)
    with torch.no_grad():
        slow = model.twin(twin.pixels(image))
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 2e-5)):
        ratios = sharing_ratios(open_network(model.to(dtype), image[None].to(dtype)), image[None].to(dtype))
        for layer, expected in slow.items():
            fields = ratios.receptive_fields(layer, range(len(expected.fields))).flatten(1).double()
            scale = expected.fields.abs().amax(1, keepdim=True)
            assert ((fields - expected.fields).abs() / scale).max() < tolerance, (layer, dtype)
            torch.testing.assert_close(
                fields.sum(1), torch.ones(len(fields), dtype=torch.float64), rtol=0, atol=tolerance
            )


@pytest.mark.parametrize("network", (Residual, Mobile, OptionA))
def test_saliency_equals_the_twin_and_sums_to_the_logit(network):
    model, image = seeded(network()).double(), picture("noise", (20, 24))
    with torch.no_grad():
        last = list(model.twin(twin.pixels(image)).values())[-1]
        logits = model(image[None])[0]
    ratios = sharing_ratios(open_network(model, image[None]), image[None])
    for target in range(5):
        saliency = ratios.saliency(target)[0]
        torch.testing.assert_close(saliency.flatten(), twin.saliency(last, model.head, target), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(saliency.sum(), logits[target])
    assert ratios.target.tolist() == [logits.argmax()]
