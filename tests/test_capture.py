"""In-place operations: what the graph without them computes, against the model itself."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tiny
from tiny import images, outputs, same
from vismech.network.cut import LOGITS, ExportedNetwork, open_network


class InPlace(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.after = kind, nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = self.conv(x)
        match self.kind:
            case "view read after its base":
                view = x.flatten(2)
                x.relu_()
                return self.head(view.mean(2))
            case "base read after its view":
                x.flatten(2).relu_()
            case "view of a view":
                x.transpose(1, 2)[:, 1:].mul_(-3.0)
            case "assignment":
                x[:, 0] = 1.5
            case "chain":
                x.mul_(2).add_(1).clamp_(min=0)
            case "dropout":
                F.dropout(x, 0.5, False).relu_()
            case "before and after":
                y = x * 1
                x.relu_()
                x = self.after(x) + y
            case "the image itself":
                x.sub_(0.3)
        return self.head(self.after(x).mean((2, 3)))


KINDS = [
    "view read after its base",
    "base read after its view",
    "view of a view",
    "assignment",
    "chain",
    "dropout",
    "before and after",
    "the image itself",
]


@pytest.mark.parametrize("kind", KINDS)
def test_in_place_operations_change_what_they_change_and_no_more(kind) -> None:
    model = tiny.seeded(InPlace(kind)).requires_grad_(False)
    network = open_network(model, torch.zeros(1, 3, 8, 8))
    assert isinstance(network, ExportedNetwork)
    mutable = [n for n in network.module.graph.nodes if getattr(getattr(n.target, "_schema", None), "is_mutable", 0)]
    assert not mutable
    batch = images(3, 8)
    expected = outputs(model, batch)
    with torch.no_grad():
        found = network.activations(batch, ["conv", LOGITS])
        assert same(found["conv"], expected["conv"])  # the output, not what became of it
        assert torch.allclose(found[LOGITS], expected[LOGITS], atol=1e-6)
        assert torch.allclose(network.segment("conv", LOGITS)(found["conv"]), expected[LOGITS], atol=1e-6)
    assert torch.equal(batch, images(3, 8))
