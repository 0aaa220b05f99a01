"""Circuit forwards of every image: the circuits of its half, what is left without them, and the drawn circuit's parts.

Legend: B images, L layers, K concepts of one, O orders, S sizes, R rows of a pass, M parts of the drawn circuit.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vismech.config.choices import CircuitErrors, EditValue
from vismech.intervene.circuit import bounded, circuit_forward, residuals
from vismech.intervene.coded import Coded, Layer
from vismech.network.layers import LOGITS
from vismech.passes.donors import donor_images
from vismech.passes.loop import Columns, ImageLoop
from vismech.store.rows import Column

VALUES = ("logit", "probability")
SUBSETS = 2
"""Random halves of the drawn circuit in which a concept's part is taken too."""


class Circuits(NamedTuple):
    """What the images of one half are passed through.

    Attributes:
        kept: for each layer the concepts inside, order by order and size by size [O·S, K].
        drawn: for each layer the concepts of the drawn circuit.
    """

    kept: list[Bool[np.ndarray, "c k"]]
    drawn: list[list[int]]


class _Passed(NamedTuple):
    """The distinct circuits of a half, layer by layer [C, K], and which of them is each that is asked for."""

    kept: list[Bool[Tensor, "c k"]]
    place: Int[Tensor, " all"]


def circuit_columns(orders: int, sizes: int, parts: int) -> dict[str, Column]:
    """Arrays per image, each of the class's logit and its probability.

    ``clean`` and ``empty`` [2]; ``circuit`` and ``complement`` [O, S, 2]; ``part`` what the class's logit loses when
    one concept of the drawn circuit is edited within it and within random halves of it [M, 1 + SUBSETS], NaN beyond
    the number of its concepts.
    """
    return {
        "clean": Column((2,)),
        "empty": Column((2,)),
        "circuit": Column((orders, sizes, 2)),
        "complement": Column((orders, sizes, 2)),
        "part": Column((parts, 1 + SUBSETS)),
    }


class CircuitLoop(ImageLoop):
    """Writes :func:`circuit_columns`.

    Args:
        layers: name → layout and dictionary, in network order.
        means: mean codes of each layer [K]; zeros for ``value=zero``.
        circuits: of each half.
        halves: of each row.
        classes: class per row.
        orders, sizes, parts: shapes of the columns.
        value: what concepts outside become.
        errors: which residual goes on.
        seed: of donors and of the drawn circuit's random halves.
    """

    def __init__(
        self,
        *args: Any,
        layers: dict[str, Layer],
        means: dict[str, Tensor],
        circuits: list[Circuits],
        halves: Int[np.ndarray, " n"],
        classes: Int[np.ndarray, " n"],
        orders: int,
        sizes: int,
        parts: int,
        value: EditValue,
        errors: CircuitErrors,
        seed: int,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layers, self.means, self.circuits, self.halves, self.classes = layers, means, circuits, halves, classes
        self.shape, self.parts, self.value, self.errors, self.seed = (orders, sizes), parts, value, errors, seed

    def on_predict_start(self) -> None:
        """Move dictionaries and means, and cut the segments, once per process."""
        names = list(self.layers)
        self.there = [layer.to(self.device) for layer in self.layers.values()]
        self.values = [self.means[name].to(self.device) for name in names]
        ends = zip(names, [*names[1:], LOGITS], strict=True)
        self.segments = [self.network.segment(lower, upper) for lower, upper in ends]
        self.passed = [self._distinct(half) for half in range(len(self.circuits))]

    def _distinct(self, half: int) -> _Passed:
        """The circuits of a half, what is left without each, and those that tell the parts of the drawn one."""
        one = self.circuits[half]
        masks = [torch.from_numpy(kept) for kept in one.kept]
        inside = [torch.cat([mask.new_zeros(1, mask.shape[1]), mask, ~mask]) for mask in masks]
        parted = [_with_and_without(subset, one.drawn, masks) for subset in self._subsets(half, one.drawn)]
        every = [torch.cat([some, *(part[level] for part in parted)]) for level, some in enumerate(inside)]
        bound = [bounded(mask, layer) for mask, layer in zip(every, self.layers.values(), strict=True)]
        distinct, place = torch.cat(bound, 1).unique(dim=0, return_inverse=True)
        parts = distinct.split([mask.shape[1] for mask in bound], 1)
        return _Passed([part.to(self.device) for part in parts], place.to(self.device))

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return True

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return [self.network.segment(next(iter(self.layers)), LOGITS)]

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes of every row of a pass stand in memory, not the images' own."""
        return 3 * max(layer.layout.positions * layer.dictionary.k for layer in self.layers.values())

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        names = list(self.layers)
        clean = self.network.activations(images, names)
        first = self.there[0].code(clean[names[0]])
        others = None
        if self.value is EditValue.resample:
            given = donor_images(self, list(dict.fromkeys(rows)), self.seed, images, self.classes)
            found = self.network.activations(given, names)
            others = [layer.code(found[name]).codes for layer, name in zip(self.there, names, strict=True)]
        done: dict[int, Columns] = {}
        for index, row in enumerate(rows):
            if row not in done:  # the last batch is padded with its last row
                here = torch.tensor([index], device=images.device)
                donors = None if others is None else [codes[here] for codes in others]
                done[row] = self._image(first.take(here), row, donors)
        return {"circuit": {name: torch.stack([done[row][name] for row in rows]) for name in done[rows[0]]}}

    def _image(self, first: Coded, row: int, donors: list[Tensor] | None) -> Columns:
        half = int(self.halves[row])
        passed, drawn = self.passed[half], self.circuits[half].drawn
        answers = self._answers(first, passed.kept, int(self.classes[row]), donors)[passed.place]
        ends, count = self.clean(first, row), self.shape[0] * self.shape[1]
        circuit, complement = answers[1 : 1 + count], answers[1 + count : 1 + 2 * count]
        total = sum(map(len, drawn))
        part = answers.new_full((self.parts, 1 + SUBSETS), torch.nan)
        pairs = answers[1 + 2 * count :, 0].view(1 + SUBSETS, 2, total)
        part[:total] = (pairs[:, 0] - pairs[:, 1]).T
        return {
            "clean": ends,
            "empty": answers[0],
            "circuit": circuit.view(*self.shape, 2),
            "complement": complement.view(*self.shape, 2),
            "part": part,
        }

    def clean(self, first: Coded, row: int) -> Tensor:
        """The network's own answer [2]."""
        activation = first.clean
        for segment in self.segments:
            activation = segment(activation)
        return _read(activation, int(self.classes[row]))[0]

    def _subsets(self, half: int, drawn: list[list[int]]) -> list[list[list[int]]]:
        """The drawn circuit, and random halves of it, the same for all images of a half."""
        generator = np.random.default_rng([self.seed, half])
        chosen = [drawn]
        for _ in range(SUBSETS):
            chosen.append([[concept for concept in layer if generator.random() < 0.5] for layer in drawn])
        return chosen

    def _answers(
        self, first: Coded, kept: list[Bool[Tensor, "c k"]], label: int, donors: list[Tensor] | None
    ) -> Float[Tensor, "c 2"]:
        """The class's values of one image under each circuit."""
        found = []
        clean = residuals(self.segments, self.there, first.clean) if self.errors is CircuitErrors.node else None
        for rows in torch.arange(len(kept[0]), device=first.codes.device).split(self.portions.paths):
            # Always as many rows: a row's last digits depend on how many are passed with it.
            place = torch.cat([rows, rows[-1:].expand(self.portions.paths - len(rows))])
            some = [mask[place] for mask in kept]
            given = first.take(torch.zeros_like(place))
            values = self.values if donors is None else [one.expand(len(place), -1, -1) for one in donors]
            held = None if clean is None else [one.expand(len(place), -1, -1) for one in clean]
            answer = circuit_forward(self.segments, self.there, given, some, values, self.errors, held)
            found.append(_read(answer, label)[: len(rows)])
        return torch.cat(found)


def _read(logits: Float[Tensor, "r n"], label: int) -> Float[Tensor, "r 2"]:
    return torch.stack([logits[:, label], logits.softmax(1)[:, label]], 1)


def _with_and_without(
    subset: list[list[int]], drawn: list[list[int]], masks: list[Bool[Tensor, "c k"]]
) -> list[Bool[Tensor, "c k"]]:
    """Circuits of a subset with each drawn concept put in, and then with it taken out, layer by layer."""
    total, done, found = sum(map(len, drawn)), 0, []
    for some, chosen, mask in zip(subset, drawn, masks, strict=True):
        base = mask.new_zeros(mask.shape[1])
        base[some] = True
        both, own = base.repeat(2 * total, 1), torch.arange(done, done + len(chosen))
        both[own, chosen] = True
        both[total + own, chosen] = False
        done += len(chosen)
        found.append(both)
    return found
