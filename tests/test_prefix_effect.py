"""What class tokens bring about beside patch tokens: planted shares and the sum of all parts; a baseline's blur."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.gig import prefix_effect
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Along, PathWeight, Rule
from vismech.network.blur import blurred
from vismech.network.pfv import Axes, Layout
from vismech.stages.tables import prefix_shares

LAYOUT = Layout(Axes.tokens, (2, 3), 5, prefix=2)
SMOOTH = Settings(rule=Rule.gauss_legendre, steps=24)


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


class Planted(nn.Module):
    """Logits of which the two prefix tokens make ``share`` and the patch tokens the rest."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, tokens: Tensor) -> Tensor:
        return self.share * tokens[:, :2].mean(1) + (1 - self.share) * tokens[:, 2:].mean(1)


class Attending(nn.Module):
    """Every token reads every other, and the first and the last make the logits."""

    def forward(self, tokens: Tensor) -> Tensor:
        mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, torch.tanh(tokens))
        return mixed[:, 0] + torch.tanh(mixed[:, -1])


class Case:
    """Three images, of which the path explains one logit each."""

    def __init__(self, segment: nn.Module, start: Tensor, clean: Tensor, generator: torch.Generator) -> None:
        self.segment, self.targets = segment, LogitTargets(torch.tensor([0, 2, 4]))
        atoms = torch.nn.functional.normalize(torch.randn(4, 5, generator=generator), dim=1)
        codes = torch.randn(2, 3, 6, 4, generator=generator)
        vectors, begun = LAYOUT.vectors(clean), LAYOUT.vectors(start)
        source = ConceptSource(atoms, codes[0], vectors, Along.activation, codes[1], begun)
        self.found = attribute(segment, LAYOUT, source, clean, self.targets, SMOOTH)
        given = source.curve, clean, LAYOUT.before(start), self.targets
        self.prefix = prefix_effect(segment, LAYOUT, *given, rows=2)

    @property
    def shares(self) -> np.ndarray:
        parts = (self.prefix, self.found.value, self.found.baseline, self.found.present)
        return prefix_shares(*(part.numpy() for part in parts))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_planted_share_is_found(share, seeded) -> None:
    clean = torch.ones(3, 8, 5) * torch.tensor([1.0, -2.0, 3.0])[:, None, None]
    case = Case(Planted(share), torch.zeros(3, 8, 5), clean, seeded)
    np.testing.assert_allclose(case.shares, np.full(3, share), rtol=1e-5)


def test_edges_error_offset_and_prefix_sum_to_what_the_network_says(seeded) -> None:
    start, clean = torch.randn(2, 3, 8, 5, generator=seeded)
    case = Case(Attending(), start, clean, seeded)
    bare = case.targets(Attending()(start), torch.arange(3))
    (edges, error), prefix = case.found.edges[PathWeight.ig], case.prefix
    assert prefix.abs().min() > 0.01 and edges.abs().sum() > 0.01
    torch.testing.assert_close(edges.sum(2) + error + prefix + bare, case.found.value, rtol=1e-4, atol=1e-5)
    # The slow twin: image by image, with the prefix tokens of one and of the other before the patches of the start.
    for image in range(3):
        logits = [Attending()(torch.cat([first[image, :2], start[image, 2:]])[None]) for first in (clean, start)]
        expected = (logits[0] - logits[1])[0, case.targets.classes[image]]
        torch.testing.assert_close(prefix[image, 0], expected, rtol=1e-5, atol=1e-6)
    change, own = (case.found.value - case.found.baseline).abs(), prefix.abs()
    np.testing.assert_allclose(case.shares, (own / (own + change))[:, 0].numpy(), rtol=1e-5)


def test_targets_that_neither_changes_have_no_share() -> None:
    prefix, value = np.array([[1e-9, 2.0, 0.0, 3.0]]), np.array([[5.0, 5.0, 7.0, 4.0]])
    baseline, present = np.array([[5.0, 5.0, 1.0, 3.0]]), np.array([[True, True, True, False]])
    np.testing.assert_array_equal(prefix_shares(prefix, value, baseline, present), [1.0, 0.0])


@pytest.mark.parametrize(("size", "share"), [((20, 33), 0.1), ((9, 9), 0.4), ((16, 16), 0.001)])
def test_a_blur_is_scipys(size, share, seeded) -> None:
    images = torch.randn(2, 3, *size, generator=seeded)
    deviation = share * min(size)
    radius = max(1, int(np.ceil(3 * deviation)))
    expected = gaussian_filter(images.numpy(), deviation, mode="nearest", axes=(2, 3), radius=radius)
    np.testing.assert_allclose(blurred(images, share).numpy(), expected, rtol=1e-4, atol=1e-5)
    last = images.to(memory_format=torch.channels_last)
    assert blurred(last, share).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(blurred(last, share), blurred(images, share))
