"""Windows of a lower layer: what one position of the upper depends on, and edges that are computed from it alone."""

from __future__ import annotations

import copy
import random
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from curves import Through
from vismech.attribution.engine import Attribution, Settings, attribute
from vismech.attribution.paths import STRAIGHT
from vismech.attribution.sources import ConceptSource, UnitSource
from vismech.attribution.targets import ConceptTargets, LogitTargets
from vismech.attribution.windows import windows_of
from vismech.config.choices import Along, Mode, PathWeight, ReadOut, SourceKind
from vismech.measures.interlayer.orders import ImageTargets
from vismech.measures.saturation.scores import WEIGHTS
from vismech.network.cut import LOGITS, open_network
from vismech.network.layers import PIXELS
from vismech.network.pfv import layout_of
from vismech.passes.threads import one_thread

# Networks


class Shortcut(nn.Module):
    """Every second row and column between channels of zeros, as CIFAR's ResNets have it, beside a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels + 2, 3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).relu() + nn.functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


class Branches(nn.Module):
    """Two convolutions of different width side by side, their sum and their product."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(channels, channels, 1)
        self.wide = nn.Conv2d(channels, channels, size, 1, size // 2)

    def forward(self, x: Tensor) -> Tensor:
        narrow, wide = self.narrow(x), self.wide(x)
        return torch.cat([narrow + wide, narrow * wide.sigmoid()], 1)


class Scaled(nn.Module):
    """A scale of each channel, or of each position."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(shape) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def parts(choose: random.Random, channels: int) -> tuple[nn.Module, int]:
    """One local layer of a random network, and its channels."""
    size = choose.choice([1, 2, 3, 5])
    stride, padding, dilation = choose.choice([1, 1, 2, 3]), choose.randrange(0, size), choose.choice([1, 1, 2])
    match choose.randrange(8):
        case 0 | 1:
            sides = (size, choose.choice([1, 3])), (stride, 1), (padding, 1), (dilation, 1)
            groups = choose.choice([1, channels])
            return nn.Conv2d(channels, 2 * channels, *sides, groups=groups), 2 * channels
        case 2:
            return nn.Sequential(nn.BatchNorm2d(channels), nn.GELU(), Scaled(channels, 1, 1)), channels
        case 3:
            return nn.MaxPool2d(3, stride, choose.choice([0, 1])), channels
        case 4:
            return nn.AvgPool2d(2, stride, choose.choice([0, 1])), channels
        case 5:
            return Shortcut(channels), channels + 2
        case 6:
            left, right, top, bottom = (choose.randrange(3) for _ in range(4))
            padded = nn.ConstantPad2d((left, right, top, bottom), choose.choice([0.0, 0.5]))
            return nn.Sequential(padded, nn.Conv2d(channels, channels, size, stride)), channels
    return Branches(channels, choose.choice([3, 5])), 2 * channels


class Random(nn.Module):
    def __init__(self, seed: int, layers: int) -> None:
        super().__init__()
        choose, channels, body = random.Random(seed), 2, []
        for _ in range(layers):
            layer, channels = parts(choose, channels)
            body.append(layer)
        self.stem, self.body = nn.Conv2d(3, 2, 1), nn.Sequential(*body)
        self.head = nn.Linear(channels, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


@given(seed=st.integers(0, 10**6), layers=st.integers(1, 3), rows=st.integers(17, 24), columns=st.integers(17, 24))
@settings(max_examples=20, deadline=None)
def test_a_window_gives_the_value_and_nothing_outside_it_has_a_gradient(seed, layers, rows, columns) -> None:
    model = tiny.seeded(Random(seed, layers), seed).double()
    example = torch.randn(2, 3, rows, columns, generator=torch.Generator().manual_seed(seed)).double()
    network = open_network(model, example)
    for folded in (False, True):
        segment = network.segment("stem", "body", folded=folded)
        assert segment.reach is not None
        lower = network.activations(example[:1], ["stem"])["stem"].clone().requires_grad_()
        whole = segment(lower)
        sizes = [reach.window(side) for reach, side in zip(segment.reach, (rows, columns), strict=True)]
        for at in torch.cartesian_prod(*(torch.arange(side) for side in whole.shape[2:])).tolist():
            asked = zip(segment.reach, at, (rows, columns), strict=True)
            starts = [int(reach.start(torch.tensor(place), side)) for reach, place, side in asked]
            places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
            assert all(starts[side] >= 0 and places[side].stop <= (rows, columns)[side] for side in range(2))
            value = whole[0, :, at[0], at[1]]
            (gradient,) = torch.autograd.grad(value.square().sum(), lower, retain_graph=True)
            gradient[:, :, *places] = 0
            assert not gradient.any()
            local = [
                place - start // reach.stride for place, start, reach in zip(at, starts, segment.reach, strict=True)
            ]
            part = segment(lower.detach()[:, :, *places])[0, :, local[0], local[1]]
            torch.testing.assert_close(part, value, rtol=1e-10, atol=1e-12)


class Squeezed(nn.Module):
    """Each channel by the average of the map, or by what a convolution of the map's size makes of it."""

    def __init__(self, convolution: bool) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(2, 2, 8 if convolution else 1)
        self.convolution = convolution

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weigh(x if self.convolution else x.mean((2, 3), keepdim=True)).sigmoid()


class Turned(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(2, 3)


class Beheaded(nn.Module):
    """The map without its first rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 2:]


@pytest.mark.parametrize(
    "body",
    [
        Squeezed(False),
        Squeezed(True),
        Turned(),
        Beheaded(),
        Scaled(2, 8, 8),
        Scaled(8),
        nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(2, 2, 3, 1, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(4),
        nn.Upsample(scale_factor=2),
        nn.GroupNorm(1, 2),
        nn.InstanceNorm2d(2),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Softmax(3),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d(1),
        nn.ZeroPad2d(-1),
        nn.PixelShuffle(1),
    ],
    ids=str,
)
def test_what_is_not_local_or_not_known_to_be_has_no_window(body) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.body, self.head = nn.Conv2d(3, 2, 1), body, nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(self.stem(x)).mean((2, 3)))

    model = Network().eval()
    network = open_network(model, torch.randn(2, 3, 8, 8))
    assert network.segment("stem", "body").reach is None


# Edges


class Counted(nn.Module):
    """A segment that counts the positions that pass it; without a reach unless it is told to have one."""

    def __init__(self, segment: nn.Module, local: bool) -> None:
        super().__init__()
        self.segment, self.positions = segment, 0
        if local:
            self.reach = segment.reach

    def forward(self, x: Tensor) -> Tensor:
        self.positions += x[:, 0].numel()
        return self.segment(x)


@cache
def opened(side: int):
    return open_network(tiny.seeded(tiny.TinyNetwork(3, 8)), tiny.images(2, side))


class Problem:
    """Concepts of layer1 of a network of 64 pixels, or of layer2, from the layer before it."""

    def __init__(self, pair: tuple[str, str], images: int = 5, targets: int = 4) -> None:
        draw = torch.Generator().manual_seed(0)
        network = opened(64)
        with torch.no_grad():
            given = network.activations(tiny.images(images, 64), list(pair))
        self.layout, above = (layout_of(network.shape(layer), layer) for layer in pair)
        self.segment, self.clean = network.segment(*pair, folded=True), given[pair[0]]
        self.vectors = self.layout.vectors(self.clean).contiguous()
        self.start = 0.3 * self.vectors.roll(1, 0)
        atoms = nn.functional.normalize(torch.randn(targets, above.channels, generator=draw), dim=1)
        anchors = torch.randint(above.positions, (images, targets), generator=draw)
        anchors[0, :2] = torch.tensor([0, above.positions - 1])  # corners
        anchors[1, 2], anchors[2] = -1, -1  # absent
        self.targets = ConceptTargets(atoms, anchors, above)

    def concepts(self, path=STRAIGHT) -> ConceptSource:
        draw = torch.Generator().manual_seed(1)
        atoms = nn.functional.normalize(torch.randn(6, self.layout.channels, generator=draw), dim=1)
        codes, first = ((part @ atoms.T).relu() for part in (self.vectors, self.start))
        return ConceptSource(atoms, codes, self.vectors, Along.activation, first, self.start, path)

    def only(self, image: int) -> Problem:
        """The same of one image."""
        other, one = copy.copy(self), slice(image, image + 1)
        other.clean, other.vectors, other.start = self.clean[one], self.vectors[one], self.start[one]
        other.targets = self.targets.take(torch.tensor([image]))
        return other

    def __call__(self, source, local: bool, **options) -> tuple[Attribution, int]:
        segment = Counted(self.segment, local)
        asked = Settings(**{"steps": 16, "mode": Mode.reverse, "rows": 64} | options)
        return attribute(segment, self.layout, source, self.clean, self.targets, asked), segment.positions


def assert_close(found: Attribution, other: Attribution) -> None:
    for weight, edges in found.edges.items():
        for ours, theirs in zip(edges, other.edges[weight], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    for name in ("value", "baseline", "present", "moves", "crosses", "crossing", "energy", "steps"):
        torch.testing.assert_close(getattr(found, name), getattr(other, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", [STRAIGHT, Through()], ids=["straight", "bent"])
@pytest.mark.parametrize("options", [{}, {"rows": 8}, {"steps": 9}, {"tolerance": 0.1, "steps": 4}], ids=str)
@pytest.mark.parametrize("pair", [("stem", "layer1"), ("layer1", "layer2")], ids="-".join)
def test_edges_from_windows_are_those_from_whole_maps_and_less_passes(pair, options, path) -> None:
    problem = Problem(pair)
    source = problem.concepts(path)
    near, few = problem(source, True, weights=WEIGHTS, **options)
    far, many = problem(source, False, weights=WEIGHTS, **options)
    assert_close(near, far)
    assert few < many / 2


@pytest.mark.parametrize("kind", [SourceKind.channels, SourceKind.positions])
def test_other_units_are_served_too(kind) -> None:
    problem = Problem(("stem", "layer1"))
    source = UnitSource(kind, problem.vectors)
    assert_close(problem(source, True)[0], problem(source, False)[0])


def test_each_image_may_have_concepts_of_its_own() -> None:
    problem = Problem(("stem", "layer1"))
    shared, atoms = problem.targets, problem.targets.atoms
    own = torch.stack([atoms.roll(image, 0) for image in range(len(problem.clean))])
    problem.targets = ImageTargets(own, shared.anchors, shared.layout, shared.anchors)
    (near, few), (far, many) = (problem(problem.concepts(), local, weights=WEIGHTS) for local in (True, False))
    assert_close(near, far)
    assert few < many / 2


def test_an_image_alone_has_the_same_bytes() -> None:
    problem = Problem(("layer1", "layer2"))
    with one_thread():  # as every step of a run is
        together = problem(problem.concepts(), True, weights=WEIGHTS)[0]
        alone = {}
        for image in (0, 3, 4):
            one = problem.only(image)
            alone[image] = one(one.concepts(), True, weights=WEIGHTS)[0]
    for image, found in alone.items():
        for weight in WEIGHTS:
            assert torch.equal(found.edges[weight].units[0], together.edges[weight].units[image])


def test_whole_maps_pass_where_a_window_would_save_little_or_a_target_has_none() -> None:
    problem = Problem(("stem", "layer1"))
    segment, layout, targets = problem.segment, problem.layout, problem.targets
    windows = windows_of(segment, layout, targets)
    assert windows is not None and windows.layout.grid == (5, 5)
    assert windows_of(segment, layout_of((8, 6, 6), "small"), targets) is None
    others = ConceptTargets(targets.atoms, targets.anchors, targets.layout, ReadOut.sum)
    assert windows_of(segment, layout, others) is None
    assert windows_of(segment, layout, LogitTargets(torch.zeros(5, dtype=torch.long))) is None
    assert windows_of(lambda x: x, layout, targets) is None
    network = opened(32)
    assert network.segment("layer3", LOGITS).reach is None
    assert network.segment(PIXELS, "stem").reach is not None


def test_profiles_are_of_whole_gradients() -> None:
    problem = Problem(("stem", "layer1"))
    near, far = (problem(problem.concepts(), local, profile=True)[0].profile for local in (True, False))
    assert near is not None and far is not None
    torch.testing.assert_close(near.norms, far.norms)
    torch.testing.assert_close(near.values, far.values)


def test_left_and_right_add_up_and_edges_are_complete() -> None:
    problem = Problem(("layer1", "layer2"))
    found = problem(problem.concepts(), True, weights=WEIGHTS, steps=512, rows=512)[0]
    left, right, plain = (found.edges[name].units for name in (PathWeight.left_ig, PathWeight.right_ig, PathWeight.ig))
    torch.testing.assert_close(left + right, plain, rtol=1e-5, atol=1e-6)
    complete = plain.sum(2) + found.edges[PathWeight.ig].error
    torch.testing.assert_close(complete, found.value - found.baseline, rtol=0.02, atol=0.01)
