"""Rules for the operations between pools: which role a value has, given the roles of what it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, fx

from vismech.network.capture import operation
from vismech.receptive_field.calls import ACTIVATIONS, SAME, Arguments, arguments, pair, rule, shape, size
from vismech.receptive_field.convolution import Convolution
from vismech.receptive_field.plan import (
    Averaged,
    Concatenated,
    Mapped,
    MaxPooled,
    NoRule,
    Open,
    Padded,
    Role,
    Strided,
    Summand,
)
from vismech.receptive_field.rules import Branch, Whole
from vismech.receptive_field.windows import Pair, Window

if TYPE_CHECKING:
    from vismech.receptive_field.walk import Walk


@rule(*SAME)
def _unchanged(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    (read,) = node.all_input_nodes
    match walk.roles[read]:
        case Averaged() | MaxPooled() as role:  # what follows may still be fused with the pool
            return role
        case _:
            return Mapped(walk.close(read))


@rule(*ACTIVATIONS)
def _pointwise(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Transparent: the ratio is always taken against what stands before the activation."""
    maps = set()
    for read in node.all_input_nodes:
        if read in walk.roles:
            maps.add(walk.close(read))
        elif operation(node) != "prelu" and any(side != 1 for side in walk.constant(read).shape[-2:]):
            raise NoRule("it combines a map with a constant that differs between positions")
    if len(maps) > 1:
        raise NoRule("it combines different maps")
    return Mapped(maps.pop())


@rule("select", "unsqueeze")
def _channel_of_pixels(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Only where a network normalises its pixels channel by channel; elsewhere a vector would lose channels."""
    role = walk.roles[given["self"]]
    if role != Mapped(0) or given["dim"] != 1:
        raise NoRule("it takes a map apart")
    return role


@rule("conv2d", "convolution")
def _convolution(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """A convolution, open to a batch norm or a sum; reading a max pool, it is fused with it."""
    if given.get("transposed"):
        raise NoRule("transposed")
    weight = walk.constant(given["weight"])
    bias = None if given["bias"] is None else walk.constant(given["bias"])
    kernel, dilation = pair(weight.shape[2:]), pair(given["dilation"])
    match given["padding"]:
        case "valid":
            before = (0, 0)
        case "same":
            before = (dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2)
        case padding:
            before = pair(padding)
    read, pool = given["input"], None
    match walk.roles[read]:
        case MaxPooled(term, node_of_pool) if term.window.expansion is None:
            walk.fused[read] = walk.fused[node_of_pool] = (
                "a max pool is fused with the convolution that reads it: name the layer before or after it"
            )
            source, value, pool = term.source, term.value, term
        case _:
            source, value, before = unpadded(walk, read, before)
    taps = Window(size(value if pool is None else read), size(node), kernel, pair(given["stride"]), before, dilation)
    window = taps if pool is None else taps.after(pool.window)

    def branch(summand: Summand) -> Branch:
        if window.taps == 1:
            return Branch([Whole(source, window, summand.value)])
        norm = summand.norm

        def folded_weight() -> Tensor:
            return weight if norm is None else weight * _affine(walk, norm)[0][:, None, None, None]

        def folded_bias() -> Tensor:
            scale, offset = (1.0, 0.0) if norm is None else _affine(walk, norm)
            return offset if bias is None else offset + scale * bias  # type: ignore[return-value]

        term = Convolution(source, window, value, taps, folded_weight, given["groups"], pool)
        return Branch([term], None if norm is None and bias is None else folded_bias)

    return Open((Summand(node, branch),))


def unpadded(walk: Walk, read: fx.Node, before: Pair) -> tuple[int, fx.Node, Pair]:
    """The map, the node and the padding of an operation that may read an explicit pad of zeros."""
    match walk.roles[read]:
        case Padded(number, value, more, 0):
            return number, value, (before[0] + more[0], before[1] + more[1])
        case _:
            return walk.close(read), read, before


@rule("batch_norm", "_native_batch_norm_legit_no_training")
def _batch_norm(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Folded into the convolution before it; on a concatenation, z of the scaled parts; transparent elsewhere."""
    if given.get("training"):
        raise NoRule("it uses the statistics of the batch")
    read = given["input"]
    match walk.roles[read]:
        case Open((Summand(norm=None) as summand,)) if len(read.users) == 1:
            walk.fused[read] = "it is folded into the batch norm that reads it: name that layer"
            return Open((replace(summand, value=node, norm=node),))
        case Concatenated() as parts:
            walk.passed_by.setdefault(read, []).append(node)
            summand = Summand(node, lambda _: parts.branch(lambda: _affine(walk, node)), norm=node)
            return Open((summand,))
        case _:
            return Mapped(walk.close(read))


def _affine(walk: Walk, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """Scale γ/√(var + ε) and offset β − γ·mean/√(var + ε) of a batch norm."""
    given = arguments(norm)
    scale = (walk.constant(given["running_var"]) + given["eps"]).rsqrt()
    if given["weight"] is not None:
        scale = scale * walk.constant(given["weight"])
    offset = -scale * walk.constant(given["running_mean"])
    return scale, offset if given["bias"] is None else offset + walk.constant(given["bias"])


@rule("getitem")
def _values(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """The first of several values: a max pool may give positions too, a batch norm statistics."""
    if node.args[1] != 0:
        raise NoRule("it takes a value apart")
    match walk.roles[node.all_input_nodes[0]]:
        case Open((summand,)):
            return Open((replace(summand, value=node),))
        case MaxPooled(term):
            return MaxPooled(term, node)
        case Mapped() as role:
            return role
        case _:
            raise NoRule("it takes a value apart")


@rule("add")
def _sum(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """A residual sum: all branches are measured against the same z."""
    operands = [given["self"], given["other"]]
    if any(operand not in walk.roles for operand in operands):
        return _pointwise(walk, node, given)
    if given["alpha"] != 1:
        raise NoRule(f"with alpha={given['alpha']}")
    if shape(operands[0]) != shape(operands[1]):
        raise NoRule("its operands differ in shape")
    return Open(tuple(summand for operand in operands for summand in _summands(walk, operand)))


def _summands(walk: Walk, read: fx.Node) -> tuple[Summand, ...]:
    match walk.roles[read]:
        case Open(summands) if len(read.users) == 1:
            walk.fused[read] = (
                "it is one branch of a sum and is measured against the sum: name the layer that puts out the sum"
            )
            return summands
        case Strided(source, window):
            pass
        case _:
            source, window = walk.close(read), Window(size(read), size(read))
    return (Summand(read, lambda _: Branch([Whole(source, window, read)])),)


@rule("cat", "concat")
def _concatenation(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Blocks of channels as terms of one z."""
    parts = given["tensors"]
    if given["dim"] not in (1, -3) or len(shape(node)) != 3 or any(part not in walk.roles for part in parts):
        raise NoRule("only maps can be put side by side, along their channels")
    if len(parts) == 1:
        return Mapped(walk.close(parts[0]))
    return Concatenated(tuple((walk.close(part), part, shape(part)[0]) for part in parts), size(node))


@rule("pad", "constant_pad_nd")
def _pad(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Rows and columns for the convolution or pool that follows, or channels of zeros for a shortcut."""
    left, _, top, _, *channels = [*given["pad"], 0, 0, 0, 0][: max(4, len(given["pad"]))]
    fill, read = float(given["value"] or 0), given["self"]
    if given.get("mode", "constant") != "constant":
        raise NoRule(f"mode {given['mode']!r}")
    if size(read) == size(node) and not (left or top) and fill == 0 and not any(channels[2:]):
        role = walk.roles[read]
        return role if isinstance(role, Strided) else Strided(walk.close(read), Window(size(read), size(read)))
    if any(channels):
        raise NoRule("it pads channels and positions at once")
    return Padded(walk.close(read), read, (top, left), fill)


@rule("slice")
def _slice(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Every s-th row or column."""
    read, role = given["self"], walk.roles[given["self"]]
    strided = role if isinstance(role, Strided) else Strided(walk.close(read), Window(size(read), size(read)))
    if shape(node) == shape(read) and given["step"] == 1:
        return role if isinstance(role, Strided) else Mapped(strided.map)
    axis = given["dim"] % 4 - 2
    if axis < 0 or len(shape(read)) != 3:
        raise NoRule("it takes a map apart")
    start = range(shape(read)[axis + 1])[given["start"] or 0 :].start
    stride, padding = list(strided.window.stride), list(strided.window.padding)
    padding[axis] -= start * stride[axis]
    stride[axis] *= given["step"]
    return Strided(strided.map, Window(strided.window.size_in, size(node), stride=pair(stride), padding=pair(padding)))
