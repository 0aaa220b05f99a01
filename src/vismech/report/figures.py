"""The static figure of the causal concept graph, as SVG and PNG whose bytes depend on the graph only.

The grammar is the page's: a link's width and blue grow with its strength, a negative link is warm and dashed, a node's
strip and bars carry the colours of the classes it was kept for.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path as Outline
from PIL import Image

from vismech.attribution.account import Answered, is_absence
from vismech.report import layout as plan
from vismech.report.layout import Box, Layout
from vismech.report.patches import Card, Patch, is_far, portrait
from vismech.report.text import number, shorten
from vismech.report.verdict import Fact, subject, verdict

INK, FAINT, PLATE, EDGE = "#1d2430", "#5b6573", "#ffffff", "#c3cad4"
POSITIVE = LinearSegmentedColormap.from_list("positive", ["#c6d9ee", "#08306b"])
NEGATIVE = LinearSegmentedColormap.from_list("negative", ["#f6cdb7", "#a8320a"])
# Amber, purple, teal, grey: apart from each other for colour-blind readers, and apart from the links' blue.
GROUP_COLOURS = ("#d1940c", "#7d4aa5", "#1f8f86", "#8a8f98")
MEAN_COLOUR = "#6f8fb5"
THINNEST, THICKEST = 0.8, 7.0
GUTTER, LEGEND, SECOND_LINE = 104.0, 60.0, 30.0
HEAD_LINE, HEAD_SPACE, ALARM = 22.0, 16.0, "#b3261e"
SIDE_EDGES: dict[str, tuple[str, Any]] = {"offset": (EDGE, "dashed"), "error": (INK, (0, (1, 1.6)))}
# One pixel of the layout in points, at 100 pixels an inch.
POINT = 0.72
DASH = (9 * POINT, 5 * POINT)
DOTS = (2 * POINT, 4 * POINT)
STYLE: Any = {
    "svg.hashsalt": "vismech",
    "font.family": "DejaVu Sans",
    "image.composite_image": False,
    "path.simplify": False,
    "lines.scale_dashes": False,
}


@contextmanager
def drawn(size: tuple[float, float], path: Path, dpi: int = 200) -> Iterator[Figure]:
    """A figure of ``size`` inches, laid out and written as PNG after its block; equal input gives equal bytes."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=100, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=dpi, metadata={"Software": None})


def open_axes(axes: Axes, size: int) -> None:
    """Axes without a frame at the top and on the right, their numbers in this font size."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(EDGE)
    axes.tick_params(labelsize=size, colors=FAINT)


class Figures(NamedTuple):
    """Where the figure was written."""

    svg: Path
    png: Path


def graph_figure(
    graph: Mapping[str, Any],
    cards: Mapping[str, Card],
    stem: Path | str,
    images: Mapping[str, Sequence[Patch]] | None = None,
    dpi: int = 200,
    probability: bool = False,
    answered: Answered | None = None,
    mistaken: Collection[str] = (),
) -> Figures:
    """Draw the graph with its strongest links and write `<stem>.svg` and `<stem>.png`; equal input gives equal bytes.

    `images` are the explained photographs per group key; the first of each that is not among the `mistaken` is shown in
    its class node. Above the graph stands how far it can be believed, of a class's probability where `probability` says
    so, and what the network answers of the run's images where that is mostly wrong; above that of errors what is
    explained.

    Raises:
        UserError: the graph holds NaN, or a link or node names something the graph does not have.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    drawing = plan.layout(graph)
    legend = LEGEND + (SECOND_LINE if _has_errors(graph) else 0.0)
    title = subject(graph, probability)
    facts = [*([Fact(title, False)] if title else []), *verdict(graph, probability, answered).facts]
    head = HEAD_LINE * len(facts) + (HEAD_SPACE if facts else 0.0)
    size = ((drawing.width + GUTTER) / 100, (drawing.height + legend + head) / 100)
    written = Figures(stem.with_name(stem.name + ".svg"), stem.with_name(stem.name + ".png"))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, dpi=100, facecolor="white")
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        _links(axes, graph, drawing)
        portraits = {key: portrait(ones, mistaken) for key, ones in (images or {}).items()}
        _nodes(axes, graph, drawing, cards, portraits)
        _legend(axes, graph, drawing)
        for index, fact in enumerate(facts):
            colour = ALARM if fact.warns else INK
            y = HEAD_LINE * (index + 0.5) - head + HEAD_SPACE / 2
            text = shorten(fact.text, drawing.width + GUTTER - 28, 14)
            _text(axes, 14 - GUTTER, y, text, 14, colour, va="center", weight="normal" if index else "bold")
        axes.set(xlim=(-GUTTER, drawing.width), ylim=(drawing.height + legend, -head), aspect="auto")
        figure.savefig(written.svg, dpi=dpi, metadata={"Date": None, "Creator": None})
        figure.savefig(written.png, dpi=dpi, metadata={"Software": None})
    return written


def _stroke(strength: float, contradicted: bool = False) -> dict[str, Any]:
    """Width, colour and dash of a link; the page's style sheet says the same."""
    size = abs(strength)
    dash = (0, DASH) if strength < 0 else "solid"
    width = (THINNEST + (THICKEST - THINNEST) * size) * POINT
    if contradicted:
        return {"color": ALARM, "linewidth": width, "linestyle": (0, DOTS)}
    return {"color": (NEGATIVE if strength < 0 else POSITIVE)(size), "linewidth": width, "linestyle": dash}


def _links(axes: Axes, graph: Mapping[str, Any], drawing: Layout) -> None:
    strengths = plan.strengths(graph)
    codes = [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
    for index in reversed(plan.ranking(graph)[: plan.default_links(graph)]):
        link, stroke = graph["links"][index], _stroke(strengths[index], bool(graph["links"][index].get("contradicted")))
        points = plan.curve(drawing.boxes[link["source"]], drawing.boxes[link["target"]])
        axes.add_patch(PathPatch(Outline(points, codes), fill=False, capstyle="butt", zorder=1, alpha=0.92, **stroke))


def _nodes(
    axes: Axes,
    graph: Mapping[str, Any],
    drawing: Layout,
    cards: Mapping[str, Card],
    portraits: Mapping[str, Patch | None],
) -> None:
    for row in drawing.rows:
        name = "class" if row.layer == plan.CLASSES else shorten(row.layer, GUTTER - 18, 13)
        middle = row.y + row.height / 2
        axes.text(-GUTTER + 14, middle, name, fontsize=13 * POINT, weight="bold", color=FAINT, va="center")
        largest = plan.largest_importance(row.nodes)
        for node in row.nodes:
            box = drawing.boxes[node["id"]]
            if node["kind"] == "class":
                _class_node(axes, graph, node, box, portraits)
            elif node["kind"] == "concept":
                _concept_node(axes, graph, node, box, cards.get(node["id"]), largest)
            else:
                _plate(axes, box, *SIDE_EDGES[node["kind"]])
                _text(axes, box.centre, box.y + box.height / 2, node["kind"], 11, FAINT, ha="center", va="center")


def _class_node(
    axes: Axes, graph: Mapping[str, Any], node: dict[str, Any], box: Box, portraits: Mapping[str, Patch | None]
) -> None:
    _plate(axes, box)
    key = plan.group_of(node, graph)
    _strip(axes, graph, [key] if key else [], box)
    photograph = portraits.get(key or "") if box.width >= plan.ROOM_FOR_PHOTOGRAPH else None
    left = box.x + 10
    if photograph:
        side = box.height - 14
        _image(axes, photograph.png, Box(box.x + 7, box.y + 9, side, side - 2))
        left = box.x + side + 16
    room = box.x + box.width - left - 6
    name = shorten(str(node.get("name") or node["id"]), room, 15)
    _text(axes, left, box.y + box.height / 2 + 2, name, 15, INK, va="center", weight="bold")


def _concept_node(
    axes: Axes, graph: Mapping[str, Any], node: dict[str, Any], box: Box, card: Card | None, largest: float
) -> None:
    absent = is_absence(node)
    _plate(axes, box, *((NEGATIVE(0.8), (0, (6, 3))) if absent else ()))
    keys = plan.group_keys(graph)
    _strip(axes, graph, plan.owners(node, keys), box)
    patches = card.patches if card else []
    patches = [patch for patch in patches if not is_far(patch)] or patches[:1]
    for part, picture in zip(plan.thumbnails(box, len(patches)), patches, strict=False):
        _image(axes, picture.png, part, alpha=0.4 if absent else 1.0)
    line, colour = box.y + box.width + 12, NEGATIVE(1.0) if absent else INK
    _text(axes, box.x + 6, line, plan.short(node, box.width - 2 * plan.INSET), 11, colour, va="center", weight="bold")
    if node.get("shared"):
        corner = (box.x + box.width - plan.INSET - 21, box.y + box.width - plan.INSET - 13)
        axes.add_patch(Rectangle(corner, 22, 15, facecolor=PLATE, linewidth=0, zorder=4.5))
        _shared(axes, corner[0] + 4.5, corner[1] + 8)
    for index, bar in enumerate(plan.importance_bars(node, graph, largest)):
        top = box.y + box.width + plan.FOOT + index * plan.BAR
        length = (box.width - 12) * bar.length
        colour = GROUP_COLOURS[index] if len(keys) == 2 else MEAN_COLOUR
        hollow = {"facecolor": "none", "linewidth": 0.6} if bar.value < 0 else {"facecolor": colour, "linewidth": 0.0}
        axes.add_patch(
            Rectangle((box.x + 6, top), length, plan.BAR - 3, edgecolor=colour, alpha=0.55, zorder=4, **hollow)
        )
        _text(axes, box.x + box.width - 6, top + 5, number(bar.value, 2), 9.5, INK, ha="right", va="center")


def _plate(axes: Axes, box: Box, colour: Any = EDGE, line: Any = "solid") -> None:
    axes.add_patch(
        FancyBboxPatch(
            (box.x, box.y),
            box.width,
            box.height,
            boxstyle="round,pad=0,rounding_size=5",
            facecolor=PLATE,
            edgecolor=colour,
            linewidth=0.8,
            linestyle=line,
            zorder=3,
        )
    )


def _strip(axes: Axes, graph: Mapping[str, Any], held: Sequence[str], box: Box) -> None:
    """The band of class colours on a node's top edge; only where there are several classes to tell apart."""
    keys = plan.group_keys(graph)
    if len(keys) < 2 or not held or len(keys) > len(GROUP_COLOURS):
        return
    part = (box.width - 8) / len(held)
    for index, key in enumerate(held):
        colour = GROUP_COLOURS[keys.index(key)]
        axes.add_patch(
            Rectangle((box.x + 4 + index * part, box.y), part, plan.STRIP, facecolor=colour, linewidth=0, zorder=4)
        )


def _shared(axes: Axes, x: float, y: float) -> None:
    """The mark of a shared concept: two overlapping discs in the first two class colours."""
    for offset, colour in zip((0, 7), GROUP_COLOURS, strict=False):
        axes.add_patch(Circle((x + 3.5 + offset, y), 5, facecolor=colour, alpha=0.7, linewidth=0, zorder=5))


def _image(axes: Axes, png: bytes, box: Box, alpha: float = 1.0) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    extent = (box.x, box.x + box.width, box.y + box.height, box.y)
    axes.imshow(pixels, extent=extent, interpolation="lanczos", aspect="auto", zorder=4, alpha=alpha)


def _text(axes: Axes, x: float, y: float, text: str, size: float, colour: Any, **style: Any) -> None:
    axes.text(x, y, text, fontsize=size * POINT, color=colour, zorder=5, parse_math=False, **style)


def _has_errors(graph: Mapping[str, Any]) -> bool:
    return any(node["kind"] == "error" for node in graph["nodes"])


def _legend(axes: Axes, graph: Mapping[str, Any], drawing: Layout) -> None:
    y, x = drawing.height + LEGEND / 2 + 6, 8.0
    if _has_errors(graph):
        told = {"offset": "the target's value at the start of the path", "error": "what the concepts miss of the layer"}
        for (kind, meaning), left in zip(told.items(), (x, x + 444), strict=True):
            box = Box(left, y + SECOND_LINE - plan.SIDE_HEIGHT / 2, plan.SIDE, plan.SIDE_HEIGHT)
            _plate(axes, box, *SIDE_EDGES[kind])
            _text(axes, box.centre, y + SECOND_LINE, kind, 11, FAINT, ha="center", va="center")
            _text(axes, left + plan.SIDE + 12, y + SECOND_LINE, meaning, 12, INK, va="center")
    for strength in (0.1, 0.4, 0.7, 1.0):
        axes.plot([x, x + 34], [y, y], solid_capstyle="butt", **_stroke(strength))
        x += 40
    _text(axes, x + 4, y, "weak to strong, relative to the strongest link into the same layer", 12, INK, va="center")
    x += 415
    axes.plot([x, x + 40], [y, y], dash_capstyle="butt", **_stroke(-0.6))
    _text(axes, x + 48, y, "negative", 12, INK, va="center")
    x += 130
    if any(link.get("contradicted") for link in graph["links"]):
        axes.plot([x, x + 40], [y, y], dash_capstyle="butt", **_stroke(0.6, contradicted=True))
        _text(axes, x + 48, y, "contradicted", 12, INK, va="center")
        x += 150
    if not 1 < len(graph["groups"]) <= len(GROUP_COLOURS):
        return
    if any(node.get("shared") for node in graph["nodes"]):
        _shared(axes, x, y)
        _text(axes, x + 22, y, "shared", 12, INK, va="center")
        x += 100
    for colour, group in zip(GROUP_COLOURS, graph["groups"], strict=False):
        axes.add_patch(Rectangle((x, y - 6), 20, 12, facecolor=colour, linewidth=0))
        name = shorten(str(group["name"]), 150, 12)
        _text(axes, x + 27, y, name, 12, INK, va="center")
        x += 54 + 7.2 * len(name)
