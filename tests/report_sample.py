"""Sample data for the report's tests: a causal concept graph, cards, photographs and tables; and a reader of pages.

Pictures are synthetic textures; a caller with photographs at hand passes their paths and gets crops of them instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from vismech.report.crops import draw_crop, position_crop
from vismech.report.listing import Columns
from vismech.report.page import ReportData
from vismech.report.patches import Card, Patch, Presence, encode_png

PAIR = (("129", "spoonbill"), ("130", "flamingo"))
GRID = (7, 7)
# The rank of the concept of each layer that acts by its absence.
ABSENT = 1
LONG_NAME = "black-and-white colobus monkey of the eastern forests"


def sample_graph(
    scope: str = "pair",
    layers: Sequence[str] = ("blocks.2", "blocks.4", "blocks.6"),
    per_layer: int = 13,
    groups: Sequence[tuple[str, str]] = PAIR,
    specials: Sequence[str] = ("offset",),
    seed: int = 0,
    drawn: float = 9.0,
) -> dict[str, Any]:
    """A graph with `per_layer` concepts in each layer, all links between adjacent layers, weights of both signs; its
    concepts carry `drawn` of 11.5 logits."""
    rng = np.random.default_rng(seed)
    keys = [key for key, _ in groups]
    nodes: list[dict[str, Any]] = [
        {"id": f"class/{key}", "kind": "class", "layer": "logits", "concept": None, "name": name, "importance": {}}
        for key, name in groups
    ]
    kept: dict[str, list[str]] = {"logits": [node["id"] for node in nodes]}
    for layer in layers:
        concepts = sorted(int(concept) for concept in rng.choice(8 * 320, size=per_layer, replace=False))
        kept[layer] = [f"{layer}/{concept}" for concept in concepts]
        for rank, concept in enumerate(concepts):
            # Five for each class and the rest shared, as in a graph of a pair.
            chosen = keys[rank % len(keys)] if rank < 5 * len(keys) else None
            importance = {key: _importance(rng, chosen in (key, None)) for key in keys}
            nodes.append(
                {
                    "id": f"{layer}/{concept}",
                    "kind": "concept",
                    "layer": layer,
                    "concept": concept,
                    "importance": importance,
                    "share": {key: max(value, 0) / 12 for key, value in importance.items()},
                    "absent": dict.fromkeys(keys, 0.8 if rank == ABSENT else 0.1),
                    "shared": chosen is None and len(keys) > 1,
                    "selected_for": [chosen] if chosen else keys,
                }
            )
        nodes += [{"id": f"{layer}/{kind}", "kind": kind, "layer": layer} for kind in specials]
    links = []
    for lower, upper in zip(layers, [*layers[1:], "logits"], strict=True):
        sources = kept[lower] + [f"{lower}/{kind}" for kind in specials]
        for target in kept[upper]:
            for source in sources:
                weights = {key: round(float(rng.standard_t(2)) * 0.2 + 0.05, 6) for key in keys}
                mean = sum(weights.values()) / len(weights)
                links.append(
                    {
                        "source": source,
                        "target": target,
                        "weight": mean,
                        "weights": weights,
                        "lower": lower,
                        "upper": upper,
                    }
                )
    return {
        "schema": 1,
        "scope": scope,
        "layers": list(layers),
        "groups": [{"key": key, "index": index, "name": name, "images": 1} for index, (key, name) in enumerate(groups)],
        "nodes": nodes,
        "links": links,
        "account": {layer: {key: sample_account(11.5, drawn) for key in keys} for layer in layers},
        "scores": {"all": {"replacement_score": None, "completeness_score": None, "untraced_share": 0.4}},
    }


def sample_account(value: float, drawn: float, lost: float = 0.5) -> dict[str, float]:
    """A layer's account whose parts sum to ``value``."""
    parts = {"value": value, "drawn": drawn, "offset": 0.1, "error": 0.0, "lost": lost, "rest": 0.01}
    return {**parts, "other": value - sum(parts[name] for name in ("drawn", "offset", "lost", "rest"))}


def sample_report(
    graph: dict[str, Any] | None = None, photographs: Sequence[Path] = (), patches: int = 10, seed: int = 0
) -> ReportData:
    """A whole report around a graph; every concept gets `patches` pictures that look alike and a top image."""
    graph = graph or sample_graph()
    rng = np.random.default_rng(seed)
    pool = _crops(photographs, rng) if photographs else []
    cards = {}
    for node in graph["nodes"]:
        if node["kind"] == "concept":
            pictures = _alike(pool, patches, rng) if pool else [_texture(rng, 96) for _ in range(patches)]
            cosines = np.sort(rng.uniform(0.6, 0.97, patches))[::-1]
            cards[node["id"]] = Card(
                [
                    Patch(encode_png(picture), f"photograph {index}, position (3, 4)", float(cosine), f"image-{index}")
                    for index, (picture, cosine) in enumerate(zip(pictures, cosines, strict=True))
                ],
                float(rng.uniform(0.0005, 0.02)),
                "",
                Patch(encode_png(pictures[0].resize((192, 192))), "the whole image", float(cosines[0]), "image-0"),
                {
                    "Tightness": "0.643 mean cosine of its members",
                    "Entropy": "1.24 bits over 6 classes",
                    "Tree": "12 splits deep, beside 1024–1031",
                },
                [(LONG_NAME, 31), ("goose", 12), ("thatch", 3), ("drum", 1)],
            )
    images = {}
    for index, group in enumerate(graph["groups"]):
        picture = _photograph(photographs[index]) if len(photographs) > index else _texture(rng, 128)
        images[group["key"]] = [Patch(encode_png(picture), f"photograph {index}.jpg", 1.0, f"photograph-{index}")]
    pairs = list(zip(graph["layers"], [*graph["layers"][1:], "logits"], strict=True))
    completeness = pd.DataFrame(
        {
            "lower": [lower for lower, _ in pairs],
            "upper": [upper for _, upper in pairs],
            "path": "ig",
            "rule": "midpoint",
            "steps": 32,
            "gap_median": rng.uniform(0.002, 0.006, len(pairs)),
            "gap_p95": rng.uniform(0.01, 0.04, len(pairs)),
            "images": 2,
            "targets": 13,
        }
    )
    count = len(graph["layers"])
    reconstruction = pd.DataFrame(
        {
            "layer": graph["layers"],
            "dictionary": "bisecting",
            "k": 896,
            "code": "omp",
            "r2": rng.uniform(0.9, 0.98, count),
            "relative_error": rng.uniform(0.1, 0.3, count),
            "l0": rng.integers(20, 60, count),
            "dead": rng.integers(0, 9, count),
            "dense": 0,
            "accuracy_spliced": rng.uniform(0.8, 0.88, count),
            "accuracy_clean": 0.88,
        }
    )
    facts = {
        "Model": "efficientnet_lite0",
        "Data": "750 photographs, one of each of 750 classes",
        "Unreadable images": "0",
        "Experiment": "pair_lite0",
        "Seed": "0",
    }
    notes = ["One photograph of each class: this graph describes single pictures, not classes."]
    shown = [patch.image for patches in images.values() for patch in patches]
    where = {
        node["id"]: {image: _presence(rng, image == shown[0]) for image in shown}
        for node in graph["nodes"]
        if node["kind"] == "concept"
    }
    dictionaries = {layer: f"{index:064x}" for index, layer in enumerate(graph["layers"], seed + 1)}
    report = ReportData(graph, cards, images, completeness, reconstruction, facts, notes, dictionaries)
    concepts_of = {name: [n for n in graph["nodes"] if n["layer"] == name] for name in graph["layers"]}
    most = {name: max((n.get("concept") or 0 for n in nodes), default=0) for name, nodes in concepts_of.items()}
    keys = [group["key"] for group in graph["groups"]]
    concepts = {layer: _columns(rng, count + 65, keys) for layer, count in most.items()}
    return report._replace(where=where, mistaken=set(shown[1:]), concepts=concepts)


def _columns(rng: np.random.Generator, k: int, keys: Sequence[str]) -> Columns:
    """A layer's concepts; the last has no members."""

    def values(low: float, high: float) -> list[float | None]:
        return [float(f"{value:.3g}") for value in rng.uniform(low, high, k - 1)] + [None]

    names = [[LONG_NAME, "goose", "<b>drum</b>"][index % 3] for index in range(k - 1)]
    importance = {key: [float(f"{value:.3g}") for value in rng.normal(size=k)] for key in keys}
    return Columns(values(0, 0.02), values(0.4, 0.9), values(0, 6), [*names, None], values(0.1, 1), importance)


def _presence(rng: np.random.Generator, here: bool) -> Presence:
    """A bright square somewhere, or no light at all."""
    light = np.zeros((28, 28), dtype=np.uint8)
    if here:
        top, left = rng.integers(0, 20, 2)
        light[top : top + 8, left : left + 8] = 255
    return Presence(light, float(rng.normal()))


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and the text of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the tag."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        """Keep the text, a script's apart."""
        (self.scripts if self.tags and self.tags[-1][0] == "script" else self.words).append(data)

    def of_class(self, name: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of a class."""
        return [attributes for _, attributes in self.tags if name in (attributes.get("class") or "").split()]


def _importance(rng: np.random.Generator, strong: bool) -> float:
    return round(float(rng.gamma(2.0, 0.4) if strong else rng.normal(0.05, 0.12)), 4)


def _texture(rng: np.random.Generator, size: int) -> Image.Image:
    """A coloured grating with soft noise."""
    y, x = np.mgrid[0:size, 0:size] / size
    angle, frequency = rng.uniform(0, np.pi), rng.uniform(2, 9)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * frequency * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
    one, other = rng.uniform(20, 235, (2, 3))
    pixels = wave[..., None] * one + (1 - wave[..., None]) * other
    return Image.fromarray(pixels.astype(np.uint8))


def _photograph(path: Path, size: int = 224) -> Image.Image:
    image = Image.open(path).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.LANCZOS, box=(left, top, left + side, top + side))


def _crops(paths: Sequence[Path], rng: np.random.Generator) -> list[Image.Image]:
    """Four patches of each photograph at random positions of the grid."""
    images = [_photograph(path) for path in paths]
    places = [(image, tuple(map(int, rng.integers(0, 7, 2)))) for image in images for _ in range(4)]
    return [draw_crop(image, position_crop(place, GRID, image.size, 0.6), 96) for image, place in places]


def _alike(pool: Sequence[Image.Image], count: int, rng: np.random.Generator) -> list[Image.Image]:
    """One patch of the pool and the ones nearest to it at 6 × 6 pixels."""
    small = np.stack([np.asarray(picture.resize((6, 6)), dtype=np.float64).ravel() for picture in pool])
    distance = np.square(small - small[rng.integers(len(pool))]).sum(axis=1)
    return [pool[index] for index in np.argsort(distance, kind="stable")[:count]]
