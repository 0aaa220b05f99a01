"""Rules for pools and for the head: which role a value has, given the roles of what it reads."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, fx

from vismech.receptive_field.calls import ACTIVATIONS, FLAT_RULES, SAME, Arguments, pair, rule, shape, size
from vismech.receptive_field.operations import unpadded
from vismech.receptive_field.plan import Averaged, Beyond, Flat, Head, Mapped, MaxPooled, NoRule, Padded, Role
from vismech.receptive_field.rules import Maximum
from vismech.receptive_field.windows import Window, adaptive

if TYPE_CHECKING:
    from vismech.receptive_field.walk import Walk

_RESHAPES = ["flatten", "view", "reshape", "_unsafe_view", "squeeze"]
_HIDDEN = Beyond(
    "the head has hidden layers after the pool, where every class has the same map up to scale: "
    "give `seeds`, maps of your own",
    refused=False,
)


@rule("max_pool2d", "max_pool2d_with_indices")
def _max_pool(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """Fused with each convolution that reads it; each channel's value belongs to the position of its maximum."""
    read = given["self"]
    match walk.roles[read]:
        case Padded(source, value, shift, fill):
            if fill not in (0, -math.inf):  # a maximum that belongs to the pad must count for nothing
                raise NoRule(f"it reads a map padded with {fill:g}")
        case _:
            source, value, shift = walk.close(read), read, (0, 0)
    kernel, padding, dilation = pair(given["kernel_size"]), pair(given["padding"]), pair(given["dilation"])
    stride, ceil = pair(given["stride"] or kernel), given["ceil_mode"]
    before = (padding[0] + shift[0], padding[1] + shift[1])

    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d_with_indices(x, kernel, stride, padding, dilation, ceil)

    window = Window(size(value), size(node), kernel, stride, before, dilation)
    return MaxPooled(Maximum(source, window, read, pool, shift), node)


@rule("adaptive_max_pool2d")
def _adaptive_max_pool(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    def pool(x: Tensor) -> tuple[Tensor, Tensor]:
        return F.adaptive_max_pool2d_with_indices(x, size(node))

    read = given["self"]
    return MaxPooled(Maximum(walk.close(read), adaptive(size(read), size(node)), read, pool), node)


@rule("avg_pool2d")
def _average_pool(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    source, value, before = unpadded(walk, given["self"], pair(given["padding"]))
    kernel = pair(given["kernel_size"])
    window = Window(size(value), size(node), kernel, pair(given["stride"] or kernel), before)
    return Averaged(source, value, window, node)


@rule("adaptive_avg_pool2d")
def _adaptive_average_pool(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    read = given["self"]
    if size(read) == size(node):
        return Mapped(walk.close(read))
    return Averaged(walk.close(read), read, adaptive(size(read), size(node)), node)


@rule("mean")
def _mean(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """The mean over all positions."""
    read = given["self"]
    if given.get("dim") is None or {axis % 4 for axis in given["dim"]} != {2, 3} or len(shape(read)) != 3:
        raise NoRule("only the mean over rows and columns has one")
    if not given["keepdim"]:
        return Flat(walk.close(read), read, averaged=True)
    return Averaged(walk.close(read), read, adaptive(size(read), (1, 1)), node)


@rule(*_RESHAPES)
def _flatten(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    """A map laid out in one vector, or the average over all of it."""
    read = given["self"]
    match walk.roles[read]:
        case Averaged(number, value, window, _) as role if window.kernel == window.size_in and window.padding == (0, 0):
            return Flat(number, value, averaged=True) if len(shape(node)) == 1 else role
    if len(shape(node)) != 1:
        raise NoRule("it takes a map apart")
    return Flat(walk.close(read), read, averaged=False)


@rule(*SAME, *_RESHAPES, rules=FLAT_RULES)
def _same(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    if len(shape(node)) != 1:
        raise NoRule("it makes a map of a vector")
    return next(walk.roles[read] for read in node.all_input_nodes if read in walk.roles)


@rule("linear", rules=FLAT_RULES)
def _linear(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    match walk.roles[given["input"]]:
        case Flat() as flat:
            bias = None if given["bias"] is None else walk.constant(given["bias"])
            return Head(flat, walk.constant(given["weight"]), bias)
        case _:
            return _HIDDEN


@rule(*ACTIVATIONS, "batch_norm", "_native_batch_norm_legit_no_training", rules=FLAT_RULES)
def _hidden(walk: Walk, node: fx.Node, given: Arguments) -> Role:
    if not all(isinstance(walk.roles[read], (Flat, Head)) for read in node.all_input_nodes if read in walk.roles):
        raise NoRule("it combines a map with a vector")
    return _HIDDEN
