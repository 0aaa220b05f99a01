"""Draws from names are the numbers that runs were drawn with so far: artifacts in a store stay the ones of today."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from vismech.draws import generator_of
from vismech.measures.attribution.loop import AttributionLoop
from vismech.measures.insertion.scores import random_order
from vismech.measures.saturation.scores import disturbances
from vismech.measures.transfer.scores import fixed_orders, split
from vismech.network.pfv import uniform_positions, weighted_positions
from vismech.passes.baselines import draw_baselines
from vismech.passes.donors import _donor
from vismech.sources.data import half_of

IDS = [f"class {index % 3}/{index}.jpg" for index in range(24)]


def loop() -> Any:
    resources = SimpleNamespace(model=SimpleNamespace(preprocess=lambda image: image))
    return SimpleNamespace(
        seed=3,
        sample_id=lambda row: f"a/ü{row}.jpg",
        indices=range(100, 111),
        data=SimpleNamespace(load=lambda place: place),
        resources=resources,
    )


def test_positions() -> None:
    assert uniform_positions("a/ü.jpg", 3, 49, 5).tolist() == [18, 29, 32, 33, 45]
    assert weighted_positions("a/ü.jpg", 3, (np.arange(49) % 5).astype(np.float32), 5).tolist() == [1, 21, 22, 33, 44]


def test_generators_and_disturbances() -> None:
    assert generator_of(3, 7, "a/ü.jpg").integers(10**6, size=2).tolist() == [135465, 102527]
    found = disturbances(torch.zeros(1, 2), 1.0, "a/ü.jpg", 3, 1)
    assert found.tolist() == [[[-0.7328658103942871, -0.9654364585876465]]]
    generator = AttributionLoop._generator(loop(), 2)
    assert generator.initial_seed() == 12127159413207521970
    assert torch.randint(10**6, (2,), generator=generator).tolist() == [656237, 218321]


def test_orders() -> None:
    assert random_order(torch.ones(8, dtype=torch.bool), 3, "a/ü.jpg", "layer", 0).tolist() == [0, 6, 3, 4, 7, 5, 1, 2]
    half = split(np.zeros(24, int), IDS, {}, 3).half
    assert half.tolist() == [1, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1, 0, 1, 0, 0]
    orders = fixed_orders(np.zeros((24, 6)), np.ones((24, 6), bool), half, np.ones(6, bool), "layer", 3)
    assert orders[:, 1].tolist() == [[3, 5, 1, 4, 2, 0], [0, 4, 5, 3, 1, 2]]


def test_images() -> None:
    drawn = [f"class {name}.jpg" for name in ("0/3", "0/12", "0/0", "0/15", "1/16")]
    assert draw_baselines(IDS, 3, 4) == drawn
    halves = ["choosing", "choosing", "confirming", "choosing", "confirming", "confirming"]
    assert [half_of(sample) for sample in IDS[:6]] == halves
    assert [_donor(loop(), row, 3, None) for row in range(4)] == [101, 105, 100, 108]
