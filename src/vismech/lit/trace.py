"""The trace: Generalized Integrated Gradients from one layer's concepts to an upper layer's, image by image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vismech.attribution.gig import completeness_gap, concept_edges, integrate
from vismech.attribution.quadrature import quadrature
from vismech.attribution.targets import ConceptTargets, LogitTargets, Targets, anchors
from vismech.dictionaries.base import Dictionary
from vismech.errors import UserError
from vismech.lit.loop import Columns, ImageLoop
from vismech.pfv import Layout
from vismech.rows import Column

NOT_CHECKED = -1.0


@dataclass(frozen=True)
class UpperConcepts:
    """Target concepts of the upper layer.

    Attributes:
        layout: of the upper layer.
        atoms: concept vectors [T, C].
        anchors: position p* per image row and target [n, T], −1 where the concept is absent.
    """

    layout: Layout
    atoms: Tensor
    anchors: np.ndarray


def trace_columns(targets: int, concepts: int) -> dict[str, Column]:
    """Arrays of one pair of layers, per image.

    ``edges`` e_{q→j} [T, K]; ``value`` and ``baseline`` g_j at both ends of the path [T]; ``present`` [T]; ``gap`` the
    completeness gap [T]; ``change`` the relative change of the edges with twice the steps [T], −1 where not checked;
    ``anchors`` p* of every lower concept [K].
    """
    return {
        "edges": Column((targets, concepts)),
        "value": Column((targets,)),
        "baseline": Column((targets,)),
        "present": Column((targets,), "bool"),
        "gap": Column((targets,)),
        "change": Column((targets,)),
        "anchors": Column((concepts,), "int32"),
    }


class TraceLoop(ImageLoop):
    """Edges from ``lower`` to ``upper`` for every image of the loop.

    Args:
        lower: lower layer.
        upper: upper layer, or ``logits``.
        layout: of the lower layer.
        dictionary: of the lower layer.
        concepts: targets in the upper layer; None where the target is each image's own class logit.
        classes: class index per row, used where the target is the logit.
    """

    def __init__(
        self,
        *args,
        lower: str,
        upper: str,
        layout: Layout,
        dictionary: Dictionary,
        concepts: UpperConcepts | None,
        classes: np.ndarray,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lower, self.upper, self.layout, self.concepts, self.classes = lower, upper, layout, concepts, classes
        self.dictionary = dictionary

    def on_predict_start(self) -> None:
        """Move the dictionary once and cut the segment."""
        self.dictionary = self.dictionary.to(self.device)
        self.segment = self.network.segment(self.lower, self.upper)

    def _targets(self, rows: list[int]) -> Targets:
        if self.concepts is None:
            return LogitTargets(torch.from_numpy(self.classes[rows]).to(self.device))
        upper = self.concepts
        chosen = torch.from_numpy(upper.anchors[rows].astype(np.int64)).to(self.device)
        return ConceptTargets(upper.atoms.to(self.device), chosen, upper.layout, self.config.attribute.readout)

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        attribute = self.config.attribute
        clean = self.network.activations(images, [self.lower])[self.lower]
        vectors = self.layout.vectors(clean)
        codes = self.dictionary.encode(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
        path_end = self.dictionary.decode(codes.flatten(0, 1)).view_as(vectors)
        targets = self._targets(rows)

        def edges_with(steps: int, count: int):
            part = _first(targets, count)
            result = integrate(
                self.segment,
                self.layout,
                path_end[:count],
                clean[:count],
                part,
                quadrature(attribute.rule, steps),
                rows=self.config.runtime.path_batch_size,
            )
            return concept_edges(codes[:count], result.gradient, self.dictionary.atoms), result

        try:
            edges, result = edges_with(attribute.steps, len(rows))
            change = torch.full_like(result.value, NOT_CHECKED)
            checked = sum(row < attribute.check_images for row in rows)
            if checked:
                finer, _ = edges_with(_doubled(attribute.steps), checked)
                moved = (finer - edges[:checked]).abs().sum(2)
                total = finer.abs().sum(2)
                change[:checked] = torch.where(total > 0, moved / total, moved)
        except FloatingPointError as error:
            raise UserError(f"{self.lower} → {self.upper}, batch of {self.sample_id(rows[0])!r}: {error}") from error
        columns = {
            "edges": edges,
            "value": result.value,
            "baseline": result.baseline,
            "present": targets.present,
            "gap": completeness_gap(edges.sum(2), result.value, result.baseline),
            "change": change,
            "anchors": anchors(vectors, codes, self.dictionary.atoms),
        }
        return {"trace": columns}


def _first(targets: Targets, count: int) -> Targets:
    if isinstance(targets, LogitTargets):
        return LogitTargets(targets.classes[:count])
    assert isinstance(targets, ConceptTargets)
    return ConceptTargets(targets.atoms, targets.anchors[:count], targets.layout, targets.readout)


def _doubled(steps: int) -> int:
    """Twice the steps; one less where their number is odd, so that Simpson's rule stays possible."""
    return 2 * steps - steps % 2
