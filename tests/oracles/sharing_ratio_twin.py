"""The slow twin of sharing ratios: position by position and tap by tap, straight from the definition (SRD §3).

    μ_{i→j} = <v_{i→j}, z_j> / ||z_j||²,   ERF_j = Σ_i μ_{i→j} ERF_i

It shares no code with vismech: a network is retold as calls of the functions below, and every map carries the receptive
field of each of its positions, a dense matrix [P, pixels]. One image, float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn


class NothingRead(Exception):
    """A window lies wholly in the padding: what it gives is no input's."""


@dataclass
class Map:
    """One image's vectors [C, h, w] and the receptive field of each position over the pixels, [h·w, pixels]."""

    value: Tensor
    fields: Tensor

    @property
    def map(self) -> Map:
        """Itself; what is read as vectors has this name in every kind of value."""
        return self


@dataclass
class Sum:
    """A z that is not closed: another sum may still take its branches, or a batch norm fold into its convolution."""

    branches: list[Branch]
    shape: tuple[int, int]
    folded: Callable[[nn.BatchNorm2d], Sum] | None = None

    @cached_property
    def map(self) -> Map:
        """Closed."""
        return total(*self.branches, shape=self.shape)


@dataclass
class Pooled:
    """A max pool, fused with each convolution that reads it; anything else reads its map."""

    source: Map
    pool: nn.Module

    @cached_property
    def map(self) -> Map:
        """Standing alone."""
        return maximum(self.source, self.pool)


@dataclass
class Beside:
    """Maps side by side in channels; a batch norm that reads them takes the parts."""

    parts: list[Map]

    @cached_property
    def map(self) -> Map:
        """Without a batch norm."""
        return concatenation(self.parts)


Value = Map | Sum | Pooled | Beside


@dataclass
class Branch:
    """What one summand gives to every output position: (source, input position, v) per tap, and their shared bias."""

    taps: list[list[tuple[Map, int, Tensor]]]
    bias: Tensor | None = None


def pixels(image: Tensor) -> Map:
    """The image itself: each pixel is its own receptive field."""
    count = image.shape[1] * image.shape[2]
    return Map(image, torch.eye(count, dtype=image.dtype))


def total(*branches: Branch, shape: tuple[int, int]) -> Map:
    """z = Σ of all branches at every output position, and its receptive fields from the sharing ratios."""
    vectors, fields = [], []
    for j in range(shape[0] * shape[1]):
        z = sum(v for branch in branches for _, _, v in branch.taps[j]) + sum(
            b.bias for b in branches if b.bias is not None
        )
        shares = []
        for branch in branches:
            taps = branch.taps[j]
            if not taps:
                raise NothingRead
            norms = [v.norm() for _, _, v in taps]
            for (source, i, v), norm in zip(taps, norms, strict=True):
                if branch.bias is not None:
                    v = v + branch.bias * (norm / sum(norms) if sum(norms) > 0 else 1 / len(taps))
                shares.append((source, i, v))
        square = z @ z
        field = sum((v @ z / square if square > 0 else 1 / len(shares)) * source.fields[i] for source, i, v in shares)
        vectors.append(z)
        fields.append(field)
    return Map(torch.stack(vectors, 1).unflatten(1, shape), torch.stack(fields))


def apply(function: Callable[[Tensor], Tensor], x: Map) -> Map:
    """A pointwise activation, or a batch norm that stands alone: transparent."""
    return Map(function(x.value[None])[0], x.fields)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def _windows(size: tuple[int, int], kernel, stride, padding, dilation, shape: tuple[int, int]):
    """For every output position, the (tap, input row, input column) inside the image."""
    kernel, stride, padding, dilation = _pair(kernel), _pair(stride), _pair(padding), _pair(dilation)
    for row in range(shape[0]):
        for column in range(shape[1]):
            inside = []
            for r in range(kernel[0]):
                for q in range(kernel[1]):
                    i = row * stride[0] + r * dilation[0] - padding[0]
                    k = column * stride[1] + q * dilation[1] - padding[1]
                    if 0 <= i < size[0] and 0 <= k < size[1]:
                        inside.append(((r, q), i, k))
            yield inside


def _bins(size: tuple[int, int], shape: tuple[int, int]):
    """For every bin of an adaptive pool, the (tap, input row, input column) that it reads."""
    for row in range(shape[0]):
        for column in range(shape[1]):
            rows = range(row * size[0] // shape[0], -(-(row + 1) * size[0] // shape[0]))
            columns = range(column * size[1] // shape[1], -(-(column + 1) * size[1] // shape[1]))
            yield [((i - rows[0], k - columns[0]), i, k) for i in rows for k in columns]


def is_even(x: Map, pool: nn.Module) -> bool:
    """Whether the windows of a pool are those of a kernel with a stride; only such a pool is fused."""
    if not isinstance(pool, nn.AdaptiveMaxPool2d):
        return True
    size, shape = tuple(x.value.shape[1:]), tuple(pool(x.value[None]).shape[2:])
    for n, m in zip(size, shape, strict=True):
        starts, lengths = [j * n // m for j in range(m)], {-(-(j + 1) * n // m) - j * n // m for j in range(m)}
        if len(lengths) > 1 or len({after - before for before, after in zip(starts, starts[1:], strict=False)}) > 1:
            return False
    return True


def _pool_windows(x: Map, pool: nn.Module) -> tuple[list, tuple[int, int]]:
    """What every window of a pool reads inside the image, and how many there are; adaptive or not."""
    size, shape = tuple(x.value.shape[1:]), tuple(pool(x.value[None]).shape[2:])
    if isinstance(pool, nn.AdaptiveMaxPool2d | nn.AdaptiveAvgPool2d):
        return list(_bins(size, shape)), shape
    dilation = getattr(pool, "dilation", 1)
    return list(_windows(size, pool.kernel_size, pool.stride, pool.padding, dilation, shape)), shape


def _folded(conv: nn.Conv2d, bn: nn.BatchNorm2d | None) -> tuple[Tensor, Tensor | None]:
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if bn is None:
        return weight, bias
    scale = bn.weight.detach() / (bn.running_var + bn.eps).sqrt()
    bias = torch.zeros(len(weight), dtype=weight.dtype) if bias is None else bias
    return weight * scale[:, None, None, None], bn.bias.detach() + scale * (bias - bn.running_mean)


def _linear(weight: Tensor, groups: int, tap: tuple[int, int], x: Tensor) -> Tensor:
    """W_t x for a (grouped) convolution, group by group."""
    outputs, inputs = len(weight) // groups, weight.shape[1]
    parts = [
        weight[g * outputs : (g + 1) * outputs, :, tap[0], tap[1]] @ x[g * inputs : (g + 1) * inputs]
        for g in range(groups)
    ]
    return torch.cat(parts)


def convolution(
    x: Map, conv: nn.Conv2d, bn: nn.BatchNorm2d | None = None, padding=None
) -> tuple[Branch, tuple[int, int]]:
    """A convolution and its batch norm; ``padding`` (before rows and columns, and after) replaces the module's own."""
    weight, bias = _folded(conv, bn)
    size = tuple(x.value.shape[1:])
    kernel, stride, dilation = _pair(conv.kernel_size), _pair(conv.stride), _pair(conv.dilation)
    before = _pair(conv.padding) if padding is None else padding[0]
    after = _pair(conv.padding) if padding is None else padding[1]
    shape = tuple(
        (size[a] + before[a] + after[a] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1 for a in range(2)
    )
    taps = [
        [(x, i * size[1] + k, _linear(weight, conv.groups, tap, x.value[:, i, k])) for tap, i, k in inside]
        for inside in _windows(size, kernel, stride, before, dilation, shape)
    ]
    return Branch(taps, bias), shape


def pooled_convolution(x: Map, pool: nn.Module, conv: nn.Conv2d, bn: nn.BatchNorm2d | None = None):
    """A max pool fused with the convolution that reads it: taps are pool tap × convolution tap."""
    weight, bias = _folded(conv, bn)
    size = tuple(x.value.shape[1:])
    first, shape_pool = _pool_windows(x, pool)
    shape = tuple(conv(torch.zeros(1, conv.in_channels, *shape_pool, dtype=weight.dtype)).shape[2:])
    taps = []
    for inside in _windows(shape_pool, conv.kernel_size, conv.stride, conv.padding, conv.dilation, shape):
        here = []
        for tap, i, k in inside:
            for part, position in _maxima(x, size, first[i * shape_pool[1] + k]):
                here.append((x, position, _linear(weight, conv.groups, tap, part)))
        taps.append(here)
    return Branch(taps, bias), shape


def _maxima(x: Map, size: tuple[int, int], inside) -> list[tuple[Tensor, int]]:
    """x·[argmax = s] for every position s of one pool window; the first of several equal values is the maximum."""
    if not inside:
        raise NothingRead
    values = torch.stack([x.value[:, i, k] for _, i, k in inside])
    winner = torch.stack([(values[:, c] == values[:, c].max()).nonzero()[0, 0] for c in range(values.shape[1])])
    return [(values[s] * (winner == s), i * size[1] + k) for s, (_, i, k) in enumerate(inside)]


def maximum(x: Map, pool: nn.Module) -> Map:
    """A max pool that something else than a convolution reads."""
    windows, shape = _pool_windows(x, pool)
    size = tuple(x.value.shape[1:])
    taps = [[(x, position, part) for part, position in _maxima(x, size, inside)] for inside in windows]
    return total(Branch(taps), shape=shape)


def average(x: Map, pool: nn.AvgPool2d | nn.AdaptiveAvgPool2d) -> Map:
    """An average pool, adaptive or not: taps x/n, where n may count the padding."""
    windows, shape = _pool_windows(x, pool)
    columns = x.value.shape[2]
    of_ones = pool(torch.ones_like(x.value[:1])[None]).flatten()  # taps inside / n
    taps = [
        [(x, i * columns + k, x.value[:, i, k] * of_ones[j] / len(inside)) for _, i, k in inside]
        for j, inside in enumerate(windows)
    ]
    return total(Branch(taps), shape=shape)


def identity(x: Map, stride: int = 1, added: int = 0) -> tuple[Branch, tuple[int, int]]:
    """An identity branch, or an option-A shortcut: every ``stride``-th position between ``added`` zero channels."""
    size = tuple(x.value.shape[1:])
    shape = (-(-size[0] // stride), -(-size[1] // stride))
    zeros = torch.zeros(added, dtype=x.value.dtype)
    taps = []
    for row in range(shape[0]):
        for column in range(shape[1]):
            i, k = row * stride, column * stride
            taps.append([(x, i * size[1] + k, torch.cat([zeros, x.value[:, i, k], zeros]))])
    return Branch(taps), shape


def blocks(parts: list[Map], bn: nn.BatchNorm2d | None = None) -> tuple[Branch, tuple[int, int]]:
    """Blocks of channels as terms of one z; under a batch norm, scaled blocks that share the offset by their norms."""
    shape = tuple(parts[0].value.shape[1:])
    channels = sum(len(part.value) for part in parts)
    scale, offset = torch.ones(channels, dtype=parts[0].value.dtype), None
    if bn is not None:
        scale = bn.weight.detach() / (bn.running_var + bn.eps).sqrt()
        offset = bn.bias.detach() - scale * bn.running_mean
    taps = []
    for j in range(shape[0] * shape[1]):
        here, start = [], 0
        for part in parts:
            v = torch.zeros(channels, dtype=scale.dtype)
            v[start : start + len(part.value)] = part.value.flatten(1)[:, j]
            here.append((part, j, v * scale))
            start += len(part.value)
        taps.append(here)
    return Branch(taps, offset), shape


def concatenation(parts: list[Map], bn: nn.BatchNorm2d | None = None) -> Map:
    """Blocks of channels as a map of their own; see :func:`blocks`."""
    branch, shape = blocks(parts, bn)
    return total(branch, shape=shape)


def saliency(x: Map, linear: nn.Linear, target: int) -> Tensor:
    """Global average pool and linear layer: position p gives class c <w_c, x_p>/P + b_c/P, carried to the pixels."""
    vectors = x.value.flatten(1)
    count = vectors.shape[1]
    relevance = (linear.weight.detach()[target] @ vectors + linear.bias.detach()[target]) / count
    return relevance @ x.fields


def flat_saliency(x: Map, linear: nn.Linear, target: int) -> Tensor:
    """A linear layer on the map laid out in one vector: position p gives class c <w_cp, x_p> + b_c/P."""
    relevance = (linear.weight.detach()[target].view_as(x.value) * x.value).sum(0).flatten()
    return (relevance + linear.bias.detach()[target] / len(relevance)) @ x.fields
