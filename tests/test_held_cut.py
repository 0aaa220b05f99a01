"""Cuts with a path around the lower layer: what is held, exact sums on a linear network, a slow twin by hooks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import tiny
from vismech.attribution.engine import Settings, attribute
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Along, Mode, PathWeight, Rule
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.layers import LOGITS
from vismech.network.network import Network
from vismech.network.pfv import Layout

CLASSES = torch.tensor([2, 0, 1])


class Linear(nn.Module):
    """A residual stream of 4 × 4 tokens with two linear contributions, of which the second reads the first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 8, 8)
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        stream = self.stem(x).flatten(2).transpose(1, 2)
        stream = stream + self.first(stream)
        stream = stream + self.second(stream)
        return self.head(stream.mean(1))


class Branches(nn.Module):
    """Two values run around the lower layer: a map, and places as whole numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.lower, self.upper = nn.Conv2d(3, 4, 8, 8), nn.Conv2d(4, 4, 1), nn.Identity()
        self.aside, self.head = nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        places = x.flatten(2).argmax(2, keepdim=True)
        inner = torch.tanh(self.lower(x)) * self.aside(x)
        return self.head(self.upper(inner).flatten(2).gather(2, places)[..., 0])


def photos(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["exported", "hooked"])
def opened(request):
    """Either way to cut a network."""
    return (lambda model: open_network(model, photos(1))) if request.param == "exported" else tiny.hooked


def source_of(layout: Layout, clean: Tensor, seed: int = 0) -> ConceptSource:
    generator = torch.Generator().manual_seed(seed)
    vectors = layout.vectors(clean)
    atoms = nn.functional.normalize(torch.randn(5, layout.channels, generator=generator), dim=1)
    codes = torch.randn(len(clean), layout.positions, 5, generator=generator)
    return ConceptSource(atoms, codes, vectors, Along.activation)


class Traced:
    """Edges from a layer to the class, with what runs around it held."""

    def __init__(self, network: Network, lower: str, settings: Settings) -> None:
        cut = network.around(lower, LOGITS)
        self.cut, self.layout = cut, cut.layout(network.layout(lower))
        with torch.no_grad():
            self.clean = cut.read(photos())
            self.source = source_of(self.layout, self.clean)
        targets = LogitTargets(CLASSES)
        self.found = attribute(cut.segment, self.layout, self.source, self.clean, targets, settings)


def with_output(model: nn.Module, layer: str, images: Tensor, output: Tensor) -> Tensor:
    """The logits with another output of one module, all else as it comes."""
    handle = model.get_submodule(layer).register_forward_hook(lambda *_: output)
    try:
        return model(images)
    finally:
        handle.remove()


@pytest.mark.parametrize(("lower", "upper"), [("first", "second"), ("first", LOGITS), ("second", LOGITS)])
def test_at_its_clean_value_the_segment_gives_what_the_network_does(lower, upper, opened) -> None:
    model = tiny.seeded(Linear())
    cut, expected = opened(model).around(lower, upper), tiny.outputs(model, photos())
    assert len(cut.held) == 1
    with torch.no_grad():
        torch.testing.assert_close(cut.segment(cut.read(photos())), expected[upper], rtol=1e-5, atol=1e-6)


def test_edges_sum_exactly_to_what_the_contribution_does(opened) -> None:
    model = tiny.seeded(Linear())
    traced = Traced(opened(model), "first", Settings(steps=1, mode=Mode.reverse))
    (edges, error), found = traced.found.edges[PathWeight.ig], traced.found
    outputs = tiny.outputs(model, photos())
    # The contribution reaches the head by itself and through the second one; its bias there is not its own.
    carried = outputs["first"] + outputs["first"] @ model.second.weight.T
    expected = (carried.mean(1) @ model.head.weight.T)[torch.arange(3), CLASSES].detach()
    torch.testing.assert_close((edges.sum(2) + error)[:, 0], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close((found.value - found.baseline)[:, 0], expected, rtol=1e-4, atol=1e-5)
    # With the stream following too it would be another number: the whole of what the layer's input does.
    assert (found.value[:, 0] - expected).abs().min() > 1e-2


@pytest.mark.parametrize("mode", [Mode.reverse, Mode.forward])
@pytest.mark.parametrize("lower", ["layer1.attn", "layer1.mlp", "layer2.attn"])
def test_edges_of_a_transformers_contributions_are_those_of_a_slow_twin(lower, mode, opened) -> None:
    """Point by point and image by image: a hook puts a part of the contribution in the place of the whole."""
    model = tiny.attending()
    network = opened(model)
    if mode is Mode.forward and not hasattr(network, "module"):
        pytest.skip("hooks have no forward derivative")
    assert network.layout(lower).prefix == 1
    rule = quadrature(Rule.midpoint, 8)
    traced = Traced(network, lower, Settings(steps=8, mode=mode))
    clean, source, found = tiny.outputs(model, photos())[lower], traced.source, traced.found
    for image in range(3):
        own, vectors = clean[image : image + 1], source.vectors[image]
        slope = torch.zeros_like(vectors)
        for alpha, weight in zip(*(torch.as_tensor(part, dtype=torch.float32) for part in rule), strict=True):
            point = (alpha * vectors).requires_grad_()
            output = torch.cat([own[:, :1], point[None]], 1)  # the class token's row keeps its clean value
            logit = with_output(model, lower, photos()[image : image + 1], output)[0, CLASSES[image]]
            slope += weight * torch.autograd.grad(logit, point)[0]
        expected = torch.stack(
            [(source.codes[image][:, q] * (slope @ source.atoms[q])).sum() for q in range(len(source.atoms))]
        )
        torch.testing.assert_close(found.edges[PathWeight.ig].units[image, 0], expected, rtol=2e-3, atol=2e-5)
        missed = ((vectors - source.codes[image] @ source.atoms) * slope).sum()
        torch.testing.assert_close(found.edges[PathWeight.ig].error[image, 0], missed, rtol=2e-3, atol=2e-5)
        at_zero = torch.cat([own[:, :1], torch.zeros_like(own[:, 1:])], 1)
        with torch.no_grad():
            ends = [with_output(model, lower, photos()[image : image + 1], output) for output in (own, at_zero)]
        told = torch.stack([found.value[image, 0], found.baseline[image, 0]])
        torch.testing.assert_close(told, torch.cat(ends)[:, CLASSES[image]], rtol=1e-4, atol=1e-5)


def test_several_values_are_held_and_whole_numbers_stay_whole() -> None:
    model = tiny.seeded(Branches())
    network = open_network(model, photos(1))
    cut, expected = network.around("lower", LOGITS), tiny.outputs(model, photos())
    assert len(cut.held) == 2 and torch.int64 in cut.packing.types
    with torch.no_grad():
        rows = cut.read(photos())
        torch.testing.assert_close(cut.segment(rows), expected[LOGITS])
        layout = cut.layout(network.layout("lower"))
        half = layout.activation(0.5 * layout.vectors(rows), rows)
        other = with_output(model, "lower", photos(), 0.5 * expected["lower"])
        torch.testing.assert_close(cut.segment(half), other)


def test_class_tokens_of_packed_rows_are_exchanged_alone() -> None:
    network = open_network(tiny.attending(), photos(1))
    cut = network.around("layer1.attn", LOGITS)
    below = network.layout("layer1.attn")
    assert network.prefixes["layer1.attn"] == 1  # told by what it is added to
    with torch.no_grad():
        rows = cut.read(photos())
    layout, own = cut.layout(below), cut.packing.parts(rows)[0]
    assert torch.equal(layout.before(rows), own[:, :1])
    first, rest = cut.packing.parts(layout.begun_by(rows, torch.zeros(3, 1, 8)))
    assert torch.equal(first[:, 1:], own[:, 1:]) and not first[:, :1].any()
    assert torch.equal(rest, cut.packing.parts(rows)[1])


def test_where_no_path_runs_around_nothing_is_held() -> None:
    network = open_network(tiny.network(), photos(1))
    assert network.around("layer1", "layer2").held == ()
    with torch.no_grad():
        cut = network.around("layer1", LOGITS)
        plain = network.segment("layer1", LOGITS)(network.activations(photos(), ["layer1"])["layer1"])
        assert torch.equal(cut.segment(cut.read(photos())), plain)


def test_pairs_that_cannot_be_held_are_refused() -> None:
    network = open_network(tiny.network(), photos(1))
    with pytest.raises(UserError, match=r"layer 'layer1' does not come after 'layer2'"):
        network.around("layer2", "layer1")
    pair = sorted(["layer2.downsample", "layer2.bn2"], key=network.layers.index)
    with pytest.raises(UserError, match=f"no path leads from '{pair[0]}' to '{pair[1]}': choose another pair"):
        network.around(*pair)
