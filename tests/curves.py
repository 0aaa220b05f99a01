"""What tests of paths share: a small smooth segment between two layers, sources of every kind, a path of our own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vismech.attribution.engine import Attribution, Settings, attribute
from vismech.attribution.paths import STRAIGHT, Path
from vismech.attribution.sources import ConceptSource, Edges, Source, UnitSource
from vismech.attribution.targets import ConceptTargets, LogitTargets, Targets
from vismech.config.choices import Along, ReadOut, SourceKind
from vismech.network.pfv import Axes, Layout

LOWER, UPPER = Layout(Axes.channels_first, (4, 4), 6), Layout(Axes.channels_first, (2, 2), 5)
IMAGES, CONCEPTS, TARGETS = 3, 10, 4
SOURCES = ("reconstruction", "activation", "channels", "positions")


class Segment(nn.Module):
    """A segment 6 × 4 × 4 → 5 × 2 × 2, or → 3 logits; smooth unless another activation is given."""

    def __init__(self, logits: bool = False, activation: nn.Module | None = None, seed: int = 3) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(6, 8, 3, padding=1), nn.Conv2d(8, 5, 3, stride=2, padding=1)
        self.head = nn.Linear(5, 3) if logits else None
        self.activation = activation or nn.Tanh()
        generator = torch.Generator().manual_seed(seed)
        self.requires_grad_(False)
        with torch.no_grad():
            for parameter in self.parameters():
                fan = parameter[0].numel() if parameter.ndim > 1 else 16
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * fan**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.activation(self.conv1(x)))
        return self.activation(x) if self.head is None else self.head(self.activation(x).mean((2, 3)))


class Power(Path):
    """The straight line at another pace: α to a power."""

    def __init__(self, power: float):
        self.power = power

    def anchors(self, baseline, end):
        return [baseline, end]

    def coefficients(self, alpha):
        moved = alpha**self.power
        return torch.stack([1 - moved, moved], 1)


class Through(Path):
    """A curve through the activation's mean over its positions, halfway: first how much of a concept, then where."""

    def anchors(self, baseline: Tensor, end: Tensor) -> list[Tensor]:
        return [baseline, end.mean(1, keepdim=True).expand_as(end), end]

    def coefficients(self, alpha: Tensor) -> Tensor:
        return torch.stack([(1 - alpha) * (1 - 2 * alpha), 4 * alpha * (1 - alpha), alpha * (2 * alpha - 1)], 1)


def unit_vectors(count: int, channels: int, seed: int) -> Tensor:
    drawn = torch.randn(count, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return F.normalize(drawn, dim=1)


def activations(seed: int, images: int = IMAGES) -> Tensor:
    """PFVs [B, P, C]."""
    drawn = torch.randn(images, LOWER.positions, LOWER.channels, generator=torch.Generator().manual_seed(seed))
    return drawn.double()


def codes_of(vectors: Tensor, atoms: Tensor) -> Tensor:
    """Sparse codes that rebuild the vectors badly, some concepts missing from whole images."""
    codes = 0.3 * vectors @ atoms.T
    codes = codes * (codes.abs() > 0.2)
    codes[0, :, 2] = codes[1:, :, 5] = 0
    return codes


def source(kind: str, vectors: Tensor, baseline: Tensor | None = None, path: Path = STRAIGHT) -> Source:
    """A source by its name in :data:`SOURCES`, from zero or from the PFVs ``baseline``."""
    if kind in ("channels", "positions"):
        return UnitSource(SourceKind(kind), vectors, baseline, path)
    atoms = unit_vectors(CONCEPTS, LOWER.channels, 7).to(vectors)
    start = None if baseline is None else codes_of(baseline, atoms)
    return ConceptSource(atoms, codes_of(vectors, atoms), vectors, Along(kind), start, baseline, path)


def concept_targets(readout: ReadOut = ReadOut.max, dtype: torch.dtype = torch.float64) -> ConceptTargets:
    places = torch.randint(0, UPPER.positions, (IMAGES, TARGETS), generator=torch.Generator().manual_seed(2))
    return ConceptTargets(unit_vectors(TARGETS, UPPER.channels, 9).to(dtype), places, UPPER, readout)


def logit_targets() -> LogitTargets:
    return LogitTargets(torch.tensor([[0, 2], [2, 1], [1, 0]]))


def clean(vectors: Tensor) -> Tensor:
    return LOWER.activation(vectors, vectors)


def value_of(segment: nn.Module, targets: Targets, image: int, target: int):
    """One target of one image as a function of its PFVs [P, C]."""
    owner = torch.tensor([image])

    def value(vectors: Tensor) -> Tensor:
        return targets(segment(LOWER.activation(vectors[None], vectors[None])), owner)[0, target]

    return value


def whole(edges: Edges) -> Tensor:
    return edges.units.sum(2) + edges.error


def one_number(function, vectors: Tensor | None = None, **options) -> Attribution:
    """Attribution of one function of the sum of an activation, which runs from 0 to 1 along the path."""
    vectors = torch.full((1, 16, 6), 1 / 96, dtype=torch.float64) if vectors is None else vectors
    one = UnitSource(SourceKind.channels, vectors)

    def segment(x: Tensor) -> Tensor:
        return function(x.flatten(1).sum(1, keepdim=True))

    return attribute(segment, LOWER, one, clean(vectors), LogitTargets(torch.tensor([0])), Settings(**options))
