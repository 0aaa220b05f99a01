"""Cutting by hooks, where a model cannot be exported."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import tiny
from tiny import hooks, images, outputs, same
from vismech.errors import UserError
from vismech.network.cut import LOGITS, ExportedNetwork, HookedNetwork, open_network

PAIRS = [("stem", "layer1"), ("stem", "layer3"), ("layer1", "layer2"), ("layer2", LOGITS), ("layer3", "head")]


def hooked(model: nn.Module, side: int = 32) -> HookedNetwork:
    return HookedNetwork(model, torch.zeros(1, 3, side, side))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny.network()


@pytest.fixture(scope="module")
def network(model) -> ExportedNetwork:
    cut = open_network(model, torch.zeros(1, 3, 32, 32))
    assert isinstance(cut, ExportedNetwork)
    return cut


def test_hooks_give_the_exports_numbers(model, network) -> None:
    fallback, batch = hooked(model), images(3)
    names = [name for name in fallback.layers if name in network.layers]
    assert len(names) > 20
    with torch.no_grad():
        by_hooks, by_export = (cut.activations(batch, [*names, LOGITS]) for cut in (fallback, network))
        for name in [*names, LOGITS]:
            assert same(by_hooks[name], by_export[name]), name
            assert fallback.shape(name) == network.shape(name)
        for lower, upper in PAIRS:
            value = by_export[lower]
            assert same(fallback.segment(lower, upper)(value), network.segment(lower, upper)(value))
    assert hooks(model) == 0


def test_the_activation_that_is_given_is_not_written_to(model, network) -> None:
    for cut in (hooked(model), network):
        with torch.no_grad():
            given = cut.activations(images(2), ["stem.1"])["stem.1"]
            kept = given.clone()
            cut.segment("stem.1", "layer1")(given)  # begins with an in-place ReLU
        assert (given < 0).any() and same(given, kept)


def test_hooks_give_the_exports_gradient(model, network) -> None:
    gradients = []
    for cut in (hooked(model), network):
        with torch.no_grad():
            value = cut.activations(images(2), ["layer1"])["layer1"]
        value.requires_grad_()
        cut.segment("layer1", LOGITS)(value)[:, 0].sum().backward()
        gradients.append(value.grad)
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-7)


def test_hooks_refuse_a_path_around(model) -> None:
    with pytest.raises(UserError, match=r"'layer2' can be reached around 'layer2\.conv2'"):
        hooked(model).segment("layer2.conv2", "layer2")
    with pytest.raises(UserError, match="does not come after"):
        hooked(model).segment("layer2", "layer1")
    assert hooks(model) == 0


def test_hooks_stop_at_the_last_layer_asked_for(model) -> None:
    calls: list[str] = []
    handle = model.layer3.register_forward_hook(lambda *_: calls.append("layer3"))
    network = hooked(model)
    calls.clear()
    network.activations(images(1), ["layer1", "layer2"])
    assert calls == []
    network.activations(images(1), ["layer3"])
    assert calls == ["layer3"]
    handle.remove()


class Fragile(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.broken = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), False

    def forward(self, x):
        x = self.conv(x)
        if self.broken:
            raise RuntimeError("broken on purpose")
        return self.head(x.mean((2, 3)))


def test_no_hook_is_left_behind_after_an_error() -> None:
    model = tiny.seeded(Fragile())
    network = hooked(model)
    model.broken = True
    with pytest.raises(RuntimeError, match="on purpose"):
        network.activations(images(1), ["head"])
    with pytest.raises(RuntimeError, match="on purpose"):
        network.segment("conv", LOGITS)
    with pytest.raises(RuntimeError, match="on purpose"):
        hooked(model)
    assert hooks(model) == 0


class Branching(nn.Module):
    """What it computes depends on the values, so no graph holds it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x)
        x = self.relu(x) if x.sum() > 1e9 else self.relu(-x)
        return self.head(x.mean((2, 3)))


def test_a_model_that_cannot_be_exported_falls_back_with_a_warning(caplog) -> None:
    model = tiny.seeded(Branching())
    with caplog.at_level(logging.WARNING, "vismech"):
        network = open_network(model, torch.zeros(1, 3, 8, 8))
    assert isinstance(network, HookedNetwork)
    (record,) = [record for record in caplog.records if record.name == "vismech.network.cut"]
    assert "torch.export cannot capture Branching" in record.message and "hooks instead" in record.message
    batch = images(5, 8)
    expected = outputs(model, batch)
    with torch.no_grad():
        assert same(network.activations(batch, ["conv"])["conv"], expected["conv"])
        # The in-place ReLU that follows must not reach into the activation that the caller gave.
        given = expected["relu"].clone()
        assert same(network.segment("relu", LOGITS)(given), expected[LOGITS])
        assert same(given, expected["relu"])
    assert hooks(model) == 0


def test_a_size_that_the_model_cannot_take_is_a_sentence() -> None:
    with pytest.raises(UserError, match=r"fails on blank images of 2×2 pixels .*: set model.crop"):
        open_network(tiny.seeded(Fragile()), torch.zeros(1, 3, 2, 2))
