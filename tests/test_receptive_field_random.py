"""Random networks made of everything that sharing ratios have a rule for, against the tap-by-tap twin."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from oracles import sharing_ratio_twin as twin
from oracles.retold_networks import Chain, Convolution, Network, Norm, Parallel, Pointwise, Pool, Residual, Shape, Step
from tiny import seeded
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.receptive_field import sharing_ratios

pytestmark = pytest.mark.thorough

ACTIVATIONS = (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh)
LIFTING = (nn.Sigmoid, nn.Softplus)  # 0 does not stay 0


def same(channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1, bias: bool = False):
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, groups, bias=bias)


flag, pick = st.booleans(), st.sampled_from


@st.composite
def convolutions(draw, shape: Shape, stride: int | None = None, out: int | None = None) -> Convolution:
    """Grouped, depthwise, dilated, strided; with or without bias and batch norm. ``stride`` keeps "same" padding."""
    channels = shape[0]
    out = draw(pick((channels, 2, 3, 4, 6))) if out is None else out
    groups = draw(pick([g for g in (1, 1, 2, channels) if channels % g == out % g == 0]))
    bias, bn, dilation = draw(flag), draw(flag), draw(pick((1, 1, 2)))
    if stride is not None:
        return Convolution(same(channels, out, draw(pick((1, 3))), stride, groups, dilation, bias), bn)
    kernel = draw(pick((1, 2, 3, (1, 3), (3, 2))))
    strides = draw(pick((1, 2, (2, 1))))
    if draw(flag):
        around = tuple(draw(st.integers(0, 2)) for _ in range(4))
        return Convolution(nn.Conv2d(channels, out, kernel, strides, 0, 1, groups, bias), bn, around)
    rows, columns = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = (draw(st.integers(0, rows // 2)), draw(st.integers(0, columns // 2)))
    return Convolution(nn.Conv2d(channels, out, kernel, strides, padding, dilation, groups, bias), bn)


@st.composite
def pools(draw, shape: Shape) -> Pool:
    kernel, stride, ceil = draw(pick((2, 3, (2, 3)))), draw(pick((1, 2, 3))), draw(flag)
    match draw(pick(("max", "max", "average", "adaptive max", "adaptive average"))):
        case "max":
            return Pool(nn.MaxPool2d(kernel, stride, draw(pick((0, 1))), draw(pick((1, 1, 2))), ceil_mode=ceil))
        case "average":
            return Pool(nn.AvgPool2d(kernel, stride, draw(pick((0, 1))), ceil, count_include_pad=draw(flag)))
        case kind:
            size = tuple(draw(st.integers(1, side)) for side in shape[1:])
            return Pool(nn.AdaptiveMaxPool2d(size) if kind == "adaptive max" else nn.AdaptiveAvgPool2d(size))


@st.composite
def residuals(draw, shape: Shape, depth: int) -> Residual:
    stride = draw(pick((1, 2))) if min(shape[1:]) > 2 else 1
    kind = draw(pick(("identity", "projection", "option A")))
    out = {"identity": shape[0], "projection": 4, "option A": shape[0] + draw(pick((0, 2)))}[kind]
    stride = 1 if kind == "identity" else stride
    steps: list[Step] = [draw(convolutions(shape, stride, out))]
    inner = out_shape(steps[0], shape)
    for _ in range(draw(st.integers(0, 2))):
        more = draw(pick(("activation", "norm", "convolution", "residual")))
        if more == "activation":
            steps.append(draw(activations()))
        elif more == "norm":
            steps.append(Norm(out))
        elif more == "residual" and depth:
            steps.append(Residual(Chain([draw(convolutions(inner, 1, out))]), None))
        else:
            steps.append(draw(convolutions(inner, 1, out)))
    if draw(flag):
        steps.insert(0, Norm(shape[0]))
    projection = Convolution(nn.Conv2d(shape[0], out, 1, stride, bias=draw(flag)), draw(flag))
    return Residual(Chain(steps), projection if kind == "projection" else None, stride, (out - shape[0]) // 2)


@st.composite
def parallels(draw, shape: Shape) -> Parallel:
    branches = []
    for kind in draw(st.lists(pick(("one", "three", "max", "average", "max alone")), min_size=2, max_size=3)):
        first: dict[str, list[Step]] = {
            "max": [Pool(nn.MaxPool2d(3, 1, 1))],
            "max alone": [Pool(nn.MaxPool2d(3, 1, 1))],
            "average": [Pool(nn.AvgPool2d(3, 1, 1, count_include_pad=draw(flag)))],
            "three": [draw(convolutions(shape, 1, 2)), draw(activations())],
        }
        steps = first.get(kind, [])
        if kind != "max alone":
            steps.append(draw(convolutions((2, *shape[1:]) if kind == "three" else shape, 1, 2)))
        branches.append(Chain(steps))
    return Parallel(branches, draw(flag))


def activations() -> st.SearchStrategy[Step]:
    return pick((*ACTIVATIONS, *LIFTING)).map(lambda kind: Pointwise(kind()))


def out_shape(step: nn.Module, shape: Shape) -> Shape | None:
    """None where it does not fit, or where a maximum is taken over padding alone."""
    try:
        with torch.no_grad():
            found = step.eval()(torch.zeros(1, *shape))
    except RuntimeError:
        return None
    return tuple(found.shape[1:]) if found.numel() and found.isfinite().all() else None


@st.composite
def networks(draw) -> tuple[Network, Tensor]:
    """A network of three to seven steps and a batch of one or two images, some of them black or half black."""
    shape = (3, draw(st.integers(6, 9)), draw(st.integers(6, 9)))
    kind, count, seed = draw(pick(("noise", "noise", "half", "black"))), draw(pick((1, 2))), draw(st.integers(0, 99))
    images = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    images[..., : {"noise": 0, "half": shape[2] // 2, "black": shape[2]}[kind]] = 0
    steps: list[Step] = []
    for _ in range(draw(st.integers(3, 7))):
        match draw(pick(("convolution", "pool", "residual", "residual", "parallel", "activation", "norm", "dropout"))):
            case "convolution":
                step = draw(convolutions(shape))
            case "pool":
                step = draw(pools(shape))
            case "residual":
                step = draw(residuals(shape, depth=1))
            case "parallel":
                step = draw(parallels(shape))
            case "activation":
                step = draw(activations())
            case "norm":
                step = Norm(shape[0])
            case _:
                step = Pointwise(nn.Dropout(0.5))
        after = out_shape(step, shape)
        if after is not None:
            steps.append(step)
            shape = after
    # A map pooled to one position by the last step is the head's own pool.
    network = seeded(Network(Chain(steps), shape, draw(flag) or shape[1:] == (1, 1)), seed).double()
    if kind != "noise":
        keep_black(network)
    return network, images


def keep_black(network: Network) -> None:
    """No offsets, so that black stays zero; maxima of equal values that are not zero would be ties of rounding."""
    for part in network.trunk.modules():
        for name in ("bias", "running_mean"):
            if isinstance(getattr(part, name, None), Tensor):
                nn.init.zeros_(getattr(part, name))
        if isinstance(part, Pointwise) and isinstance(part.function, LIFTING):
            part.function = nn.ReLU()


def check(network: Network, images: Tensor) -> None:
    note(f"{tuple(images.shape)} {network}")
    opened = open_network(network.requires_grad_(False), images)
    try:
        ratios = sharing_ratios(opened, images)
    except UserError as error:
        assert "wholly in the padding" in str(error)
        with pytest.raises(twin.NothingRead):
            _ = network.trunk.tell(twin.pixels(images[0])).map
        return
    steps = {name: part for name, part in network.named_modules() if isinstance(part, Step)}
    for image, pixels in enumerate(images):
        last = network.trunk.tell(twin.pixels(pixels)).map
        for layer in ratios.layers.keys() & steps.keys():
            expected = steps[layer].told.map.fields
            fields = ratios.receptive_fields(layer, range(len(expected)), image).flatten(1)
            scale = expected.abs().amax(1, keepdim=True)
            assert ((fields - expected).abs() / scale).max() < 1e-6, layer
        head = twin.saliency if network.averaged else twin.flat_saliency
        for target in range(3):
            expected = head(last, network.head, target)
            saliency = ratios.saliency(target)[image].flatten()
            assert (saliency - expected).abs().max() < 1e-6 * expected.abs().max(), target
    start = ratios.logits.amax(1)
    for layer, relevance in ratios.relevance([layer for layer in ratios.layers if layer in steps]).items():
        if layer.count(".") == 2:  # steps of the trunk, which all paths pass
            gap = (relevance.sum((1, 2)) - start).abs() / relevance.abs().sum((1, 2))
            assert gap.max() < 1e-10, layer


@settings(max_examples=12, suppress_health_check=list(HealthCheck))
@given(networks())
def test_random_networks_equal_the_twin(drawn):
    check(*drawn)


@pytest.mark.slow
@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(networks())
def test_many_random_networks_equal_the_twin(drawn):
    check(*drawn)
