"""Attributions of every image from the units of one source, ready to be measured: pixels, or concepts of a layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.engine import Attribution
from vismech.attribution.sources import Source, UnitSource
from vismech.attribution.targets import Targets
from vismech.config.choices import Mode, SourceKind
from vismech.errors import NotFinite, UserError
from vismech.intervene.coded import Coded
from vismech.measures.attribution.scores import Change, Measured, max_sensitivity
from vismech.measures.saturation.scores import RADIUS, WEIGHTS, disturbances, root_mean_square
from vismech.measures.unit_scores import Outputs, all_units, unit_outputs
from vismech.network.layers import PIXELS
from vismech.passes.loop import Columns
from vismech.passes.trace import TraceLoop
from vismech.store.rows import Column


class Case(NamedTuple):
    """One image whose targets move along the path.

    Attributes:
        row: its row in the artifact.
        targets: which of the T targets move.
        edges: their attributions of every weight to all units.
        units: the units that differ from the baseline.
        ends: the targets at both ends of the path.
        outputs: the targets as a function of which of ``units`` are kept.
    """

    row: int
    targets: Int[Tensor, " t"]
    edges: Float[Tensor, "t w q"]
    units: Int[Tensor, " n"]
    ends: Change
    outputs: Outputs

    @property
    def attribution(self) -> Float[Tensor, "t w n"]:
        """To ``units`` alone."""
        return self.edges[:, :, self.units]


def score_columns(scores: Mapping[str, tuple[int, ...]], targets: int) -> dict[str, Column]:
    """Arrays of metrics [T, …]: each one's values, and ``<name>_defined``, where it exists."""
    columns = {name: Column((targets, *shape)) for name, shape in scores.items()}
    return columns | {f"{name}_defined": Column(column.shape, "bool") for name, column in columns.items()}


def _spent(kept: Tensor) -> Tensor:
    """In place of an image's outputs, which hold what its units are made of, once they are measured."""
    raise AssertionError("measured already")


class UnitLoop(TraceLoop):
    """Measures attributions of all weights along the straight path, image by image.

    As for :class:`~vismech.passes.trace.TraceLoop`, with ``lower`` also ``pixels``, whose baseline is the mean colour.

    Args:
        seed: of disturbances and random sets of units.
        sensitivity_rows: rows whose max-sensitivity is measured.

    Attributes:
        scores: metric → shape of its value for one target.
    """

    scores: ClassVar[Mapping[str, tuple[int, ...]]] = {}

    def __init__(self, *args, seed: int, sensitivity_rows: Iterable[int], **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.seed, self.sensitivity_rows = seed, frozenset(sensitivity_rows)

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return False

    def measure(self, coded: Coded, case: Case) -> dict[str, Measured]:
        """The metrics of :attr:`scores` for one image's moving targets."""
        raise NotImplementedError

    def measure_together(self) -> Mapping[int, Mapping[str, Measured]]:
        """Further metrics by row, of the images that :meth:`measure` has seen since, for which a pass is shared."""
        return {}

    def more(self, coded: Coded, rows: list[int]) -> list[Tensor]:
        """Further attributions to all units [B, T, Q], beside those of the weights."""
        return []

    def batch(self, found: Attribution) -> Columns:
        """Further columns, which the attribution of a batch holds already."""
        return {}

    def on_predict_start(self) -> None:
        """See :class:`~vismech.passes.trace.TraceLoop`."""
        if self.lower == PIXELS:
            self.segment = self.network.segment(self.lower, self.upper)
        else:
            super().on_predict_start()
        wanted = self.integral()
        if self.nodes is not None:
            wanted = wanted.at(self.nodes)
        self.settings = replace(wanted, weights=WEIGHTS, mode=Mode.reverse, tolerance=None, profile=True)

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`."""
        return 0 if self.lower == PIXELS else super().held_per_image()

    def _coded(self, images: Tensor) -> Coded:
        if self.lower != PIXELS:
            return super()._coded(images)
        vectors = self.layout.vectors(images)
        return Coded(images, vectors, vectors[..., :0])

    def _sources(self, coded: Coded, rows: list[int]) -> list[Any]:
        if self.lower != PIXELS:
            return super()._sources(coded, rows)
        return [UnitSource(SourceKind.pixels, coded.vectors)]

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        coded = self._coded(images)
        found = self._attribute(coded, rows, self.settings)
        (source,), targets = self._sources(coded, rows), self._targets(rows)
        edges = self._stacked(found, coded, rows)
        measured: dict[int, dict[str, Measured]] = {}
        moving: dict[int, Case] = {}
        for index, row in enumerate(rows):
            if row not in measured:  # the last batch is padded with its last row
                case = self._case(found, edges[index], source, coded, targets, index, row)
                alone = Coded(*(part[[index]] for part in coded))
                try:
                    measured[row] = self.measure(alone, case) if len(case.targets) else {}
                except NotFinite as error:
                    raise UserError(f"{self.lower} → {self.upper}, {self.sample_id(row)!r}: {error.said}") from error
                moving[row] = case._replace(outputs=_spent)
        for row, more in self.measure_together().items():
            measured[row] |= more
        count = found.value.shape[1]
        done = {row: self._columns(measured[row], case, count) for row, case in moving.items()}
        each = [done[row] for row in rows]
        return {"evaluate": self.batch(found) | {name: torch.stack([one[name] for one in each]) for name in each[0]}}

    def _columns(self, measured: Mapping[str, Measured], case: Case, count: int) -> Columns:
        """Scores of the moving targets as columns of all ``count``; the others are not defined."""
        columns: Columns = {}
        for name, shape in self.scores.items():
            value = case.edges.new_zeros(count, *shape)
            defined = torch.zeros_like(value, dtype=torch.bool)
            if name in measured:
                value[case.targets], defined[case.targets] = measured[name]
            columns |= {name: value, f"{name}_defined": defined}
        return columns

    def _case(
        self, found: Attribution, edges: Tensor, source: Source, coded: Coded, targets: Targets, index: int, row: int
    ) -> Case:
        moving = found.moves[index].nonzero()[:, 0]
        ends = Change(found.value[index][moving], found.baseline[index][moving])
        rows = self.portions.paths
        outputs = unit_outputs(self.segment, self.layout, source, coded.clean, targets, index, rows)
        return Case(row, moving, edges[moving], source.active(index), ends, lambda kept: outputs(kept)[:, moving])

    def sensitivity(self, coded: Coded, case: Case) -> Measured:
        """Max-sensitivity of all weights: noise on pixels or on the activation, which is then coded anew."""
        if case.row not in self.sensitivity_rows:
            nothing = case.edges.new_zeros(self.shown(case.edges, case).shape[:2])
            return Measured(nothing, nothing.bool())
        vectors = coded.vectors[0]
        radius = RADIUS if self.lower == PIXELS else RADIUS * root_mean_square(vectors)
        noisy = disturbances(vectors, radius, self.sample_id(case.row), self.seed)
        codes = coded.codes.expand(len(noisy), -1, -1) if self.lower == PIXELS else self._codes(noisy)
        many = Coded(coded.clean.expand(len(noisy), *coded.clean.shape[1:]), noisy, codes)
        found = self._attribute(many, [case.row] * len(noisy), replace(self.settings, profile=False))
        disturbed = self._stacked(found, many, [case.row] * len(noisy))[:, case.targets]
        return max_sensitivity(self.shown(case.edges, case), self.shown(disturbed, case))

    def shown(self, edges: Float[Tensor, "*n t w q"], case: Case) -> Float[Tensor, "*n t v q"]:
        """What is compared of the attributions to all units: as they are, or further ones made from them."""
        return edges

    def _stacked(self, found: Attribution, coded: Coded, rows: list[int]) -> Float[Tensor, "b t w q"]:
        return torch.stack([*(all_units(found.edges[weight]) for weight in WEIGHTS), *self.more(coded, rows)], 2)
