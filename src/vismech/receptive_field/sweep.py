"""Relevance backward through sharing ratios, without channels: R_i = Σ_j μ_{i→j} R_j (SRD §3).

Legend: B images, N positions asked for (last, so that one ratio multiplies a run of numbers), T taps, h×w positions.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from vismech.errors import UserError
from vismech.receptive_field.windows import Pair, Window


@dataclass(frozen=True)
class Share:
    """How a map's relevance is shared among the positions of a ``source``: μ [B, T, h, w], None for 1 throughout."""

    source: int
    window: Window
    ratios: Tensor | None


@dataclass(frozen=True)
class RatioMap:
    """One map of PFVs: (h, w), and its shares, whose ratios are there only when they were ``measured``."""

    size: Pair
    shares: tuple[Share, ...]
    measured: bool


def map_of_layer(layer: str, layers: Mapping[str, tuple[int, ...]], unmapped: Mapping[str, str]) -> int:
    """The map that a layer's seeds go to.

    Raises:
        UserError: an unknown layer, or one without a map.
    """
    if layer in unmapped:
        raise UserError(f"layer {layer!r} has no map of its own: {unmapped[layer]}")
    if layer not in layers:
        near = difflib.get_close_matches(layer, layers, n=4, cutoff=0.4)
        raise UserError(f"there is no layer {layer!r}; nearest: {', '.join(near or list(layers)[:8])}")
    return layers[layer][0]


def sweep(
    maps: Sequence[RatioMap], seeds: Mapping[int, Float[Tensor, "b _ _ n"]], keep: set[int], images: slice
) -> dict[int, Float[Tensor, "b _ _ n"]]:
    """Relevance at the maps ``keep``, from ``seeds`` at any maps, all in one pass from the last map to the first.

    Args:
        maps: a network's maps, each after those it is made of.
        seeds: number of a map → relevance put there.
        keep: numbers of the maps wanted; those without relevance are left out.
        images: the images that B counts, among those of the ratios.

    Raises:
        UserError: ratios on the way that were not measured.
    """
    leading: set[int] = set()  # maps through which relevance reaches those wanted
    for number, one in enumerate(maps):
        if any(share.source in keep or share.source in leading for share in one.shares):
            leading.add(number)
    relevance, kept = dict(seeds), {}
    for number in range(max(seeds), min(keep) - 1, -1):
        here = relevance.pop(number, None)
        if here is None:
            continue
        if number in keep:
            kept[number] = here
        if number not in leading:
            continue
        if not maps[number].measured:
            raise UserError(
                "the pass did not measure the ratios on the way there: name the layers in sharing_ratios(layers=…)"
            )
        for share in maps[number].shares:
            part = _carry(share, here, images)
            relevance[share.source] = relevance[share.source] + part if share.source in relevance else part
    return kept


def _carry(share: Share, here: Float[Tensor, "b h w n"], images: slice) -> Float[Tensor, "b H W n"]:
    """R_in[stride·j + offset_t] += μ[t, j]·R_out[j], for every tap t."""
    window = share.window
    ratios = None if share.ratios is None else share.ratios[images, ..., None]
    if window.taps == 1 and window.size_in == window.size_out:
        return here if ratios is None else here * ratios[:, 0]
    carried, taps = window.scatter(here)
    if ratios is None:
        next(taps).copy_(here)
    else:
        for tap, ratio in zip(taps, ratios.unbind(1), strict=True):
            tap.addcmul_(ratio, here)
    return window.unpad(carried)
