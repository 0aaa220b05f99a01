"""What is said of concepts beside their nearest vectors: members, tightness, classes, and their place in the tree.

A vector is a **member** of the concept of largest cosine; an all-zero vector has no direction and is nobody's member.

Legend: n vectors, c channels, k concepts, t nodes of a tree, m pairs of a concept and a class that occur.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

# Cosines held at once: 128 MiB of float32.
BLOCK = 1 << 25


class Members(NamedTuple):
    """The concept that each vector is a member of (-1: none) and the cosine between them (0 for none)."""

    concept: Int[ndarray, " n"]
    cosine: Float[ndarray, " n"]


class TreePlace(NamedTuple):
    """Where a concept hangs in a tree of clusters.

    Attributes:
        depth: splits between the root and the concept.
        path: these splits, L for left and R for right.
        sibling: the first and last concept on the other side of the last split; None for the root.
    """

    depth: int
    path: str
    sibling: tuple[int, int] | None


def members_of(
    vectors: Float[Tensor, "n c"], atoms: Float[Tensor, "k c"], device: str | torch.device = "cpu"
) -> Members:
    """The concept of largest cosine ``<x, v> / ‖x‖`` of each vector, for unit atoms; of equal ones the first."""
    concept = np.full(len(vectors), -1, dtype=np.int64)
    cosine = np.zeros(len(vectors), dtype=np.float64)
    atoms = atoms.to(device)
    start = 0
    for part in vectors.split(max(1, BLOCK // len(atoms))):
        part = part.to(device)
        best = (part @ atoms.T).max(1)
        norms = torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
        has = (norms > 0).cpu().numpy()
        rows = slice(start, start + len(part))
        concept[rows] = np.where(has, best.indices.cpu().numpy(), -1)
        cosine[rows] = (best.values / norms.masked_fill(norms == 0, 1)).cpu().numpy()
        start += len(part)
    return Members(concept, cosine)


def tightness(members: Members, k: int) -> list[float | None]:
    """Mean cosine between each concept and its members; None without members."""
    own = members.concept >= 0
    counts = np.bincount(members.concept[own], minlength=k)
    sums = np.bincount(members.concept[own], members.cosine[own], minlength=k)
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]


def class_counts(concept: Int[ndarray, " n"], labels: Int[ndarray, " n"]) -> Int[ndarray, "m 3"]:
    """The histogram of each concept's members by class, sparse: rows of concept, class and count, ascending."""
    own = concept >= 0
    pairs, counts = np.unique(np.stack([concept[own], labels[own]], 1), axis=0, return_counts=True)
    return np.concatenate([pairs.reshape(-1, 2), counts[:, None]], 1).astype(np.int64)


def class_entropy(counts: Int[ndarray, "m 3"], k: int) -> list[float | None]:
    """``−Σ p log₂ p`` bits over the classes of each concept's members; None without members.

    0 means one class only, log₂ of the number of classes a concept that tells nothing of them.
    """
    totals = np.bincount(counts[:, 0], counts[:, 2], minlength=k)
    share = counts[:, 2] / totals[counts[:, 0]]
    bits = np.bincount(counts[:, 0], -share * np.log2(share), minlength=k)
    return [max(0.0, float(value)) if total else None for value, total in zip(bits, totals, strict=True)]


def tree_places(tree: Mapping[str, ndarray]) -> list[TreePlace]:
    """The place of every concept, in order, in a tree as :class:`vismech.dictionaries.bisecting.Tree` lays it out.

    Args:
        tree: ``parent``, ``left``, ``right``, ``depth`` and ``atom`` of each node; -1 means none.
    """
    parent, left, right, atom = (tree[name].tolist() for name in ("parent", "left", "right", "atom"))
    first, last = list(atom), list(atom)
    for node in reversed(range(len(parent))):  # children are created after their parents
        if left[node] >= 0:
            first[node], last[node] = first[left[node]], last[right[node]]
    places: dict[int, TreePlace] = {}
    for node, concept in enumerate(atom):
        if concept < 0:
            continue
        sides, here = [], node
        while (above := parent[here]) >= 0:
            sides.append("L" if left[above] == here else "R")
            here = above
        sibling = None
        if (above := parent[node]) >= 0:
            other = right[above] if left[above] == node else left[above]
            sibling = first[other], last[other]
        places[concept] = TreePlace(int(tree["depth"][node]), "".join(reversed(sides)), sibling)
    return [places[concept] for concept in range(len(places))]
