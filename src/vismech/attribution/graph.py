"""The causal concept graph: kept concepts layer by layer, edges between them, its scores, and its export.

``graph.json`` holds ``layers`` (input to output), ``groups`` (what is explained), ``nodes``, ``links``, ``account``
(what the drawn concepts of each layer account for, :mod:`vismech.attribution.account`) and ``scores``; ``held`` says
between which layers what runs around the lower one is held, where anything is.
A link's weight is the mean edge e_{q→j} over the images of a group, in units of the target's own value (a projection,
or logits); ``weight`` is the mean over groups. Offset nodes carry what the target is worth at the start of the path,
``g_j(F_ab(baseline))``; error nodes, where the path leads to the activation itself, what the concepts miss of it: at
every node the inflow of all concepts, the error and the offset sum to ``g_j(F_ab(X))``.

``influence`` of a node on the class, a link's ``shares`` of its target's inflow, and the scores are those of
:mod:`vismech.attribution.influence`, on edges whose absolute values are averaged over images, so that what cancels
between images still counts. Names of classes are no part of a graph: :func:`named` joins them when it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vismech.attribution.account import ClassValues, account
from vismech.attribution.aggregation import Selection
from vismech.attribution.influence import Inflow, Influence, fewest, influence
from vismech.network.layers import LOGITS

SCHEMA = 3
NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class LayerConcepts:
    """One layer of the graph.

    Attributes:
        layer: its name.
        importance: mean edge of every concept to the class logit, per group [G, K].
        selection: the concepts that are kept.
        values: the class's values on the way through this layer.
        absent: share of each concept's edges that stems from its absence [G, K].
    """

    layer: str
    importance: Float[np.ndarray, "g k"]
    selection: Selection
    values: ClassValues
    absent: Float[np.ndarray, "g k"]


@dataclass(frozen=True)
class LayerEdges:
    """Edges into one layer (or the class) from the layer below.

    Attributes:
        lower: lower layer.
        upper: upper layer, or ``logits``.
        targets: the upper layer's kept concepts; empty for ``logits``.
        mean: mean edges of each group.
        size: their mean absolute values.
    """

    lower: str
    upper: str
    targets: list[int]
    mean: Inflow
    size: Inflow


def build_graph(
    scope: str,
    groups: Sequence[Mapping[str, Any]],
    layers: Sequence[LayerConcepts],
    pairs: Sequence[LayerEdges],
    prune: float | None = None,
) -> dict[str, Any]:
    """The graph as plain data.

    Args:
        scope: class, pair, dataset, image or error.
        groups: what is explained: ``key``, ``index``, ``images`` of each, of errors also ``against``, the true class.
        layers: the layers in network order.
        pairs: adjacent pairs of layers, the last one into the logits.
        prune: keep in each layer the fewest concepts that carry this share of what all its kept concepts carry of the
            class, the mean over groups; scores and shares are those of the whole graph.
    """
    keys = [group["key"] for group in groups]
    kept = [layer.selection.concepts for layer in layers]
    sizes = [pair.size for pair in pairs]
    equal = np.full(len(keys), 1 / len(keys))
    found = {key: influence(sizes, kept, one) for key, one in zip(keys, np.eye(len(keys)), strict=True)}
    whole = {**found, "all": influence(sizes, kept, equal)} if len(keys) > 1 else found
    if prune is not None:
        carried = [concepts[chosen] for concepts, chosen in zip(list(whole.values())[-1].concepts, kept, strict=True)]
        kept = [[chosen[place] for place in fewest(part, prune)] for chosen, part in zip(kept, carried, strict=True)]
    nodes = [node for level in range(len(layers)) for node in _nodes(layers[level], level, kept[level], found)]
    for group in groups:
        nodes.append({"id": f"class/{group['key']}", "kind": "class", "layer": LOGITS, "concept": None})
    links = [link for level in range(len(pairs)) for link in _links(pairs[level], level, kept, found)]
    return {
        "schema": SCHEMA,
        "scope": scope,
        "layers": [layer.layer for layer in layers],
        "groups": [dict(group) for group in groups],
        "nodes": nodes,
        "links": [link for link in links if any(link["weights"].values())],
        "account": {
            layer.layer: account(layer.values, layer.importance, chosen, keys)
            for layer, chosen in zip(layers, kept, strict=True)
        },
        "scores": {key: _scores(one) for key, one in whole.items()},
    }


def _nodes(
    layer: LayerConcepts, level: int, kept: Sequence[int], found: Mapping[str, Influence]
) -> list[dict[str, Any]]:
    """A layer's kept concepts, its offset and its error."""
    keys, totals = list(found), np.maximum(layer.importance, 0).sum(1)
    nodes: list[dict[str, Any]] = []
    for concept in kept:
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
                "absent": _by_group(keys, layer.absent[:, concept]),
                "influence": {key: float(one.concepts[level][concept]) for key, one in found.items()},
                "shared": concept in layer.selection.shared,
                "selected_for": [keys[group] for group in layer.selection.chosen_for[concept]],
            }
        )
    for kind in ("offset", "error"):
        carried = {key: getattr(one, kind) for key, one in found.items()}
        if all(part is not None for part in carried.values()):
            reach = {key: float(part[level]) for key, part in carried.items()}
            nodes.append(
                {"id": f"{layer.layer}/{kind}", "kind": kind, "layer": layer.layer, "concept": None, "influence": reach}
            )
    return nodes


def _links(
    pair: LayerEdges, level: int, kept: Sequence[Sequence[int]], found: Mapping[str, Influence]
) -> Iterator[dict[str, Any]]:
    """Links from a layer's nodes to the kept targets above."""
    keys, count = list(found), pair.mean.concepts.shape[2]
    sources: list[tuple[int | str, np.ndarray, int]] = [
        (concept, pair.mean.concepts[:, :, concept], concept) for concept in kept[level]
    ]
    sources.append(("offset", pair.mean.offset, count))
    if pair.mean.error is not None:
        sources.append(("error", pair.mean.error, count + 1))
    for name, weights, column in sources:
        source = f"{pair.lower}/{name}"
        if pair.upper == LOGITS:  # a class is reached only by its own images
            for group, key in enumerate(keys):
                alone = {key: float(weights[group, 0])}
                yield _link(source, f"class/{key}", alone, {key: float(found[key].shares[level][group, column])}, pair)
            continue
        for row, target in enumerate(pair.targets):
            if target in kept[level + 1]:
                shares = {key: float(one.shares[level][row, column]) for key, one in found.items()}
                yield _link(source, f"{pair.upper}/{target}", _by_group(keys, weights[:, row]), shares, pair)


def _scores(found: Influence) -> dict[str, float | None]:
    return {
        "replacement_score": found.replacement,
        "completeness_score": found.completeness,
        "untraced_share": found.untraced,
        "offset_share": float(found.offset.sum()),
    }


def _by_group(keys: Sequence[str], values: np.ndarray) -> dict[str, float]:
    return {key: float(value) for key, value in zip(keys, values, strict=True)}


def _link(
    source: str, target: str, weights: dict[str, float], shares: dict[str, float], pair: LayerEdges
) -> dict[str, Any]:
    return {
        "source": source,
        "target": target,
        "lower": pair.lower,
        "upper": pair.upper,
        "weight": float(np.mean(list(weights.values()))),
        "weights": weights,
        "shares": shares,
    }


def named(graph: Mapping[str, Any], names: Mapping[str, str], given: Mapping[str, str] = NONE) -> dict[str, Any]:
    """The graph with a name for each group's key, on the groups and on the nodes of their classes, and with those that
    concepts were ``given``, by their nodes' ids."""
    groups = [{**group, "name": names[group["key"]]} for group in graph["groups"]]
    told = {f"class/{key}": name for key, name in names.items()} | dict(given)
    nodes = [{**node, "name": told[node["id"]]} if node["id"] in told else dict(node) for node in graph["nodes"]]
    return {**graph, "groups": groups, "nodes": nodes}


def write_graphml(graph: Mapping[str, Any], path: Path) -> None:
    """The graph for Gephi, Cytoscape and networkx; weights of groups are attributes ``weight_<group>``."""
    import networkx

    directed = networkx.DiGraph(scope=graph["scope"])
    for node in graph["nodes"]:
        plain = {name: node[name] for name in ("kind", "layer", "name", "shared") if node.get(name) is not None}
        if node.get("concept") is not None:
            plain["concept"] = node["concept"]
        for name in ("importance", "influence", "absent"):
            plain |= {f"{name}_{key}": value for key, value in node.get(name, {}).items()}
        plain |= _effects(node)
        directed.add_node(node["id"], **plain)
    for link in graph["links"]:
        numbers = {f"weight_{key}": value for key, value in link["weights"].items()}
        numbers |= {f"share_{key}": value for key, value in link["shares"].items()}
        numbers |= _effects(link)
        directed.add_edge(link["source"], link["target"], weight=link["weight"], **numbers)
    networkx.write_graphml(directed, path, named_key_ids=True)


def _effects(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Measured effects of a node or link, and whether they contradict its sign."""
    names = {"value": "effect", "ci_low": "effect_low", "ci_high": "effect_high"}
    found: dict[str, Any] = {"contradicted": shown["contradicted"]} if "contradicted" in shown else {}
    for key, effect in shown.get("effects", {}).items():
        found |= {f"{names[part]}_{key}": value for part, value in effect.items() if value is not None}
    return found
