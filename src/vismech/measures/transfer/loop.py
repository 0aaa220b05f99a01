"""Insertion and deletion of concepts in orders that other images gave, for every layer in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from vismech.measures.insertion.loop import ConceptLoop
from vismech.measures.insertion.scores import Extent, count_axis, values_at
from vismech.network.layers import LOGITS
from vismech.passes.loop import Columns
from vismech.store.rows import Column

ORDERS = ("gig", "random")


def transfer_columns() -> dict[str, Column]:
    """Arrays of one layer, per image: ``count``, insertion and deletion at each count, for each of :data:`ORDERS`."""
    return {"count": Column((len(ORDERS), 2, len(count_axis())))}


class TransferLoop(ConceptLoop):
    """Writes :func:`transfer_columns` of every layer.

    Args:
        halves: the half of each row.
        orders: layer → for each half its orders.
    """

    def __init__(
        self, *args: Any, halves: Int[np.ndarray, " n"], orders: dict[str, Int[np.ndarray, "h o a"]], **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.halves, self.orders = halves, orders

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        wanted = [name for name in self.layers if name in self.rows]
        found = self.found(images, *wanted, LOGITS)
        predicted = found[LOGITS].argmax(1)
        return {name: {"count": self._counts(name, found, predicted, rows)} for name in wanted}

    def _counts(self, name: str, found: Mapping[str, Tensor], predicted: Int[Tensor, " b"], rows: list[int]) -> Tensor:
        coded, atoms, clean = self.coded(name, found), self.layers[name].dictionary.atoms, found[name]
        grid, done = np.tile(count_axis(), (2, 1)), {}
        for index, (row, label) in enumerate(zip(rows, predicted.tolist(), strict=True)):
            if row not in done:  # the last batch is padded with its last row
                read = self.reader(name, clean, label, index)
                ends = Extent(coded.kept[index], coded.codes[index] @ atoms)
                at_ends = read(torch.stack(ends))
                orders = torch.from_numpy(self.orders[name][self.halves[row]]).to(clean.device)
                each = [values_at(coded.codes[index], atoms, order, ends, at_ends, read, [grid])[0] for order in orders]
                done[row] = torch.stack(each)
        counts = torch.stack([done[row] for row in rows])
        self.check_finite(name, {"count": counts}, rows)
        return counts
