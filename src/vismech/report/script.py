"""What the page's script is given, as JSON that is safe inside its element."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vismech.attribution.account import is_absence
from vismech.report import layout as plan
from vismech.report.layout import MEAN
from vismech.report.listing import Columns, listed
from vismech.report.patches import Presence


def script_data(
    graph: Mapping[str, Any],
    nodes: Sequence[Mapping[str, Any]],
    dictionaries: Mapping[str, str],
    where: Sequence[Mapping[str, Presence]] = (),
    photographs: Sequence[str] = (),
    concepts: Mapping[str, Columns] | None = None,
) -> dict[str, Any]:
    """Per node what it is called, found by and how large it is; per link its ends, and weight and strength per mode.

    Args:
        graph: of the page.
        nodes: its nodes as the page shows them, in the page's order.
        dictionaries: layer → its dictionary's key; names that a reader gives are kept by it.
        where: of each node where it is, by sample id; none at all where that is not known.
        photographs: the sample ids of the page's photographs, in the page's order.
        concepts: layer → what is known of all its concepts, for the list of all.
    """
    index = {node["id"]: node["index"] for node in nodes}
    names = {str(group["key"]): str(group["name"]) for group in graph["groups"]}
    strengths = {mode: plan.strengths(graph, mode) for mode in plan.modes(graph)}
    sizes = _sizes(graph)
    return {
        "all": listed(concepts, names) if concepts else None,
        "dictionaries": {layer: dictionaries[layer] for layer in graph["layers"]},
        "nodes": [
            {
                "id": node["id"],
                "label": node["label"],
                "short": plan.numbered(node) if node["kind"] == "concept" else node["label"],
                **({"name": node["name"]} if node["kind"] == "concept" and node.get("name") else {}),
                "layer": "" if node["kind"] == "class" else node["layer"],
                "concept": node["concept"] if node["kind"] == "concept" else None,
                "absent": is_absence(node),
                "size": sizes.get(node["id"], {}),
                "found": _found(node, names),
                "picture": node["pictures"][0][0] if node["pictures"] else node["photograph"],
                **({"where": _lit(places, photographs)} if places else {}),
            }
            for node, places in zip(nodes, where or [{}] * len(nodes), strict=True)
        ],
        "links": [
            {
                "source": index[link["source"]],
                "target": index[link["target"]],
                "weight": {mode: float(f"{plan.weight(link, mode):.5g}") for mode in strengths},
                "strength": {mode: round(values[i], 4) for mode, values in strengths.items()},
                **_tested(link, list(strengths)),
            }
            for i, link in enumerate(graph["links"])
        ],
    }


def safe_json(value: Any) -> str:
    """JSON that cannot end its script element or open another: <, > and & are written as escapes."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _sizes(graph: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Node id → mode → |importance| as a share of the largest of its layer; the mean is over groups' sizes."""
    keys, concepts = plan.group_keys(graph), [node for node in graph["nodes"] if node["kind"] == "concept"]
    found: dict[str, dict[str, float]] = {}
    for mode in plan.modes(graph):
        over = keys if mode == MEAN else [mode]
        size = {
            node["id"]: sum(abs(float((node.get("importance") or {}).get(key, 0.0))) for key in over)
            for node in concepts
        }
        largest: dict[str, float] = {}
        for node in concepts:
            largest[node["layer"]] = max(largest.get(node["layer"], 0.0), size[node["id"]])
        for node in concepts:
            if whole := largest[node["layer"]]:
                found.setdefault(node["id"], {})[mode] = round(size[node["id"]] / whole, 4)
    return found


def _found(node: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    """The words that find a node beside its label: the classes it was kept for and those whose vectors it holds."""
    if node["kind"] != "concept":
        return []
    held = [names[key] for key in plan.owners(node, list(names))]
    return list(dict.fromkeys([*held, *(name for name, _ in node["classes"])]))


def _lit(places: Mapping[str, Presence], photographs: Sequence[str]) -> list[list[Any] | None]:
    """Of each photograph the light's cells, sixteen levels of two cells in a byte, row by row, and the edge there."""
    found: list[list[Any] | None] = []
    for sample in photographs:
        if (place := places.get(sample)) is None:
            found.append(None)
            continue
        levels = (np.append(place.light.ravel(), 0)[: 2 * -(-place.light.size // 2)] >> 4).reshape(-1, 2)
        packed = (levels[:, 0] << 4 | levels[:, 1]).astype(np.uint8)
        found.append([base64.b64encode(packed.tobytes()).decode("ascii"), float(f"{place.edge:.4g}")])
    return found


def _tested(link: Mapping[str, Any], modes: Sequence[str]) -> dict[str, Any]:
    """A link's measured effect in each mode, and whether it contradicts the sign; nothing where none was measured."""
    if not link.get("effects"):
        return {}
    values = {key: float(f"{effect['value']:.5g}") for key, effect in link["effects"].items()}
    mean = float(f"{sum(values.values()) / len(values):.5g}")
    effect = {mode: values.get(mode, mean) for mode in modes if mode in values or mode == MEAN}
    return {"effect": effect, "contradicted": link["contradicted"]}
