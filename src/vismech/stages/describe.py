"""Stage describe: for each concept the nearest vectors over all images, its members, their classes, its place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from vismech.config.choices import Stage
from vismech.costs.cost import Amount, Cost, Kind
from vismech.costs.searching import search
from vismech.dictionaries import Dictionary
from vismech.dictionaries.description import (
    BLOCK,
    Members,
    TreePlace,
    class_counts,
    class_entropy,
    members_of,
    tightness,
    tree_places,
)
from vismech.dictionaries.search import nearest
from vismech.passes.progress import track
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job
from vismech.stages.counted import concepts_of, vectors_of
from vismech.stages.settings import DescribeSettings
from vismech.stages.work import Work, compact, read_images
from vismech.store.artifacts import Spec

VERSION = 2
SHARD_BYTES, BYTES_PER_NUMBER = 64 << 20, 28.0
"""Vectors are looked at in shards that take so much, with what is made of them, whatever their number."""
BYTES_PER_VECTOR = 150.0
"""Of each vector's concept, cosine and class, and of what sorts them."""
LEAST_ROWS = 8192
"""Of a shard of wide vectors: each shard asks for every concept's nearest anew."""


class Place(NamedTuple):
    """One pointwise feature vector: its image, layer and flat position."""

    sample: str
    layer: str
    position: int


class Description(NamedTuple):
    """What is known of one concept.

    Attributes:
        layer: its layer.
        concept: its number there.
        places: the nearest vectors, best first, and
        cosines: their cosines to it.
        share: members among all vectors.
        members: how many these are.
        tightness: mean cosine between it and its members; None without members.
        entropy: bits of the histogram of its members' classes; None without members.
        classes: class index and members, most frequent first.
        tree: its place in the tree of clusters; None for dictionaries without a tree.
    """

    layer: str
    concept: int
    places: list[Place]
    cosines: list[float]
    share: float
    members: int
    tightness: float | None
    entropy: float | None
    classes: list[tuple[int, int]]
    tree: TreePlace | None


def job(ctx: Context, layer: str, vectors: Spec, dictionary: Spec) -> Job:
    """One layer's descriptions."""
    settings = DescribeSettings.from_group(ctx.config.describe)
    spec = Spec(Stage.describe.value, VERSION, layer, settings, {"vectors": vectors, "dictionary": dictionary})
    return Job(Stage.describe, {layer: spec}, compute, cost)


def cost(work: Work, specs: Mapping[str, Spec[DescribeSettings]]) -> dict[str, Cost]:
    """Every vector against every concept twice: for its nearest vectors, and for its members."""
    found = {}
    for layer, spec in specs.items():
        n, k = vectors_of(work, spec.parents["dictionary"]), concepts_of(work, layer, spec.parents["dictionary"])
        c, images = work.layout(layer).channels, len(work.data)
        rows, depth = min(n, _rows_of_shard(c)), _depth(spec.settings.nearest, -(-n // max(1, images)), n)
        found[layer] = Cost(
            images,
            n,
            written=12.0 * k * spec.settings.nearest,
            held=rows * c * BYTES_PER_NUMBER + 4.0 * min(rows * k, BLOCK) + BYTES_PER_VECTOR * n,
            work={
                Kind.search: search(n, k, c, depth, -(-n // max(1, rows))),
                Kind.products: Amount(2.0 * n * k * c, traffic=8.0 * n * k, launches=10.0 * n * k / BLOCK),
                # Vectors are read twice, and of each concept's nearest those of one image are thinned out.
                Kind.host: Amount(10.0 * k * depth, traffic=2 * 16.0 * n * c),
            },
        )
    return found


def _depth(count: int, per_image: int, total: int) -> int:
    """Neighbours that are asked for, so that so many are of different images."""
    return min(total, count * (1 if per_image == 1 else 8))


def compute(work: Work, specs: Mapping[str, Spec[DescribeSettings]]) -> None:
    """Arrays and facts of every concept of a layer.

    ``images``, ``positions``, ``cosines`` of the nearest vectors [K, n] (-1: none), ``shares`` [K], ``classes``
    (concept, class, members in each row), and ``concepts.json`` with what may be missing: members, tightness,
    entropy, tree.
    """
    for spec in specs.values():
        extracted = work.store.open(spec.parents["vectors"])
        vectors, positions = extracted.array("vectors.npy"), extracted.array("positions.npy")
        concepts = dictionary_stage.load(work, spec.parents["dictionary"])
        found = _nearest(concepts, vectors, spec.settings.nearest, work.device)
        per_image = vectors.shape[1]
        absent = found.rows < 0
        images, places = np.divmod(np.maximum(found.rows, 0), per_image)
        members = _members(concepts, vectors, work.device)
        counts = np.bincount(members.concept[members.concept >= 0], minlength=concepts.k)
        classes = class_counts(members.concept, read_images(extracted).labels.repeat(per_image))
        facts = {
            "members": counts.tolist(),
            "tightness": tightness(members, concepts.k),
            "entropy": class_entropy(classes, concepts.k),
            "tree": _tree(concepts),
        }
        with work.store.writer(spec) as folder:
            np.save(folder / "images.npy", np.where(absent, -1, images).astype(np.int32))
            np.save(folder / "positions.npy", np.where(absent, -1, positions[images, places]).astype(np.int32))
            np.save(folder / "cosines.npy", found.scores.astype(np.float32))
            np.save(folder / "shares.npy", (counts / len(members.concept)).astype(np.float32))
            np.save(folder / "classes.npy", classes)
            (folder / "concepts.json").write_bytes(compact(facts))


class Descriptions:
    """The descriptions of a layer, read once."""

    def __init__(self, ctx: Work, layer: str, spec: Spec[Any]) -> None:
        artifact = ctx.store.open(spec)
        self.layer = layer
        self.shares = np.asarray(artifact.array("shares.npy"))
        self._ids = read_images(ctx.store.open(spec.parents["vectors"])).ids
        names = ("images", "positions", "cosines", "classes")
        self._arrays = {name: np.asarray(artifact.array(f"{name}.npy")) for name in names}
        self._facts = artifact.json("concepts.json")

    def __len__(self) -> int:
        return len(self.shares)

    def concept(self, number: int) -> Description:
        """What is known of one concept."""
        images, positions, cosines = (self._arrays[name][number] for name in ("images", "positions", "cosines"))
        found = images >= 0
        chosen = zip(images[found].tolist(), positions[found].tolist(), strict=True)
        own = self._arrays["classes"]
        own = own[slice(*np.searchsorted(own[:, 0], [number, number + 1]))]
        tree = self._facts["tree"][number] if self._facts["tree"] is not None else None
        return Description(
            self.layer,
            number,
            [Place(self._ids[image], self.layer, position) for image, position in chosen],
            cosines[found].tolist(),
            float(self.shares[number]),
            *(self._facts[name][number] for name in ("members", "tightness", "entropy")),
            classes=sorted(((label, count) for _, label, count in own.tolist()), key=lambda each: (-each[1], each[0])),
            tree=None if tree is None else TreePlace(tree[0], tree[1], tree[2] and (tree[2][0], tree[2][1])),
        )


class _Found(NamedTuple):
    rows: np.ndarray
    scores: np.ndarray


def _rows_of_shard(channels: int) -> int:
    return max(LEAST_ROWS, int(SHARD_BYTES / (BYTES_PER_NUMBER * channels)))


def _shards(vectors: np.ndarray, shift: torch.Tensor | float, note: str) -> Iterator[np.ndarray]:
    """The vectors [n, C] in shards, less ``shift``."""
    flat = vectors.reshape(-1, vectors.shape[-1])
    size = _rows_of_shard(flat.shape[1])
    starts = range(0, len(flat), size)
    for first in track(starts, note, len(starts)):
        yield np.asarray(flat[first : first + size]) - np.asarray(shift, dtype=np.float32)


def _center(concepts: Dictionary) -> torch.Tensor | float:
    """What a centred dictionary subtracts before it looks for its concepts."""
    return 0.0 if concepts.mean_index is None else concepts.info["mean_norm"] * concepts.atoms[concepts.mean_index]


def _clusters(concepts: Dictionary) -> torch.Tensor:
    """The atoms without the mean concept: it is part of every vector, so that none is more its member than another."""
    return concepts.atoms[: concepts.mean_index]


def _nearest(concepts: Dictionary, vectors: np.ndarray, count: int, device: str) -> _Found:
    """Nearest vectors in the space that the concepts were found in; the mean concept's in that of the vectors."""
    found = _distinct_images(_clusters(concepts), vectors, _center(concepts), count, device)
    if concepts.mean_index is None:
        return found
    mean = _distinct_images(concepts.atoms[concepts.mean_index :], vectors, 0.0, count, device)
    return _Found(*(np.concatenate(parts) for parts in zip(found, mean, strict=True)))


def _distinct_images(
    atoms: torch.Tensor, vectors: np.ndarray, shift: torch.Tensor | float, count: int, device: str
) -> _Found:
    """The ``count`` nearest vectors of each concept with at most one per image: a longer exact list, thinned."""
    per_image, total = vectors.shape[1], vectors.shape[0] * vectors.shape[1]
    rows = np.full((len(atoms), count), -1, dtype=np.int64)
    scores = np.zeros((len(atoms), count))
    open_concepts = np.arange(len(atoms))
    depth = _depth(count, per_image, total)
    while len(open_concepts):
        answer = nearest(atoms[open_concepts].numpy(), _shards(vectors, shift, "describe"), depth, device=device)
        still = []
        for concept, found, values in zip(open_concepts, answer.rows, answer.scores, strict=True):
            hits = found[found >= 0]
            _, first = np.unique(hits // per_image, return_index=True)
            first = np.sort(first)[:count]
            if len(first) < min(count, vectors.shape[0]) and depth < total:
                still.append(concept)
                continue
            rows[concept, : len(first)], scores[concept, : len(first)] = hits[first], values[first]
        open_concepts = np.array(still, dtype=np.int64)
        depth = min(total, depth * 4)
    return _Found(rows, scores)


def _members(concepts: Dictionary, vectors: np.ndarray, device: str) -> Members:
    parts = [
        members_of(torch.from_numpy(shard), _clusters(concepts), device)
        for shard in _shards(vectors, _center(concepts), "members")
    ]
    return Members(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _tree(concepts: Dictionary) -> list[TreePlace | None] | None:
    """Places as lists, None for the mean concept; None for dictionaries that keep no tree."""
    arrays = {name.removeprefix("tree_"): array for name, array in concepts.arrays.items() if name.startswith("tree_")}
    if not arrays:
        return None
    places: list[TreePlace | None] = list(tree_places(arrays))
    return places + [None] * (concepts.k - len(places))
