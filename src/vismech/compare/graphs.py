"""Two runs' graphs side by side: which drawn concepts are the same direction, and what becomes of their links.

Concepts are compared where a layer has one name and one number of channels in both runs, so of two dictionaries of one
network; of two checkpoints a direction means the same only as far as their channels do, and the page says the cosines.
Legend: m and n drawn concepts of a layer in the first and the second run, k all concepts, c channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from vismech.errors import UserError
from vismech.report.patches import NEAR

BOTH, FIRST, SECOND = "both", "first", "second"


class Beside(NamedTuple):
    """Two graphs side by side.

    Attributes:
        concepts: a row for each drawn concept, matched pairs once: `layer first second cosine drawn`, and
            `importance_first.GROUP`, `importance_second.GROUP` for each group that both graphs explain.
        links: a row for each link between nodes that both graphs draw, with the class: `lower upper source target
            first second`, the mean weights (zero where one graph has none).
        layers: a row for each layer both have: how many concepts are `matched` of those drawn, their mean `cosine`,
            `correlation` of the weights of its links between matched nodes, and the `share_first`, `share_second` of
            the size of all links out of it that these hold.
    """

    concepts: pd.DataFrame
    links: pd.DataFrame
    layers: pd.DataFrame


class Drawn(NamedTuple):
    """A graph (graph.json), and all atoms of its layers."""

    graph: Mapping[str, Any]
    atoms: Mapping[str, Float[np.ndarray, "k c"]]


def common_layers(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The layers that both graphs have, in the first one's order.

    Raises:
        UserError: they have none in common.
    """
    found = [layer for layer in first["layers"] if layer in second["layers"]]
    if not found:
        raise UserError(
            f"the graphs have no layer in common ({', '.join(first['layers'])} and {', '.join(second['layers'])}): "
            "compare runs with the same extract.layers"
        )
    return found


def beside(first: Drawn, second: Drawn) -> Beside:
    """Match the drawn concepts of two graphs layer by layer, and put what they say of them side by side.

    Raises:
        UserError: no layer in common, or layers of different channels.
    """
    layers = common_layers(first.graph, second.graph)
    groups = [one["key"] for one in first.graph["groups"] if one["key"] in {g["key"] for g in second.graph["groups"]}]
    rows: list[dict[str, Any]] = []
    partner = {f"class/{key}": f"class/{key}" for key in groups}
    for layer in layers:
        channels = first.atoms[layer].shape[1], second.atoms[layer].shape[1]
        if channels[0] != channels[1]:
            raise UserError(
                f"{layer} has {channels[0]} and {channels[1]} channels: concepts of different networks cannot be "
                "matched; compare runs of one architecture"
            )
        rows += _layer(layer, first, second, groups)
        partner |= {f"{layer}/{kind}": f"{layer}/{kind}" for kind in ("offset", "error")}
        partner |= {
            f"{layer}/{row['first']}": f"{layer}/{row['second']}"
            for row in rows
            if row["layer"] == layer and row["drawn"] == BOTH
        }
    concepts = pd.DataFrame(rows)
    links = _links(first.graph, second.graph, partner)
    return Beside(concepts, links, _layers(first.graph, second.graph, layers, concepts, links))


def matched(
    first: Float[np.ndarray, "m c"], second: Float[np.ndarray, "n c"], least: float = NEAR
) -> list[tuple[int, int, float]]:
    """Pairs of rows of largest total cosine (Hungarian), of these the ones above `least`: (row, row, cosine)."""
    from scipy.optimize import linear_sum_assignment  # slow to import

    if not len(first) or not len(second):
        return []
    cosines = first @ second.T
    pairs = zip(*(ends.tolist() for ends in linear_sum_assignment(-cosines)), strict=True)
    return [(one, other, float(cosines[one, other])) for one, other in pairs if cosines[one, other] >= least]


def _layer(layer: str, first: Drawn, second: Drawn, groups: Sequence[str]) -> list[dict[str, Any]]:
    atoms = _unit(first.atoms[layer]), _unit(second.atoms[layer])
    nodes = _concepts(first.graph, layer), _concepts(second.graph, layer)
    mine, theirs = list(nodes[0]), list(nodes[1])
    pairs = matched(atoms[0][mine], atoms[1][theirs])
    rows = [
        {"first": mine[one], "second": theirs[other], "cosine": cosine, "drawn": BOTH} for one, other, cosine in pairs
    ]
    # What only one graph draws stands beside the nearest of all concepts of the other run, drawn or not.
    for concept in (each for place, each in enumerate(mine) if place not in {one for one, _, _ in pairs}):
        nearest = atoms[1] @ atoms[0][concept]
        found = int(nearest.argmax())
        rows.append({"first": concept, "second": found, "cosine": float(nearest[found]), "drawn": FIRST})
    for concept in (each for place, each in enumerate(theirs) if place not in {other for _, other, _ in pairs}):
        nearest = atoms[0] @ atoms[1][concept]
        found = int(nearest.argmax())
        rows.append({"first": found, "second": concept, "cosine": float(nearest[found]), "drawn": SECOND})
    for row in rows:
        for side, own in (("first", nodes[0]), ("second", nodes[1])):
            drawn = row["drawn"] in (BOTH, side)
            for key in groups:
                row[f"importance_{side}.{key}"] = own[row[side]]["importance"][key] if drawn else np.nan
    return [{"layer": layer, **row} for row in rows]


def _links(first: Mapping[str, Any], second: Mapping[str, Any], partner: Mapping[str, str]) -> pd.DataFrame:
    weights = {(link["source"], link["target"]): link["weight"] for link in second["links"]}
    back = {other: one for one, other in partner.items()}
    rows, seen = [], set()
    for link in first["links"]:
        ends = partner.get(link["source"]), partner.get(link["target"])
        if None not in ends:
            seen.add(ends)
            parts = {part: link[part] for part in ("lower", "upper", "source", "target")}
            rows.append({**parts, "first": link["weight"], "second": weights.get(ends, 0.0)})  # type: ignore[arg-type]
    for link in second["links"]:
        ends = link["source"], link["target"]
        if ends not in seen and ends[0] in back and ends[1] in back:
            parts = {"lower": link["lower"], "upper": link["upper"], "source": back[ends[0]], "target": back[ends[1]]}
            rows.append({**parts, "first": 0.0, "second": link["weight"]})
    return pd.DataFrame(rows, columns=["lower", "upper", "source", "target", "first", "second"])


def _layers(
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    layers: Sequence[str],
    concepts: pd.DataFrame,
    links: pd.DataFrame,
) -> pd.DataFrame:
    rows = []
    for layer in layers:
        own = [row for row in concepts.to_dict("records") if row["layer"] == layer]
        cosines = [row["cosine"] for row in own if row["drawn"] == BOTH]
        weights = links.loc[links["lower"] == layer, [FIRST, SECOND]].to_numpy(dtype=float)
        rows.append(
            {
                "layer": layer,
                "drawn_first": sum(row["drawn"] != SECOND for row in own),
                "drawn_second": sum(row["drawn"] != FIRST for row in own),
                "matched": len(cosines),
                "cosine": float(np.mean(cosines)) if cosines else float("nan"),
                "correlation": _correlation(weights[:, 0], weights[:, 1]),
                "share_first": _share(weights[:, 0], first, layer),
                "share_second": _share(weights[:, 1], second, layer),
            }
        )
    return pd.DataFrame(rows)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; NaN for fewer than three links, or where one side does not vary."""
    if len(one) < 3 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return float("nan")
    return float(np.corrcoef(one, other)[0, 1])


def _share(common: np.ndarray, graph: Mapping[str, Any], layer: str) -> float:
    """Of the size of all links out of a layer that of the common ones."""
    whole = sum(abs(link["weight"]) for link in graph["links"] if link["lower"] == layer)
    return float(np.abs(common).sum() / whole) if whole else float("nan")


def _concepts(graph: Mapping[str, Any], layer: str) -> dict[int, Mapping[str, Any]]:
    return {node["concept"]: node for node in graph["nodes"] if node["layer"] == layer and node["kind"] == "concept"}


def _unit(atoms: Float[np.ndarray, "k c"]) -> Float[np.ndarray, "k c"]:
    norms = np.linalg.norm(atoms, axis=1, keepdims=True)
    return atoms / np.where(norms > 0, norms, 1)
