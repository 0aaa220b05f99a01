"""Activation maps as pointwise feature vectors (PFVs), and the seeded choice of positions (GIG §3.1).

A PFV is the channel vector at one spatial position of a layer's output; a transformer's token is one too.

Legend: B images, P positions, C channels, M tokens before the patch tokens.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.draws import generator_of
from vismech.errors import UserError


class Axes(StrEnum):
    """Where the channels of an activation stand."""

    channels_first = "channels_first"  # [B, C, h, w]
    channels_last = "channels_last"  # [B, h, w, C]
    tokens = "tokens"  # [B, prefix + h·w, C]
    vector = "vector"  # [B, C]


@dataclass(frozen=True)
class Layout:
    """How one layer's activation is read as PFVs.

    Attributes:
        axes: where the channels stand.
        grid: rows and columns of positions; P = rows · columns.
        channels: C.
        prefix: tokens before the patch tokens (a class token, registers); they are no PFVs and are held at their clean
            value along a path.
    """

    axes: Axes
    grid: tuple[int, int]
    channels: int
    prefix: int = 0

    @property
    def positions(self) -> int:
        """P."""
        return self.grid[0] * self.grid[1]

    def vectors(self, activation: Tensor) -> Float[Tensor, "b p c"]:
        """PFVs of an activation, positions in row-major order."""
        match self.axes:
            case Axes.channels_first:
                return activation.flatten(2).transpose(1, 2)
            case Axes.channels_last:
                return activation.flatten(1, 2)
            case Axes.tokens:
                return activation[:, self.prefix :]
            case Axes.vector:
                return activation[:, None]

    def activation(self, vectors: Float[Tensor, "b p c"], clean: Tensor) -> Tensor:
        """The activation with PFVs ``vectors``; what is no PFV is taken from ``clean``, broadcast over whole multiples.

        ``clean`` has the batch size of ``vectors`` or divides it: then its images repeat in order (image-major).
        """
        match self.axes:
            case Axes.channels_first:
                return vectors.transpose(1, 2).unflatten(2, self.grid)
            case Axes.channels_last:
                return vectors.unflatten(1, self.grid)
            case Axes.tokens:
                if not self.prefix:
                    return vectors
                times = vectors.shape[0] // clean.shape[0]  # not len: of an exported graph the batch has no number
                prefix = clean[:, : self.prefix].repeat_interleave(times, 0)
                return torch.cat([prefix.to(vectors), vectors], 1)
            case Axes.vector:
                return vectors[:, 0]

    def before(self, activation: Tensor) -> Float[Tensor, "b m c"]:
        """The tokens before the patch tokens, of a layer of tokens."""
        return activation[:, : self.prefix]

    def begun_by(self, clean: Tensor, before: Float[Tensor, "b m c"]) -> Tensor:
        """``clean`` with other tokens before its patch tokens."""
        return torch.cat([before.to(clean), clean[:, self.prefix :]], 1)


MOST_PREFIX = 8


def layout_of(shape: tuple[int, ...], layer: str, prefix: int | None = None) -> Layout:
    """The layout of a layer from the shape of one image's activation.

    [C, h, w] and [h, w, C] are told apart by the two equal sides; [T, C] is a square grid of tokens after ``prefix``
    other ones (class token, registers, distillation token), or where that is not known after at most eight.

    Raises:
        UserError: a shape that is none of these, or tokens that are no square grid after ``prefix`` others.
    """
    match shape:
        case (channels,):
            return Layout(Axes.vector, (1, 1), channels)
        case (tokens, channels):
            return _tokens(tokens, channels, layer, prefix)
        case (first, second, third) if first == second != third:
            return Layout(Axes.channels_last, (first, second), third)
        case (channels, rows, columns):
            return Layout(Axes.channels_first, (rows, columns), channels)
    raise UserError(
        f"layer {layer!r} has activations of shape {shape}, not a map or a grid of tokens: choose another layer"
    )


def _tokens(tokens: int, channels: int, layer: str, prefix: int | None) -> Layout:
    if tokens == 1:  # a class token that has left its patches behind
        return Layout(Axes.tokens, (1, 1), channels)
    before = tokens - math.isqrt(tokens) ** 2 if prefix is None else prefix
    side = math.isqrt(max(tokens - before, 0))
    if side and side * side + before == tokens and (prefix is not None or before <= MOST_PREFIX):
        return Layout(Axes.tokens, (side, side), channels, before)
    first = f" after {prefix} others" if prefix is not None else ""
    raise UserError(
        f"layer {layer!r} has {tokens} tokens, which are no square grid{first}: say how many stand before the patch "
        "tokens with extract.prefix_tokens=N, or choose another layer"
    )


def uniform_positions(sample_id: str, seed: int, positions: int, count: int) -> Int[np.ndarray, " n"]:
    """``count`` distinct positions of one image, ascending, drawn from (seed, sample id) alone.

    The draw therefore does not depend on batch size, order, workers or number of processes.

    Raises:
        UserError: more positions asked for than the layer has.
    """
    _check_count(positions, count)
    digest = hashlib.shake_256(f"{seed}:{sample_id}".encode()).digest(8 * count)
    chosen: set[int] = set()
    # Floyd's algorithm (Bentley & Floyd 1987): every set of `count` positions is equally likely.
    for last, number in zip(range(positions - count, positions), np.frombuffer(digest, "<u8").tolist(), strict=True):
        position = number % (last + 1)
        chosen.add(last if position in chosen else position)
    return np.array(sorted(chosen), dtype=np.int64)


def weighted_positions(
    sample_id: str, seed: int, weights: Float[np.ndarray, " p"], count: int
) -> Int[np.ndarray, " n"]:
    """``count`` distinct positions of one image, ascending, each drawn with probability ∝ max(weight, 0) of those left.

    The draw is a race (Efraimidis & Spirakis 2006): position p arrives at ``E_p / w_p``, ``E_p ~ Exp(1)`` drawn from
    (seed, sample id) alone, and the first ``count`` win. Noise and weight meet one by one, so that a weight's last bits
    can only decide a race that is tied to as many digits. Positions without weight come last, in uniform order.

    Raises:
        UserError: more positions asked for than the layer has.
        ValueError: a weight that is NaN or infinite.
    """
    weights = weights.astype(np.float64)
    if not np.isfinite(weights).all():
        raise ValueError(f"the weights of the positions of {sample_id!r} hold NaN or infinite values")
    _check_count(len(weights), count)
    arrival = np.log(generator_of(seed, sample_id).standard_exponential(len(weights)))
    weighted = weights > 0
    arrival[weighted] -= np.log(weights[weighted])
    return np.sort(np.lexsort((arrival, ~weighted))[:count]).astype(np.int64)


def _check_count(positions: int, count: int) -> None:
    if count > positions:
        raise UserError(f"extract.per_image={count} positions were asked for, but the layer has {positions}")
