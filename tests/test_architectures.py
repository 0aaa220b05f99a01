"""Published architectures, with initial weights and noisy running statistics, cut bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision import models

from tiny import images, outputs, same
from vismech.errors import UserError
from vismech.network.cut import LOGITS, ExportedNetwork, open_network

pytestmark = pytest.mark.thorough


def vision_transformer(layers: int) -> nn.Module:
    """ViT-B/16 for images of 64 pixels, with so many of its twelve blocks."""
    return models.VisionTransformer(
        image_size=64, patch_size=16, num_layers=layers, num_heads=12, hidden_dim=768, mlp_dim=3072
    )


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


VIT = "encoder.layers.encoder_layer_"
ARCHITECTURES = [
    ("resnet18", [("relu", "layer1.0"), ("layer2.1", "layer3.0"), ("maxpool", "layer4"), ("layer4.1", LOGITS)]),
    ("vgg11", [("features.2", "features.5"), ("features.10", "features"), ("features.20", LOGITS)]),
    ("efficientnet_b0", [("features.0", "features.1"), ("features.3", "features.4.1"), ("features.7", LOGITS)]),
    slow("convnext_tiny", [("features.1", "features.2"), ("features.3.0", "features.3.1"), ("features.7", LOGITS)]),
    slow(
        "densenet121",
        [
            ("features.pool0", "features.transition1"),
            ("features.transition1", "features.transition2"),
            ("features.transition3", LOGITS),
        ],
    ),
    (
        "regnet_x_400mf",
        [("stem", "trunk_output.block1"), ("trunk_output.block2", "trunk_output.block3"), ("trunk_output", LOGITS)],
    ),
    ("mobilenet_v2", [("features.1", "features.2"), ("features.6", "features.10"), ("features.18", LOGITS)]),
    (3, [(f"{VIT}0", f"{VIT}1"), (f"{VIT}1", "encoder.ln"), (f"{VIT}2", LOGITS)]),
    slow(12, [(f"{VIT}0", f"{VIT}5"), (f"{VIT}5", f"{VIT}11"), (f"{VIT}11", LOGITS)]),
]


@pytest.mark.parametrize(("name", "pairs"), ARCHITECTURES)
def test_published_architectures_are_cut_bit_for_bit(name, pairs) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = (vision_transformer(name) if isinstance(name, int) else models.get_model(name, weights=None)).eval()
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 2)
    network = open_network(model, torch.zeros(1, 3, 64, 64))
    assert isinstance(network, ExportedNetwork)
    batch = images(5, 64)
    expected = outputs(model, batch)
    with torch.no_grad():
        found = network.activations(batch, list(dict.fromkeys([layer for pair in pairs for layer in pair])))
        for layer, value in found.items():
            # Without gradients, torch's own attention takes a fused kernel that rounds differently.
            fused = isinstance(name, int)
            assert torch.allclose(value, expected[layer], atol=3e-5) if fused else same(value, expected[layer]), layer
        for lower, upper in pairs:
            assert same(network.segment(lower, upper)(found[lower]), found[upper]), (lower, upper)


def test_vision_transformer_tokens_have_a_path_around_their_parts() -> None:
    model = models.VisionTransformer(
        image_size=32, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=7
    ).eval()
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    assert network.shape("encoder.layers.encoder_layer_0") == (5, 16)
    with pytest.raises(UserError, match=r"around 'encoder\.layers\.encoder_layer_0\.mlp'") as error:
        network.segment("encoder.layers.encoder_layer_0.mlp", "encoder.layers.encoder_layer_0")
    assert "through encoder.layers.encoder_layer_0:" in str(error.value)  # a path of values, not of sizes


@pytest.mark.slow
def test_a_dense_block_is_refused_inside() -> None:
    model = models.densenet121(weights=None).eval()
    network = open_network(model, torch.zeros(1, 3, 64, 64))
    with pytest.raises(UserError, match="can be reached around"):
        network.segment("features.denseblock1.denselayer2", "features.denseblock1.denselayer4")
