"""Graph and cuts compute where, and as, the model does, whenever it was moved."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from tiny import images, same
from vismech.network.cut import LOGITS, open_network
from vismech.receptive_field import layer_relevance


@pytest.fixture
def model() -> nn.Module:
    return tiny.network().requires_grad_(False)


def test_a_model_that_is_moved_takes_the_graph_and_its_cuts_along(model) -> None:
    # Another type replaces buffers and keeps parameters just as another device does.
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    batch, early = images(2), network.segment("layer1", LOGITS)
    with torch.no_grad():
        before = network.activations(batch, ["layer1", LOGITS])
        model.double()
        wide = network.activations(batch.double(), ["layer1", LOGITS])
        assert wide[LOGITS].dtype == torch.float64
        assert same(early(wide["layer1"]), wide[LOGITS])
        assert same(
            network.segment("layer2", LOGITS)(network.activations(batch.double(), ["layer2"])["layer2"]), wide[LOGITS]
        )
        model.float()
        after = network.activations(batch, ["layer1", LOGITS])
    assert all(same(after[name], before[name]) for name in before)


def test_sharing_ratios_follow_a_model_that_is_moved(model) -> None:
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    batch = images(2)
    before = layer_relevance(network, batch, ["layer1"]).relevance["layer1"]
    model.double()
    wide = layer_relevance(network, batch.double(), ["layer1"]).relevance["layer1"]
    assert wide.dtype == torch.float64
    torch.testing.assert_close(wide.float(), before, rtol=1e-3, atol=1e-5)
    model.float()
    assert same(layer_relevance(network, batch, ["layer1"]).relevance["layer1"], before)


def test_statistics_that_are_replaced_are_read_anew(model) -> None:
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    model.layer1.bn1.running_mean = model.layer1.bn1.running_mean + 1
    with torch.no_grad():
        assert same(network.activations(images(2), [LOGITS])[LOGITS], model(images(2)))


class Positions(nn.Module):
    """Makes one tensor anew on the input's device in every pass, and reads another that was written in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).flatten(2)
        ramp = torch.arange(x.shape[2], device=x.device, dtype=torch.float32) / x.shape[2]
        return (x * ramp).sum(2) + torch.tensor([0.0, 1.0, 2.0, 3.0])


def test_what_is_made_in_a_pass_is_made_on_the_device_of_the_images() -> None:
    model = tiny.seeded(Positions()).requires_grad_(False)
    network = open_network(model, torch.zeros(1, 3, 32, 32))
    with torch.no_grad():
        found = network.activations(images(3), ["second", LOGITS])
        assert same(found[LOGITS], model(images(3)))
        segment = network.segment("second", LOGITS)
        assert same(segment(found["second"]), found[LOGITS])
        # On the meta device nothing is computed, but devices must agree as everywhere.
        model.to("meta")
        there = network.activations(images(3).to("meta"), ["second", LOGITS])
        assert segment(there["second"]).shape == there[LOGITS].shape == (3, 4)
