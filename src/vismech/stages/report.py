"""Stage report: the page and the figure, from the graph, the cards and the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image

from vismech.attribution.automatic import TOO_MUCH
from vismech.config.choices import Code, Images, Output, Positions, Rule, Scope, Stage
from vismech.config.schema import Config
from vismech.costs.cost import Amount, Cost, Kind
from vismech.measures.base import measure_of, measured_rows
from vismech.report.patches import Patch, Presence, encode_png
from vismech.sources.own import Own
from vismech.stages import dictionary as dictionary_stage
from vismech.stages import graph as graph_stage
from vismech.stages import tables
from vismech.stages import trace as trace_stage
from vismech.stages import where as where_stage
from vismech.stages.cards import graph_concepts, kept_most
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import pictured
from vismech.stages.evidence import evidence
from vismech.stages.explained import Explained
from vismech.stages.fields import Pictures, read_fields
from vismech.stages.graph import KeptSettings
from vismech.stages.listing import listing
from vismech.stages.trace import TraceSettings
from vismech.stages.where import PHOTOGRAPHS, Where, shown_rows
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Spec
from vismech.store.settings import UNUSED, Settings, used

DRAWN, THUMB = 35_000_000, 64 * 64
"""Pixels of the figure and of a patch on the page, about; for the cost alone."""
RANKED = 3 * 1000 * 2 * 20
"""Steps for each measured link: three orders, resampled a thousand times, ranks of both sides; for the cost alone."""
VERSION = 4
PHOTOGRAPH_SIDE = 160
PAGE, FIGURE = "report/index.html", "figures/graph"
RECONSTRUCTION = "reconstruction"
EARLY = "What this run measures is still being computed: open the page again when it is done."


@dataclass(frozen=True)
class ReportSettings(Settings):
    """What the page and the figure show beside their parents.

    Attributes:
        page, figure: whether they are made.
        names: hash of the names of classes.
        facts: what is told of the run.
        images: how many images the run has.
        elements: sections of one's own at the page's end.
        given: the names that concepts were given, by "<layer>/<concept>".
    """

    page: bool
    figure: bool
    names: str
    facts: Mapping[str, str]
    images: int
    elements: list[Own] = UNUSED
    given: Mapping[str, str] = UNUSED


def job(ctx: Context, plan: Plan, fields: Spec, where: Spec) -> Job:
    """``report/index.html`` and ``figures/graph.svg|png``, as configured; everything that they show is in the key."""
    assert plan.graph is not None and plan.logits is not None
    shown = ctx.config.report
    own = [Own.of(target, {}, "report.elements") for target in shown.elements]
    settings = ReportSettings(shown.page, shown.figure, ctx.names, _facts(ctx, plan), len(ctx.data), own or UNUSED)
    settings = replace(settings, given=plan.given or UNUSED)

    def compute(work: Work, specs: Mapping[str, Spec[ReportSettings]]) -> None:
        for spec in specs.values():
            with work.store.writer(spec) as folder:
                _write(work, spec.settings, plan, fields, where, folder)

    def cost(work: Work, specs: Mapping[str, Spec[ReportSettings]]) -> dict[str, Cost]:
        kept = kept_most(graph)
        concepts = len(plan.descriptions) * kept
        nearest = next(iter(plan.descriptions.values())).settings.nearest
        ranked = len(plan.effects) * float(RANKED * kept * (kept + 1))
        drawn = pictured(float(DRAWN + concepts * (nearest + 1) * THUMB))
        return dict.fromkeys(specs, drawn + Cost(work={Kind.host: Amount(ranked)}))

    graph = plan.graph
    parents = {"graph": plan.graph, "logits": plan.logits, "fields": fields, "where": where}
    parents |= {f"vectors {layer}": one for layer, one in plan.vectors.items()}
    parents |= {f"{kind} {unit}": one for kind, of in plan.evaluations.items() for unit, one in of.items()}
    return Job(Stage.report, {"report": Spec(Stage.report.value, VERSION, "", settings, parents)}, compute, cost)


def early_page(work: Work, plan: Plan, folder: Path) -> Path | None:
    """The page without what is still to be measured, in the run's folder; None where the run has no page."""
    if plan.report is None or not plan.report.settings.page:
        return None
    settings, parents = replace(plan.report.settings, figure=False), plan.report.parents
    _write(work, settings, replace(plan, evaluations={}), parents["fields"], parents["where"], folder, EARLY)
    return folder / PAGE


def unreadable_images(work: Work, plan: Plan) -> list[str]:
    """Sample ids that some layer's vectors are without, because the files could not be read."""
    artifacts = (work.store.open(spec) for spec in plan.vectors.values())
    return sorted({sample for artifact in artifacts for sample in read_images(artifact).unreadable})


def _write(
    work: Work,
    wanted: ReportSettings,
    plan: Plan,
    fields: Spec[Any],
    where: Spec[Any],
    folder: Path,
    *notes: str,
) -> None:
    from vismech.report.figures import graph_figure
    from vismech.report.page import Section, render_page
    from vismech.stages.gallery import Gallery

    assert plan.graph is not None
    gallery = Gallery(work, plan, graph_concepts(work, plan.graph), read_fields(work.store.open(fields)))
    data = report_data(work, wanted, plan, gallery)
    found = where_stage.read(work.store.open(where))
    data = data._replace(where=_where(work, plan, found), notes=[*data.notes, *notes])
    if wanted.page:
        page = folder / PAGE
        page.parent.mkdir(parents=True, exist_ok=True)
        sections = [Section(*element.load()(data)) for element in used(wanted.elements, [])]
        page.write_text(render_page(data._replace(sections=sections)))
    if wanted.figure:
        graph_figure(
            data.graph,
            data.cards,
            folder / FIGURE,
            data.images,
            probability=data.probability,
            answered=data.answered,
            mistaken=data.mistaken,
        )


def report_data(work: Work, wanted: ReportSettings, plan: Plan, gallery: Any) -> Any:
    """Everything the page shows; ``gallery`` holds the graph's concepts."""
    from vismech.report.page import ReportData
    from vismech.report.text import wide

    assert plan.graph is not None and plan.logits is not None
    graph = graph_stage.read(work, plan.graph, used(wanted.given, {}))
    cards = {
        node["id"]: gallery.card(node["layer"], node["concept"]) for node in graph["nodes"] if node["kind"] == "concept"
    }
    who = trace_stage.who_is_explained(work, plan)
    assert who is not None
    photographs = _photographs(work, plan.logits, who, gallery.pictures)
    extraction = [
        measured_rows(work, plan, kind) for kind in plan.evaluations if measure_of(kind).table == "extraction"
    ]
    rows = pd.concat(extraction, ignore_index=True) if extraction else pd.DataFrame(columns=["variant"])
    rebuilt = rows["variant"] == RECONSTRUCTION
    unreadable = unreadable_images(work, plan)
    facts = {**wanted.facts, "unreadable images": str(len(unreadable))}
    completeness = tables.completeness(work, plan)
    return ReportData(
        graph=graph,
        cards=cards,
        images={key: [one.patch for one in ones] for key, ones in photographs.items()},
        mistaken={one.patch.image for ones in photographs.values() for one in ones if one.mistaken},
        completeness=wide(completeness, ["lower", "upper", "path", "rule", "steps", "power"]),
        reconstruction=wide(rows.loc[rebuilt], ["layer", "dictionary", "k", "code"]),
        insertion=wide(rows.loc[~rebuilt], ["layer", "variant", "order"]),
        measured=evidence(work, plan),
        concepts=listing(work, plan),
        facts=facts,
        dictionaries={layer: spec.key for layer, spec in plan.dictionaries.items()},
        notes=[
            *_notes(work, plan.graph.settings.graph, graph, photographs, unreadable),
            *_unexplained(work, plan),
            *_incomplete(completeness),
            *_held(graph),
            *_elsewhere(plan),
        ],
        traced=gallery.kind,
        probability=_explained_output(plan) is Output.probability,
        answered=tables.answered(work, plan.logits),
    )


class _Photograph(NamedTuple):
    """One explained photograph, and whether the network takes it for another class than its own."""

    patch: Patch
    mistaken: bool | None


def _photographs(work: Work, logits: Spec[Any], who: Explained, pictures: Pictures) -> dict[str, list[_Photograph]]:
    """Group key → the photographs that are shown of it, evenly spread over its images."""
    artifact = work.store.open(logits)
    images, chances = read_images(artifact), _softmax(np.asarray(artifact.array("logits.npy")))
    found: dict[str, list[_Photograph]] = {}
    for key, rows in shown_rows(who, PHOTOGRAPHS).items():
        found[key] = []
        for row in rows:
            caption, mistaken = _told(work, int(images.labels[row]), chances[row])
            picture = _photograph(pictures, images.ids[row])
            found[key].append(_Photograph(Patch(picture, caption, 1.0, images.ids[row]), mistaken))
    return found


def _where(work: Work, plan: Plan, found: Where) -> dict[str, dict[str, Presence]]:
    """Node id → sample id → where the concept is in that photograph, and its edge to the class there."""
    who, logits = trace_stage.who_is_explained(work, plan), plan.logits
    assert who is not None and logits is not None
    ids = read_images(work.store.open(logits)).ids
    row = {ids[place]: index for index, place in enumerate(who.rows.tolist())}
    edges = {layer: np.asarray(work.store.open(spec).array("edges.npy"))[:, 0] for layer, spec in plan.to_class.items()}
    return {
        f"{layer}/{concept}": {
            sample: Presence(found.cells[n, index], float(edges[layer][row[sample], concept]))
            for n, sample in enumerate(found.samples)
        }
        for index, (layer, concept) in enumerate(found.concepts)
    }


def _told(work: Work, label: int, chances: np.ndarray) -> tuple[str, bool | None]:
    """What the network says of a photograph, and whether that is wrong; None where its class is not known."""
    best = int(chances.argmax())
    said = f"{work.class_name(best)} {chances[best]:.0%}"
    own = work.model_class(label)
    if own is None or own == best:
        return said, None if own is None else False
    return f"error: {work.label_name(label)}, taken for {said}", True


def _photograph(pictures: Pictures, sample: str) -> bytes:
    return encode_png(pictures.open(sample).resize((PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE), Image.Resampling.LANCZOS))


def _softmax(logits: np.ndarray) -> np.ndarray:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def _explained_output(plan: Plan) -> Output:
    traced: TraceSettings = next(iter(plan.to_class.values())).settings
    return traced.path.output


def _facts(ctx: Context, plan: Plan) -> dict[str, str]:
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
        "vectors": kept,
        "concepts": "{dictionary}, coded by {code}".format(**plan.columns),
        "path": f"{config.attribute.path.value}, {_nodes(config)}",
        "seed": config.seed,
    }
    return {name: str(value) for name, value in facts.items()}


def _nodes(config: Config) -> str:
    steps, rule = config.attribute.steps, config.attribute.rule
    return f"nodes chosen for each pair, from {steps} on" if rule is Rule.auto else f"{steps} {rule.value} steps"


def _unexplained(work: Work, plan: Plan) -> list[str]:
    """A note on layers whose vectors did not allow as many concepts as would rebuild those of other photographs."""
    told, goal = [], 0.0
    for layer, spec in plan.dictionaries.items():
        chosen = dictionary_stage.load(work, spec).info.get("chosen")
        if chosen is not None and not chosen["reached"]:
            goal = chosen["goal"]
            told.append(f"{layer} {chosen['unexplained'][-1]:.0%} with {chosen['k']} concepts")
    if not told:
        return []
    return [
        f"Of vectors that had no part in finding the concepts more than {goal:.0%} stays unexplained: "
        f"{', '.join(told)}. "
        "More photographs allow more concepts; dictionary.k says how many by hand."
    ]


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


def _held(graph: Mapping[str, Any]) -> list[str]:
    """A note on layers with paths around them."""
    if not (held := graph.get("held")):
        return []
    named = ", ".join(dict.fromkeys(unit.partition("->")[0] for unit in held))
    return [
        f"What runs around {named} is held at its value in the photograph (attribute.around=hold): edges from there "
        "are of what runs through the layer alone, and offsets hold all the rest."
    ]


def _elsewhere(plan: Plan) -> list[str]:
    """A note on layers whose codes are read from another."""
    if plan.columns["code"] != Code.encoder.value:
        return []
    read = {layer: spec.parents["reads"].unit for layer, spec in plan.dictionaries.items() if "reads" in spec.parents}
    return [
        f"The codes of {layer} are a transcoder's: read from {place}, they rebuild what the network makes of that. "
        f"R² is of {layer}, not of what is read, and the error is what the network adds beyond the concepts."
        for layer, place in read.items()
    ]


def _notes(
    work: Work,
    kept: KeptSettings,
    graph: Mapping[str, Any],
    photographs: Mapping[str, Sequence[_Photograph]],
    unreadable: Sequence[str],
) -> list[str]:
    notes = []
    groups = graph["groups"]
    if kept.scope in (Scope["class"], Scope["pair"]) and all(group["images"] == 1 for group in groups):
        subject = "each class" if len(groups) > 1 else "the class"
        notes.append(
            f"One photograph of {subject}: this graph describes how the network reads "
            f"{'these single pictures' if len(groups) > 1 else 'this single picture'}, not what it knows of the class."
        )
    elif any(group["images"] < 10 for group in groups) and kept.scope is not Scope["image"]:
        few = ", ".join(f"{group['name']} {group['images']}" for group in groups)
        notes.append(f"Few images stand behind this graph ({few}): its weights are means over so many.")
    if kept.images is Images.predicted and kept.scope is not Scope["error"]:
        for group in groups:
            shown = photographs[group["key"]]
            if wrong := sum(bool(one.mistaken) for one in shown):
                several = (
                    f"{wrong} of the {len(shown)} photographs shown of {group['name']} are errors of the network: they "
                    "are of other classes, and stand here because the network takes them for this one."
                )
                one = f"The photograph is an error of the network: another class, taken for {group['name']}."
                notes.append(several if len(shown) > 1 else one)
    if groups and graph["scope"] == "dataset" and groups[0]["images"] < len(work.data):
        caps = {"of each predicted class (graph.images_per_class)": kept.images_per_class}
        caps["in all (graph.limit)"] = kept.limit
        most = " and ".join(f"at most {cap} {of}" for of, cap in caps.items() if cap is not None)
        told = f", {most}" if most else ""
        notes.append(f"{groups[0]['images']:,} of the {len(work.data):,} images are explained{told}.")
    scores = list(graph.get("scores", {}).values())
    if scores and scores[-1].get("completeness_score") is not None:
        notes.append(
            f"Completeness score {scores[-1]['completeness_score']:.0%}: so much of the inflow of the drawn concepts, "
            "weighted by their influence, is concepts and offset rather than error."
        )
    if unreadable:
        named = ", ".join(unreadable[:5]) + (" …" if len(unreadable) > 5 else "")
        notes.append(f"{len(unreadable)} images could not be read and were left out: {named}.")
    return notes
