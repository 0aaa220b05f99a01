"""The causal concept graph: kept concepts layer by layer, edges between them, and its export.

``graph.json`` holds ``layers`` (input to output), ``groups`` (what is explained), ``nodes`` and ``links``. A link's
weight is the mean edge e_{q→j} over the images of a group, in units of the target's own value (a projection, or
logits); ``weight`` is the mean over groups. Offset nodes carry what the target is worth at the start of the path,
``g_j(F_ab(0))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vismech.attribution.aggregation import Selection
from vismech.network import LOGITS

SCHEMA = 1


@dataclass(frozen=True)
class LayerConcepts:
    """One layer of the graph.

    Attributes:
        layer: its name.
        importance: mean edge of every concept to the class logit, per group [G, K].
        selection: the concepts that are kept.
    """

    layer: str
    importance: Float[np.ndarray, "g k"]
    selection: Selection


@dataclass(frozen=True)
class LayerEdges:
    """Edges into one layer (or the class) from the layer below.

    Attributes:
        lower: lower layer.
        upper: upper layer, or ``logits``.
        targets: the upper layer's kept concepts; empty for ``logits``.
        edges: mean edge per group, target and lower concept [G, T, K].
        offset: mean g_j(F_ab(0)) per group and target [G, T].
    """

    lower: str
    upper: str
    targets: list[int]
    edges: Float[np.ndarray, "g t k"]
    offset: Float[np.ndarray, "g t"]


def build_graph(
    scope: str, groups: Sequence[Mapping[str, Any]], layers: Sequence[LayerConcepts], pairs: Sequence[LayerEdges]
) -> dict[str, Any]:
    """The graph as plain data.

    Args:
        scope: class, pair, dataset or image.
        groups: what is explained: ``key``, ``index``, ``name``, ``images`` of each.
        layers: the layers in network order.
        pairs: adjacent pairs of layers, the last one into the logits.
    """
    keys = [group["key"] for group in groups]
    nodes: list[dict[str, Any]] = []
    for layer in layers:
        totals = np.maximum(layer.importance, 0).sum(1)
        for concept in layer.selection.concepts:
            column = layer.importance[:, concept]
            share = np.divide(np.maximum(column, 0), totals, out=np.zeros_like(column), where=totals > 0)
            nodes.append(
                {
                    "id": f"{layer.layer}/{concept}",
                    "kind": "concept",
                    "layer": layer.layer,
                    "concept": concept,
                    "importance": _by_group(keys, column),
                    "share": _by_group(keys, share),
                    "shared": concept in layer.selection.shared,
                    "selected_for": [keys[group] for group in layer.selection.chosen_for[concept]],
                }
            )
        nodes.append({"id": f"{layer.layer}/offset", "kind": "offset", "layer": layer.layer, "concept": None})
    for group in groups:
        nodes.append(
            {"id": f"class/{group['key']}", "kind": "class", "layer": LOGITS, "concept": None, "name": group["name"]}
        )
    kept = {layer.layer: layer.selection.concepts for layer in layers}
    links: list[dict[str, Any]] = []
    for pair in pairs:
        for source in [*kept[pair.lower], None]:
            weights = pair.offset if source is None else pair.edges[:, :, source]
            name = "offset" if source is None else source
            if pair.upper == LOGITS:  # a class is reached only by its own images
                for group, key in enumerate(keys):
                    alone = {key: float(weights[group, 0])}
                    links.append(_link(f"{pair.lower}/{name}", f"class/{key}", alone, pair))
            else:
                for index, target in enumerate(pair.targets):
                    links.append(
                        _link(
                            f"{pair.lower}/{name}", f"{pair.upper}/{target}", _by_group(keys, weights[:, index]), pair
                        )
                    )
    return {
        "schema": SCHEMA,
        "scope": scope,
        "layers": [layer.layer for layer in layers],
        "groups": [dict(group) for group in groups],
        "nodes": nodes,
        "links": [link for link in links if any(link["weights"].values())],
    }


def _by_group(keys: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {key: float(value) for key, value in zip(keys, values, strict=True)}


def _link(source: str, target: str, weights: dict[str, float], pair: LayerEdges) -> dict[str, Any]:
    return {
        "source": source,
        "target": target,
        "lower": pair.lower,
        "upper": pair.upper,
        "weight": float(np.mean(list(weights.values()))),
        "weights": weights,
    }


def write_graphml(graph: Mapping[str, Any], path: Path) -> None:
    """The graph for Gephi, Cytoscape and networkx; weights of groups are attributes ``weight_<group>``."""
    import networkx

    directed = networkx.DiGraph(scope=graph["scope"])
    for node in graph["nodes"]:
        plain = {name: node[name] for name in ("kind", "layer", "name", "shared") if node.get(name) is not None}
        if node.get("concept") is not None:
            plain["concept"] = node["concept"]
        plain |= {f"importance_{key}": value for key, value in node.get("importance", {}).items()}
        directed.add_node(node["id"], **plain)
    for link in graph["links"]:
        weights = {f"weight_{key}": value for key, value in link["weights"].items()}
        directed.add_edge(link["source"], link["target"], weight=link["weight"], **weights)
    networkx.write_graphml(directed, path, named_key_ids=True)
