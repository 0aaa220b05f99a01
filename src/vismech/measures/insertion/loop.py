"""Concept insertion and deletion image by image, for every layer in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vismech.attribution.automatic import PROBED, Choice
from vismech.attribution.engine import attribute, settled
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import Evaluation, MeanRule, Mode, Rule
from vismech.dictionaries.coding import l0_of
from vismech.errors import UserError
from vismech.intervene.coded import Layer
from vismech.measures.images import MeasuredSettings
from vismech.measures.insertion import InsertionOptions
from vismech.measures.insertion.scores import (
    FIRST,
    GRID,
    Curves,
    Extent,
    Read,
    count_axis,
    curves,
    greedy_curves,
    matched_codes,
    random_order,
    ranked_orders,
    values_at,
)
from vismech.network.layers import LOGITS
from vismech.passes.loop import Columns, ImageLoop
from vismech.passes.nodes import chosen_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.threads import one_thread
from vismech.passes.trace import Given, first_readable
from vismech.stages.dictionary import CodingSettings
from vismech.store.rows import Column
from vismech.store.settings import FLAT, UNUSED, used

# Convolutions of other numbers of rows round differently: the last rows are padded to a multiple.
ROW_MULTIPLE = 16


class Coded(NamedTuple):
    """A batch at one layer.

    Attributes:
        clean: activations.
        vectors: X.
        codes: u.
        kept: what is always there: the mean concept's part, or zeros.
        ranked: concepts that are ranked in each image: those with a non-zero code, without one that is kept.
    """

    clean: Tensor
    vectors: Float[Tensor, "b p c"]
    codes: Float[Tensor, "b p k"]
    kept: Float[Tensor, "b p c"]
    ranked: Bool[Tensor, "b k"]


class Matched(NamedTuple):
    """A variant coded anew in the ``budget`` concepts of most energy: by least squares, or with ``l0`` per vector."""

    budget: int
    l0_per_channel: float | None

    @property
    def name(self) -> str:
        """``matched_8``, or with a number of concepts per vector ``sparse_8``."""
        return f"{'matched' if self.l0_per_channel is None else 'sparse'}_{self.budget}"


def matched_variants(budgets: Sequence[int], l0_per_channel: float | None) -> list[Matched]:
    """The variants of budgets in the order of an artifact's arrays: least squares, then sparse if it is asked for."""
    shares = [None] if l0_per_channel is None else [None, l0_per_channel]
    return [Matched(budget, share) for share in shares for budget in budgets]


def whole_variants(residual: bool) -> list[str]:
    """The variants of an image's own codes, which come before those of budgets."""
    return ["plain", *(["residual"] if residual else [])]


def insertion_columns(k: int, matched: Sequence[Matched], residual: bool) -> dict[str, Column]:
    """Arrays of one layer, per image.

    ``share``: insertion and deletion of each of :func:`whole_variants` [V, 2, …], concepts in the order of their GIG;
    ``count``: of these and each of ``matched``, where a share of m concepts is their count; ``random_share`` and
    ``random_count`` the plain ones in a random order, for images that are ``drawn``; ``greedy`` [2, J] the greedy
    oracle's count for images that are ``tried``; ``edges`` GIG to the predicted class's logit [K]; ``ranked`` [K];
    ``predicted``; ``clean`` the class's probability; ``l0`` and ``distinct`` of the codes and of those of
    ``matched`` [1 + M].
    """
    whole, axis = len(whole_variants(residual)), len(count_axis([each.budget for each in matched]))
    return {
        "share": Column((whole, 2, GRID)),
        "count": Column((whole + len(matched), 2, axis)),
        "random_share": Column((2, GRID)),
        "random_count": Column((2, axis)),
        "drawn": Column((), "bool"),
        "greedy": Column((2, axis)),
        "tried": Column((), "bool"),
        "edges": Column((k,)),
        "ranked": Column((k,), "bool"),
        "predicted": Column((), "int32"),
        "clean": Column(()),
        "l0": Column((1 + len(matched),)),
        "distinct": Column((1 + len(matched),), "int32"),
    }


class ConceptLoop(ImageLoop):
    """A pass that codes every layer of ``layers`` and reads the predicted class's probability from parts of codes.

    Args:
        layers: the layers.
        mean_kept: whether a mean concept is always there and never ranked.
        held: layers with paths around them to the class, on which all stays as it is: their output alone is replaced.
    """

    def __init__(
        self, *args: Any, layers: dict[str, Layer], mean_kept: bool, held: Collection[str] = (), **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.layers, self.mean_kept, self.held = layers, mean_kept, held

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return True

    def on_predict_start(self) -> None:
        """Move the dictionaries once and cut the segments."""
        self.layers = {name: layer.to(self.device) for name, layer in self.layers.items()}
        self.segments: dict[str, nn.Module] = {}
        self.read: dict[str, Callable[[Tensor], Tensor]] = {}
        for name, layer in self.layers.items():
            if name not in self.held:
                self.segments[name] = self.network.segment(name, LOGITS)
                continue
            cut = self.network.around(name, LOGITS)
            self.segments[name], self.read[name] = cut.segment, cut.read
            self.layers[name] = layer._replace(layout=cut.layout(layer.layout))

    def found(self, images: Tensor, *wanted: str) -> dict[str, Tensor]:
        """Activations of ``wanted``, and of what their codes are read from; where something is held, rows with it."""
        places = [layer.dictionary.reads for name, layer in self.layers.items() if name in wanted]
        found = self.network.activations(images, list(dict.fromkeys([*wanted, *filter(None, places)])))
        return found | {name: read(images) for name, read in self.read.items() if name in wanted}

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return list(self.segments.values())

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes, and float64 beside them while they are solved for."""
        return 3 * max(layer.layout.positions * layer.dictionary.k for layer in self.layers.values())

    def coded(self, name: str, found: Mapping[str, Tensor]) -> Coded:
        """Codes of a batch of activations; the mean concept is kept or ranked as ``dictionary.mean_rule`` says."""
        dictionary, place, clean = self.layers[name].dictionary, self.layers[name].dictionary.reads, found[name]
        vectors = self.layers[name].layout.vectors(clean)
        codes = dictionary.encode(vectors if place is None else self.network.layout(place).vectors(found[place]))
        ranked, kept, mean = codes.any(1), torch.zeros_like(vectors), dictionary.mean_index
        if mean is not None and self.mean_kept:
            ranked[:, mean] = False
            kept = codes[..., mean, None] * dictionary.atoms[mean]
        return Coded(clean, vectors, codes, kept, ranked)

    def reader(self, name: str, clean: Tensor, label: int, index: int) -> Read:
        """The probability of one image's predicted class, from PFVs of the layer."""
        layout, segment, size = self.layers[name].layout, self.segments[name], self.portions.paths
        image = clean[index : index + 1]

        def read(vectors: Float[Tensor, "m p c"]) -> Float[Tensor, " m"]:
            found = []
            for some in vectors.split(size):
                last = some[-1:].expand(-len(some) % ROW_MULTIPLE, -1, -1)
                logits = segment(layout.activation(torch.cat([some, last]), image))
                found.append(logits[: len(some)].softmax(1)[:, label])
            return torch.cat(found)

        return read

    def check_finite(self, name: str, columns: Columns, rows: list[int]) -> None:
        """Refuse curves that are not finite; once for a layer, since each look makes the device wait."""
        curves = [value for value in columns.values() if value.is_floating_point()]
        finite = torch.stack([value.flatten(1).isfinite().all(1) for value in curves]).all(0)
        if not finite.all():
            row = rows[int((~finite).nonzero()[0])]
            raise UserError(f"{name}, {self.sample_id(row)!r}: a probability is not finite with concepts deleted")


@dataclass(frozen=True, kw_only=True)
class InsertionSettings(InsertionOptions):
    """How concepts are ranked, inserted and deleted."""

    measure: Evaluation
    coding: CodingSettings = field(metadata=FLAT)
    path: PathSettings = field(metadata=FLAT)
    measured: MeasuredSettings = field(metadata=FLAT)
    seed: int
    mean_rule: MeanRule = UNUSED

    @property
    def matched(self) -> list[Matched]:
        """The variants of budgets."""
        return matched_variants(self.budgets, used(self.budget_l0_per_channel, None))


class InsertionLoop(ConceptLoop):
    """Writes :func:`insertion_columns` of every layer; random orders of some rows, the greedy oracle of a few."""

    def __init__(
        self,
        *args: Any,
        how: InsertionSettings,
        random_rows: Sequence[int],
        greedy_rows: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, mean_kept=how.mean_rule is MeanRule.kept, **kwargs)
        self.how, self.random_rows, self.greedy_rows = how, frozenset(random_rows), frozenset(greedy_rows)
        integral = how.path.integral(self.site.runtime.path_batch_size)
        self.settings = dict.fromkeys(self.layers, replace(integral, mode=Mode.reverse))

    def on_predict_start(self) -> None:
        """See :class:`ConceptLoop`; the nodes of each layer's way to the class are chosen too."""
        super().on_predict_start()
        if self.how.path.rule is not Rule.auto:
            return
        with torch.no_grad(), one_thread():
            for name, rows in self.rows.items():
                choice = chosen_nodes(rows.folder, partial(self._settled, name))
                self.settings[name] = self.settings[name].at(choice)

    def _settled(self, name: str) -> Choice:
        """From the first images, one at a time."""
        rows, images = first_readable(self, PROBED)
        if not images:
            return Choice(Rule.midpoint, self.settings[name].steps)
        found = [self.found(image, name, LOGITS) for image in images]
        each = [self.coded(name, one) for one in found]
        whole = Coded(*(torch.cat(part) for part in zip(*each, strict=True)))
        predicted = torch.cat([one[LOGITS] for one in found]).argmax(1)
        with self.telling(f"{name} → {LOGITS}", rows):
            return settled(*self._problem(name, whole, predicted), self.settings[name], len(self.indices))

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: also the codes of every variant, until the image is done."""
        return super().held_per_image() * (3 + len(self.how.matched)) // 3

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        wanted = [name for name in self.layers if name in self.rows]
        found = self.found(images, *wanted, LOGITS)
        clean, predicted = found[LOGITS].softmax(1).max(1)
        common = {"predicted": predicted, "clean": clean}
        return {name: common | self._layer(name, found, predicted, rows) for name in wanted}

    def _layer(self, name: str, found: Mapping[str, Tensor], predicted: Int[Tensor, " b"], rows: list[int]) -> Columns:
        coded = self.coded(name, found)
        edges = self._edges(name, coded, predicted, rows)
        matched = []
        for variant in self.how.matched:
            some = self._matched(name, coded, variant)
            matched.append((some, self._edges(name, some, predicted, rows)))
        done: dict[int, Columns] = {}
        cases = [(each, ranked_orders(effects, each.ranked)) for each, effects in [(coded, edges), *matched]]
        for index, (row, label) in enumerate(zip(rows, predicted.tolist(), strict=True)):
            if row not in done:  # the last batch is padded with its last row
                read = self.reader(name, found[name], label, index)
                done[row] = self._image(name, cases, read, index, row)
        columns = {key: torch.stack([done[row][key] for row in rows]) for key in done[rows[0]]}
        self.check_finite(name, columns, rows)
        counts = [each for each, _ in [(coded, edges), *matched]]
        columns["l0"] = torch.stack([(each.codes != 0).sum(2).float().mean(1) for each in counts], 1)
        columns["distinct"] = torch.stack([each.ranked.sum(1) for each in counts], 1)
        return {**columns, "edges": edges, "ranked": coded.ranked}

    def _matched(self, name: str, coded: Coded, variant: Matched) -> Coded:
        dictionary, share = self.layers[name].dictionary, variant.l0_per_channel
        l0 = None if share is None else l0_of(share, dictionary.c)
        codes = matched_codes(
            coded.vectors - coded.kept, coded.codes, dictionary.atoms, coded.ranked, variant.budget, l0
        )
        ranked, mean = codes.any(1), dictionary.mean_index
        if mean is not None and self.mean_kept:
            codes[..., mean] = coded.codes[..., mean]
        return coded._replace(codes=codes, ranked=ranked)

    def _problem(self, name: str, coded: Coded, predicted: Int[Tensor, " b"]) -> Given:
        layer, wanted = self.layers[name], self.how.path
        source: Any = ConceptSource(layer.dictionary.atoms, coded.codes, coded.vectors, wanted.along)
        return self.segments[name], layer.layout, source, coded.clean, LogitTargets(predicted, wanted.output)

    def _edges(self, name: str, coded: Coded, predicted: Int[Tensor, " b"], rows: list[int]) -> Float[Tensor, "b k"]:
        with self.telling(f"{name} → {LOGITS}", rows):
            settings = replace(self.settings[name], rows=self.portions.paths)
            found = attribute(*self._problem(name, coded, predicted), settings)
        return found.edges[self.how.path.under].units[:, 0]

    def _image(self, name: str, cases: list[tuple[Coded, list[Tensor]]], read: Read, index: int, row: int) -> Columns:
        """One image's curves; the first case is its own codes, the others those of each budget."""
        wanted, atoms = self.how, self.layers[name].dictionary.atoms
        axis, found, budgets = count_axis(wanted.budgets), [], []
        nothing = read(cases[0][0].kept[index, None])
        rebuilt = [coded.codes[index] @ atoms for coded, _ in cases]
        ends = [Extent(coded.kept[index], whole) for (coded, _), whole in zip(cases, rebuilt, strict=True)]
        at_ends = [torch.cat([nothing, read(whole[None])]) for whole in rebuilt]
        for (coded, orders), both, values in zip(cases, ends, at_ends, strict=True):
            codes, order = coded.codes[index], orders[index]
            if len(found) > wanted.residual:
                (count,) = values_at(codes, atoms, order, both, values, read, [np.tile(axis, (2, 1))])
                budgets.append(count)
                continue
            found.append(curves(codes, atoms, order, both, values, read, axis))
            if wanted.residual:
                clean = coded.vectors[index]
                both = Extent(both.nothing + (clean - both.whole), clean)
                values = torch.cat([read(part[None]) for part in both])
                found.append(curves(codes, atoms, order, both, values, read, axis))
        codes, ranked = cases[0][0].codes[index], cases[0][0].ranked[index]
        drawn, tried = row in self.random_rows, row in self.greedy_rows
        blank = Curves(*(torch.zeros_like(part) for part in found[0]))
        random, greedy = blank, blank.count
        if drawn:
            order = random_order(ranked, self.how.seed, name, self.sample_id(row))
            random = curves(codes, atoms, order, ends[0], at_ends[0], read, axis)
        if tried:
            # Beyond the first 32 the oracle is out of proportion: there it holds its value.
            shown = [min(count, FIRST[-1]) for count in axis]
            greedy = greedy_curves(codes, atoms, ranked, ends[0], at_ends[0], read, shown)
        return {
            "share": torch.stack([each.share for each in found]),
            "count": torch.stack([*(each.count for each in found), *budgets]),
            **{f"random_{key}": value for key, value in random._asdict().items()},
            "drawn": torch.tensor(drawn),
            "greedy": greedy,
            "tried": torch.tensor(tried),
        }
