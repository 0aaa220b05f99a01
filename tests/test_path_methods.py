"""Paths that look at the model or the data, and attributions without a path: twins, limits, functions done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from curves import (
    IMAGES,
    LOWER,
    SOURCES,
    TARGETS,
    Segment,
    Through,
    activations,
    clean,
    concept_targets,
    logit_targets,
    one_number,
    source,
    value_of,
    whole,
)
from oracles import method_twins
from vismech.attribution.coordinates import coordinates_of
from vismech.attribution.engine import Settings, attribute, completeness_gap
from vismech.attribution.methods import (
    COMPLETE,
    OPTIONS,
    Guided,
    Ig2,
    Manifold,
    Occlusion,
    SmoothGrad,
    Spectral,
    load_decoder,
    options_of,
    told_cost,
)
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import Edges, UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import AttributionMethod, Mode, PathWeight, Rule, SourceKind
from vismech.errors import NotFinite, UserError
from vismech.measures.attribution.methods import MethodSettings, passes_of
from vismech.network.pfv import Axes, Layout

STEPS = 6


class Bent:
    """A decoder that bends: the latent vector is half the numbers, the others follow from it by a sine."""

    def encode(self, numbers):
        return numbers.flatten(1)[:, ::2]

    def decode(self, latent):
        both = torch.stack([latent, torch.sin(2 * latent)], 2).flatten(1)
        return both[:, : self.size].unflatten(1, self.shape)

    def __init__(self, shape):
        self.shape, self.size = shape, shape[0] * shape[1]


class Linear:
    """A decoder that is the numbers themselves, turned."""

    def __init__(self, shape):
        size = shape[0] * shape[1]
        drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
        self.turn, self.shape = torch.linalg.qr(drawn)[0], shape

    def encode(self, numbers):
        return numbers.flatten(1) @ self.turn

    def decode(self, latent):
        return (latent @ self.turn.T).unflatten(1, self.shape)


def parts_of(kind, start=None, seed=1):
    """Segment, vectors, baseline, source and its coordinates."""
    vectors = activations(seed)
    baseline = None if start is None else activations(start)
    one = source(kind, vectors, baseline)
    return Segment().double(), vectors, baseline, one, coordinates_of(one)


def flat_value(segment, targets, numbers, image, target):
    """One target as a function of an image's flat coordinates."""
    shape, own = numbers.end.shape[1:], torch.tensor([image])
    value = value_of(segment, targets, image, target)
    return lambda flat: value(numbers.vectors(flat.unflatten(0, shape)[None], own)[0])


def run(path, segment, one, vectors, targets, options=None, steps=STEPS, rule=Rule.midpoint, rows=24):
    how = Settings(rule=rule, steps=steps, weights=(path,), rows=rows, options=options)
    return attribute(segment, LOWER, one, clean(vectors), targets, how)


def assert_equal(found, numbers, twin, image, target):
    expected = numbers.edges(twin.unflatten(0, numbers.end.shape[1:]))
    assert torch.allclose(found.units[image, target], expected.units, rtol=1e-6, atol=1e-9)
    assert torch.allclose(found.error[image, target], expected.error, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("start", [None, 11], ids=["zero", "other"])
@pytest.mark.parametrize("kind", SOURCES)
def test_guided_ig_equals_its_twin(kind, start) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, start)
    targets = concept_targets()
    found = run(PathWeight.guided_ig, segment, one, vectors, targets, Guided(0.3, 0.15)).edges
    for image, target in ((0, 1), (2, 3)):
        value = flat_value(segment, targets, numbers, image, target)
        ends = numbers.start[image].flatten(), numbers.end[image].flatten()
        twin = method_twins.guided_ig(value, *ends, STEPS, 0.3, 0.15)
        assert_equal(found[PathWeight.guided_ig], numbers, twin, image, target)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", SOURCES)
def test_ig2_equals_its_twin(kind, clip) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, 11)
    targets = concept_targets()
    told = run(PathWeight.ig2, segment, one, vectors, targets, Ig2(0.4, clip))
    for image, target in ((0, 1), (2, 3)):
        value = flat_value(segment, targets, numbers, image, target)
        own = torch.tensor([image])

        def representation(flat, own=own):
            point = numbers.vectors(flat.unflatten(0, numbers.end.shape[1:])[None], own)
            return segment(LOWER.activation(point, point)).flatten()

        ends = numbers.start[image].flatten(), numbers.end[image].flatten()
        twin, last = method_twins.ig2(value, representation, representation(ends[0]), *ends, STEPS, 0.4, clip)
        assert_equal(told.edges[PathWeight.ig2], numbers, twin, image, target)
        assert float(told.baseline[image, target]) == pytest.approx(float(value(last)), abs=1e-9)


@pytest.mark.parametrize("rule", [Rule.midpoint, Rule.gauss_legendre])
@pytest.mark.parametrize("start", [None, 11], ids=["zero", "other"])
@pytest.mark.parametrize("kind", SOURCES)
def test_spectral_ig_equals_its_twin(kind, start, rule) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, start)
    targets = concept_targets()
    found = run(PathWeight.spectral_ig, segment, one, vectors, targets, Spectral(0.4), rule=rule).edges
    nodes, weights = (part.tolist() for part in quadrature(rule, STEPS))
    for image, target in ((0, 1), (2, 3)):
        flat = flat_value(segment, targets, numbers, image, target)
        twin = method_twins.spectral_ig(
            lambda matrix, flat=flat: flat(matrix.flatten()),
            numbers.start[image],
            numbers.end[image],
            nodes,
            weights,
            0.4,
        )
        assert_equal(found[PathWeight.spectral_ig], numbers, twin.flatten(), image, target)


def test_spectral_ig_of_pixels_takes_the_image_as_a_matrix_of_its_rows() -> None:
    vectors, segment = activations(1), Segment().double()
    one = UnitSource(SourceKind.pixels, vectors)
    found = run(PathWeight.spectral_ig, segment, one, vectors, concept_targets()).edges[PathWeight.spectral_ig]
    nodes, weights = (part.tolist() for part in quadrature(Rule.midpoint, STEPS))
    value = value_of(segment, concept_targets(), 1, 2)
    rows = vectors[1].reshape(4, -1)
    twin = method_twins.spectral_ig(
        lambda matrix: value(matrix.reshape(16, 6)), torch.zeros_like(rows), rows, nodes, weights, 0.4
    )
    assert torch.allclose(found.units[1, 2], twin.reshape(16, 6).sum(1), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", SOURCES)
def test_manifold_ig_is_a_line_integral_along_the_decoded_path(kind) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, 11)
    decoder = Bent(tuple(numbers.end.shape[1:]))
    targets = concept_targets()
    found = run(PathWeight.manifold_ig, segment, one, vectors, targets, Manifold(decoder, iterations=0)).edges
    image, target = 2, 3
    start, end = numbers.start[image], numbers.end[image]
    first, last = decoder.encode(torch.stack([start, end]))
    corners = [decoder.decode((first + s / STEPS * (last - first))[None])[0] for s in range(STEPS + 1)]
    miss = start - corners[0], end - corners[-1]
    corners = [x + (1 - s / STEPS) * miss[0] + s / STEPS * miss[1] for s, x in enumerate(corners)]
    value = flat_value(segment, targets, numbers, image, target)
    twin = method_twins.polygon(value, [corner.flatten() for corner in corners])
    assert_equal(found[PathWeight.manifold_ig], numbers, twin, image, target)


def test_the_search_for_a_geodesic_shortens_the_path_and_a_linear_decoder_leaves_it_straight() -> None:
    from vismech.attribution.bent import geodesic

    vectors, start = activations(1)[0], activations(11)[0]
    bent = Bent((16, 6))

    def energy(iterations):
        return float(geodesic(bent, start, vectors, 4, iterations).diff(dim=0).square().sum())

    assert energy(3) < 0.999 * energy(0)
    straight = geodesic(Linear((16, 6)), start, vectors, 12, 20)
    share = torch.arange(13).double()[:, None, None] / 12
    assert torch.allclose(straight, start + share * (vectors - start), atol=1e-9)


@pytest.mark.parametrize("kind", SOURCES)
def test_with_a_linear_decoder_manifold_ig_is_ig(kind) -> None:
    segment, vectors, _, one, numbers = parts_of(kind, 11)
    targets = concept_targets()
    found = run(PathWeight.manifold_ig, segment, one, vectors, targets, Manifold(Linear(tuple(numbers.end.shape[1:]))))
    straight = run(PathWeight.ig, segment, one, vectors, targets).edges[PathWeight.ig]
    assert_same(found.edges[PathWeight.manifold_ig], straight)


def assert_same(first: Edges, second: Edges) -> None:
    assert torch.allclose(first.units, second.units, rtol=1e-6, atol=1e-9)
    assert torch.allclose(first.error, second.error, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", SOURCES)
def test_guided_ig_with_all_coordinates_is_ig_of_the_left_rule(kind) -> None:
    segment, vectors, _, one, _ = parts_of(kind, 11)
    targets = concept_targets()
    found = run(PathWeight.guided_ig, segment, one, vectors, targets, Guided(1.0, 0.3))
    straight = run(PathWeight.ig, segment, one, vectors, targets, rule=Rule.riemann_left)
    assert_same(found.edges[PathWeight.guided_ig], straight.edges[PathWeight.ig])


@pytest.mark.parametrize("kind", SOURCES)
def test_spectral_ig_with_the_whole_window_is_ig(kind) -> None:
    segment, vectors, _, one, _ = parts_of(kind, 11)
    targets = concept_targets()
    found = run(PathWeight.spectral_ig, segment, one, vectors, targets, Spectral(1.0))
    straight = run(PathWeight.ig, segment, one, vectors, targets)
    assert_same(found.edges[PathWeight.spectral_ig], straight.edges[PathWeight.ig])


def test_ig2_with_a_straight_descent_is_ig_of_the_right_rule() -> None:
    """Where the representation is the activation itself, descent is straight; steps of the right length end there."""
    vectors, start = activations(1, 1), activations(11, 1)
    one = UnitSource(SourceKind.channels, vectors, start)
    bend = torch.randn(96, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 4

    def identity(x):
        return x.flatten(1)

    class Bump:
        present = torch.ones(1, 1, dtype=torch.bool)

        def __call__(self, activation, image):
            return torch.tanh(activation @ bend)[:, None] + (activation**3).sum(1, keepdim=True) / 50

        def take(self, image):
            return self

    length = float((vectors - start).norm())
    how = Settings(weights=(PathWeight.ig2,), steps=8, options=Ig2(length / 8, clip=False))
    found = attribute(identity, LOWER, one, clean(vectors), Bump(), how)
    straight = attribute(identity, LOWER, one, clean(vectors), Bump(), Settings(Rule.riemann_right, 8))
    assert_same(found.edges[PathWeight.ig2], straight.edges[PathWeight.ig])
    assert torch.allclose(found.baseline, straight.baseline)


TWO = Layout(Axes.channels_first, (1, 2), 1)


class Product:
    """F(x, y) = x·y of an image of two pixels."""

    present = torch.ones(1, 1, dtype=torch.bool)

    def __call__(self, activation, image):
        return activation

    def take(self, image):
        return self


def two_pixels(path, options=None, steps=2, function=lambda x: x.flatten(1).prod(1, keepdim=True), at=(1.0, 2.0)):
    vectors = torch.tensor(at, dtype=torch.float64).view(1, 2, 1)
    one = UnitSource(SourceKind.pixels, vectors)
    how = Settings(steps=steps, weights=(path,), options=options)
    return attribute(function, TWO, one, TWO.activation(vectors, vectors), Product(), how)


def test_guided_ig_of_two_pixels_by_hand() -> None:
    # From (0, 0) both slopes are 0: both go, to (½, 1). There ∂x = 1, ∂y = ½; the last step goes to (1, 2).
    found = two_pixels(PathWeight.guided_ig, Guided(0.5, 1.0))
    assert found.edges[PathWeight.guided_ig].units[0, 0].tolist() == [0.5, 0.5]
    # F = 4x + y: y has the smaller slope, and 1.5 of the way of 3 is its half step: it goes first, x the rest; both
    # sum to what they are worth, since F is linear.
    linear = two_pixels(
        PathWeight.guided_ig, Guided(0.5, 1.0), function=lambda x: x.flatten(1) @ torch.tensor([[4.0], [1]]).double()
    )
    assert linear.edges[PathWeight.guided_ig].units[0, 0].tolist() == [4.0, 2.0]
    # F = 4x + y + xy, three steps of length 1: ∂ at (0, 0) is (4, 1), so y → 1; at (0, 1) (5, 1), so y → 2; last x.
    both = two_pixels(
        PathWeight.guided_ig,
        Guided(0.5, 1.0),
        steps=3,
        function=lambda x: x.flatten(1) @ torch.tensor([[4.0], [1]]).double() + x.flatten(1).prod(1, keepdim=True),
    )
    assert both.edges[PathWeight.guided_ig].units[0, 0].tolist() == pytest.approx([6.0, 2.0])


def test_ig2_of_two_pixels_by_hand() -> None:
    # r = F = 3x + 4y from (1, 2), the reference 0: descent is along (3, 4)/5; one step of 2.5 leads to (−½, 0).
    found = two_pixels(PathWeight.ig2, Ig2(2.5, False), 1, lambda x: x.flatten(1) @ torch.tensor([[3.0], [4]]).double())
    assert found.edges[PathWeight.ig2].units[0, 0].tolist() == pytest.approx([4.5, 8.0])
    assert found.baseline.item() == pytest.approx(-1.5)
    # Within the range of the input, [1, 2], x cannot fall.
    clipped = two_pixels(
        PathWeight.ig2, Ig2(2.5, True), 1, lambda x: x.flatten(1) @ torch.tensor([[3.0], [4]]).double()
    )
    assert clipped.edges[PathWeight.ig2].units[0, 0].tolist() == pytest.approx([0.0, 4.0])


def test_witnesses_of_two_pixels_by_hand() -> None:
    left_out = two_pixels(PathWeight.occlusion)
    assert left_out.edges[PathWeight.occlusion].units[0, 0].tolist() == [2.0, 2.0]  # each alone takes all of 1 · 2
    squares = two_pixels(PathWeight.occlusion, Occlusion(2), at=(1.0, 4.0))
    assert squares.edges[PathWeight.occlusion].units[0, 0].tolist() == [2.0, 2.0]  # both at once take 4
    still = two_pixels(PathWeight.smooth_grad, SmoothGrad(0.0))
    assert still.edges[PathWeight.smooth_grad].units[0, 0].tolist() == [2.0, 2.0]  # x · ∂x = y · ∂y = 2
    drawn = [
        two_pixels(PathWeight.smooth_grad, SmoothGrad(0.5, seed), steps=400).edges[PathWeight.smooth_grad].units[0, 0]
        for seed in (0, 1)
    ]
    assert not torch.equal(*drawn)
    assert torch.allclose(drawn[0], torch.tensor([2.0, 2.0]).double(), atol=0.15)  # the mean of y + noise is y


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("path", [path for path in COMPLETE if path is not PathWeight.manifold_ig])
def test_paths_are_complete_to_their_rules_order(path, kind) -> None:
    segment, vectors, _, one, _ = parts_of(kind, 11)

    def miss(steps):
        found = run(path, segment, one, vectors, concept_targets(), steps=steps)
        missing = (whole(found.edges[path]) - (found.value - found.baseline)).abs()
        gap = completeness_gap(whole(found.edges[path]), found.value, found.baseline)
        return float(missing.median()), float(gap[found.moves].median())

    # IG2 goes to and fro at the end of its way, where little changes: what it misses is small but beside the change.
    (coarse, _), (fine, gap) = miss(16), miss(256)
    assert fine < coarse / 8
    assert gap < (0.1 if path is PathWeight.ig2 else 0.02)


@pytest.mark.parametrize("path", OPTIONS)
def test_absent_and_still_targets_are_counted_and_never_nan(path) -> None:
    vectors, targets = activations(1), concept_targets()
    anchors = targets.anchors.clone()
    anchors[1, 2] = -1
    targets = type(targets)(targets.atoms, anchors, targets.layout)
    vectors[0] = 0  # an image that is its baseline
    one = source("activation", vectors)
    options = Manifold(Linear(tuple(coordinates_of(one).end.shape[1:]))) if path is PathWeight.manifold_ig else None
    found = run(path, Segment().double(), one, vectors, targets, options)
    edges = found.edges[path]
    assert edges.units.isfinite().all() and edges.error.isfinite().all()
    assert not edges.units[0].any() and not edges.error[0].any() and not found.moves[0].any()
    assert not edges.units[1, 2].any() and not found.present[1, 2] and not found.moves[1, 2]
    assert found.moves[1, 0] and edges.units[1, 0].any() and found.present[0].all()

    constant = run(path, lambda x: Segment().double()(0 * x), one, vectors, targets, options)
    assert not constant.moves.any()
    assert constant.edges[path].units.isfinite().all() and not constant.edges[path].units.any()


@pytest.mark.parametrize("path", OPTIONS)
def test_neither_rows_nor_neighbours_change_an_image(path) -> None:
    vectors, segment = activations(1), Segment().double()
    one = source("activation", vectors)
    alone = replace(one, codes=one.codes[1:2], vectors=vectors[1:2])
    targets = concept_targets()
    options = Manifold(Linear(tuple(coordinates_of(one).end.shape[1:]))) if path is PathWeight.manifold_ig else None
    together = run(path, segment, one, vectors, targets, options)
    for rows in (5, 64):
        assert_same(run(path, segment, one, vectors, targets, options, rows=rows).edges[path], together.edges[path])
    single = run(path, segment, alone, vectors[1:2], targets.take(torch.tensor([1])), options)
    assert_same(single.edges[path], Edges(*(part[1:2] for part in together.edges[path])))


@pytest.mark.parametrize("path", [PathWeight.guided_ig, PathWeight.ig2])
@pytest.mark.parametrize("kind", ["channels", "positions"])
def test_an_image_of_which_less_moves_is_the_same_bits_alone(kind, path) -> None:
    """In single precision a sum depends on how many terms it has, and IG2 makes much of a last bit."""
    vectors, start = activations(1).float(), activations(11).float()
    vectors[0, 3:9], vectors[1, 2] = start[0, 3:9], start[1, 2]
    targets, options = concept_targets(dtype=torch.float32), Guided(0.25, 0.2) if path is PathWeight.guided_ig else None
    together = run(path, Segment(), source(kind, vectors, start), vectors, targets, options, steps=32).edges[path]
    for image in range(IMAGES):
        one, own = source(kind, vectors[[image]], start[[image]]), targets.take(torch.tensor([image]))
        alone = run(path, Segment(), one, vectors[[image]], own, options, steps=32).edges[path]
        assert torch.equal(alone.units[0], together.units[image])


def test_several_baselines_give_the_mean_of_their_attributions() -> None:
    segment, vectors, _, first, _ = parts_of("reconstruction", 11)
    second = source("reconstruction", vectors, activations(12))
    targets = concept_targets()
    for path in (PathWeight.ig2, PathWeight.guided_ig):
        both = run(path, segment, [first, second], vectors, targets)
        each = [run(path, segment, one, vectors, targets) for one in (first, second)]
        assert torch.allclose(both.edges[path].units, torch.stack([one.edges[path].units for one in each]).mean(0))
        assert torch.allclose(both.baseline, torch.stack([one.baseline for one in each]).mean(0))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), fraction=st.floats(0.01, 1), max_dist=st.floats(0, 1), steps=st.integers(1, 9))
def test_guided_ig_of_a_linear_function_is_exact_whatever_its_options(seed, fraction, max_dist, steps) -> None:
    vectors = torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(seed))
    weight = torch.randn(96, 3, generator=torch.Generator().manual_seed(seed + 1))
    one = UnitSource(SourceKind.channels, vectors)
    how = Settings(steps=steps, weights=(PathWeight.guided_ig,), options=Guided(fraction, max_dist))
    targets = LogitTargets(torch.tensor([[0, 1], [2, 0]]))
    found = attribute(lambda x: x.flatten(1) @ weight, LOWER, one, clean(vectors), targets, how)
    slopes = weight.T.reshape(3, 6, 16).sum(2) * 0  # by position and channel below
    own = LOWER.vectors(weight.T.reshape(3, 6, 4, 4))
    for image, row in enumerate(targets.classes):
        for target, index in enumerate(row):
            expected = (vectors[image] * own[index]).sum(0) + slopes[index]
            assert torch.allclose(found.edges[PathWeight.guided_ig].units[image, target], expected, atol=1e-4)


@pytest.mark.parametrize("path", [path for path in OPTIONS if path is not PathWeight.manifold_ig])
def test_what_is_not_finite_names_its_image(path) -> None:
    vectors = activations(1)

    def broken(x):
        return torch.where(x.sum((1, 2, 3), keepdim=True) == x[2:3].sum(), torch.nan, 1.0) * x

    bad = LOWER.activation(vectors, vectors)[2].sum()

    def segment(x):
        out = Segment().double()(x)
        return torch.where((x.sum((1, 2, 3)) - bad).abs()[:, None, None, None] < 1e-9, torch.nan, out)

    with pytest.raises(NotFinite) as caught:
        run(path, segment, UnitSource(SourceKind.channels, vectors), vectors, concept_targets())
    assert caught.value.image == 2


def test_settings_that_exclude_one_another_are_refused() -> None:
    with pytest.raises(UserError, match=r"guided_ig is no weight on a path that others share"):
        Settings(weights=(PathWeight.guided_ig, PathWeight.ig))
    with pytest.raises(UserError, match=r"takes its steps once: leave attribute.tolerance at null"):
        Settings(weights=(PathWeight.ig2,), tolerance=0.1)
    with pytest.raises(UserError, match=r"give attribute.mode=reverse or auto"):
        Settings(weights=(PathWeight.spectral_ig,), mode=Mode.forward)
    with pytest.raises(UserError, match="has other options"):
        Settings(weights=(PathWeight.spectral_ig,), options=Guided())
    with pytest.raises(UserError, match="Through is a path already"):
        run(
            PathWeight.guided_ig,
            Segment().double(),
            source("channels", activations(1), None, Through()),
            activations(1),
            logit_targets(),
        )


@pytest.mark.parametrize(
    ("path", "given", "sentence"),
    [
        ("guided_ig", {"fracton": 0.2}, "fracton is no option of attribute.path=guided_ig: it has fraction, max_dist"),
        ("guided_ig", {"fraction": 0}, "fraction=0.0 must be above 0 and at most 1"),
        ("guided_ig", {"max_dist": "far"}, "max_dist=far is no number"),
        ("ig2", {"step": -1}, "step=-1.0 must be above 0, or null"),
        ("ig2", {"clip": 3}, "clip=3 is no true or false"),
        ("spectral_ig", {"window": 2}, "window=2.0 must be above 0 and at most 1"),
        ("manifold_ig", {}, "needs a manifold: give attribute.options.decoder=FILE"),
        ("manifold_ig", {"decoder": 3}, "needs a manifold"),
        ("idgi", {"seed": 1}, "seed is no option of attribute.path=idgi: it has none"),
        ("smooth_grad", {"noise": -1}, "noise=-1.0 must be a share of the range"),
        ("occlusion", {"patch": 1.5}, "patch=1.5 is no whole number"),
    ],
)
def test_options_typed_by_hand_end_in_one_sentence(path, given, sentence) -> None:
    with pytest.raises(UserError) as caught:
        options_of(PathWeight(path), given)
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_costs_are_those_that_are_counted() -> None:
    """Rows that go through the segment are what is told, filled up to a multiple of eight."""
    vectors, targets = activations(1), concept_targets()
    one = source("reconstruction", vectors)
    counted = [0]

    def segment(x):
        counted[0] += len(x)
        return Segment().double()(x)

    def passes(path, steps):
        counted[0] = 0
        run(path, segment, one, vectors, targets, steps=steps, rows=24)
        return counted[0]

    for path, forward in (
        (PathWeight.guided_ig, 16 / IMAGES),
        (PathWeight.spectral_ig, 1),
        (PathWeight.ig2, 8 / IMAGES),
    ):
        assert (passes(path, 16) - passes(path, 8)) / (8 * IMAGES) == pytest.approx(forward)
        # Rows that fill a pass up are no model calls.
        assert forward >= OPTIONS[path]().passes(8, TARGETS, 10).forward / 8 > forward / 3
    assert Guided().calls(8, TARGETS, 10) == 8 * 2 * TARGETS
    assert Ig2().calls(8, TARGETS, 10) == 8 * (2 + TARGETS)
    assert Spectral().calls(8, TARGETS, 10) == 8 * (1 + TARGETS)
    assert told_cost(PathWeight.guided_ig, {}, 200) == (
        "attribute.path=guided_ig: 400 model calls an image, and 400 for each further target, where ig takes 400 and "
        "200; each target has a path of its own, so fewer kept concepts (graph.important) cost less"
    )
    how = MethodSettings((AttributionMethod.ig2, AttributionMethod.occlusion, AttributionMethod.covariance), {})
    assert passes_of(how, 8, 1, 10) == [(2 * 8, 2 * 16), (11, 0)]
    assert "for each concept" in told_cost(PathWeight.occlusion, {}, 1)


def test_one_number_of_each() -> None:
    """A function of one number along every path is the function's own change."""
    for path in (PathWeight.guided_ig, PathWeight.spectral_ig):
        found = one_number(lambda s: s**2, steps=256, weights=(path,))
        assert float(whole(found.edges[path])) == pytest.approx(1, abs=0.01)


def test_a_decoder_is_named_by_its_target() -> None:
    found = load_decoder({"_target_": "test_path_methods.Linear", "shape": [16, 6]})
    numbers = activations(1)
    assert torch.allclose(found.decode(found.encode(numbers)), numbers)
    with pytest.raises(UserError, match=r"cannot be made: .*; give _target_=package.module.Class"):
        load_decoder({"_target_": "test_path_methods.Nothing"})
    with pytest.raises(UserError, match="Layout must have methods encode and decode"):
        load_decoder(LOWER)

    class Short(Linear):
        def decode(self, latent):
            return super().decode(latent)[:, :-1]

    wrong = Settings(steps=2, weights=(PathWeight.manifold_ig,), options=Manifold(Short((16, 6))))
    with pytest.raises(UserError, match=r"decodes to \[15, 6\] numbers, but the source has \[16, 6\]"):
        attribute(Segment().double(), LOWER, source("channels", numbers), clean(numbers), concept_targets(), wrong)
