"""Stage cards: which concepts a run shows, where they come from in pixels, and a picture and a row for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vismech.config.choices import Stage
from vismech.costs.cost import Cost
from vismech.network.layers import PIXELS
from vismech.stages import graph as graph_stage
from vismech.stages import trace as trace_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import pictured, traced_to_pixels
from vismech.stages.describe import Descriptions
from vismech.stages.fields import VERSION as FIELDS_VERSION
from vismech.stages.fields import FieldsSettings, compute_fields, fields_settings, read_fields
from vismech.stages.work import Work
from vismech.store.artifacts import Spec
from vismech.store.settings import UNUSED, Settings, used

VERSION = 1
CARDS = 50
PNG_LEVEL = 3  # more than twice as fast as the usual 6, and 4 % larger
TABLE = "concepts.csv"
CARD = 1_000_000
"""Pixels of a card, about."""


@dataclass(frozen=True)
class PicturesSettings(Settings):
    """How many cards of each layer are drawn, the hash of the names of classes that stand on them, and the names that
    concepts were given."""

    cards: int
    names: str
    given: Mapping[str, str] = UNUSED


def fields_job(ctx: Context, plan: Plan, graph: Spec | None) -> Job:
    """Crops and localisations of the concepts that cards and page show.

    Args:
        ctx: the run.
        plan: the run's artifacts so far.
        graph: whose concepts are shown too, if there is to be a page.
    """
    settings = fields_settings(ctx, cards=count(ctx))

    def compute(work: Work, specs: Mapping[str, Spec[FieldsSettings]]) -> None:
        for spec in specs.values():
            chosen = important_concepts(work, plan, spec.settings.cards)
            shown = dict.fromkeys(chosen + (graph_concepts(work, graph) if graph else []))
            layers: dict[str, Descriptions] = {}
            for layer, _ in shown:
                if layer not in layers:
                    layers[layer] = Descriptions(work, layer, plan.descriptions[layer])
            described = [layers[layer].concept(concept) for layer, concept in shown]
            with work.store.writer(spec) as folder:
                compute_fields(work, spec.settings, plan, described, folder)

    def cost(work: Work, specs: Mapping[str, Spec[FieldsSettings]]) -> dict[str, Cost]:
        layers = len(plan.descriptions)
        shown = layers * max(settings.cards, 0 if graph is None else kept_most(graph))  # most are both
        vectors = shown * next(iter(plan.descriptions.values())).settings.nearest
        images, side = min(len(work.data), vectors), work.outline.shape(PIXELS)[1]
        drawn = Cost(images, written=4.0 * shown * side * side, about=True)
        return dict.fromkeys(specs, traced_to_pixels(work, images, vectors + shown) + drawn)

    parents = {**_parents(plan), **({} if graph is None else {"graph": graph})}
    return Job(
        Stage.cards, {"fields": Spec(Stage.cards.value, FIELDS_VERSION, "fields", settings, parents)}, compute, cost
    )


def pictures_job(ctx: Context, plan: Plan, fields: Spec) -> Job:
    """``cards/<layer>/<concept>.png`` of the most important concepts, and ``concepts.csv`` with a row for each."""
    settings = PicturesSettings(count(ctx), ctx.names, plan.given or UNUSED)

    def compute(work: Work, specs: Mapping[str, Spec[PicturesSettings]]) -> None:
        for spec in specs.values():
            from vismech.stages.gallery import Gallery  # pictures are slow to import, and a plan needs none

            shown = important_concepts(work, plan, spec.settings.cards)
            gallery = Gallery(work, plan, shown, read_fields(work.store.open(fields)), used(spec.settings.given, {}))
            with work.store.writer(spec) as folder:
                _write(gallery, shown, folder)

    def cost(work: Work, specs: Mapping[str, Spec[PicturesSettings]]) -> dict[str, Cost]:
        return dict.fromkeys(specs, pictured(float(CARD * len(plan.descriptions) * settings.cards)))

    parents = {**_parents(plan), "fields": fields}
    return Job(
        Stage.cards, {"pictures": Spec(Stage.cards.value, VERSION, "pictures", settings, parents)}, compute, cost
    )


def _parents(plan: Plan) -> dict[str, Spec]:
    parents = {f"description {layer}": spec for layer, spec in plan.descriptions.items()}
    parents |= {f"class {layer}": spec for layer, spec in plan.to_class.items()}
    return parents if plan.logits is None else {**parents, "logits": plan.logits}


def count(ctx: Context) -> int:
    """How many cards of each layer are drawn."""
    wanted = ctx.config.describe.cards
    return CARDS if wanted is None else wanted


def important_concepts(work: Work, plan: Plan, cards: int) -> list[tuple[str, int]]:
    """The ``describe.cards`` concepts of each layer of largest absolute importance for any group, or else share."""
    measured = trace_stage.importances(work, plan)
    chosen = []
    for layer, spec in plan.descriptions.items():
        if layer in measured:
            score = np.abs(measured[layer]).max(0)
        else:
            score = np.asarray(work.store.open(spec).array("shares.npy"))
        order = np.argsort(-score, kind="stable")[:cards]
        chosen += [(layer, concept) for concept in order.tolist()]
    return chosen


def kept_most(graph: Spec[Any]) -> int:
    """Concepts that a graph keeps of a layer, at the most."""
    kept = graph.settings.graph
    groups = max(1, len(kept.classes))
    return kept.important * groups + kept.shared * (groups > 1)


def graph_concepts(work: Work, graph: Spec[Any]) -> list[tuple[str, int]]:
    """The concepts that a graph keeps, as (layer, concept)."""
    nodes = graph_stage.read(work, graph)["nodes"]
    return [(node["layer"], node["concept"]) for node in nodes if node["kind"] == "concept"]


def _write(gallery: Any, shown: list[tuple[str, int]], folder: Path) -> None:
    from vismech.passes.progress import track

    rows: list[dict[str, Any]] = []
    for layer, concept in track(shown, "cards", len(shown)):
        file = Path("cards") / layer / f"{concept}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        gallery.picture(layer, concept).save(folder / file, compress_level=PNG_LEVEL)
        rows.append({**gallery.row(layer, concept), "file": file.as_posix()})
    pd.DataFrame(rows).to_csv(folder / TABLE, index=False)
