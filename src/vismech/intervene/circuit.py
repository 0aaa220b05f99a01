"""The forward pass of a circuit: in network order every layer is encoded as it is now, and what is outside is edited.

After Marks et al. 2024, "Sparse feature circuits", §3: at each layer ``x := u' V + e``, u' the current codes with
``u_q := a_q`` outside of the circuit, and e what the dictionary leaves out: of the current activation (``keep``), of
the clean one (``node``), or nothing (``remove``).

Legend: R rows, P positions, C channels, K concepts, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from vismech.attribution.gig import Segment
from vismech.config.choices import CircuitErrors
from vismech.intervene.coded import Coded, Layer
from vismech.intervene.edits import Edit, apply


def circuit_forward(
    segments: Sequence[Segment],
    layers: Sequence[Layer],
    first: Tensor | Coded,
    kept: Sequence[Tensor],
    values: Sequence[Tensor],
    errors: CircuitErrors = CircuitErrors.keep,
    clean: Sequence[Tensor] | None = None,
) -> Tensor:
    """What the last segment answers [R, …].

    Args:
        segments: from each layer to the next, the last one to the output.
        layers: each layer's layout and concepts.
        first: the first layer's activation [R, …], or its code where that is known already.
        kept: concepts inside of the circuit, for each layer [R, K].
        values: a_q of those outside, for each layer: a number for each concept [K], or another image's codes [R, P, K].
        errors: which residual goes on.
        clean: the clean residuals of each layer [R, P, C], for ``errors=node``.
    """
    coded = first if isinstance(first, Coded) else layers[0].code(first)
    answer = coded.clean
    for level, (segment, layer) in enumerate(zip(segments, layers, strict=True)):
        coded, atoms = coded if level == 0 else layer.code(answer), layer.dictionary.atoms
        change = (values[level] - coded.codes).masked_fill(kept[level][:, None], 0)
        # With the residual kept this is u' V + e without rounding what does not change.
        vectors = coded.vectors + change @ atoms
        if errors is not CircuitErrors.keep:
            vectors = vectors - (coded.vectors - coded.codes @ atoms)
            if errors is CircuitErrors.node:
                assert clean is not None, "errors=node needs the clean residuals"
                vectors = vectors + clean[level]
        answer = segment(layer.layout.activation(vectors, answer))
    return answer


def residuals(segments: Sequence[Segment], layers: Sequence[Layer], activation: Tensor) -> list[Tensor]:
    """The clean residual ``X − U V`` [R, P, C] of each layer."""
    found = []
    for segment, layer in zip(segments, layers, strict=True):
        coded = layer.code(activation)
        found.append(coded.vectors - coded.codes @ layer.dictionary.atoms)
        activation = segment(activation)
    return found


def edited_forward(
    segments: Sequence[Segment], layers: Sequence[Layer], activation: Tensor, edits: Sequence[Sequence[Edit]]
) -> Tensor:
    """What the last segment answers [R, …] when each layer's edits are done to its current codes, residuals kept."""
    for segment, layer, some in zip(segments, layers, edits, strict=True):
        activation = segment(apply(layer, activation, some) if some else activation)
    return activation


def bounded(kept: Bool[Tensor, "*r k"], layer: Layer) -> Bool[Tensor, "*r k"]:
    """The same circuit with the mean concept, which every position of every image has, always in it."""
    if layer.dictionary.mean_index is None:
        return kept
    return torch.cat([kept[..., :-1], torch.ones_like(kept[..., -1:])], -1)
