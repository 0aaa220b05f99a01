"""Stage report: the page and the figure, from the graph, the descriptions and the tables."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vismech.attribution.automatic import TOO_MUCH
from vismech.choices import Positions, Rule, Scope
from vismech.config import Config
from vismech.report.figures import graph_figure
from vismech.report.page import ReportData, render_page
from vismech.report.patches import Patch, encode_png
from vismech.stages import trace as trace_stage
from vismech.stages.cards import Gallery
from vismech.stages.context import Context, Plan, read_images
from vismech.stages.explained import spread
from vismech.stages.fields import Pictures

PHOTOGRAPHS, PHOTOGRAPH_SIDE = 6, 160


def graph_concepts(ctx: Context, plan: Plan) -> list[tuple[str, int]]:
    """The concepts that the run's graph keeps, as (layer, concept)."""
    if plan.graph is None:
        return []
    nodes = ctx.store.open(plan.graph).json("graph.json")["nodes"]
    return [(node["layer"], node["concept"]) for node in nodes if node["kind"] == "concept"]


def report_data(
    ctx: Context, plan: Plan, tables: Mapping[str, pd.DataFrame], unreadable: list[str], gallery: Gallery
) -> ReportData:
    """Everything the page shows; ``gallery`` holds the graph's concepts."""
    assert plan.graph is not None and plan.logits is not None
    graph, pictures = ctx.store.open(plan.graph).json("graph.json"), gallery.pictures
    cards = {
        node["id"]: gallery.card(node["layer"], node["concept"]) for node in graph["nodes"] if node["kind"] == "concept"
    }
    logits = ctx.store.open(plan.logits)
    who, images = trace_stage.read_explained(ctx, logits), read_images(logits)
    chances = _softmax(np.asarray(logits.array("logits.npy")))
    photographs: dict[str, list[Patch]] = {}
    for index, group in enumerate(who.groups):
        rows = spread(who.rows[who.group == index].tolist(), PHOTOGRAPHS)
        photographs[group.key] = [
            Patch(_photograph(pictures, images.ids[row]), _predicted(ctx, chances[row]), 1.0, images.ids[row])
            for row in rows
        ]
    completeness = tables["completeness"].pivot_table(
        index=["lower", "upper", "path", "rule", "steps", "power"], columns="metric", values="value", sort=False
    )
    extraction = pd.DataFrame()
    if "extraction" in tables:
        extraction = tables["extraction"].pivot_table(
            index=["layer", "dictionary", "k", "code"], columns="metric", values="value", sort=False
        )
    return ReportData(
        graph=graph,
        cards=cards,
        images=photographs,
        completeness=completeness.reset_index(),
        reconstruction=extraction.reset_index(),
        facts=_facts(ctx, unreadable),
        notes=_notes(ctx, graph, unreadable) + _incomplete(tables["completeness"]),
        traced=gallery.kind,
    )


def write_report(ctx: Context, data: ReportData, run: Path) -> list[Path]:
    """``report/index.html`` and ``figures/graph.svg|png``, as configured; their paths are returned."""
    written = []
    if ctx.config.report.page:
        page = run / "report" / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(render_page(data))
        written.append(page)
    if ctx.config.report.figure:
        written += graph_figure(data.graph, data.cards, run / "figures" / "graph", data.images)
    return written


def _photograph(pictures: Pictures, sample: str) -> bytes:
    return encode_png(pictures.open(sample).resize((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE), Image.Resampling.LANCZOS))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _predicted(ctx: Context, chances: np.ndarray) -> str:
    best = int(chances.argmax())
    return f"{ctx.class_name(best)} {chances[best]:.0%}"


def _facts(ctx: Context, unreadable: list[str]) -> dict[str, str]:
    config = ctx.config
    weights = config.model.checkpoint or config.model.weights or "initial values"
    extract = config.extract
    drawn = f"{extract.per_image} per image, drawn by {extract.positions.value}".replace("by uniform", "uniformly")
    kept = "all positions" if extract.positions is Positions.all else drawn
    facts: dict[str, Any] = {
        "experiment": config.name,
        "model": config.model.name if config.model.source != "custom" else config.model.target,
        "weights": Path(weights).name,
        "images": f"{len(ctx.data)} from {config.data.source.value}",
        "unreadable images": len(unreadable),
        "vectors": kept,
        "concepts": f"{config.dictionary.method.value}, coded by {config.dictionary.code.value}",
        "path": f"{config.attribute.path.value}, {_nodes(config)}",
        "seed": config.seed,
    }
    return {name: str(value) for name, value in facts.items()}


def _nodes(config: Config) -> str:
    steps, rule = config.attribute.steps, config.attribute.rule
    return f"nodes chosen for each pair, from {steps} on" if rule is Rule.auto else f"{steps} {rule.value} steps"


def _incomplete(completeness: pd.DataFrame) -> list[str]:
    """A note on pairs of layers whose edges miss too much of what they should sum to."""
    gaps = [row for row in completeness.to_dict("records") if row["metric"] == "gap_median"]
    rows = [row for row in gaps if row["value"] > TOO_MUCH]
    if not rows:
        return []
    named = ", ".join(f"{row['lower']} → {row['upper']} {row['value']:.0%}" for row in rows)
    return [
        f"Edges are not complete, so their sizes mean little: of the change of a target they miss (median) {named}. "
        "Give more attribute.steps, attribute.rule=auto, or another attribute.baseline."
    ]


def _notes(ctx: Context, graph: Mapping[str, Any], unreadable: list[str]) -> list[str]:
    notes = []
    groups = graph["groups"]
    if ctx.config.graph.scope in (Scope["class"], Scope["pair"]) and all(group["images"] == 1 for group in groups):
        subject = "each class" if len(groups) > 1 else "the class"
        notes.append(
            f"One photograph of {subject}: this graph describes how the network reads "
            f"{'these single pictures' if len(groups) > 1 else 'this single picture'}, not what it knows of the class."
        )
    elif any(group["images"] < 10 for group in groups) and ctx.config.graph.scope is not Scope["image"]:
        few = ", ".join(f"{group['name']} {group['images']}" for group in groups)
        notes.append(f"Few images stand behind this graph ({few}): its weights are means over so many.")
    scores = list(graph.get("scores", {}).values())
    if scores and scores[-1].get("replacement_score") is not None:
        whole = scores[-1]
        notes.append(
            f"Replacement score {whole['replacement_score']:.0%}: so much of what ends in the earliest layer or in an "
            f"error node ends in concepts. Completeness score {whole['completeness_score']:.0%}. "
            f"{whole['untraced_share']:.0%} of the influence ends at concepts that the graph does not keep."
        )
    if unreadable:
        named = ", ".join(unreadable[:5]) + (" …" if len(unreadable) > 5 else "")
        notes.append(f"{len(unreadable)} images could not be read and were left out: {named}.")
    return notes
