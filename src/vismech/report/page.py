"""The report of one run: a single HTML page with the causal concept graph, its evidence and its measures.

The page carries everything it needs (no network, no fonts or scripts from elsewhere). Python lays the graph out and
writes it as SVG, so it reads and prints without a script; the script adds the cards, the choice of weights and the
slider.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import pandas as pd

from vismech.attribution.account import Answered, is_absence
from vismech.config.choices import Patches
from vismech.errors import UserError
from vismech.report import layout as plan
from vismech.report.bar import truth_bars
from vismech.report.evidence import Measured, shown
from vismech.report.layout import MEAN
from vismech.report.listing import Columns
from vismech.report.patches import NEAR, Card, Patch, Presence, encode_small, is_far, portrait
from vismech.report.script import safe_json, script_data
from vismech.report.text import (
    ACCOUNT,
    COMPLETENESS,
    INSERTION,
    RECONSTRUCTION,
    TRACED,
    number,
    percent,
    shorten,
    tabulate,
)
from vismech.report.verdict import amount, subject, verdict

CLASSES_SHOWN = 3
EDITED = {
    "zero": "removed",
    "mean": "set to its mean",
    "resample": "replaced by its code in an image of another class",
}
SCOPES = ("pair", "class", "dataset", "image", "error")


class Section(NamedTuple):
    """A section of one's own: its title, and its HTML, which is shown as it is."""

    title: str
    html: str


class ReportData(NamedTuple):
    """Everything the page shows, as data: the graph of graph.json, cards per node id, photographs per group key.

    `concepts` has what is known of all concepts, layer by layer, for the list of all.
    `dictionaries` has each layer's dictionary's key, by which a reader's names are kept.
    `where` says of each concept (its node's id) where it is in the photographs (their sample ids); `mistaken` names
    those that the network takes for another class.
    """

    graph: Mapping[str, Any]
    cards: Mapping[str, Card]
    images: Mapping[str, Sequence[Patch]]
    completeness: pd.DataFrame
    reconstruction: pd.DataFrame
    facts: Mapping[str, str]
    notes: Sequence[str]
    dictionaries: Mapping[str, str]
    traced: Patches = Patches.receptive_field
    insertion: pd.DataFrame = pd.DataFrame()
    probability: bool = False
    measured: Sequence[Measured] = ()
    concepts: Mapping[str, Columns] = {}
    sections: Sequence[Section] = ()
    where: Mapping[str, Mapping[str, Presence]] = {}
    mistaken: Collection[str] = ()
    answered: Answered | None = None


def render_page(report: ReportData) -> str:
    """The page as one self-contained HTML document; equal input gives equal text.

    Raises:
        UserError: the scope is unknown, the graph holds NaN, or a link or node names something the graph does not have.
    """
    graph = report.graph
    if graph["scope"] not in SCOPES:
        raise UserError(f"the graph's scope is {graph['scope']!r}; it must be one of {', '.join(SCOPES)}.")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vismech.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, amount=amount, percent=percent, source=_source, shorten=shorten)
    environment.tests["far"] = is_far
    drawing = plan.layout(graph)
    sprites = _Sprites()
    nodes = _nodes(report, drawing, sprites)
    groups = [
        {**group, "key": str(group["key"]), "hue": hue, "photographs": report.images.get(str(group["key"]), [])}
        for hue, group in zip(_hues(graph), graph["groups"], strict=True)
    ]
    photographs = [photograph.image for group in groups for photograph in group["photographs"]]
    return environment.get_template("page.html.j2").render(
        heading=heading(graph),
        lead=" ".join(filter(None, (lead(graph), subject(graph, report.probability)))),
        verdict=verdict(graph, report.probability, report.answered),
        truth=truth_bars(graph, report.probability),
        edited=EDITED.get(graph.get("edit", "")),
        account=tabulate(_account(graph), ACCOUNT),
        scope=graph["scope"],
        notes=report.notes,
        groups=groups,
        modes=[(MEAN, "mean"), *((g["key"], g["name"]) for g in groups)] if len(groups) > 1 else [],
        drawing=drawing,
        plan=plan,
        nodes=nodes,
        layers=[
            (row, [node for node in nodes if node["layer"] == row.layer and node["kind"] == "concept"])
            for row in drawing.rows
            if any(node["kind"] == "concept" for node in row.nodes)
        ],
        links=_links(graph, drawing, nodes),
        shown=plan.default_links(graph),
        sprites=sprites.sources,
        data=safe_json(
            script_data(
                graph,
                nodes,
                report.dictionaries,
                [report.where.get(node["id"], {}) for node in nodes],
                photographs,
                report.concepts,
            )
        ),
        mistaken=report.mistaken,
        judged=0 < sum(image in report.mistaken for image in photographs) < len(photographs),
        completeness=tabulate(report.completeness, COMPLETENESS),
        reconstruction=tabulate(report.reconstruction, RECONSTRUCTION),
        insertion=tabulate(report.insertion, INSERTION) if len(report.insertion) else None,
        measured=[shown(one) for one in report.measured],
        facts=report.facts,
        listed=list(report.concepts),
        sections=report.sections,
        near=NEAR,
        traced=TRACED[report.traced].page,
    )


def heading(graph: Mapping[str, Any]) -> str:
    """One sentence in plain words that says what the page shows."""
    names = [f"“{group['name']}”" for group in graph["groups"]]
    if graph["scope"] == "error":
        (group,) = graph["groups"]
        return (
            f"Why “{group['labelled']}” was answered “{group['answered']}”: the concepts that lead the network to the "
            "one rather than the other"
        )
    if graph["scope"] == "pair" and len(names) == 2:
        return f"{names[0]} and {names[1]}: the concepts that lead the network to each, and those they share"
    if graph["scope"] == "dataset" or not names:
        return "The concepts that lead the network to its answers over the whole data set"
    where = " in one photograph" if graph["scope"] == "image" else ""
    return f"The concepts that lead the network to {' and '.join(names)}{where}"


def lead(graph: Mapping[str, Any]) -> str:
    """What the graph is made of: layers, concepts, links, and how many photographs stand behind it."""
    concepts = sum(node["kind"] == "concept" for node in graph["nodes"])
    images = [int(group.get("images", 0)) for group in graph["groups"]]
    behind = f"{sum(images):,} photograph" + ("" if sum(images) == 1 else "s")
    if graph["scope"] == "pair":
        behind = " and ".join(f"{n:,} of {group['name']}" for n, group in zip(images, graph["groups"], strict=True))
        behind = f"photographs: {behind}"
    layers = len(graph["layers"])
    return (
        f"{concepts} concepts in {layers} layer{'' if layers == 1 else 's'}, {len(graph['links'])} links, "
        f"computed from {behind}."
    )


def _account(graph: Mapping[str, Any]) -> pd.DataFrame:
    """What the drawn concepts account for, a row for each layer and group, the layers from the class down."""
    names = {str(group["key"]): group["name"] for group in graph["groups"]}
    return pd.DataFrame(
        [
            {"layer": layer, "of": names[key], **parts}
            for layer, accounts in reversed(list(graph.get("account", {}).items()))
            for key, parts in accounts.items()
        ]
    )


class _Sprites:
    """Each distinct picture once; the page refers to it by number wherever it is shown."""

    def __init__(self) -> None:
        self.sources: list[str] = []
        self._index: dict[bytes, int] = {}

    def add(self, png: bytes) -> int:
        if png not in self._index:
            self._index[png] = len(self.sources)
            self.sources.append(_source(png))
        return self._index[png]


def _source(png: bytes) -> str:
    """A picture's address: as WebP, a sixth of the PNG's bytes without a difference that can be seen at this size."""
    kind, data = encode_small(png)
    return f"data:image/{kind};base64," + base64.b64encode(data).decode("ascii")


def _hues(graph: Mapping[str, Any]) -> list[int | None]:
    """Which class colour each group has; none for a single group, nor beyond the four that can be told apart."""
    count = len(graph["groups"])
    return [index if 1 < count <= 4 else None for index in range(count)]


def _nodes(report: ReportData, drawing: plan.Layout, sprites: _Sprites) -> list[dict[str, Any]]:
    graph = report.graph
    keys, names = plan.group_keys(graph), [str(group["name"]) for group in graph["groups"]]
    hues = dict(zip(keys, _hues(graph), strict=True))
    views = []
    for row in drawing.rows:
        largest = plan.largest_importance(row.nodes)
        for node in row.nodes:
            box, card = drawing.boxes[node["id"]], report.cards.get(node["id"])
            importance, share = node.get("importance") or {}, node.get("share") or {}
            pictures = [(sprites.add(picture.png), picture) for picture in (card.patches if card else [])]
            held = plan.owners(node, keys) if node["kind"] == "concept" else []
            photograph = None
            if node["kind"] == "class":
                key = plan.group_of(node, graph)
                held = [key] if key else []
                shows = report.images.get(key or "", []) if box.width >= plan.ROOM_FOR_PHOTOGRAPH else []
                own = portrait(shows, report.mistaken)
                photograph = sprites.add(own.png) if own else None
            label, absent = _label(node), is_absence(node)
            views.append(
                {
                    **node,
                    "index": len(views),
                    "box": box,
                    "label": label,
                    "given": node.get("name") if node["kind"] == "concept" else None,
                    "absence": absent,
                    "far": sum(is_far(picture) for _, picture in pictures),
                    "card": card,
                    "pictures": pictures,
                    "top": sprites.add(card.top.png) if card and card.top else None,
                    "classes": _classes(card) if card else [],
                    "photograph": photograph,
                    "thumbnails": _thumbnails(box, pictures),
                    "bars": plan.importance_bars(node, graph, largest) if node["kind"] == "concept" else [],
                    "strip": [hues[key] for key in held if hues[key] is not None],
                    "importances": [
                        (name, hues[key], float(importance[key]), _fraction(importance[key], largest), share.get(key))
                        for key, name in zip(keys, names, strict=True)
                        if key in importance and node["kind"] == "concept"
                    ],
                    "measured": _measured(node, dict(zip(keys, names, strict=True)), EDITED.get(graph.get("edit", ""))),
                    "spoken": _spoken(node, label, dict(zip(keys, names, strict=True))),
                }
            )
    return views


def _thumbnails(box: plan.Box, pictures: Sequence[tuple[int, Patch]]) -> list[tuple[plan.Box, tuple[int, Patch]]]:
    """The patches on a concept's tile: those that are near it, or of none that is the nearest."""
    shown = [each for each in pictures if not is_far(each[1])] or list(pictures[:1])
    return list(zip(plan.thumbnails(box, len(shown)), shown, strict=False))


def _classes(card: Card) -> list[tuple[str, float]]:
    """The first classes of a concept's members, and the share of them that each has."""
    total = sum(count for _, count in card.classes)
    return [(name, count / total) for name, count in card.classes[:CLASSES_SHOWN]]


def _label(node: Mapping[str, Any]) -> str:
    if node["kind"] == "concept":
        return f"Less of concept {node['concept']}" if is_absence(node) else f"Concept {node['concept']}"
    return str(node.get("name") or node["id"]) if node["kind"] == "class" else str(node["kind"]).capitalize()


def _spoken(node: Mapping[str, Any], label: str, names: Mapping[str, str]) -> str:
    """What a screen reader says of a node."""
    if node["kind"] != "concept":
        return f"{label}, {node['kind']}" if node["kind"] == "class" else f"{label} of {node['layer']}"
    importance = node.get("importance") or {}
    values = ", ".join(
        f"{name} {number(float(importance[key]), 2)}" for key, name in names.items() if key in importance
    )
    return f"{label} of {node['layer']}{', shared' if node.get('shared') else ''}; importance: {values or 'none'}"


def _fraction(value: float, largest: float) -> float:
    return round(min(abs(float(value)) / largest, 1.0), 4) if largest > 0 else 0.0


def _links(graph: Mapping[str, Any], drawing: plan.Layout, nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The links, weakest first so that the strongest lie on top; `out` marks those beyond the default number."""
    index = {node["id"]: node["index"] for node in nodes}
    strengths = plan.strengths(graph)
    views = []
    for rank, i in enumerate(plan.ranking(graph)):
        link = graph["links"][i]
        points = plan.curve(drawing.boxes[link["source"]], drawing.boxes[link["target"]])
        start, *rest = [f"{x:.1f} {y:.1f}" for x, y in points]
        views.append(
            {
                "index": i,
                "path": f"M{start}C{','.join(rest)}",
                "size": round(abs(strengths[i]), 4),
                "negative": strengths[i] < 0,
                "contradicted": bool(link.get("contradicted")),
                "out": rank >= plan.default_links(graph),
                "source": index[link["source"]],
                "target": index[link["target"]],
            }
        )
    return views[::-1]


def _measured(node: Mapping[str, Any], names: Mapping[str, str], edited: str | None) -> list[str]:
    """What a concept adds to each group's class, as measured by its edit."""
    told = []
    for key, effect in node.get("effects", {}).items():
        ends = [effect["ci_low"], effect["ci_high"]]
        interval = "" if None in ends else f", 95 % interval [{number(ends[0], 2)}, {number(ends[1], 2)}]"
        told.append(f"Tested: {edited}, it takes {number(effect['value'], 2)} from {names[key]}{interval}.")
    return told
