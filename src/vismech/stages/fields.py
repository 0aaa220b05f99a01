"""Where concepts come from in pixels, kept in the store: the crops of their nearest vectors, and their localisation.

Ways (``describe.patches``): sharing ratios, gradient × input or integrated gradients of a vector's unit, fields over
the tokens of the first block with attention, and plain upsampling as the ablation. Sharing ratios have no rule for some
layers; gradient × input stands in for them there, or with ``auto`` the best field that has rules.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vismech.config.choices import Patches
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.network.cut import Network
from vismech.passes.progress import track
from vismech.passes.threads import one_thread
from vismech.receptive_field import SharingRatios, attribution_maps, sharing_ratios
from vismech.receptive_field.localization import attributed_maps, localization_maps, upsampled_maps
from vismech.receptive_field.runner import runner_of
from vismech.receptive_field.tokens import concept_fields, mean_tokens, pixel_maps, token_fields
from vismech.report.crops import CONTEXT, SQUARE_CONTEXT, Crop, field_crop, map_light, position_crop
from vismech.report.text import TRACED
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Plan
from vismech.stages.describe import Description, Place
from vismech.stages.dictionary import CodingSettings
from vismech.stages.settings import FieldOptions
from vismech.stages.work import Work, compact
from vismech.store.artifacts import Artifact, Spec
from vismech.store.settings import FLAT, UNUSED

log = logging.getLogger(__name__)
VERSION = 4
# Images in one pass: not a setting, because their number shows in the last bits of the results.
BATCH = 8
BASELINE = 64
"""Images that the mean token is of."""
TOKENS = (Patches.ig, Patches.attnlrp, Patches.rollout)


@dataclass(frozen=True, kw_only=True)
class FieldsSettings(FieldOptions):
    """How vectors are traced to pixels and concepts localised.

    Attributes:
        source: the model and the images.
        coding: how vectors are written in concepts.
        cards: how many concepts of each layer, of a run's own fields.
        places, tops: which vectors and which concepts, of fields that are in no run's plan.
    """

    source: Mapping[str, Any] = field(metadata=FLAT)
    coding: CodingSettings = field(metadata=FLAT)
    cards: int = UNUSED
    places: list[Any] = UNUSED
    tops: list[Any] = UNUSED


class Fields(NamedTuple):
    """The crop of each vector, and for each (layer, concept) the light on the image of its nearest vector."""

    crops: dict[Place, Crop]
    lights: dict[tuple[str, int], np.ndarray]


class Pictures:
    """The images as the model sees them, each read once."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self.open = lru_cache(maxsize=512)(self._open)

    def tensor(self, samples: Iterable[str]) -> Tensor:
        """Images as the network takes them, [B, 3, H, W]."""
        work = self._work
        return torch.stack([work.model.preprocess(work.data.load(work.data.place[sample])) for sample in samples])

    def label(self, sample: str) -> int:
        """The class that the data gives an image."""
        return self._work.data.samples[self._work.data.place[sample]].label

    def _open(self, sample: str) -> Image.Image:
        return self._work.model.preprocess.geometry(self._work.data.load(self._work.data.place[sample]))


def patches_for(work: Work, wanted: Patches, layers: Iterable[str], tell: bool = True) -> Patches:
    """How vectors of ``layers`` are traced to pixels: as ``wanted``, or by what stands in where that cannot be.

    ``tell`` says so in the log.

    Raises:
        UserError: a field over tokens was asked for, and an operation has no rule.
    """
    layers = list(layers)
    if wanted in TOKENS:
        _try_tokens(work, wanted, layers)
    if wanted not in (Patches.receptive_field, Patches.auto):
        return wanted
    try:
        plan = runner_of(work.network).plan
        for layer in layers:
            plan.map_of(layer)
    except UserError as error:
        kind = Patches.gradient_x_input if wanted is Patches.receptive_field else _best_of_tokens(work, layers)
        said = logging.WARNING if tell else logging.DEBUG
        log.log(said, "the cards show %s, not receptive fields: %s", TRACED[kind].short.removeprefix("by "), error)
        return kind
    return Patches.receptive_field


def _best_of_tokens(work: Work, layers: list[str]) -> Patches:
    for kind in (Patches.attnlrp, Patches.ig):
        try:
            _try_tokens(work, kind, layers)
        except UserError as error:
            log.info("no field by %s: %s", kind.value, error)
        else:
            return kind
    return Patches.gradient_x_input


def _try_tokens(work: Work, kind: Patches, layers: list[str]) -> None:
    """Make one field of each layer, of a blank image."""
    network, blank = work.network, work.model.example
    for layer in layers:
        token_fields(network, blank, layer, [0], method=kind.value, steps=1)


@torch.no_grad()
def mean_token_of(work: Work, kind: Patches) -> Tensor | None:
    """What ig of tokens starts from: the mean over the first images of the run; None of other ways."""
    if kind is not Patches.ig:
        return None
    count = min(BASELINE, len(work.data))
    images = [work.model.preprocess(work.data.load(place)) for place in range(count)]
    return mean_tokens(work.network, torch.stack(images))


def concept_maps(
    network: Network, images: Tensor, layer: str, codes: Tensor, kind: Patches, baseline: Tensor | None = None
) -> Tensor:
    """Localisation maps [B, H, W] of a concept with ``codes`` [B, h, w] in one of the ways.

    ``baseline`` is where ig of tokens starts (:func:`mean_token_of`).
    """
    if kind in TOKENS:
        size = int(images.shape[2]), int(images.shape[3])
        return pixel_maps(concept_fields(network, images, layer, codes, method=kind.value, baseline=baseline), size)
    if kind is Patches.upsampling:
        return upsampled_maps(codes, (int(images.shape[2]), int(images.shape[3])))
    if kind is Patches.receptive_field:
        return localization_maps(sharing_ratios(network, images, layers=[layer]), layer, codes)
    return attributed_maps(network, images, layer, codes, kind.value)


class FieldsOf(NamedTuple):
    """Fields of some concepts, and how their vectors were traced to pixels."""

    fields: Fields
    kind: Patches


def fields_of(
    work: Work, how: FieldsSettings, plan: Plan, described: Iterable[Description], kind: Patches, pictures: Pictures
) -> Fields:
    """Crops and localisations of concepts that are in no run's plan, kept in the store by what they are of."""
    wanted = Wanted.of(described)
    settings = replace(how, patches=kind, places=[*map(list, wanted.places)], tops=[*map(list, wanted.tops)])
    layers = wanted.layers(work)
    spec = Spec("cards", VERSION, "", settings, {layer: plan.dictionaries[layer] for layer in layers})
    with work.store.lock(spec):
        if work.store.find(spec) is None:
            # One thread as in the stages, so that the number of threads leaves no trace.
            with one_thread(), work.store.writer(spec) as folder:
                write_fields(work, settings, plan, wanted, kind, pictures, folder)
        return read_fields(work.store.open(spec)).fields


def fields_settings(ctx: Context, cards: int = UNUSED) -> FieldsSettings:
    """How the run's configuration traces vectors to pixels."""
    coding = dictionary_stage.coding_of(ctx.config)
    return FieldsSettings.from_group(ctx.config.describe, source=ctx.source, coding=coding, cards=cards)


class Wanted(NamedTuple):
    """Vectors whose crops are wanted, and (image, layer, concept) whose localisation is."""

    places: list[Place]
    tops: list[tuple[str, str, int]]

    @classmethod
    def of(cls, described: Iterable[Description]) -> Wanted:
        """Those of some concepts."""
        described = [each for each in described if each.places]
        places = sorted({place for each in described for place in each.places})
        return cls(places, sorted({(each.places[0].sample, each.layer, each.concept) for each in described}))

    def layers(self, work: Work) -> list[str]:
        """The layers of the concepts, in network order."""
        return sorted({layer for _, layer, _ in self.tops}, key=work.outline.layers.index)


def compute_fields(work: Work, how: FieldsSettings, plan: Plan, described: Iterable[Description], folder: Path) -> None:
    """Crops and localisations of ``described`` into an artifact's folder; one pass for each image that is needed."""
    wanted = Wanted.of(described)
    kind = patches_for(work, how.patches, wanted.layers(work))
    write_fields(work, how, plan, wanted, kind, Pictures(work), folder)


def write_fields(
    work: Work, how: FieldsSettings, plan: Plan, wanted: Wanted, kind: Patches, pictures: Pictures, folder: Path
) -> None:
    """``boxes.npy``, ``crops.npy`` by vector, ``lights.npy`` by concept, and ``fields.json``, which names both."""
    made = _Tracer(work, how, plan, kind, wanted.layers(work), pictures).trace(wanted.places, wanted.tops)
    crops = [made.crops[place] for place in wanted.places]
    np.save(folder / "boxes.npy", np.array([crop.box for crop in crops]).reshape(-1, 4))
    np.save(folder / "crops.npy", np.array([crop.light for crop in crops], dtype=np.float32))
    maps = [made.lights[layer, concept] for _, layer, concept in wanted.tops]
    np.save(folder / "lights.npy", np.array(maps, dtype=np.float32))
    facts = {"kind": kind.value, "places": wanted.places, "tops": wanted.tops}
    (folder / "fields.json").write_bytes(compact(facts))


def read_fields(artifact: Artifact) -> FieldsOf:
    """What :func:`write_fields` wrote."""
    facts = artifact.json("fields.json")
    boxes, crops, lights = (np.asarray(artifact.array(f"{name}.npy")) for name in ("boxes", "crops", "lights"))
    places = [Place(*place) for place in facts["places"]]
    fields = Fields(
        {place: Crop(tuple(box), light) for place, box, light in zip(places, boxes.tolist(), crops, strict=True)},
        {(layer, concept): light for (_, layer, concept), light in zip(facts["tops"], lights, strict=True)},
    )
    return FieldsOf(fields, Patches(facts["kind"]))


class _Tracer:
    def __init__(
        self, work: Work, how: FieldsSettings, plan: Plan, kind: Patches, layers: list[str], pictures: Pictures
    ) -> None:
        self.work, self.how, self.kind, self.layers, self.pictures = work, how, kind, layers, pictures
        self.dictionaries = {
            layer: dictionary_stage.read(work, plan.dictionaries[layer], how.coding) for layer in layers
        }
        self.baseline = mean_token_of(work, kind)
        self.made = Fields({}, {})

    def trace(self, places: list[Place], tops: list[tuple[str, str, int]]) -> Fields:
        wanted: dict[str, dict[str, list[int]]] = {}
        for place in places:
            wanted.setdefault(place.sample, {}).setdefault(place.layer, []).append(place.position)
        concepts: dict[str, dict[str, list[int]]] = {}
        for sample, layer, concept in tops:
            concepts.setdefault(sample, {}).setdefault(layer, []).append(concept)
        samples = list(wanted)
        starts = range(0, len(samples), BATCH)
        for first in track(starts, "cards", len(starts)):
            batch = samples[first : first + BATCH]
            images = self.pictures.tensor(batch)
            ratios = None
            if self.kind is Patches.receptive_field:
                ratios = sharing_ratios(self.work.network, images, layers=self.layers)
            for index, sample in enumerate(batch):
                self._crops(sample, wanted[sample], images, index, ratios)
            for layer in self.layers:
                here = {
                    n: concepts[sample][layer] for n, sample in enumerate(batch) if layer in concepts.get(sample, ())
                }
                self._lights(layer, here, images, ratios)
        return self.made

    def _crops(
        self, sample: str, wanted: Mapping[str, list[int]], images: Tensor, index: int, ratios: SharingRatios | None
    ) -> None:
        if self.kind is Patches.upsampling:
            context = SQUARE_CONTEXT if self.how.context is None else self.how.context
            for layer, positions in wanted.items():
                grid = self.work.layout(layer).grid
                for position in positions:
                    crop = position_crop(divmod(position, grid[1]), grid, self.pictures.open(sample).size, context)
                    self.made.crops[Place(sample, layer, position)] = crop
            return
        if ratios is not None:
            fields = ratios.receptive_fields_of(wanted, index)
        elif self.kind in TOKENS:
            image, size = images[index : index + 1], (int(images.shape[2]), int(images.shape[3]))
            fields = {
                layer: pixel_maps(self._tokens(image, layer, positions), size) for layer, positions in wanted.items()
            }
        else:
            image, method = images[index : index + 1], self.kind.value
            fields = {
                layer: attribution_maps(self.work.network, image, layer, positions, method=method)
                for layer, positions in wanted.items()
            }
        context = CONTEXT if self.how.context is None else self.how.context
        for layer, positions in wanted.items():
            for position, map_ in zip(positions, fields[layer].numpy(), strict=True):
                self.made.crops[Place(sample, layer, position)] = field_crop(map_, self.how.mass, context)

    def _tokens(self, image: Tensor, layer: str, positions: list[int]) -> Tensor:
        network, method = self.work.network, self.kind.value
        return token_fields(network, image, layer, positions, method=method, baseline=self.baseline).maps

    def _lights(
        self, layer: str, concepts: Mapping[int, list[int]], images: Tensor, ratios: SharingRatios | None
    ) -> None:
        """Lights of concepts on the images by index."""
        maps = lit_maps(self.work, self.dictionaries[layer], layer, concepts, images, ratios, self.kind, self.baseline)
        for _, concept, found in maps:
            self.made.lights[layer, concept] = map_light(found)


def lit_maps(
    work: Work,
    dictionary: Dictionary,
    layer: str,
    concepts: Mapping[int, Sequence[int]],
    images: Tensor,
    ratios: SharingRatios | None,
    kind: Patches,
    baseline: Tensor | None = None,
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Where concepts of a layer are: (image's index, concept, map [H, W]); a sweep takes one concept of every image.

    Args:
        work: the run.
        dictionary: of the layer, coded.
        layer: the layer.
        concepts: index of an image → the concepts that are wanted on it.
        images: as the network takes them [B, 3, H, W].
        ratios: of these images, where vectors are traced by them.
        kind: how vectors are traced.
        baseline: where ig of tokens starts.
    """
    if not concepts:
        return
    layout, place = work.layout(layer), dictionary.reads or layer
    with torch.no_grad():
        vectors = work.layout(place).vectors(work.network.activations(images, [place])[place])
        codes = {n: dictionary.encode(vectors[n])[:, list(own)].clone() for n, own in concepts.items()}
    for turn in range(max(map(len, concepts.values()))):
        here = [n for n, own in concepts.items() if turn < len(own)]
        seeds = images.new_zeros(len(images), *layout.grid)
        for n in here:
            seeds[n] = codes[n][:, turn].view(layout.grid)
        if ratios is None:
            maps = concept_maps(work.network, images[here], layer, seeds[here], kind, baseline)
        else:
            maps = localization_maps(ratios, layer, seeds)[here]
        for n, found in zip(here, maps.numpy(), strict=True):
            yield n, concepts[n][turn], found
