"""Attribution maps of a unit and relevance by gradients, for every network: captum as the oracle, and their axioms."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from captum.attr import InputXGradient, IntegratedGradients
from timm.models.convnext import ConvNeXt
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from test_receptive_field_ratios import Squeeze
from tiny import TinyNetwork, seeded
from vismech.errors import UserError
from vismech.network.cut import HookedNetwork, open_network
from vismech.network.pfv import layout_of
from vismech.receptive_field import AttributionMethod, attribution_maps, sharing_ratios

NETWORKS = {
    "layer2": lambda: TinyNetwork(10, 8),
    "blocks.1": lambda: VisionTransformer(
        img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=10
    ),
    "stages.1": lambda: ConvNeXt(num_classes=10, depths=(1, 1, 1, 1), dims=(8, 12, 16, 16)),
    "after": Squeeze,
    "expand": lambda: nn.Sequential(OrderedDict(expand=nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.BatchNorm2d(6)))),
}


def image(seed: int = 4, count: int = 1) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def unit(network, layer: str, position: int, at: Tensor):
    """<x_p, u> as a function of images, u = x_p/||x_p|| of the image ``at``."""
    layout = layout_of(network.shape(layer), layer)
    clean = network.activations(at, [layer])[layer].detach()
    vectors = torch.zeros_like(layout.vectors(clean))
    vectors[0, position] = F.normalize(layout.vectors(clean)[0, position], dim=0)
    # Not by an index into transposed vectors: see _unit_gradient.
    direction = layout.activation(vectors, torch.zeros_like(clean)).contiguous()
    return lambda images: (network.activations(images, [layer])[layer] * direction).flatten(1).sum(1)


@pytest.mark.parametrize("layer", NETWORKS)
def test_maps_equal_captum_on_every_kind_of_network(layer):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, x = open_network(seeded(NETWORKS[layer]()), image()), image()
    found = attribution_maps(network, x, layer, [0, 3])
    torch.testing.assert_close(attribution_maps(network, x, layer, [3])[0], found[1], rtol=1e-4, atol=1e-6)
    ig = attribution_maps(network, x, layer, [3, 0], method="integrated_gradients", steps=9, baseline=0.5)
    for row, position in enumerate([0, 3]):
        function = unit(network, layer, position, x)
        expected = InputXGradient(function).attribute(x.clone().requires_grad_()).sum(1)[0]
        torch.testing.assert_close(found[row], expected.detach(), rtol=1e-4, atol=1e-6)
        expected = IntegratedGradients(function).attribute(
            x, torch.full_like(x, 0.5), n_steps=9, method="riemann_middle"
        )
        torch.testing.assert_close(ig[1 - row], expected.sum(1)[0].float(), rtol=1e-4, atol=1e-5)


def test_integrated_gradients_are_complete_and_a_zero_vector_has_a_zero_map():
    network, x = open_network(seeded(TinyNetwork(10, 8)).double(), image().double()), image().double()
    maps = attribution_maps(network, x, "layer3", range(4), method=AttributionMethod.integrated_gradients, steps=200)
    for position, found in enumerate(maps):
        function = unit(network, "layer3", position, x)
        change = function(x) - function(torch.zeros_like(x))
        assert found.sum().item() == pytest.approx(change.item(), rel=0.03)
    silent = seeded(TinyNetwork(10, 8))
    nn.init.constant_(silent.stem[1].weight, 0), nn.init.constant_(silent.stem[1].bias, -1)
    network = open_network(silent, image())
    assert not attribution_maps(network, image(), "stem", [5]).any()


@pytest.mark.parametrize("layer", ["blocks.1", "stages.1", "after"])
def test_transformers_layer_norms_and_gates_have_no_sharing_ratios(layer):
    with torch.random.fork_rng():
        network = open_network(seeded(NETWORKS[layer]()), image())
    with pytest.raises(UserError, match=r"no rule for '\w+'.*attribution_maps"):
        sharing_ratios(network, image())


def test_hooks_give_the_maps_of_the_exported_graph():
    model, x = seeded(TinyNetwork(10, 8)), image(count=2)
    exported, hooked = open_network(model, x), HookedNetwork(model, x)
    for method in AttributionMethod:
        maps = [attribution_maps(network, x[:1], "layer2", [9], method=method) for network in (exported, hooked)]
        torch.testing.assert_close(*maps)


def test_bad_questions_are_refused():
    network = open_network(seeded(TinyNetwork(10, 8)), image())
    with pytest.raises(UserError, match=r"position 64 is out of range: layer 'layer2' has 8×8 positions"):
        attribution_maps(network, image(), "layer2", [64])
    with pytest.raises(UserError, match="no attribution method 'lrp': choose gradient_x_input or integrated_gradients"):
        attribution_maps(network, image(), "layer2", [0], method="lrp")
    with pytest.raises(UserError, match="one image at a time, not 2"):
        attribution_maps(network, image(count=2), "layer2", [0])
    with pytest.raises(UserError, match="0 steps are too few"):
        attribution_maps(network, image(), "layer2", [0], method="integrated_gradients", steps=0)
    with pytest.raises(UserError, match="no layer"):
        attribution_maps(network, image(), "layer9", [0])
