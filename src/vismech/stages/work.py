"""What every stage computes with, beside its settings: store, images, network; and how images of artifacts are kept."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vismech.errors import UserError
from vismech.network.hooked import HookedNetwork
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.network import Network
from vismech.network.outline import Outline, outline_file, read_outline
from vismech.network.pfv import Layout
from vismech.passes.devices import first_device
from vismech.passes.resources import model_of, resources_of
from vismech.passes.site import Site
from vismech.sources.data import Columns, open_data
from vismech.sources.identity import identity_of
from vismech.sources.labels import ClassLabels, class_labels
from vismech.sources.models import Model
from vismech.sources.pictures import UNLABELLED, ImageData
from vismech.sources.settings import DataConfig
from vismech.store.artifacts import Artifact, Store, canonical

log = logging.getLogger(__name__)


class ArtifactImages(NamedTuple):
    """The images of an artifact, row by row, with the data's own labels, and those that could not be read."""

    ids: list[str]
    labels: np.ndarray
    unreadable: list[str]


@dataclass
class Work:
    """A run without its configuration; the network is opened only when a stage needs it.

    Attributes:
        site: the model and the runtime.
        store: the artifacts.
        data: the run's images.
        origin: where they come from, and how their labels are joined with the model's classes.
        measured_root: the folder of the images that measures read; None: the run's images.
    """

    site: Site
    store: Store
    data: ImageData
    origin: DataConfig
    measured_root: str | None

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """Inside, passes fill rows beside those of other runs, and commit nothing."""
        site = self.site
        self.site = site._replace(shared=True)
        try:
            yield
        finally:
            self.site = site

    @cached_property
    def model(self) -> Model:
        """The model, its weights loaded."""
        model = model_of(self.site.model)
        log.info("%s takes images with %s", self.site.model.name, model.preprocess)
        return model

    @cached_property
    def network(self) -> Network:
        """The model as named layers."""
        network = resources_of(self.site.model, self.site.runtime.channels_last).network
        network.prefix_tokens = self.site.prefix_tokens
        return network

    @cached_property
    def outline(self) -> Outline:
        """What planning asks of the model: from an earlier run's note, or from the model itself."""
        outline = (self._outline_file and read_outline(self._outline_file)) or self._note()
        outline.prefix_tokens = self.site.prefix_tokens
        return outline

    @cached_property
    def _outline_file(self) -> Path | None:
        return outline_file(self.store.root, self.site.model)

    def _note(self) -> Outline:
        network = self.network
        names = [PIXELS, *network.layers, LOGITS]
        identity, classes = identity_of(self.model, network), self.model.classes
        shapes = {name: network.shape(name) for name in names}
        facts = {"prefixes": dict(network.prefixes), "inputs": dict(network.inputs)}
        return Outline(identity, classes, list(network.layers), dict(network.calls), shapes, **facts)

    def check_cuts(self, pairs: Sequence[tuple[str, str]]) -> None:
        """Refuse pairs of layers that cannot be cut between, before anything is computed.

        Raises:
            UserError: the pair, and the path around it.
        """
        new = [pair for pair in pairs if pair not in self.outline.cuts]
        for lower, upper in new:
            self.network.segment(lower, upper)
        self.outline.cuts.update(new)
        if new or self._outline_file is None or not self._outline_file.is_file():
            self.keep_outline()

    def held(self, lower: str, upper: str) -> bool:
        """Whether paths run around the lower of two layers, so that what comes on them has to be held.

        Raises:
            UserError: a pair that cannot be cut between even so.
        """
        pair, outline = (lower, upper), self.outline
        if pair not in outline.cuts | outline.held:
            held = self.network.around(lower, upper).held
            if held and isinstance(self.network, HookedNetwork):
                with suppress(UserError):
                    self.network.segment(lower, upper)
                    held = ()
            (outline.held if held else outline.cuts).add(pair)
            self.keep_outline()
        return pair in outline.held

    def keep_outline(self) -> None:
        """Write what planning found out about the model, for the next run."""
        if self._outline_file is not None:
            self.outline.write(self._outline_file)

    @property
    def precision(self) -> dict[str, Any]:
        """The part of a key that says how products are rounded, where it is not float32's own way."""
        return {"precision": "tf32"} if self.site.runtime.tf32 else {}

    @cached_property
    def measured(self) -> ImageData:
        """The images that evaluations measure: those of ``evaluate.root``, or where there is none those of the run."""
        root, data = self.measured_root, self.origin
        if root is None:
            return self.data
        if data.source.published:
            return open_data(
                data.source, root, None, data.classes, key="evaluate.root", target=data.target, options=data.options
            )
        # The rank of a folder or label there need not be its rank here.
        folders = [self.data.classes[label] for label in data.classes]
        return open_data(data.source, root, key="evaluate.root", folders=folders, columns=Columns.of(data))

    @cached_property
    def device(self) -> str:
        """Where a single process does what is no pass over images: the accelerator if one is configured and there."""
        return first_device(self.site.runtime)

    def layout(self, layer: str) -> Layout:
        """How a layer is read as PFVs."""
        return self.outline.layout(layer)

    @cached_property
    def names(self) -> str:
        """Hash of all class names and of the join between them: the part of a key of what shows them."""
        known = {str(label): index for label, index in self.class_labels.known.items()}
        names = {"model": self.class_names, "data": self.data.classes, "known": known}
        return hashlib.sha256(canonical(names).encode()).hexdigest()[:20]

    def model_class(self, label: int) -> int | None:
        """The model's class of a label of the data; None where that is not known."""
        return self.class_labels.known.get(label)

    @property
    def outputs(self) -> int:
        """Number of the model's classes."""
        return self.outline.shape(LOGITS)[0]

    @cached_property
    def class_labels(self) -> ClassLabels:
        """Which class of the model each label of the run's images is."""
        return self._joined(self.data, self.measured)

    @cached_property
    def measured_labels(self) -> ClassLabels:
        """Which class of the model each label of the measured images is."""
        return self.class_labels if self.measured is self.data else self._joined(self.measured, self.data)

    def _joined(self, images: ImageData, other: ImageData) -> ClassLabels:
        data = self.origin
        folders = set(other.classes.values())
        return class_labels(images, self.outline.classes, self.outputs, data.labels, data.class_map, folders)

    @cached_property
    def class_names(self) -> dict[int, str]:
        """The model's class → its name for people: the model's own, else that of the folder which stands for it."""
        return {**self.class_labels.class_names, **self.outline.classes}

    def class_name(self, index: int) -> str:
        """The name of one of the model's classes, or its index where it has none."""
        return self.class_names.get(index) or f"class {index}"

    def label_name(self, label: int) -> str:
        """The data's own name of one of its labels, whatever the model calls that class."""
        return self.data.classes.get(label) or ("no label" if label == UNLABELLED else f"label {label}")


def write_images(
    work: Work, kept: list[int], indices: list[int] | None = None, data: ImageData | None = None
) -> dict[str, Any]:
    """The images of an artifact as JSON: ids and labels of the rows that were kept, and the ids that were not."""
    data = data or work.data
    chosen = [data.samples[index] for index in (indices if indices is not None else range(len(data)))]
    alive = set(kept)
    return {
        "ids": [chosen[row].id for row in kept],
        "labels": [chosen[row].label for row in kept],
        "unreadable": [sample.id for row, sample in enumerate(chosen) if row not in alive],
    }


def read_images(artifact: Artifact) -> ArtifactImages:
    """The images that :func:`write_images` wrote."""
    content = artifact.json("images.json")
    return ArtifactImages(content["ids"], np.array(content["labels"]), content["unreadable"])


def some_kept(kept: list[int]) -> None:
    """Refuse an artifact without a single readable image."""
    if not kept:
        raise UserError("none of the images could be read: look at data.root, the run's log names each of them")


def compact(value: Any) -> bytes:
    """JSON on one line, keys sorted: the form of larger payload files."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n").encode()
