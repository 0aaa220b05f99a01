"""The graph in the JSON that viewers of attribution graphs read (circuit-tracer's, Neuronpedia's; schema version 1).

That schema is of language models, so that some of its words stand for other things here: a "token position" is always
0, the "prompt" is what is explained, a layer is its place among the traced ones, and a class is a "logit". Concepts
have the type of features; error nodes theirs; the offset of a layer, which nothing below explains, is an "embedding".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1


def attribution_graph(graph: Mapping[str, Any], slug: str, scan: str) -> dict[str, Any]:
    """The graph, with names, as plain data of that schema.

    `influence` of a node is what the nodes from the strongest down to it have together of all influence, as viewers'
    thresholds take it; weights of links are the means over groups.

    Args:
        graph: as :func:`~vismech.attribution.graph.named` gives it.
        slug: what the viewer calls the graph.
        scan: what it calls the network.
    """
    levels = {layer: level for level, layer in enumerate(graph["layers"])}
    told = " and ".join(str(group["name"]) for group in graph["groups"])
    reach = _cumulative(graph)
    nodes, ids = [], {}
    classes = {f"class/{group['key']}": place for place, group in enumerate(graph["groups"])}
    for node in graph["nodes"]:
        if node["kind"] == "class":
            place = classes[node["id"]]
            index = graph["groups"][place]["index"]
            view = _node(str(len(levels)), place if index is None else int(index), "L", "logit")
            view |= {"is_target_logit": place == 0, "clerp": str(node["name"])}
        else:
            level = str(levels[node["layer"]])
            if node["kind"] == "concept":
                view = _node(level, node["concept"], level, "cross layer transcoder")
                view["feature"] = _paired(levels[node["layer"]], node["concept"])
            elif node["kind"] == "error":
                view = _node(level, -1, level, "mlp reconstruction error")
            else:
                view = _node("E", levels[node["layer"]], "E", "embedding")
            told_as = f"concept {node['concept']}" if node["kind"] == "concept" else node["kind"]
            called = [node["layer"], told_as, *([node["name"]] if node.get("name") else [])]
            view |= {"influence": reach[node["id"]], "clerp": " · ".join(called)}
        ids[node["id"]] = view["node_id"]
        nodes.append(view)
    return {
        "metadata": {
            "slug": slug,
            "scan": scan,
            "transcoder_list": list(graph["layers"]),
            "prompt_tokens": [told],
            "prompt": told,
            "node_threshold": None,
            "schema_version": VERSION,
        },
        "qParams": {"pinnedIds": [], "supernodes": [], "linkType": "both", "clickedId": "", "sg_pos": ""},
        "nodes": nodes,
        "links": [
            {"source": ids[link["source"]], "target": ids[link["target"]], "weight": float(link["weight"])}
            for link in graph["links"]
        ],
    }


def _node(layer: str, number: int, short: str, kind: str) -> dict[str, Any]:
    return {
        "node_id": f"{layer}_{number}_0",
        "feature": number,
        "layer": layer,
        "ctx_idx": 0,
        "feature_type": kind,
        "token_prob": 0.0,
        "is_target_logit": False,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{short}_{number}-0",
        "clerp": "",
        "influence": None,
        "activation": None,
    }


def _paired(level: int, number: int) -> int:
    """One number for a layer and a concept, different for each two (Cantor)."""
    return (level + number) * (level + number + 1) // 2 + number


def _cumulative(graph: Mapping[str, Any]) -> dict[str, float]:
    """Of each node that is no class the share of all influence that it and the stronger ones have together."""
    size = {
        node["id"]: sum(abs(value) for value in node["influence"].values())
        for node in graph["nodes"]
        if node["kind"] != "class"
    }
    whole, so_far, found = sum(size.values()) or 1.0, 0.0, {}
    for name in sorted(size, key=lambda each: -size[each]):
        so_far += size[name]
        found[name] = min(so_far / whole, 1.0)
    return found
