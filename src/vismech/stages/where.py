"""Where the concepts of a graph are in the photographs that the page shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vismech.config.choices import Patches, Stage
from vismech.costs.cost import Cost
from vismech.passes.progress import track
from vismech.receptive_field import sharing_ratios
from vismech.report.crops import map_light
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import graph as graph_stage
from vismech.stages import trace as trace_stage
from vismech.stages.cards import kept_most
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import traced_to_pixels
from vismech.stages.dictionary import CodingSettings
from vismech.stages.explained import Explained, ExplainedSettings, spread
from vismech.stages.fields import BATCH, Pictures, lit_maps, mean_token_of, patches_for
from vismech.stages.work import Work, compact, read_images
from vismech.store.artifacts import Artifact, Spec
from vismech.store.settings import FLAT, Settings

VERSION = 1
PHOTOGRAPHS = 6
"""Photographs that are shown of each group."""
CELLS = 28


@dataclass(frozen=True)
class WhereSettings(Settings):
    """Which photographs, and how concepts are found in them.

    Attributes:
        source: the model and the images.
        patches: how vectors are traced to pixels.
        coding: how vectors are written in concepts.
        explained: which images the graph explains.
        photographs: how many of each group are shown.
    """

    source: Mapping[str, Any] = field(metadata=FLAT)
    patches: Patches
    coding: CodingSettings = field(metadata=FLAT)
    explained: ExplainedSettings
    photographs: int


class Where(NamedTuple):
    """Light on photographs: `cells` is [photographs, concepts, 28, 28], 255 in the smallest region that holds half of a
    concept's map, 0 where it is not; the photographs' sample ids, and the concepts as (layer, number).
    """

    cells: np.ndarray
    samples: list[str]
    concepts: list[tuple[str, int]]


def job(ctx: Context, plan: Plan) -> Job:
    """Every concept of the graph on the photographs that the page shows."""
    assert plan.graph is not None and plan.logits is not None
    settings = WhereSettings(
        ctx.source,
        ctx.config.describe.patches,
        dictionary_stage.coding_of(ctx.config),
        trace_stage.explained_of(ctx),
        PHOTOGRAPHS,
    )
    parents = {"graph": plan.graph, "logits": plan.logits}
    parents |= {f"dictionary {layer}": spec for layer, spec in plan.dictionaries.items()}
    spec = Spec(Stage.cards.value, VERSION, "where", settings, parents)

    def cost(work: Work, specs: Mapping[str, Spec[WhereSettings]]) -> dict[str, Cost]:
        groups = max(1, len(settings.explained.classes))
        photographs = min(PHOTOGRAPHS * groups, len(work.data))
        concepts = len(plan.dictionaries) * kept_most(spec.parents["graph"])
        swept = traced_to_pixels(work, photographs, photographs * concepts)
        return dict.fromkeys(specs, swept + Cost(photographs, written=photographs * concepts * CELLS**2, about=True))

    return Job(Stage.cards, {"where": spec}, compute, cost)


def shown_rows(who: Explained, photographs: int) -> dict[str, list[int]]:
    """Group key → the rows of the images that are shown of it, evenly spread over its images."""
    return {
        group.key: spread(who.rows[who.group == index].tolist(), photographs) for index, group in enumerate(who.groups)
    }


def compute(work: Work, specs: Mapping[str, Spec[WhereSettings]]) -> None:
    """Fill ``specs``: one pass over the photographs, a sweep for each concept of a batch."""
    for spec in specs.values():
        wanted = spec.settings
        ids = read_images(work.store.open(spec.parents["logits"])).ids
        who = trace_stage.read_explained(work, spec.parents["logits"], wanted.explained)
        rows = shown_rows(who, wanted.photographs)
        samples = sorted({ids[row] for shown in rows.values() for row in shown})
        nodes = graph_stage.read(work, spec.parents["graph"])["nodes"]
        concepts = [(node["layer"], node["concept"]) for node in nodes if node["kind"] == "concept"]
        with work.store.writer(spec) as folder:
            np.save(folder / "lights.npy", _lights(work, spec, samples, concepts))
            facts = {"photographs": samples, "concepts": concepts}
            (folder / "where.json").write_bytes(compact(facts))


def read(artifact: Artifact) -> Where:
    """What :func:`compute` wrote."""
    facts = artifact.json("where.json")
    concepts = [(layer, concept) for layer, concept in facts["concepts"]]
    return Where(np.asarray(artifact.array("lights.npy")), facts["photographs"], concepts)


def _lights(work: Work, spec: Spec[WhereSettings], samples: list[str], concepts: list[tuple[str, int]]) -> np.ndarray:
    layers: dict[str, list[int]] = {}
    for layer, concept in concepts:
        layers.setdefault(layer, []).append(concept)
    kind = patches_for(work, spec.settings.patches, layers, tell=False)
    dictionaries = {
        layer: dictionary_stage.read(work, spec.parents[f"dictionary {layer}"], spec.settings.coding)
        for layer in layers
    }
    baseline = mean_token_of(work, kind)
    place = {concept: index for index, concept in enumerate(concepts)}
    pictures, found = Pictures(work), np.zeros((len(samples), len(concepts), CELLS, CELLS), dtype=np.uint8)
    starts = range(0, len(samples), BATCH)
    by_ratios = kind is Patches.receptive_field and bool(layers)
    for first in track(starts, "concepts in photographs", len(starts)):
        images = pictures.tensor(samples[first : first + BATCH])
        ratios = sharing_ratios(work.network, images, layers=list(layers)) if by_ratios else None
        for layer, own in layers.items():
            everywhere = dict.fromkeys(range(len(images)), own)
            maps = lit_maps(work, dictionaries[layer], layer, everywhere, images, ratios, kind, baseline)
            for index, concept, map_ in maps:
                light = map_light(map_, cells=CELLS)
                found[first + index, place[layer, concept]] = np.rint(255 * _resized(light))
    return found


def _resized(light: np.ndarray) -> np.ndarray:
    """A light of images smaller than 28 pixels in as many cells as all others."""
    rows, columns = light.shape
    return light[(np.arange(CELLS) * rows) // CELLS][:, (np.arange(CELLS) * columns) // CELLS]
