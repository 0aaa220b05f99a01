"""The causal concept graph's layout: which node stands where, and how strong each link is.

`layout` places the nodes in pixels, y downward, class nodes at the top and the earliest layer at the bottom; the page
and the static figure draw this same layout.

Strength: s = w / max |w'| over the links w' into the same target layer, since weights into different layers have
different units (the target is a projection on a concept, or a class logit). So −1 ≤ s ≤ 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from vismech.attribution.account import is_absence
from vismech.errors import UserError
from vismech.report.text import shorten

# The key of the mean over groups among the modes, and the layer name that class nodes carry.
MEAN, CLASSES = "mean", "logits"
WIDTH, MARGIN = 1220.0, 8.0
TILE, LEAST_TILE = 132.0, 54.0
SPACE, SPLIT = 10.0, 18.0
SIDE, SIDE_HEIGHT = 56.0, 26.0
CLASS_WIDTH, LEAST_CLASS, CLASS_HEIGHT = 216.0, 72.0, 84.0
FOOT, BAR, STRIP, INSET = 22.0, 13.0, 4.0, 6.0
# Width of a letter of a tile's name.
LETTER = 7.2
NAME_SIZE = 12.5
ROOM_FOR_PHOTOGRAPH, ROOM_FOR_FOUR = 150.0, 88.0


class Box(NamedTuple):
    """A node's rectangle: left, top, width, height in pixels, y downward."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> float:
        """The x of the middle."""
        return self.x + self.width / 2


class Row(NamedTuple):
    """One layer's nodes from left to right; offset and error nodes come last."""

    layer: str
    nodes: list[dict[str, Any]]
    y: float
    height: float


class Bar(NamedTuple):
    """An importance and the length of its bar, 0–1."""

    value: float
    length: float


class Layout(NamedTuple):
    """Where everything is: rows from the classes down, one box per node id, the tile's side, and the drawing's size."""

    rows: list[Row]
    boxes: dict[str, Box]
    tile: float
    width: float
    height: float


def group_keys(graph: Mapping[str, Any]) -> list[str]:
    """The keys of the explained classes in the graph's order."""
    return [str(group["key"]) for group in graph["groups"]]


def modes(graph: Mapping[str, Any]) -> list[str]:
    """The weights a reader can choose: the mean, and each group when there are several."""
    keys = group_keys(graph)
    return [MEAN, *keys] if len(keys) > 1 else [MEAN]


def weight(link: Mapping[str, Any], mode: str) -> float:
    """A link's weight in a mode; a group in which the link is absent has weight 0.

    Raises:
        UserError: the weight is NaN or infinite.
    """
    value = float(link["weight"] if mode == MEAN else link.get("weights", {}).get(mode, 0.0))
    if not math.isfinite(value):
        raise UserError(f"link {link['source']} → {link['target']} has weight {value} ({mode}); mend the attribution.")
    return value


def strengths(graph: Mapping[str, Any], mode: str = MEAN) -> list[float]:
    """One signed strength per link, s = w / max |w'| over the links into the same target layer; 0 where all are 0."""
    weights = [weight(link, mode) for link in graph["links"]]
    largest: dict[str, float] = {}
    for link, value in zip(graph["links"], weights, strict=True):
        largest[link["upper"]] = max(largest.get(link["upper"], 0.0), abs(value))
    return [
        value / largest[link["upper"]] if largest[link["upper"]] > 0 else 0.0
        for link, value in zip(graph["links"], weights, strict=True)
    ]


def ranking(graph: Mapping[str, Any], mode: str = MEAN) -> list[int]:
    """The links' indices in the order they are drawn: the strongest into each layer, then each second strongest, ….

    Layers take turns because strengths into different layers do not compare: else one outlier would empty its layer.
    """
    size = [abs(strength) for strength in strengths(graph, mode)]
    taken: dict[str, int] = {}
    turns = {}
    for index in sorted(range(len(size)), key=lambda i: -size[i]):
        upper = graph["links"][index]["upper"]
        turns[index] = taken[upper] = taken.get(upper, -1) + 1
    return sorted(turns, key=lambda i: (turns[i], -size[i], i))


def default_links(graph: Mapping[str, Any]) -> int:
    """How many links are drawn at first: two for each concept."""
    concepts = sum(node["kind"] == "concept" for node in graph["nodes"])
    return min(len(graph["links"]), max(2 * concepts, 1))


def mean_importance(node: Mapping[str, Any]) -> float:
    """The mean of a node's importances over the groups; 0 for a node without any.

    Raises:
        UserError: an importance is NaN or infinite.
    """
    values = [float(value) for value in (node.get("importance") or {}).values()]
    if not all(map(math.isfinite, values)):
        raise UserError(f"node {node['id']} has importance {node['importance']}; mend the attribution.")
    return sum(values) / len(values) if values else 0.0


def owners(node: Mapping[str, Any], keys: list[str]) -> list[str]:
    """The groups a concept was kept for; all of them when it is shared or nothing is said."""
    chosen = [key for key in keys if key in map(str, node.get("selected_for") or [])]
    return keys if node.get("shared") or not chosen else chosen


def arrange(graph: Mapping[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows from the classes down, each as (layer, nodes from left to right).

    With a pair of classes the left class's concepts stand on the left, shared ones in the middle, the right class's on
    the right. Within that, a concept stands under the strength-weighted mean position of its targets (the barycentre
    heuristic of layered drawing), then by importance.

    Raises:
        UserError: a node or link names a layer or node the graph does not have.
    """
    keys = group_keys(graph)
    layers = [CLASSES, *reversed(graph["layers"])]
    known = {node["id"] for node in graph["nodes"]}
    for node in graph["nodes"]:
        if node["layer"] not in layers:
            raise UserError(f"node {node['id']} is in layer {node['layer']!r}, but the graph's layers are {layers}.")
    outputs: dict[str, list[tuple[str, float]]] = {}
    for link, strength in zip(graph["links"], strengths(graph), strict=True):
        if missing := {link["source"], link["target"]} - known:
            raise UserError(f"a link names {sorted(missing)}, which the graph's nodes do not have; list the node.")
        outputs.setdefault(link["source"], []).append((link["target"], abs(strength)))
    place: dict[str, float] = {}

    def order(node: dict[str, Any]) -> tuple[float, ...]:
        if node["kind"] == "class":
            key = str(node["id"]).removeprefix("class/")
            return (0, keys.index(key) if key in keys else len(keys))
        if node["kind"] in ("offset", "error"):
            return (1, node["kind"] == "error")
        held = owners(node, keys)
        lean = sum(map(keys.index, held)) / len(held) if held else 0.0
        above = [(place[target], strength) for target, strength in outputs.get(node["id"], []) if target in place]
        total = sum(strength for _, strength in above)
        centre = sum(x * strength for x, strength in above) / total if total > 0 else 0.5
        return (0, lean, round(centre, 6), -mean_importance(node), node["concept"])

    rows = []
    for layer in layers:
        nodes = sorted((node for node in graph["nodes"] if node["layer"] == layer), key=order)
        for index, node in enumerate(nodes):
            place[node["id"]] = (index + 0.5) / len(nodes)
        if nodes:
            rows.append((layer, nodes))
    return rows


def layout(graph: Mapping[str, Any], width: float = WIDTH) -> Layout:
    """Boxes for every node in a drawing at least `width` pixels wide; wider only where nodes would overlap."""
    keys, rows = group_keys(graph), arrange(graph)
    kinds = [kind for kind in ("offset", "error") if any(node["kind"] == kind for node in graph["nodes"])]
    reserve = (SIDE + 6) * len(kinds)
    concepts = {layer: [node for node in nodes if node["kind"] == "concept"] for layer, nodes in rows}
    splits = {layer: _splits(nodes, keys) for layer, nodes in concepts.items()}
    tile = TILE
    for layer, nodes in concepts.items():
        spare = width - reserve - 2 * MARGIN - SPLIT * sum(splits[layer]) - SPACE * (len(nodes) - 1)
        tile = min(tile, spare / max(len(nodes), 1))
    tile = float(max(math.floor(tile), LEAST_TILE))
    classes = sum(node["kind"] == "class" for node in graph["nodes"])
    needed = [classes * (LEAST_CLASS + SPACE)]
    needed += [len(nodes) * (tile + SPACE) - SPACE + SPLIT * sum(splits[layer]) for layer, nodes in concepts.items()]
    width = max(width, max(needed) + reserve + 2 * MARGIN)
    usable = width - reserve - 2 * MARGIN
    height_of_tile = tile + FOOT + BAR * bars(graph)
    gap = 112.0 if len(rows) <= 5 else 88.0
    boxes: dict[str, Box] = {}
    placed, y = [], MARGIN
    for layer, nodes in rows:
        height = CLASS_HEIGHT if layer == CLASSES else height_of_tile
        if layer == CLASSES:
            cell = usable / max(classes, 1)
            size = min(CLASS_WIDTH, cell - SPACE)
            for index, node in enumerate(nodes):
                boxes[node["id"]] = Box(MARGIN + (index + 0.5) * cell - size / 2, y, size, height)
        else:
            for node, x in zip(concepts[layer], _spread(splits[layer], tile, usable), strict=True):
                boxes[node["id"]] = Box(MARGIN + x, y, tile, height)
            for node in nodes:
                if node["kind"] in kinds:
                    x = width - MARGIN - (SIDE + 6) * (len(kinds) - kinds.index(node["kind"])) + 6
                    boxes[node["id"]] = Box(x, y, SIDE, SIDE_HEIGHT)
        placed.append(Row(layer, nodes, y, height))
        y += height + gap
    return Layout(placed, boxes, tile, width, y - gap + MARGIN if rows else 2 * MARGIN)


def short(node: Mapping[str, Any], width: float = math.inf) -> str:
    """A concept by the name that it was given, cut to ``width`` pixels, or else by its number."""
    name = node.get("name")
    if not name:
        return numbered(node, width)
    words = f"less of {name}" if is_absence(node) else str(name)
    return words if width == math.inf else shorten(words, width, NAME_SIZE)


def numbered(node: Mapping[str, Any], width: float = math.inf) -> str:
    """A concept's number in letters that fit ``width`` pixels; one that acts by its absence says so, or has a minus."""
    name = f"#{node['concept']}"
    if not is_absence(node):
        return name
    words = f"less of {name}"
    return words if LETTER * len(words) <= width else f"−{name}"


def bars(graph: Mapping[str, Any]) -> int:
    """How many importance bars a tile carries: one per group up to two, else one for the mean."""
    return len(graph["groups"]) if len(graph["groups"]) <= 2 else 1


def importance_bars(node: Mapping[str, Any], graph: Mapping[str, Any], largest: float) -> list[Bar]:
    """A tile's bars: importance (in logits) and its length relative to the largest of the row."""
    keys, importance = group_keys(graph), node.get("importance") or {}
    if bars(graph) == 1 and len(keys) != 1:
        values = [mean_importance(node)]
    else:
        values = [float(importance.get(key, 0.0)) for key in keys]
    return [Bar(value, min(abs(value) / largest, 1.0) if largest > 0 else 0.0) for value in values]


def largest_importance(nodes: Iterable[Mapping[str, Any]]) -> float:
    """The largest absolute importance among the concepts of a row, 0 without any."""
    concepts = [node for node in nodes if node["kind"] == "concept"]
    return max((abs(float(v)) for node in concepts for v in (node.get("importance") or {}).values()), default=0.0)


def group_of(node: Mapping[str, Any], graph: Mapping[str, Any]) -> str | None:
    """The group a class node stands for: the one with its key, or the only group there is; else None."""
    keys, key = group_keys(graph), str(node["id"]).removeprefix("class/")
    if key in keys:
        return key
    return keys[0] if len(keys) == 1 and graph["scope"] in ("class", "image", "error") else None


def thumbnails(box: Box, available: int) -> list[Box]:
    """Where a tile's patches go: four where there is room and there are four, else one that fills the tile."""
    left, top, side = box.x + INSET, box.y + INSET + 1, box.width - 2 * INSET
    if box.width < ROOM_FOR_FOUR or available < 4:
        return [Box(left, top, side, side)]
    half = (side - 2) / 2
    return [Box(left + x, top + y, half, half) for y in (0, half + 2) for x in (0, half + 2)]


def _splits(nodes: list[dict[str, Any]], keys: list[str]) -> list[bool]:
    """For each concept of a row, whether a wider space stands before it: between a pair's classes and the shared."""
    if len(keys) != 2:
        return [False] * len(nodes)
    held = [owners(node, keys) for node in nodes]
    return [index > 0 and held[index] != held[index - 1] for index in range(len(nodes))]


def _spread(splits: list[bool], tile: float, usable: float) -> list[float]:
    """The left edges of a row's tiles, centred, with the room that is left shared out up to half a tile each."""
    count = len(splits)
    room = usable - count * tile - SPLIT * sum(splits)
    space = min(room / max(count - 1, 1), tile / 2)
    x = (usable - count * tile - SPLIT * sum(splits) - space * (count - 1)) / 2
    edges = []
    for split in splits:
        x += SPLIT if split else 0.0
        edges.append(x)
        x += tile + space
    return edges


def curve(source: Box, target: Box) -> list[tuple[float, float]]:
    """The four control points of a link: from the source's top edge to the target's bottom edge, upright at both ends.

    Each end leans along its edge toward the other, so the links of one node fan out instead of piling up.
    """
    lean = max(-1.0, min(1.0, (target.centre - source.centre) / (WIDTH / 3)))
    start = (source.centre + 0.38 * source.width * lean, source.y)
    end = (target.centre - 0.38 * target.width * lean, target.y + target.height)
    reach = max(abs(start[1] - end[1]) / 2, 24.0)
    return [start, (start[0], start[1] - reach), (end[0], end[1] + reach), end]
