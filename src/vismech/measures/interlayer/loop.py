"""Inter-layer insertion and deletion for all pairs of neighbouring layers in one pass over the images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vismech.attribution.automatic import PROBED, Choice
from vismech.attribution.engine import Attribution, attribute, completeness_gap, settled
from vismech.attribution.engine import Settings as Integral
from vismech.attribution.sources import ConceptSource
from vismech.config.choices import Evaluation, Mode, Order, PathWeight, Rule
from vismech.errors import UserError
from vismech.intervene.coded import Coded, Layer
from vismech.measures.images import MeasuredSettings
from vismech.measures.insertion.scores import GRID
from vismech.measures.interlayer import InterlayerOptions
from vismech.measures.interlayer.orders import (
    EARLY,
    READOUTS,
    Curves,
    ImageTargets,
    activation_patching,
    composition,
    curves,
    image_scores,
    leave_one_out,
    magnitudes,
    random_effects,
    strongest_targets,
)
from vismech.passes.donors import donor_images
from vismech.passes.effects import AT_END
from vismech.passes.loop import Columns, ImageLoop
from vismech.passes.nodes import chosen_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.threads import one_thread
from vismech.passes.trace import Given, first_readable
from vismech.stages.dictionary import CodingSettings
from vismech.store.rows import Column
from vismech.store.settings import FLAT

PATHS = {Order.gig: PathWeight.ig, Order.left_ig: PathWeight.left_ig, Order.idg: PathWeight.idg}


class Pair(NamedTuple):
    """Neighbouring layers."""

    lower: str
    upper: str


def interlayer_columns(targets: int, orders: int) -> dict[str, Column]:
    """Arrays of one pair of layers, per image.

    The scores of ``orders.Curves`` [T, O, S, ·], not yet divided by anything; ``concepts`` the targets, −1 where an
    image has fewer [T]; ``gap`` the completeness gap of ig [T]; ``active`` concepts ranked.
    """
    shape = (targets, orders, len(READOUTS))
    points = {"insertion": GRID, "deletion": GRID, "insertion_first": len(EARLY), "deletion_first": len(EARLY)}
    return {
        **{name: Column((*shape, count)) for name, count in points.items()},
        "concepts": Column((targets,), "int32"),
        "gap": Column((targets,)),
        "active": Column((), "int32"),
    }


@dataclass(frozen=True, kw_only=True)
class InterlayerSettings(InterlayerOptions):
    """Between which layers, how concepts are ordered and read."""

    measure: Evaluation
    lower: str
    upper: str
    coding: CodingSettings = field(metadata=FLAT)
    path: PathSettings = field(metadata=FLAT)
    measured: MeasuredSettings = field(metadata=FLAT)
    mean_kept: bool
    seed: int

    def integral(self, rows: int) -> Integral:
        """How edges are integrated: all weights that an order needs from one pass."""
        wanted = {PathWeight.ig: None} | {PATHS[order]: None for order in self.orders if order in PATHS}
        return replace(self.path.integral(rows), weights=tuple(wanted), mode=Mode.reverse)


class InterlayerLoop(ImageLoop):
    """Curves of every pair, order and target; see :mod:`vismech.measures.interlayer.orders`.

    Args:
        how: orders, targets and path, the same for all pairs.
        pairs: the artifacts' names → their layers, in network order.
        layers: each layer that a pair names.
    """

    def __init__(
        self, *args, how: InterlayerSettings, pairs: Mapping[str, Pair], layers: Mapping[str, Layer], **kwargs
    ) -> None:
        super().__init__(*args, **kwargs)
        self.how, self.pairs, self.layers, self.orders = how, dict(pairs), dict(layers), how.orders
        self.settings = dict.fromkeys(self.pairs, how.integral(self.site.runtime.path_batch_size))

    def on_predict_start(self) -> None:
        """Move the dictionaries, cut the segments and choose the nodes of each, once per process."""
        self.layers = {name: layer.to(self.device) for name, layer in self.layers.items()}
        self.segments = {name: self.network.segment(*pair) for name, pair in self.pairs.items()}
        if self.how.path.rule is Rule.auto:
            with torch.no_grad(), one_thread():
                for name, settings in self.settings.items():
                    choice = chosen_nodes(self.rows[name].folder, partial(self._settled, name))
                    self.settings[name] = settings.at(choice)

    def _settled(self, name: str) -> Choice:
        """From the first images and their strongest targets, one image at a time."""
        pair, settings = self.pairs[name], self.settings[name]
        rows, images = first_readable(self, PROBED)
        if not images:
            return Choice(Rule.midpoint, settings.steps)
        found = [self.network.activations(image, pair) for image in images]
        each = [[self._coded(layer, one, 1) for one in found] for layer in pair]
        lower, upper = (Coded(*(torch.cat(part) for part in zip(*layer, strict=True))) for layer in each)
        given = self._problem(name, lower, self._targets(name, upper))
        with self.telling(name, rows):
            return settled(*given, settings, len(self.indices))

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return True

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return list(self.segments.values())

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes of two layers, of the image and its donor."""
        return 6 * max(layer.layout.positions * layer.dictionary.k for layer in self.layers.values())

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`; each layer is encoded once, and at most two are held at a time."""
        names, patching = list(self.layers), Order.activation_patching in self.orders
        rows = list(dict.fromkeys(rows))  # the last batch is padded with its last row
        clean = self.network.activations(images, names)
        other = self.network.activations(donor_images(self, rows, self.how.seed, images), names) if patching else {}
        coded: dict[str, Coded] = {}
        found: dict[str, Columns] = {}
        for name, pair in self.pairs.items():
            coded = {layer: coded[layer] if layer in coded else self._coded(layer, clean, len(rows)) for layer in pair}
            donors = self._coded(pair.lower, other, len(rows)).codes if patching else None
            found[name] = self._measure(name, coded[pair.lower], coded[pair.upper], donors, rows)
        return found

    def _coded(self, name: str, activations: Mapping[str, Tensor], count: int) -> Coded:
        return self.layers[name].code(activations[name][:count])

    def _measure(
        self, name: str, lower: Coded, upper: Coded, donors: Float[Tensor, "b p k"] | None, rows: list[int]
    ) -> Columns:
        targets = self._targets(name, upper)
        edges, told = self._edges(name, lower, targets, rows)
        each = []
        for index, row in enumerate(rows):
            here = {order: values[index] for order, values in edges.items()}
            donor = None if donors is None else donors[index]
            each.append(self._curves(name, lower, targets, index, row, here, donor))
        columns = {part: torch.stack([one[part] for one in each]) for part in each[0]}
        ig = told.edges[PathWeight.ig]
        gap = completeness_gap(ig.units.sum(2) + ig.error, told.value, told.baseline)
        return {**columns, "concepts": targets.concepts, "gap": gap}

    def _targets(self, name: str, upper: Coded) -> ImageTargets:
        above, count = self.layers[self.pairs[name].upper], self.how.targets_per_image
        strongest = strongest_targets(upper.vectors, upper.codes, above.dictionary, above.layout, count)
        return replace(strongest, readout=self.how.path.readout)

    def _problem(self, name: str, lower: Coded, targets: ImageTargets) -> Given:
        layer = self.layers[self.pairs[name].lower]
        source: Any = ConceptSource(layer.dictionary.atoms, lower.codes, lower.vectors, self.how.path.along)
        return self.segments[name], layer.layout, source, lower.clean, targets

    def _edges(
        self, name: str, lower: Coded, targets: ImageTargets, rows: list[int]
    ) -> tuple[dict[Order, Float[Tensor, "b t k"]], Attribution]:
        """Effects that gradients tell, of all images of the batch."""
        given = self._problem(name, lower, targets)
        with self.telling(name, rows):
            told = attribute(*given, replace(self.settings[name], rows=self.portions.paths))
            edges = {order: told.edges[PATHS[order]].units for order in self.orders if order in PATHS}
            if Order.u_x_gradient in self.orders:
                edges[Order.u_x_gradient] = attribute(*given, AT_END).edges[PathWeight.ig].units
        return edges, told

    def _curves(
        self,
        name: str,
        lower: Coded,
        targets: ImageTargets,
        index: int,
        row: int,
        edges: Mapping[Order, Float[Tensor, "t k"]],
        donor: Float[Tensor, "p k"] | None,
    ) -> Columns:
        """One image's columns; all zero, its targets being none, where no concept is active in it."""
        layer, count = self.layers[self.pairs[name].lower], self.portions.paths
        whole = composition(lower.codes[index], layer.dictionary, self.how.mean_kept)
        active = torch.tensor(len(whole.units), dtype=torch.int32)
        if not len(whole.units):
            targets.concepts[index] = -1
            shapes = interlayer_columns(targets.concepts.shape[1], len(self.orders))
            return {part: lower.codes.new_zeros(shapes[part].shape) for part in Curves._fields} | {"active": active}
        scores = image_scores(self.segments[name], layer.layout, lower.clean, targets, index, count)
        sample = self.sample_id(row)

        def effect(order: Order) -> Tensor:
            match order:
                case Order.random:
                    return random_effects(len(whole.units), self.how.seed, name, sample).to(whole.codes)
                case Order.magnitude:
                    return magnitudes(whole)
                case Order.leave_one_out:
                    return leave_one_out(whole, scores, count, targets.column)
                case Order.activation_patching:
                    assert donor is not None
                    return activation_patching(whole, donor, layer.dictionary, scores, count, targets.column)
            return edges[order][:, whole.units]

        try:
            drawn = curves(whole, {order: effect(order) for order in self.orders}, scores, count)
        except FloatingPointError as error:
            raise UserError(f"{name}, {sample!r}: {error}") from error
        return {**drawn._asdict(), "active": active}
