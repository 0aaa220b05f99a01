"""Measured effects: ``Δ_j(q) = g_j(F(X)) − g_j(F(X'))``, X' the activation with concept q edited alone.

One row of a forward pass per image and concept, all targets read from it; memory does not grow with their number.

Legend: B images, R rows of a pass, P positions, C channels, K concepts, Q of them edited one by one, T targets.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.attribution.gig import ROW_MULTIPLE
from vismech.intervene.coded import Coded, Layer
from vismech.intervene.edits import Edit

Read = Callable[[Tensor, Int[Tensor, " r"]], Float[Tensor, "r t"]]
"""Targets from the lower layer's activation [R, …], row r of which belongs to image ``image[r]``."""


def measured_effects(
    read: Read,
    layer: Layer,
    coded: Coded,
    edit: Edit,
    rows: int,
    donors: Float[Tensor, "b p k"] | None = None,
) -> Float[Tensor, "b t q"]:
    """Δ_j(q) of every image, target and concept of an edit; exactly zero where the edit changes nothing.

    Args:
        read: F and g.
        layer: the edited layer.
        coded: its clean activations.
        edit: what each concept is set to, one concept at a time.
        rows: of a forward pass.
        donors: codes of the images that each is resampled from.
    """
    own = torch.arange(len(coded.clean), device=coded.codes.device)
    changes, atoms = edit.changes(coded.codes, donors), layer.dictionary.atoms[edit.index(coded.codes)]
    value = torch.cat([_padded(read, coded.clean[some], some) for some in own.split(rows)])
    effects = value.new_zeros(len(own), value.shape[1], len(atoms))
    moved = changes.any(1).nonzero()  # image-major
    for image, concept in (pair.unbind(1) for pair in moved.split(rows)):
        vectors = coded.vectors[image] + changes[image, :, concept][..., None] * atoms[concept][:, None]
        answer = _padded(read, layer.layout.activation(vectors, coded.clean[image]), image)
        effects[image, :, concept] = value[image] - answer
    return effects


def answers_without(
    read: Read,
    layer: Layer,
    coded: Coded,
    concepts: Int[Tensor, "b n q"],
    rows: int,
    into: Float[Tensor, "n k"] | None = None,
) -> Float[Tensor, "b n t"]:
    """What is read of every image with one set of its concepts after the other edited, residuals kept.

    Args:
        read: F and g.
        layer: the edited layer.
        coded: its clean activations.
        concepts: N sets for each image, −1 where a set has fewer than Q; a concept at most once in a set.
        rows: of a forward pass.
        into: for each set what its concepts' codes become; None: zero.
    """
    image = torch.arange(len(concepts), device=concepts.device).repeat_interleave(concepts.shape[1])
    number = torch.arange(concepts.shape[1], device=concepts.device).repeat(len(concepts))
    position = torch.arange(coded.codes.shape[1], device=concepts.device)[:, None]
    found = []
    for own, which, some in zip(*(part.split(rows) for part in (image, number, concepts.flatten(0, 1))), strict=True):
        chosen = some.clamp(min=0)
        removed = coded.codes[own[:, None, None], position, chosen[:, None]]
        if into is not None:
            removed = removed - into[which[:, None], chosen][:, None]
        vectors = coded.vectors[own] - (removed * (some >= 0)[:, None]) @ layer.dictionary.atoms[chosen]
        found.append(_padded(read, layer.layout.activation(vectors, coded.clean[own]), own))
    return torch.cat(found).unflatten(0, concepts.shape[:2])


def _padded(read: Read, activation: Tensor, image: Int[Tensor, " r"]) -> Float[Tensor, "r t"]:
    """As many rows as are wanted of a whole multiple: a row's last digits depend on how many are passed with it."""
    spare = -len(image) % ROW_MULTIPLE
    place = torch.arange(len(image) + spare, device=image.device).clamp(max=len(image) - 1)
    return read(activation[place], image[place])[: len(image)]


def achieved(
    layer: Layer, coded: Coded, edit: Edit, rows: int, donors: Float[Tensor, "b p k"] | None = None
) -> Float[Tensor, "b q"]:
    """The share of each edit that arrives when the edited activation is encoded again; NaN where it changes nothing.

    ``Σ_p (u'_q − u_q)(a_q − u_q) / Σ_p (a_q − u_q)²``, u' the code of X'. An encoder may read an edited activation
    otherwise than it was edited: another concept takes over what the removed one told.
    """
    changes, atoms = edit.changes(coded.codes, donors), layer.dictionary.atoms[edit.index(coded.codes)]
    arrived = changes.new_zeros(changes.shape[0], changes.shape[2])
    concepts = edit.index(changes)
    if layer.pointwise:  # only positions that change
        image, position, concept = changes.nonzero().unbind(1)
        for some in torch.arange(len(image), device=image.device).split(rows * coded.vectors.shape[1]):
            i, p, q = image[some], position[some], concept[some]
            change = changes[i, p, q]
            again = layer.dictionary.encode(coded.vectors[i, p] + change[:, None] * atoms[q])
            after = again.gather(1, concepts[q][:, None])[:, 0] - coded.codes[i, p, concepts[q]]
            arrived.index_put_((i, q), after * change, accumulate=True)
    else:
        for image, concept in (pair.unbind(1) for pair in changes.any(1).nonzero().split(rows)):
            change = changes[image, :, concept]
            again = layer.dictionary.encode(coded.vectors[image] + change[..., None] * atoms[concept][:, None])
            each = concepts[concept][:, None, None].expand(-1, again.shape[1], 1)
            after = (again.gather(2, each) - coded.codes[image].gather(2, each))[..., 0]
            arrived[image, concept] = (after * change).sum(1)
    return arrived / changes.square().sum(1)
