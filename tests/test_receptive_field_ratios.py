"""The value object of sharing ratios: what can be asked of it, what is refused, and autograd as an oracle."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from test_receptive_field_twin import Beside, Mobile, OptionA, Residual, Side
from tiny import TinyNetwork, seeded
from vismech.errors import UserError
from vismech.network.cut import HookedNetwork, open_network
from vismech.receptive_field import SharingRatios, layer_relevance, sharing_ratios

LAYERS = ["layer1", "layer2", "layer3"]


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def network(images):
    return open_network(seeded(TinyNetwork(10, 8)), images)


@pytest.fixture(scope="module")
def ratios(network, images) -> SharingRatios:
    return sharing_ratios(network, images)


def surrogate(ratios: SharingRatios, image: int, pixels: Tensor) -> list[Tensor]:
    """The network without channels, s_out = Σ_t μ_t · unfold(s_in)_t: every map [h, w] as a function of ``pixels``."""
    values = [pixels]
    for one in ratios.maps[1:]:
        total = torch.zeros(one.size, dtype=pixels.dtype)
        for share in one.shares:
            window = share.window
            (top, left), (rows, columns), (height, width) = window.padding, window.span, window.size_in
            amounts = (left, columns - width - left, top, rows - height - top)
            read = F.pad(values[share.source], amounts)[None, None]
            unfolded = F.unfold(read, window.kernel, window.dilation, 0, window.stride)[0].unflatten(1, one.size)
            total = total + (unfolded.sum(0) if share.ratios is None else (share.ratios[image] * unfolded).sum(0))
        values.append(total)
    return values


@pytest.mark.parametrize("kind", [Residual, Beside, Mobile, OptionA, lambda: TinyNetwork(10, 8)])
def test_the_sweep_equals_autograd_on_the_channel_free_surrogate(kind):
    batch = torch.randn(2, 3, 20, 24, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    ratios = sharing_ratios(open_network(seeded(kind()).double(), batch), batch)
    for image in range(2):
        pixels = torch.zeros(20, 24, dtype=torch.float64, requires_grad=True)
        values = surrogate(ratios, image, pixels)
        for layer, (number, *_) in ratios.layers.items():
            position = values[number].numel() // 2
            (expected,) = torch.autograd.grad(values[number].flatten()[position], pixels, retain_graph=True)
            field = ratios.receptive_fields(layer, [position], image)[0]
            torch.testing.assert_close(field, expected, rtol=1e-9, atol=1e-12, msg=layer)
        (expected,) = torch.autograd.grad((values[ratios.head_map] * ratios.head[image, 2]).sum(), pixels)
        torch.testing.assert_close(ratios.saliency(2)[image], expected, rtol=1e-9, atol=1e-12)


def test_images_do_not_depend_on_their_batch_nor_positions_on_their_company(network, ratios, images):
    alone = sharing_ratios(network, images[1:2])
    torch.testing.assert_close(alone.saliency()[0], ratios.saliency()[1], rtol=1e-4, atol=1e-5)
    many = torch.arange(64).repeat(2)  # more than one sweep holds
    fields = ratios.receptive_fields("layer2", many, image=1)
    assert torch.equal(fields[:64], fields[64:])
    torch.testing.assert_close(fields[[7]], alone.receptive_fields("layer2", [7]), rtol=1e-4, atol=1e-6)
    assert torch.equal(fields[[7]], ratios.receptive_fields("layer2", [7], image=-2))


def test_seeds_of_several_layers_share_a_sweep(ratios):
    together = ratios.receptive_fields_of({"layer3": [3, 9], "layer1": [5], "stem": range(40)})
    for layer, positions in {"layer3": [3, 9], "layer1": [5], "stem": list(range(40))}.items():
        torch.testing.assert_close(together[layer], ratios.receptive_fields(layer, positions), rtol=1e-5, atol=1e-7)
    assert ratios.receptive_fields("layer3", []).shape == (0, 32, 32)


def test_relevance_of_layers_is_the_sweep_stopped_there(ratios):
    relevance = ratios.relevance(LAYERS, target=4)
    assert [tuple(relevance[layer].shape) for layer in LAYERS] == [(3, 16, 16), (3, 8, 8), (3, 4, 4)]
    from_layer = ratios.saliency(seeds={"layer2": relevance["layer2"]})
    torch.testing.assert_close(from_layer, ratios.saliency(4), rtol=1e-4, atol=1e-5)
    fields = ratios.receptive_fields("layer2", range(64), image=2)
    by_fields = (relevance["layer2"][2].flatten()[:, None, None] * fields).sum(0)
    torch.testing.assert_close(by_fields, ratios.saliency(4)[2], rtol=1e-4, atol=1e-5)


def test_classes_of_their_own_for_each_image_and_the_contrastive_form(network, ratios, images):
    chosen = torch.tensor([4, 0, 7])
    saliency = ratios.saliency(chosen)
    logits = ratios.logits[torch.arange(3), chosen]
    torch.testing.assert_close(saliency.sum((1, 2)), logits, rtol=1e-4, atol=1e-4)
    kept = sharing_ratios(network, images, target=chosen)
    assert kept.head.shape[1] == 1
    torch.testing.assert_close(kept.saliency(), saliency)
    torch.testing.assert_close(ratios.saliency(contrastive=True).sum((1, 2)), torch.zeros(3), rtol=0, atol=1e-3)
    with pytest.raises(UserError, match="run it without target"):
        kept.saliency(1)
    for bad in (10, -1):
        with pytest.raises(UserError, match="out of range: the network has 10 classes"):
            ratios.saliency(bad)
        with pytest.raises(UserError, match="out of range: the network has 10 classes"):
            sharing_ratios(network, images, target=bad)


def test_one_pass_gives_relevance_and_activations_for_sampling(network, ratios, images):
    found = layer_relevance(network, images, ["layer2", "layer3"])
    expected = ratios.relevance(["layer2", "layer3"])
    for layer, activation in network.activations(images, ["layer2", "layer3"]).items():
        torch.testing.assert_close(found.activations[layer], activation)
        torch.testing.assert_close(found.relevance[layer], expected[layer])
    assert torch.equal(found.target, ratios.logits.argmax(1))
    other = layer_relevance(network, images, ["layer1"], target=3)
    torch.testing.assert_close(other.relevance["layer1"], ratios.relevance(["layer1"], target=3)["layer1"])
    above_mean = layer_relevance(network, images, ["layer1"], contrastive=True).relevance["layer1"]
    torch.testing.assert_close(above_mean, ratios.relevance(["layer1"], contrastive=True)["layer1"])


def test_a_pass_for_some_layers_measures_only_what_is_below_them(network, ratios, images):
    part = sharing_ratios(network, images, layers=["layer1"])
    torch.testing.assert_close(part.receptive_fields("layer1", [9]), ratios.receptive_fields("layer1", [9]))
    assert part.logits is None
    with pytest.raises(UserError, match="did not measure"):
        part.receptive_fields("layer3", [1])
    with pytest.raises(UserError, match="stopped at a layer"):
        part.saliency()


def test_channels_last_changes_nothing(network, ratios, images):
    last = sharing_ratios(network, images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(last.saliency(), ratios.saliency(), rtol=1e-4, atol=1e-5)


def test_the_ratios_outlive_network_and_model_and_hold_neither(images):
    model = seeded(TinyNetwork(10, 8))
    network = open_network(model, images)
    ratios = sharing_ratios(network, images)
    gone = weakref.ref(network), weakref.ref(network.module)
    del model, network
    gc.collect()
    assert gone[0]() is None and gone[1]() is None
    assert ratios.saliency().isfinite().all()


def test_a_changed_weight_changes_the_ratios(images):
    model = seeded(TinyNetwork(10, 8))
    network = open_network(model, images)
    before = sharing_ratios(network, images)
    with torch.no_grad():
        model.layer2.conv2.weight[:, :, 0] *= 2
    after = sharing_ratios(network, images)
    fresh = sharing_ratios(open_network(model, images), images)
    assert not torch.allclose(after.saliency(), before.saliency())
    assert torch.equal(after.saliency(), fresh.saliency())


def test_layers_and_positions_are_checked(network, ratios, images):
    with pytest.raises(UserError, match=r"no layer 'layer5'; nearest: layer[123]"):
        ratios.receptive_fields("layer5", [0])
    with pytest.raises(UserError, match="no layer 'layer5'"):
        sharing_ratios(network, images, layers=["layer5"])
    with pytest.raises(UserError, match=r"'layer2.bn2' has no map of its own.*sum"):
        ratios.receptive_fields("layer2.bn2", [0])
    with pytest.raises(UserError, match=r"position 64 is out of range: layer 'layer2' has 8×8 positions"):
        ratios.receptive_fields("layer2", [64])
    with pytest.raises(UserError, match="image 3 is out of range"):
        ratios.receptive_fields("layer2", [0], image=3)
    with pytest.raises(UserError, match=r"the seeds at 'layer2' have shape \(3, 4, 4\): give \(3, 8, 8\)"):
        ratios.saliency(seeds={"layer2": torch.zeros(3, 4, 4)})


def test_images_are_checked(network, images):
    with pytest.raises(UserError, match="3 × 3 × 30 × 32, but the network was opened for B × 3 × 32 × 32"):
        sharing_ratios(network, images[:, :, 2:])
    broken = images.clone()
    broken[1, 0, 3, 3] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        sharing_ratios(network, broken)
    model = seeded(TinyNetwork(10, 8))
    model.layer2.bn1.weight.data[0] = float("inf")
    with pytest.raises(ValueError, match=r"ratios at node .* are not finite"):
        sharing_ratios(open_network(model, images), images)


def test_activations_too_large_to_be_squared_are_told_from_infinite_ones(images):
    """As in a RepVGG with random scales, whose branches add up block by block."""
    model = seeded(TinyNetwork(10, 8))
    model.layer2.bn2.weight.data *= 1e20
    network = open_network(model, images)
    assert network.activations(images, ["layer2"])["layer2"].isfinite().all()
    with pytest.raises(
        UserError, match=r"in module 'layer2.*' are not finite: its activations reach \d.\de\+\d\d, .*maps"
    ):
        sharing_ratios(network, images)


class Squeeze(nn.Module):
    """A network whose second layer gates its channels by a pooled map."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1, self.gate, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Linear(6, 4)
        self.act, self.after = nn.ReLU(), nn.Softplus()

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.layer1(x))
        gated = self.after(x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid())
        return self.head(gated.mean((2, 3)))


class LinearSqueeze(Squeeze):
    """The same with a linear layer, whose vector becomes a map again."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.layer1(x))
        gate = self.gate(x.mean((2, 3))).sigmoid()
        return self.head(self.after(x * gate[:, :, None, None]).mean((2, 3)))


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).mean((2, 3)))


REFUSED = {Squeeze: "'mul'", LinearSqueeze: "'unsqueeze'", Norm: "'group_norm' in module 'norm'"}


@pytest.mark.parametrize("kind", REFUSED)
def test_an_operation_without_a_rule_is_refused_by_name_with_the_alternative(kind, images):
    network, operation = open_network(seeded(kind()), images), REFUSED[kind]
    with pytest.raises(UserError, match=f"{operation}.*attribution_maps"):
        sharing_ratios(network, images)
    with pytest.raises(UserError, match=operation):
        layer_relevance(network, images, [network.layers[0]])


def test_what_is_below_an_operation_without_a_rule_can_still_be_asked(images):
    network = open_network(seeded(Squeeze()), images)
    fields = sharing_ratios(network, images, layers=["act"]).receptive_fields("act", [0, 31])
    assert (fields != 0).sum((1, 2)).tolist() == [9, 9]
    with pytest.raises(UserError, match="'head' has no map of its own: sharing ratios have no rule for 'mul'"):
        sharing_ratios(network, images, layers=["head"])


def test_a_network_cut_by_hooks_is_refused(images):
    with pytest.raises(UserError, match=r"torch.export cannot capture.*attribution_maps"):
        sharing_ratios(HookedNetwork(seeded(TinyNetwork(10, 8)), images), images)


class Vgg(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, 1, 1), nn.ReLU()
        )
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Sequential(nn.Linear(96, 8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(F.adaptive_avg_pool2d(self.pool(self.features(x)), (4, 4)).flatten(1))


def test_hidden_layers_after_the_pool_need_a_map_of_the_caller(images):
    ratios = sharing_ratios(open_network(seeded(Vgg()), images), images)
    with pytest.raises(UserError, match=r"hidden layers after the pool.*`seeds`"):
        ratios.saliency()
    seed = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ratios.saliency(seeds={"pool": seed}).sum((1, 2)), seed.sum((1, 2)))
    assert ratios.receptive_fields("pool", [5]).sum().item() == pytest.approx(1, abs=1e-5)
    with pytest.raises(UserError, match=r"'features.2' has no map of its own: a max pool is fused"):
        ratios.receptive_fields("features.2", [0])


class Normalising(nn.Module):
    """Pixels normalised inside the network, channel by channel, as torchvision's Inception does."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside, self.conv, self.act, self.head = inside, nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        if self.inside:
            x = torch.cat([x[:, c].unsqueeze(1) * (c + 1) + 0.5 for c in range(3)], 1)
        return self.head(self.act(self.conv(x)).mean((2, 3)))


def test_pixels_may_be_normalised_inside(images):
    inner, outer = seeded(Normalising(True)), seeded(Normalising(False))
    normalised = images * torch.tensor([1.0, 2, 3])[:, None, None] + 0.5
    ratios = sharing_ratios(open_network(inner, images), images)
    expected = sharing_ratios(open_network(outer, normalised), normalised)
    torch.testing.assert_close(ratios.saliency(), expected.saliency(), rtol=1e-4, atol=1e-5)


class Rewritten(nn.Module):
    """A change in place that is seen through a view: the graph that torch.export then needs has other operations."""

    def __init__(self, plain: bool) -> None:
        super().__init__()
        self.beside, self.norm = Side(), nn.BatchNorm2d(12)
        self.plain, self.conv, self.bn = plain, nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6)
        self.conv2, self.bn2, self.act, self.head = (
            nn.Conv2d(6, 6, 3, 1, 1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Linear(12, 4),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn(self.conv(x))
        if self.plain:
            x = x.relu()
        else:
            x.detach().relu_()
        x = self.norm(self.beside(self.act(self.bn2(self.conv2(x)) + x), x))
        return self.head(x.mean((2, 3)))


def test_a_functionalised_graph_gives_the_same_ratios(images):
    rewritten = open_network(seeded(Rewritten(False)), images)
    assert any("native_batch_norm" in str(node.target) for node in rewritten.module.graph.nodes)
    plain = open_network(seeded(Rewritten(True)), images)
    found, expected = sharing_ratios(rewritten, images), sharing_ratios(plain, images)
    torch.testing.assert_close(found.saliency(), expected.saliency())
    relevance = found.relevance(["beside"])["beside"]
    torch.testing.assert_close(relevance, expected.relevance(["beside"])["beside"])
    torch.testing.assert_close(relevance.sum((1, 2)), found.logits.amax(1), rtol=1e-4, atol=1e-5)


def test_a_concatenation_read_by_a_batch_norm_keeps_its_layer():
    image = torch.randn(1, 3, 20, 24, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    ratios = sharing_ratios(open_network(seeded(Beside()).double(), image), image)
    for layer in ("grown", "halve", "mixed"):
        relevance = ratios.relevance([layer])[layer]
        torch.testing.assert_close(relevance.sum(), ratios.logits.max(), rtol=1e-9, atol=1e-12)
