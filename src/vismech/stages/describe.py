"""Stage describe: for each concept the nearest vectors over all images, and its share of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch

from vismech.config import Stage
from vismech.lit.progress import track
from vismech.search import nearest
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job
from vismech.store import Spec

VERSION = 1
SHARD = 1 << 18


def job(ctx: Context, layer: str, vectors: Spec, dictionary: Spec) -> Job:
    """One layer's descriptions."""
    inputs = {"nearest": ctx.config.describe.nearest}
    spec = Spec(Stage.describe.value, VERSION, layer, inputs, {"vectors": vectors, "dictionary": dictionary})
    return Job(Stage.describe, {layer: spec}, compute)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Arrays: ``images``, ``positions``, ``cosines`` of the nearest vectors [K, n] (−1: none), and ``shares`` [K]."""
    count = ctx.config.describe.nearest
    for spec in specs.values():
        extracted = ctx.store.open(spec.parents["vectors"])
        vectors, positions = extracted.array("vectors.npy"), extracted.array("positions.npy")
        concepts = dictionary_stage.read(ctx, ctx.store.open(spec.parents["dictionary"]))
        found = _distinct_images(concepts.atoms, vectors, count, ctx.device)
        per_image = vectors.shape[1]
        absent = found.rows < 0
        images, places = np.divmod(np.maximum(found.rows, 0), per_image)
        with ctx.store.writer(spec) as folder:
            np.save(folder / "images.npy", np.where(absent, -1, images).astype(np.int32))
            np.save(folder / "positions.npy", np.where(absent, -1, positions[images, places]).astype(np.int32))
            np.save(folder / "cosines.npy", found.scores.astype(np.float32))
            np.save(folder / "shares.npy", _shares(concepts.atoms, vectors))


class _Found(NamedTuple):
    rows: np.ndarray
    scores: np.ndarray


def _distinct_images(atoms: torch.Tensor, vectors: np.ndarray, count: int, device: str) -> _Found:
    """The ``count`` nearest vectors of each concept with at most one per image: a longer exact list, thinned."""
    per_image, total = vectors.shape[1], vectors.shape[0] * vectors.shape[1]
    flat = vectors.reshape(total, -1)
    rows = np.full((len(atoms), count), -1, dtype=np.int64)
    scores = np.zeros((len(atoms), count))
    open_concepts = np.arange(len(atoms))
    depth = min(total, count * (1 if per_image == 1 else 8))
    while len(open_concepts):
        starts = range(0, total, SHARD)
        shards = (np.asarray(flat[first : first + SHARD]) for first in track(starts, "describe", len(starts)))
        answer = nearest(atoms[open_concepts].numpy(), shards, depth, device=device)
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


def _shares(atoms: torch.Tensor, vectors: np.ndarray) -> np.ndarray:
    """Share of the vectors whose nearest concept each one is, by cosine."""
    counts = torch.zeros(len(atoms), dtype=torch.int64)
    flat = vectors.reshape(-1, vectors.shape[-1])
    for first in range(0, len(flat), SHARD):
        block = torch.from_numpy(np.array(flat[first : first + SHARD]))
        for part in block.split(1 << 14):
            counts += torch.bincount((part @ atoms.T).argmax(1), minlength=len(atoms))
    return (counts.double() / len(flat)).numpy().astype(np.float32)
