"""One image's network as a function of units: which of them keep their value, the others being at the baseline.

    F(m) = g(F_ab(b + Σ_q m_q part_q)),   F(1) = g at the end of the path,   F(0) = g at the baseline

Every metric of attributions that looks at outputs needs nothing else, so pixels and concepts share them. Removing a
pixel sets its colours to the baseline's, removing a concept sets its code to the baseline's at all positions.

Legend: B images, M masks, Q units that differ from the baseline, T targets, W attributions, P positions, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vismech.attribution.gig import Segment
from vismech.attribution.paths import Straight
from vismech.attribution.sources import Edges, Source, UnitSource
from vismech.attribution.targets import Targets
from vismech.config.choices import SourceKind
from vismech.errors import NotFinite, UserError
from vismech.network.pfv import Layout

Outputs = Callable[[Bool[Tensor, "m q"]], Float[Tensor, "m t"]]
"""F(m) for M masks of the units that are kept."""


def unit_outputs(
    segment: Segment, layout: Layout, source: Source, clean: Tensor, targets: Targets, image: int, rows: int = 64
) -> Outputs:
    """F of one image, its units in the order of ``source.active(image)``.

    Args:
        segment: F_ab.
        layout: how the lower activation is read as PFVs.
        source: the lower activation in units; its path must be straight.
        clean: the clean lower activation [B, …]; what is no PFV keeps its value.
        targets: g.
        image: which of the B images.
        rows: masks per forward pass.

    Raises:
        UserError: a path that is not straight, whose parts do not add up to the way from its start to its end.
        NotFinite: an output that is not finite.
    """
    if type(source.curve.path) is not Straight:
        raise UserError(
            f"units of {type(source.curve.path).__name__} cannot be set to a baseline: leave attribute.curve empty"
        )
    start, place = source.curve.start[image], torch.tensor([image], device=clean.device)
    compose = _composition(source, image)

    @torch.no_grad()
    def outputs(kept: Bool[Tensor, "m q"]) -> Float[Tensor, "m t"]:
        found = []
        for some in kept.split(rows):
            activation = layout.activation(start + compose(some.to(start)), clean[place])
            found.append(targets(segment(activation), place.expand(len(some))))
        values = torch.cat(found)
        if not values.isfinite().all():
            raise NotFinite("an output is not finite with some of its units at the baseline", image)
        return values

    return outputs


def _composition(source: Source, image: int) -> Callable[[Float[Tensor, "m q"]], Float[Tensor, "m p c"]]:
    """``Σ_q m_q part_q``; pixels, positions and channels are masked in place, since their parts are mostly zeros."""
    units = source.active(image)
    if not isinstance(source, UnitSource):
        (parts,) = source.parts(image, units)
        flat = parts.flatten(1)
        return lambda kept: (kept @ flat).unflatten(1, parts.shape[1:])
    (direction,) = source.curve.directions
    whole, channels = direction[image], source.kind is SourceKind.channels

    def compose(kept: Float[Tensor, "m q"]) -> Float[Tensor, "m p c"]:
        mask = kept.new_zeros(len(kept), source.count).index_copy_(1, units, kept)
        return whole * (mask[:, None] if channels else mask[..., None])

    return compose


def all_units(edges: Edges) -> Float[Tensor, "b t q"]:
    """Edges with the error node as one unit more, as ``source.active`` counts it."""
    return torch.cat([edges.units, edges.error[..., None]], 2)
