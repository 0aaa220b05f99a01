"""What the network answers with the first concepts of every order removed from one layer, image by image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.config.choices import Evaluation, PathWeight
from vismech.draws import generator_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.intervene.effects import answers_without
from vismech.measures.repair.scores import COUNTS, ORDERS, Selection, first_concepts, leading
from vismech.passes.effects import AT_END
from vismech.passes.loop import Columns
from vismech.passes.trace import TraceLoop
from vismech.store.rows import Column
from vismech.store.settings import Settings


@dataclass(frozen=True)
class RepairSettings(Settings):
    """Which right images are tried, and how concepts are drawn; what the traces say already is not said again.

    Attributes:
        measure: which measure.
        images: at most so many right images of each class.
        mean_kept: whether a mean concept is never removed.
        seed: of the random orders.
    """

    measure: Evaluation
    images: int | None
    mean_kept: bool
    seed: int


def repair_columns() -> dict[str, Column]:
    """Arrays of one layer, per image.

    ``answers``: the class answered for each selection, order and count of :mod:`~vismech.measures.repair.scores`.
    """
    return {"answers": Column((len(Selection), len(ORDERS), len(COUNTS)), "int32")}


class RepairLoop(TraceLoop):
    """Removes concepts of ``lower`` by each image's own edges to the difference of two classes, and by given orders.

    Args:
        how_drawn: the mean concept, and the seed of the random order.
        group: orders that other images gave, for each of ``ORDERS``.
    """

    def __init__(self, *args: Any, how_drawn: RepairSettings, group: Int[Tensor, "o q"], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.how_drawn, self.group = how_drawn, group

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return False

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        coded, layer = self._coded(images), Layer(self.layout, self.dictionary)
        active, mean = coded.codes.any(1), self.dictionary.mean_index
        if mean is not None and self.how_drawn.mean_kept:
            active[:, mean] = False
        gig = self._attribute(coded, rows, self.settings).edges[self.how.under].units[:, 0]
        at_end = self._attribute(coded, rows, AT_END).edges[PathWeight.ig].units[:, 0]
        values = torch.stack([gig, at_end, self._noise(rows).to(gig)], 1)
        own = first_concepts(values, active[:, None])
        both = torch.stack([own, self.group.to(own).expand_as(own)], 1)
        sets = leading(both)
        logits = answers_without(
            lambda activation, _: self.segment(activation), layer, coded, sets.flatten(1, 3), self.portions.paths
        )
        finite = logits.isfinite().flatten(1).all(1)
        if not finite.all():
            sample = self.sample_id(rows[int((~finite).nonzero()[0])])
            raise UserError(f"{self.lower}, {sample!r}: a logit is not finite with concepts removed")
        return {"evaluate": {"answers": logits.argmax(2).unflatten(1, sets.shape[1:4])}}

    def _noise(self, rows: list[int]) -> Float[Tensor, "n k"]:
        """By which concepts are drawn: of (seed, layer, sample id) alone."""
        names = self.how_drawn.seed, "repair", self.lower
        drawn = [generator_of(*names, self.sample_id(row)).random(self.dictionary.k) for row in rows]
        return torch.stack([torch.from_numpy(each) for each in drawn])
