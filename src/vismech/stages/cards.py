"""The pictures on concept cards: each nearest vector by its effective receptive field, or by its position's square."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple

import torch
from PIL import Image

from vismech.config import Patches
from vismech.errors import UserError
from vismech.receptive_field import SharingRatios, sharing_ratios
from vismech.report.cards import CONTEXT, field_patch
from vismech.report.patches import encode_png, patch
from vismech.stages.context import Context
from vismech.store import Artifact, Spec, write_json
from vismech.threads import one_thread

log = logging.getLogger(__name__)
VERSION = 1


class Place(NamedTuple):
    """One pointwise feature vector: its image, layer and flat position."""

    sample: str
    layer: str
    position: int


class Nearest(NamedTuple):
    """The nearest vectors of a concept, their cosines, and its share of all vectors."""

    places: list[Place]
    cosines: list[float]
    share: float


def nearest_vectors(layer: str, concept: int, described: Artifact, ids: list[str]) -> Nearest:
    """What the description of ``layer`` says of a concept; ``ids`` are the samples of its vectors."""
    images, positions = described.array("images.npy")[concept], described.array("positions.npy")[concept]
    found = images >= 0
    places = [
        Place(ids[image], layer, position)
        for image, position in zip(images[found].tolist(), positions[found].tolist(), strict=True)
    ]
    cosines = described.array("cosines.npy")[concept][found].tolist()
    return Nearest(places, cosines, float(described.array("shares.npy")[concept]))


class Pictures:
    """The images as the model sees them, each read once."""

    def __init__(self, ctx: Context) -> None:
        self._index = {sample: index for index, sample in enumerate(ctx.data.ids)}
        self._ctx = ctx
        self.open = lru_cache(maxsize=512)(self._open)

    def tensor(self, samples: Iterable[str]) -> torch.Tensor:
        """Images as the network takes them, [B, 3, H, W]."""
        ctx = self._ctx
        return torch.stack([ctx.model.preprocess(ctx.data.load(self._index[sample])) for sample in samples])

    def _open(self, sample: str) -> Image.Image:
        return self._ctx.model.preprocess.geometry(self._ctx.data.load(self._index[sample]))


class PatchesOf(NamedTuple):
    """PNG bytes per place, and how they were made."""

    png: dict[Place, bytes]
    kind: Patches


def patches_of(ctx: Context, places: Iterable[Place], pictures: Pictures) -> PatchesOf:
    """Patches of all ``places``, kept in the store; one pass through the network for each image that is needed.

    Where the network has no sharing ratios at these layers, they are upsampled squares and the log says why.
    """
    wanted, describe = sorted(set(places)), ctx.config.describe
    how = {"patches": describe.patches, "mass": describe.mass, "context": describe.context}
    inputs = {**ctx.source, **how, "places": [list(place) for place in wanted]}
    spec = Spec("cards", VERSION, "", inputs)
    with ctx.store.lock(spec):
        if ctx.store.find(spec) is None:
            made = _make(ctx, wanted, pictures)
            with ctx.store.writer(spec) as folder:
                write_json(folder / "kind.json", made.kind)
                for index, place in enumerate(wanted):
                    (folder / f"{index}.png").write_bytes(made.png[place])
        artifact = ctx.store.open(spec)
    png = {place: artifact.path(f"{index}.png").read_bytes() for index, place in enumerate(wanted)}
    return PatchesOf(png, Patches(artifact.json("kind.json")))


def _make(ctx: Context, wanted: list[Place], pictures: Pictures) -> PatchesOf:
    describe = ctx.config.describe
    if describe.patches is Patches.receptive_field and wanted:
        try:
            # The pass keeps to one thread as the stages do, so that the number of threads leaves no trace.
            with one_thread():
                return PatchesOf(dict(_by_field(ctx, wanted, pictures)), Patches.receptive_field)
        except UserError as error:
            log.warning("the cards show the squares of positions, not receptive fields: %s", error)
    context = 1.0 if describe.context is None else describe.context
    png = {}
    for place in wanted:
        grid = ctx.layout(place.layer).grid
        square = patch(pictures.open(place.sample), divmod(place.position, grid[1]), grid, context)
        png[place] = encode_png(square)
    return PatchesOf(png, Patches.upsampling)


def _by_field(ctx: Context, wanted: list[Place], pictures: Pictures) -> Iterator[tuple[Place, bytes]]:
    describe = ctx.config.describe
    context = CONTEXT if describe.context is None else describe.context
    by_sample: dict[str, dict[str, list[int]]] = {}
    for place in wanted:
        by_sample.setdefault(place.sample, {}).setdefault(place.layer, []).append(place.position)
    layers = sorted({place.layer for place in wanted}, key=ctx.layers.index)
    samples, size = list(by_sample), ctx.config.runtime.batch_size
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        ratios: SharingRatios = sharing_ratios(ctx.network, pictures.tensor(batch), layers=layers)
        for image, sample in enumerate(batch):
            for layer, fields in ratios.receptive_fields_of(by_sample[sample], image).items():
                for position, field in zip(by_sample[sample][layer], fields.numpy(), strict=True):
                    picture = field_patch(pictures.open(sample), field, describe.mass, context)
                    yield Place(sample, layer, position), encode_png(picture)
