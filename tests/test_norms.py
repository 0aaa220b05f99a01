"""Gradients of a single row through batch and instance norms, where PyTorch's own are those of other channels."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torchvision import models

import tiny
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import ConceptTargets, anchors
from vismech.config.choices import Mode, PathWeight, ReadOut, Rule
from vismech.network import norms
from vismech.network.capture import operation
from vismech.network.cut import LOGITS, PIXELS, ExportedNetwork, HookedNetwork, Network, open_network
from vismech.network.pfv import layout_of

pytestmark = pytest.mark.thorough

SHAPE = (8, 6, 4)


def strided(kind: str, rows: int, generator: torch.Generator) -> Tensor:
    """The same kind of numbers in one of the ways in which memory can hold them."""
    c, h, w = SHAPE
    value = torch.randn(rows, c, h, w, generator=generator)
    match kind:
        case "channels_last":
            return value.contiguous(memory_format=torch.channels_last)
        case "transposed":  # the vectors of a layout as an activation
            return value.flatten(2).transpose(1, 2).contiguous().transpose(1, 2).unflatten(2, (h, w))
        case "expanded":
            return value[:, :, :1, :1].expand(rows, c, h, w)
        case "columns":
            return value.transpose(2, 3).contiguous().transpose(2, 3)
    return value


KINDS = ("contiguous", "channels_last", "transposed", "expanded", "columns")


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("gradient", KINDS)
@pytest.mark.parametrize("value", KINDS)
def test_a_batch_norm_passes_on_its_scale_whatever_the_strides(value, gradient, rows) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, variance = (torch.rand(SHAPE[0], generator=generator) + 0.3 for _ in range(2))
    moments = weight, torch.randn(SHAPE[0], generator=generator), torch.zeros(SHAPE[0]), variance
    x = strided(value, rows, generator).requires_grad_()
    slope = strided(gradient, rows, generator)
    expected = slope * (weight / (variance + 1e-5).sqrt())[:, None, None]
    found = [
        norms.batch_norm(x, *moments, False, 0.1, 1e-5, False),
        norms.batch_norm_no_training(x, *moments, 0.1, 1e-5)[0],
    ]
    for out in found:
        (passed,) = torch.autograd.grad(out, x, slope)
        assert torch.allclose(passed, expected, rtol=1e-5, atol=1e-6)


VARYING = tuple(kind for kind in KINDS if kind != "expanded")  # of a constant the norm has no gradient


@pytest.mark.parametrize("gradient", VARYING)
@pytest.mark.parametrize("value", VARYING)
def test_an_instance_norm_of_one_row_is_that_of_the_row_among_others(value, gradient) -> None:
    generator = torch.Generator().manual_seed(0)
    x, slope = strided(value, 1, generator), strided(gradient, 1, generator)
    passed = []
    for rows in (1, 2):
        many = x.expand(rows, -1, -1, -1).contiguous() if rows > 1 else x
        many = many.detach().requires_grad_()
        out = norms.instance_norm(many, None, None, None, None, True, 0.1, 1e-5, False)
        weights = slope.expand(rows, -1, -1, -1).contiguous() if rows > 1 else slope
        passed.append(torch.autograd.grad(out, many, weights)[0][:1])
    assert torch.allclose(*passed, rtol=1e-4, atol=1e-5)


def drawn(model: nn.Module) -> nn.Module:
    """``model`` with running statistics and scales that are told apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_var.uniform_(0.3, 2)
                part.weight.data.uniform_(0.3, 2)
    return model.eval()


def opened(make: Callable[[], nn.Module]) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    # In double precision no unit is so near its kink that rounding decides about its gradient.
    return open_network(drawn(model).double(), torch.zeros(1, 3, 64, 64, dtype=torch.double))


class Rewriting(nn.Module):
    """In-place work on a part of a value, which the exported graph can only tell decomposed; ends in a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 8, 3, 4, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.bn, self.head = nn.BatchNorm2d(8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        part = x[:, :4]
        part.mul_(2.0)
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


class Uncapturable(Rewriting):
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if float(x.detach().abs().sum()) < 0:  # what torch.export cannot decide
            return self.head(x.mean((2, 3)))
        return self.head(self.bn(self.conv(x)).mean((2, 3)))


NETWORKS = {
    "mobilenet_v2": (lambda: models.mobilenet_v2(weights=None), "features.6", "features.13"),
    "lite0": (lambda: timm.create_model("tf_efficientnet_lite0"), "blocks.2", "blocks.4"),
    "densenet": (lambda: models.DenseNet(8, (1, 1), 8, num_classes=5), "features.pool0", "features.transition1"),
    "decomposed": (Rewriting, "stem", "bn"),
    "hooks": (Uncapturable, "stem", "bn"),
}


def gradient_of(segment: Callable[[Tensor], Tensor], start: Tensor, rows: int, seed: int) -> Tensor:
    """Of a sum of one position's channels, as a read-out takes it: through a transposed view."""
    vectors = start.flatten(2).transpose(1, 2).contiguous()
    points = vectors.expand(rows, -1, -1).clone().requires_grad_()
    out = segment(points.transpose(1, 2).unflatten(2, start.shape[2:])).flatten(2).transpose(1, 2)
    weights = torch.randn(out.shape[2], generator=torch.Generator().manual_seed(seed)).to(out)
    (found,) = torch.autograd.grad((out[0, out.shape[1] // 2] @ weights).sum(), points)
    return found[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_one_row_has_the_gradient_of_two_equal_rows(name) -> None:
    make, lower, upper = NETWORKS[name]
    network = opened(make)
    assert isinstance(network, HookedNetwork if name == "hooks" else ExportedNetwork)
    if name == "decomposed":
        assert isinstance(network, ExportedNetwork)
        operations = {operation(node) for node in network.module.graph.nodes}
        assert "_native_batch_norm_legit_no_training" in operations
    images = tiny.images(1, 64).double()
    with torch.no_grad():
        clean = network.activations(images, [lower])[lower]
    segment = network.segment(lower, upper)
    whole = {"segment": (segment, clean), "activations": (lambda x: network.activations(x, [upper])[upper], images)}
    for way, (function, start) in whole.items():
        alone, among = (gradient_of(function, start, rows, 1) for rows in (1, 2))
        assert (alone - among).abs().max() <= 1e-9 * among.abs().max(), way
    upward = network.segment(PIXELS, LOGITS)
    one, two = (images.expand(rows, -1, -1, -1).clone().requires_grad_() for rows in (1, 2))
    alone, among = (torch.autograd.grad(upward(x)[0, 0], x)[0][0] for x in (one, two))
    assert (alone - among).abs().max() <= 1e-9 * among.abs().max()


@pytest.mark.parametrize(
    ("mode", "readout"),
    [
        (Mode.reverse, ReadOut.max),
        pytest.param(Mode.reverse, ReadOut.sum, marks=pytest.mark.slow),
        pytest.param(Mode.forward, ReadOut.max, marks=pytest.mark.slow),
    ],
)
def test_edges_do_not_depend_on_how_many_points_share_a_pass(mode, readout) -> None:
    network = opened(NETWORKS["mobilenet_v2"][0])
    _, lower, upper = NETWORKS["mobilenet_v2"]
    with torch.no_grad():
        found = network.activations(tiny.images(2, 64).double(), [lower, upper])
    below, above = (layout_of(network.shape(layer), layer) for layer in (lower, upper))
    vectors, over = below.vectors(found[lower]), above.vectors(found[upper])
    generator = torch.Generator().manual_seed(3)
    atoms = nn.functional.normalize(torch.randn(6, below.channels, generator=generator).to(vectors), dim=1)
    others = nn.functional.normalize(torch.randn(3, above.channels, generator=generator).to(vectors), dim=1)
    codes = torch.randn(*vectors.shape[:2], 6, generator=generator).to(vectors)
    targets = ConceptTargets(others, anchors(over, over @ others.T, others), above, readout)
    source = ConceptSource(atoms, codes, vectors)

    def edges(**how) -> Tensor:
        told = attribute(
            network.segment(lower, upper), below, source, found[lower], targets, Settings(mode=mode, **how)
        )
        return told.edges[PathWeight.ig].units

    together = edges(rule=Rule.midpoint, steps=8)
    for rows in (1, 7):  # one by one, and a last pass of a single point
        assert torch.allclose(edges(rule=Rule.midpoint, steps=8, rows=rows), together, rtol=1e-4, atol=1e-5), rows
    # u × gradient at the end of the path: the limit of many nodes crowded there.
    end = edges(rule=Rule.riemann_right, steps=1)
    whole = source.curve.end.clone().requires_grad_()
    with torch.enable_grad():
        values = targets(network.segment(lower, upper)(below.activation(whole, found[lower])), torch.arange(2))
    slopes = [torch.autograd.grad(values[:, t].sum(), whole, retain_graph=True)[0] @ atoms.T for t in range(3)]
    expected = torch.stack([(slope * codes).sum(1) for slope in slopes], 1) * targets.present[..., None]
    assert torch.allclose(end, expected, rtol=1e-4, atol=1e-5)
