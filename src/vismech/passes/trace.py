"""The trace: Generalized Integrated Gradients from one layer's concepts to an upper layer's, image by image."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from vismech.attribution.automatic import PROBED, Choice
from vismech.attribution.engine import (
    Attribution,
    Settings,
    attribute,
    choose_mode,
    completeness_gap,
    relative_change,
    settled,
)
from vismech.attribution.gig import Segment, prefix_effect
from vismech.attribution.methods import OPTIONS, Options
from vismech.attribution.paths import load_path
from vismech.attribution.quadrature import doubled
from vismech.attribution.sources import ConceptSource, Edges, Source
from vismech.attribution.targets import ConceptTargets, Targets, anchors, class_targets
from vismech.config.choices import Around, Baseline, Mode, ReadOut, Rule, Unreadable
from vismech.dictionaries.base import Dictionary
from vismech.errors import UserError
from vismech.intervene.coded import Coded
from vismech.network.blur import blurred
from vismech.network.pfv import Layout
from vismech.passes.baselines import Baselines, Begun, Start
from vismech.passes.loop import Columns, ImageLoop
from vismech.passes.nodes import chosen_nodes
from vismech.passes.settings import PathSettings
from vismech.passes.threads import one_thread
from vismech.store.rows import Column
from vismech.store.settings import used

log = logging.getLogger(__name__)
NOT_CHECKED = -1.0
Given = tuple[Segment, Layout, Source, Tensor, Targets]
"""What an attribution is made of, before its settings."""


@dataclass(frozen=True)
class UpperConcepts:
    """Target concepts of the upper layer.

    Attributes:
        layout: of the upper layer.
        dictionary: of the upper layer.
        concepts: the targets' numbers in it.
        anchors: position p* per image row and target [n, T], −1 where the concept is absent.
    """

    layout: Layout
    dictionary: Dictionary
    concepts: tuple[int, ...]
    anchors: np.ndarray

    def to(self, device: str | torch.device) -> UpperConcepts:
        """The same concepts with their dictionary on a device."""
        return replace(self, dictionary=self.dictionary.to(device))

    def targets(self, rows: list[int], readout: ReadOut) -> ConceptTargets:
        """The concepts as targets of some rows, on the dictionary's device."""
        atoms = self.dictionary.atoms[list(self.concepts)]
        chosen = torch.from_numpy(self.anchors[rows].astype(np.int64)).to(atoms.device)
        return ConceptTargets(atoms, chosen, self.layout, readout, self.dictionary, self.concepts)


def trace_columns(targets: int, concepts: int, prefix: int = 0) -> dict[str, Column]:
    """Arrays of one pair of layers, per image; ``prefix`` tokens stand before the lower layer's patch tokens.

    ``edges`` e_{q→j} [T, K]; ``error`` the error node's part [T]; ``value`` and ``baseline`` g_j at both ends of the
    path [T]; ``present`` [T]; ``moves``: g_j changes along the path [T]; ``gap`` the completeness gap [T]; ``change``
    the relative change of the edges with twice the steps, or with a tolerance by the last doubling [T], −1 where not
    checked; ``crosses`` and ``crossing``: whether g_j makes the share φ of its change, and α* [T]; ``steps``: as many
    nodes were used; ``anchors`` p* of every lower concept [K]; ``prefix`` what the tokens before the patch tokens bring
    about of each target [T], where there are such (:func:`~vismech.attribution.gig.prefix_effect`).
    """
    told = {"prefix": Column((targets,))} if prefix else {}
    return told | {
        "edges": Column((targets, concepts)),
        "error": Column((targets,)),
        "value": Column((targets,)),
        "baseline": Column((targets,)),
        "present": Column((targets,), "bool"),
        "moves": Column((targets,), "bool"),
        "crosses": Column((targets,), "bool"),
        "gap": Column((targets,)),
        "change": Column((targets,)),
        "crossing": Column((targets,)),
        "steps": Column((), "int32"),
        "anchors": Column((concepts,), "int32"),
    }


def open_image(loop: ImageLoop, place: int) -> Tensor:
    """One image [1, 3, H, W] as the loop's network takes it.

    Raises:
        UserError: an image that cannot be read.
    """
    assert loop.resources is not None
    return laid_out(loop, loop.resources.model.preprocess(loop.data.load(place))[None])


def laid_out(loop: ImageLoop, images: Tensor) -> Tensor:
    """Images where and as the loop's network takes them."""
    images = images.to(loop.device)
    return images.to(memory_format=torch.channels_last) if loop.site.runtime.channels_last else images


def first_readable(loop: ImageLoop, count: int) -> tuple[list[int], list[Tensor]]:
    """Rows and images of the first ``count`` that can be read.

    Raises:
        UserError: an image that cannot be read, where that ends the run.
    """
    rows: list[int] = []
    images: list[Tensor] = []
    for row, place in enumerate(loop.indices):
        if len(rows) == count:
            break
        try:
            images.append(open_image(loop, place))
        except UserError:
            if loop.site.unreadable is Unreadable.fail:
                raise
        else:
            rows.append(row)
    return rows, images


class TraceLoop(ImageLoop):
    """Edges from ``lower`` to ``upper`` for every image of the loop.

    Args:
        lower: lower layer.
        upper: upper layer, or ``logits``.
        path: how edges are attributed.
        layout: of the lower layer.
        dictionary: of the lower layer.
        concepts: targets in the upper layer; None where the target is each image's own class.
        classes: class index per row, or two of them for their difference; used where the target is the class.
        start: the baseline.
        nodes: what ``attribute.rule=auto`` chose, where it is known already.
        around: what is done with paths around the lower layer.
    """

    def __init__(
        self,
        *args,
        lower: str,
        upper: str,
        path: PathSettings,
        layout: Layout,
        dictionary: Dictionary,
        concepts: UpperConcepts | None,
        classes: np.ndarray,
        start: Start,
        nodes: Choice | None = None,
        around: Around = Around.refuse,
        **kwargs,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.lower, self.upper, self.layout, self.concepts, self.classes = lower, upper, layout, concepts, classes
        self.how = path
        self.dictionary, self.start, self.nodes, self.around = dictionary, start, nodes, around

    def on_predict_start(self) -> None:
        """Cut the segment, move the dictionaries, compute the baselines and choose the mode, once per process."""
        self.dictionary = self.dictionary.to(self.device)
        if self.concepts is not None:
            self.concepts = self.concepts.to(self.device)
        self._cut()
        self.path, self.settings = load_path(used(self.how.curve, {})), self.integral()
        with torch.no_grad(), one_thread():
            self.baselines = self._baselines()
            if self.settings.weights[0] in OPTIONS:
                self._tell_cost()
            elif self.settings.rule is Rule.auto:
                self.settings = self.settings.at(self.nodes or chosen_nodes(self._folder, self._settled))
            if self.settings.mode is Mode.auto:
                self.settings = replace(self.settings, mode=self._mode())

    def _cut(self) -> None:
        """The segment, and how its rows are read from images and as PFVs."""
        self.below, self.read = self.layout, self._activation
        if self.around is Around.hold:
            cut = self.network.around(self.lower, self.upper)
            self.segment, self.layout, self.read = cut.segment, cut.layout(self.layout), cut.read
        else:
            self.segment = self.network.segment(self.lower, self.upper, folded=True)

    def _activation(self, images: Tensor) -> Tensor:
        return self.network.activations(images, [self.lower])[self.lower]

    def _tell_cost(self) -> None:
        """What an attribution that is no weight on a path costs, where its targets cannot share it also why."""
        self.settings = replace(self.settings, mode=Mode.reverse)
        options, steps = self.settings.options or Options(), self.settings.steps
        targets = 1 if self.concepts is None else len(self.concepts.concepts)
        log.info(
            "%s → %s, attribute.path=%s: %d model calls an image for %d targets%s; ig takes %d with as many steps",
            self.lower,
            self.upper,
            self.how.under.value,
            options.calls(steps, targets, self.dictionary.k),
            targets,
            ", each with a path of its own" if options.own_target else "",
            Options().calls(steps, targets, self.dictionary.k),
        )

    def integral(self) -> Settings:
        """How the integral is taken, with the rows that the runtime allows."""
        return self.how.integral(self.site.runtime.path_batch_size)

    @property
    def concurrent(self) -> bool:
        """See :attr:`ImageLoop.concurrent`."""
        return self.settings.mode is not Mode.forward  # which sets what holds for all of the process

    def cuts(self) -> list[nn.Module]:
        """See :meth:`ImageLoop.cuts`."""
        return [self.segment]

    def held_per_image(self) -> int:
        """See :meth:`ImageLoop.held_per_image`: codes, and float64 beside them while they are solved for."""
        return 3 * self.layout.positions * self.dictionary.k

    def _coded(self, images: Tensor) -> Coded:
        clean = self.read(images)
        vectors = self.layout.vectors(clean)
        place = self.dictionary.reads
        if place is None:
            return Coded(clean, vectors, self._codes(vectors))
        read = self.network.layout(place).vectors(self.network.activations(images, [place])[place])
        return Coded(clean, vectors, self._codes(read))

    def _codes(self, vectors: Float[Tensor, "b p c"]) -> Float[Tensor, "b p k"]:
        return self.dictionary.encode(vectors)

    def _open(self, place: int) -> Tensor:
        return open_image(self, place)

    def _baselines(self) -> Baselines | None:
        kind, start = self.start.kind, self.start
        whole = None if start.whole is None else start.whole.to(self.device)
        if kind in (Baseline.zero, Baseline.blur):
            return None
        if kind is Baseline.mean:
            assert start.mean is not None
            vectors = start.mean.to(self.device).expand(1, self.layout.positions, -1)
            return Baselines(start, Begun(vectors, self._codes(vectors), self._before(self.below, whole)))
        if kind is Baseline.mean_position:
            assert whole is not None
            vectors = self.below.vectors(whole)
            return Baselines(start, Begun(vectors, self._codes(vectors), self._before(self.below, whole)))
        if kind is Baseline.mean_image:
            assert whole is not None
            images = [laid_out(self, whole)]
        else:
            images = [torch.zeros_like(self._open(self.indices[0]))] if kind is Baseline.blank else None
        # One image at a time, so that baselines do not depend on the size of batches.
        return Baselines(start, self._begun(images or map(self._open, start.samples)))

    def _begun(self, images: Iterable[Tensor]) -> Begun:
        """Activations of images as baselines, one at a time."""
        each = [self._coded(image) for image in images]
        before = self._before(self.layout, torch.cat([one.clean for one in each]))
        return Begun(torch.cat([one.vectors for one in each]), torch.cat([one.codes for one in each]), before)

    @staticmethod
    def _before(layout: Layout, activation: Tensor | None) -> Tensor | None:
        return layout.before(activation) if layout.prefix and activation is not None else None

    def _starts(self, rows: list[int]) -> list[Begun]:
        """Where the paths of some rows start."""
        places = [self.indices[row] for row in rows]
        if self.start.kind is Baseline.blur:
            # The last batch is padded with its last row.
            own = {place: blurred(self._open(place), self.start.blur) for place in dict.fromkeys(places)}
            order = {place: index for index, place in enumerate(own)}
            return [self._begun(own.values()).take([order[place] for place in places])]
        return [Begun()] if self.baselines is None else self.baselines.of(places)

    @property
    def _folder(self) -> Path:
        (rows,) = self.rows.values()
        return rows.folder

    def _settled(self) -> Choice:
        """From the artifact's first images, one at a time, so that it depends on no batch and on no process."""
        rows, each = first_readable(self, PROBED)
        coded = [self._coded(image) for image in each]
        if not coded:
            return Choice(Rule.midpoint, self.settings.steps)
        whole = Coded(*(torch.cat(part) for part in zip(*coded, strict=True)))
        given = self._sources(whole, rows), whole.clean, self._targets(rows)
        with self.telling(f"{self.lower} → {self.upper}", rows):
            return settled(self.segment, self.layout, *given, self.settings, len(self.indices))

    def _mode(self) -> Mode:
        """The cheaper mode for the artifact's first image, so that it depends on no batch and on no process."""
        coded = self._coded(self._open(self.indices[0]))
        mode = choose_mode(self._targets([0]), self._sources(coded, [0])[0])
        if mode is Mode.forward:
            try:
                self._attribute(coded, [0], replace(self.settings, mode=mode, tolerance=None))
            except UserError as error:  # an operation without a forward derivative
                log.debug("reverse mode: %s", error)
                return Mode.reverse
        return mode

    def _sources(self, coded: Coded, rows: list[int]) -> list[Source]:
        along, atoms = self.how.along, self.dictionary.atoms
        each = [
            ConceptSource(atoms, coded.codes, coded.vectors, along, one.codes, one.vectors, self.path)
            for one in self._starts(rows)
        ]
        return cast(list[Source], each)  # pyright does not take a cached property for a property

    def _targets(self, rows: list[int]) -> Targets:
        if self.concepts is None:
            return class_targets(torch.from_numpy(self.classes[rows]).to(self.device), self.how.output)
        return self.concepts.targets(rows, self.how.readout)

    def step(self, images: Tensor, rows: list[int]) -> dict[str, Columns]:
        """See :meth:`ImageLoop.step`."""
        coded = self._coded(images)
        found = self._attribute(coded, rows, self.settings)
        edges, error = found.edges[self.how.under]
        change = found.change
        if change is None:
            change = torch.full_like(found.value, NOT_CHECKED)
            if checked := sum(row < self.how.check_images for row in rows):
                finer = replace(self.settings, steps=doubled(self.settings.rule, self.settings.steps))
                twice = self._attribute(Coded(*(part[:checked] for part in coded)), rows[:checked], finer)
                once = {weight: Edges(*(part[:checked] for part in both)) for weight, both in found.edges.items()}
                change[:checked] = relative_change(twice, found._replace(edges=once))
        columns = {
            "edges": edges,
            "error": error,
            "value": found.value,
            "baseline": found.baseline,
            "present": found.present,
            "moves": found.moves,
            "crosses": found.crosses,
            "gap": completeness_gap(edges.sum(2) + error, found.value, found.baseline),
            "change": change,
            "crossing": found.crossing,
            "steps": found.steps,
            "anchors": anchors(coded.vectors, coded.codes, self.dictionary.atoms),
        }
        if self.layout.prefix:
            columns["prefix"] = self._prefix(coded, rows)
        return {"trace": columns}

    def _prefix(self, coded: Coded, rows: list[int]) -> Float[Tensor, "b t"]:
        """What the tokens before the patch tokens bring about of each target, the mean over baselines."""
        given, targets, clean = (self.segment, self.layout), self._targets(rows), coded.clean
        held = self.layout.before(clean)
        each = []
        for source, begun in zip(self._sources(coded, rows), self._starts(rows), strict=True):
            before = torch.zeros_like(held) if begun.before is None else begun.before
            each.append(prefix_effect(*given, source.curve, clean, before, targets, self.portions.paths))
        return torch.stack(each).mean(0)

    def _attribute(self, coded: Coded, rows: list[int], settings: Settings) -> Attribution:
        settings = replace(settings, rows=self.portions.paths)
        with self.telling(f"{self.lower} → {self.upper}", rows):
            return attribute(
                self.segment, self.layout, self._sources(coded, rows), coded.clean, self._targets(rows), settings
            )
