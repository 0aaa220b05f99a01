"""Cutting networks: every activation and every segment against plain forward passes of the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tiny
from tiny import images, outputs, same
from vismech.errors import UserError
from vismech.network.capture import operation
from vismech.network.cut import LOGITS, PIXELS, ExportedNetwork, HookedNetwork, open_network
from vismech.network.pfv import layout_of


def convolutions(segment: nn.Module) -> list[str]:
    """Modules whose convolutions a segment runs."""
    nodes = [node for part in segment.modules() if isinstance(part, torch.fx.GraphModule) for node in part.graph.nodes]
    return [list(node.meta["nn_module_stack"].values())[-1][0] for node in nodes if operation(node) == "conv2d"]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny.network()


@pytest.fixture(scope="module")
def network(model) -> ExportedNetwork:
    cut = open_network(model, torch.zeros(1, 3, 32, 32))
    assert isinstance(cut, ExportedNetwork)
    return cut


# Activations


@pytest.mark.parametrize("count", [1, 2, 5])
def test_every_activation_is_the_modules_output(model, network, count) -> None:
    batch = images(count)
    expected = outputs(model, batch)
    with torch.no_grad():
        found = network.activations(batch, [*network.layers, LOGITS])
    assert {"stem", "stem.0", "layer1", "layer1.bn1", "layer2.downsample", "layer3", "head"} <= set(network.layers)
    for name, value in found.items():
        assert same(value, expected[name]), name
        assert network.shape(name) == tuple(value.shape[1:])


def test_layers_are_in_the_order_of_computation(network) -> None:
    order = ["stem.0", "stem", "layer1.conv1", "layer1", "layer2.conv1", "layer2", "layer3", "head"]
    assert [name for name in network.layers if name in order] == order


def test_activations_come_no_further_than_needed(network) -> None:
    cut = network._cut(network.input, ("layer1",))
    assert set(convolutions(cut)) == {"stem.0", "layer1.conv1", "layer1.conv2"}


def test_a_later_in_place_operation_leaves_earlier_layers_alone(model, network) -> None:
    # layer1.relu overwrites the output of layer1.bn1, and += that of layer1.bn2, in the model itself.
    batch = images(2)
    with torch.no_grad():
        found = network.activations(batch, ["stem.1", "layer1.bn1", "layer1.bn2", "layer2.bn2"])
    assert all((value < 0).any() for value in found.values())
    assert all(same(value, outputs(model, batch)[name]) for name, value in found.items())


def test_parameters_are_the_models_own() -> None:
    model = tiny.network()
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    segment = network.segment("layer2", LOGITS)
    with torch.no_grad():
        model.head.bias += 7.0
        value = network.activations(images(2), ["layer2"])["layer2"]
        assert same(segment(value), model(images(2)))


# Segments


PAIRS = [("stem", "layer1"), ("stem", "layer3"), ("layer1", "layer2"), ("layer2", LOGITS), ("layer3", "head")]


@pytest.mark.parametrize(("lower", "upper"), PAIRS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_segment_maps_one_layer_to_the_other(model, network, lower, upper, count) -> None:
    batch = images(count)
    expected = outputs(model, batch)
    with torch.no_grad():
        assert same(network.segment(lower, upper)(expected[lower]), expected[upper])


def test_a_segment_runs_only_the_layers_between(network) -> None:
    assert set(convolutions(network.segment("layer1", "layer2"))) == {
        f"layer2.{n}" for n in ("conv1", "conv2", "downsample")
    }
    assert convolutions(network.segment("layer3", LOGITS)) == []
    assert len(convolutions(network.segment("stem", LOGITS))) == 8


def test_a_segments_gradient_is_the_models(model, network) -> None:
    batch = images(3)
    kept: list[torch.Tensor] = []

    def keep(_module, _inputs, output):
        output.retain_grad()
        kept.append(output)

    handle = model.layer1.register_forward_hook(keep)
    model(batch.requires_grad_())[:, 1].sum().backward()
    handle.remove()
    value = kept[0].detach().requires_grad_()
    network.segment("layer1", LOGITS)(value)[:, 1].sum().backward()
    assert kept[0].grad.abs().max() > 0
    torch.testing.assert_close(value.grad, kept[0].grad, rtol=1e-6, atol=1e-7)


def test_rows_of_a_segment_are_independent(network) -> None:
    with torch.no_grad():
        value = network.activations(images(2), ["layer1"])["layer1"]
        segment = network.segment("layer1", "layer3")
        assert torch.allclose(segment(value[:1]), segment(value)[:1], atol=1e-6)
        assert not torch.allclose(segment(value[:1]), segment(value)[1:], atol=1e-3)


# Refusals


def test_a_path_around_is_named(network) -> None:
    with pytest.raises(UserError, match=r"'layer2' can be reached around 'layer2.conv2'") as error:
        network.segment("layer2.conv2", "layer2")
    assert "through layer1.relu → layer2.downsample → layer2" in str(error.value)


def test_a_shortcut_without_a_module_of_its_own_is_named_by_its_ends(network) -> None:
    with pytest.raises(UserError, match=r"through stem.2 → layer1 → layer1.relu: cut where"):
        network.segment("layer1.conv1", "layer1")


def test_a_branch_that_is_not_read_is_refused(network) -> None:
    parallel = next(
        pair
        for pair in (("layer2.downsample", "layer2.bn2"), ("layer2.bn2", "layer2.downsample"))
        if network.layers.index(pair[0]) < network.layers.index(pair[1])
    )
    with pytest.raises(
        UserError, match=f"'{parallel[1]}' can be reached around '{parallel[0]}', through layer1.relu → "
    ):
        network.segment(*parallel)


@pytest.mark.parametrize("pair", [("layer2", "layer1"), ("layer2", "layer2"), (LOGITS, "layer1"), (LOGITS, LOGITS)])
def test_the_wrong_order_is_refused(network, pair) -> None:
    with pytest.raises(UserError, match=rf"layer '{pair[1]}' does not come after '{pair[0]}'"):
        network.segment(*pair)


def test_an_unknown_layer_names_the_nearest(network) -> None:
    for call in (
        lambda: network.segment("layr2", LOGITS),
        lambda: network.segment("stem", "layr2"),
        lambda: network.resolve(["stem", "layr2"]),
        lambda: network.shape("layr2"),
        lambda: network.activations(images(1), ["layr2"]),
    ):
        with pytest.raises(UserError, match=r"no layer 'layr2'; nearest: layer[12]"):
            call()


def test_a_name_like_none_lists_some(network) -> None:
    with pytest.raises(UserError, match=r"no layer 'QQQ'; it has stem.0, .* …$"):
        network.shape("QQQ")


class Reused(nn.Module):
    """One ReLU called twice, a module that returns two tensors, and one whose rows are not images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.again = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
        self.halves, self.windows, self.head = Halves(), Windows(), nn.Linear(4, 5)

    def forward(self, x):
        x = self.relu(self.again(self.relu(self.conv(x))))
        first, second = self.halves(x)
        return self.head(self.windows(torch.cat([second, first], 1)).view(x.shape[0], -1, 4).mean(1))


class Halves(nn.Module):
    def forward(self, x):
        return x.chunk(2, 1)


class Windows(nn.Module):
    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(0, 2)


@pytest.mark.parametrize("opened", [open_network, HookedNetwork])
def test_modules_without_one_tensor_per_image_are_no_layers(opened) -> None:
    model = tiny.seeded(Reused())
    network = opened(model, torch.zeros(1, 3, 8, 8))
    assert isinstance(network, HookedNetwork if opened is HookedNetwork else ExportedNetwork)
    assert network.layers == ["conv", "again", "head"]
    with pytest.raises(UserError, match="layer 'relu' is called 2 times in one pass: name the block around it"):
        network.resolve(["relu"])
    with pytest.raises(UserError, match="called 2 times"):
        network.segment("relu", LOGITS)
    for name in ("halves", "windows"):
        with pytest.raises(UserError, match=f"layer '{name}' does not hand on one tensor with a row per image"):
            network.shape(name)
    batch = images(3, 8)
    expected = outputs(model, batch)
    with torch.no_grad():
        assert same(network.segment("again", LOGITS)(expected["again"]), expected[LOGITS])


# Names and patterns


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (["layer*"], ["layer1", "layer2", "layer3"]),
        (["layer1", "layer3"], ["layer1", "layer3"]),
        (["stem", "layer?", "head"], ["stem", "layer1", "layer2", "layer3", "head"]),
        (["layer[13]"], ["layer1", "layer3"]),
        (["layer1", "layer*"], ["layer1", "layer2", "layer3"]),
        (["layer2.conv*"], ["layer2.conv1", "layer2.conv2"]),
        (["*.conv1"], ["layer1.conv1", "layer2.conv1", "layer3.conv1"]),
        (["layer1", "layer1"], ["layer1"]),
    ],
)
def test_patterns_name_siblings_in_network_order(network, patterns, expected) -> None:
    assert network.resolve(patterns) == expected


def test_a_pattern_that_fits_nothing_is_refused(network) -> None:
    with pytest.raises(UserError, match=r"no layer 'blocks\.\*'"):
        network.resolve(["layer1", "blocks.*"])


def test_no_pattern_at_all_is_refused(network) -> None:
    with pytest.raises(UserError, match=r"extract\.layers is empty: name at least one layer, such as head"):
        network.resolve([])


def test_layers_named_out_of_order_are_refused(network) -> None:
    with pytest.raises(UserError, match="layer 'layer1' does not come after 'layer2'"):
        network.resolve(["layer2", "layer1"])


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="eval"):
        open_network(tiny.network().train(), torch.zeros(1, 3, 32, 32))


class Several(nn.Module):
    def forward(self, x):
        return x.mean((2, 3)), x.amax((2, 3))


@pytest.mark.parametrize("opened", [open_network, HookedNetwork])
def test_a_model_with_several_results_is_refused(opened) -> None:
    with pytest.raises(UserError, match="returns several values"):
        opened(Several().eval(), torch.zeros(1, 3, 8, 8))


class Padded(nn.Module):
    """A path around ``conv`` through ``other``, and a tensor made of the batch size alone."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other, self.made, self.head = (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), Made(), nn.Linear(4, 2))

    def forward(self, x):
        return self.head((self.conv(x) + self.made(x)).mean((2, 3)) + self.other(x).mean((2, 3)))


class Made(nn.Module):
    def forward(self, x):
        return torch.full((x.shape[0], 4, 6, 6), 0.5)


def test_a_batch_size_is_no_path() -> None:
    model = tiny.seeded(Padded())
    network = open_network(model, torch.zeros(1, 3, 8, 8))
    assert isinstance(network, ExportedNetwork)
    with pytest.raises(UserError, match="can be reached around 'conv', through other → head: cut"):
        network.segment("conv", LOGITS)
    model.forward = lambda x: model.head((model.conv(x) + model.made(x)).mean((2, 3)))
    network = open_network(model, torch.zeros(1, 3, 8, 8))
    batch = images(5, 8)
    expected = outputs(model, batch)
    with torch.no_grad():
        assert same(network.segment("conv", LOGITS)(expected["conv"]), expected[LOGITS])


# Pixels


def test_pixels_are_the_lower_end_of_any_cut(model, network) -> None:
    batch, expected = images(2), outputs(model, images(2))
    for cut in (network, HookedNetwork(model, torch.zeros(1, 3, 32, 32))):
        assert cut.shape(PIXELS) == (3, 32, 32) and layout_of(cut.shape(PIXELS), PIXELS).channels == 3
        with torch.no_grad():
            found = cut.activations(batch, [PIXELS, "layer1"])
            assert same(found[PIXELS], batch) and same(found["layer1"], expected["layer1"])
            for upper in ("layer2", LOGITS):
                assert same(cut.segment(PIXELS, upper)(batch), expected[upper])
        assert PIXELS not in cut.layers
        for lower, upper in (("layer1", PIXELS), (PIXELS, PIXELS), (LOGITS, PIXELS)):
            with pytest.raises(UserError, match="does not come after"):
                cut.segment(lower, upper)
