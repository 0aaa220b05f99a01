"""Attention rollout (Abnar & Zuidema 2020) on any graph: how much of each token has reached a position by attention.

Beside its own value every token carries one number t, the same in all its channels. Attention carries it by its weights
(v ← A v), a sum of two carriers halves each, so that a residual block is ½A + ½I, a linear map takes the mean of its
inputs (the mean over heads), and whatever else works on single tokens hands it on. Windows, shifts and merged grids
need no rule of their own: the graph moves t as it moves the values. Convolutions mix what they read equally [ours].
The result is linear in t: the row of position p is its gradient there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vismech.network.capture import operation
from vismech.receptive_field.tokens.lrp import weights_of
from vismech.receptive_field.tokens.steps import SHAPES, Carried, Rule, Step, module_of, no_rule

NAME = "rollout"
_TOKENWISE = [
    "layer_norm", "rms_norm", "group_norm", "batch_norm", "gelu", "relu", "silu", "hardswish", "tanh", "elu", "neg",
    "leaky_relu", "relu6", "hardtanh", "sigmoid", "hardsigmoid", "clamp_min", "masked_fill",
]  # fmt: skip


class _Pair(NamedTuple):
    value: dict[str, Any]
    carried: dict[str, Any]


def _sides(step: Step) -> _Pair:
    """The arguments twice: as values, and as what they carry (zero where a constant stands among carriers)."""

    def value(one: Any) -> Any:
        if isinstance(one, Carried):
            return one.value
        return [value(part) for part in one] if isinstance(one, (list, tuple)) else one

    def carried(one: Any) -> Any:
        if isinstance(one, Carried):
            return one.carried
        if isinstance(one, (list, tuple)) and any(isinstance(part, Carried) for part in one):
            return [carried(part) if isinstance(part, Carried) else torch.zeros_like(part) for part in one]
        return one

    return _Pair(*({name: side(one) for name, one in step.given.items()} for side in (value, carried)))


def _moved(step: Step) -> Any:
    sides = _sides(step)
    values = step.call(**sides.value)
    if _is_without(step):
        return _weights(values)
    carried = step.call(**sides.carried)
    if isinstance(values, Tensor):
        return Carried(values, carried)
    return [Carried(one, other) for one, other in zip(values, carried, strict=True)]


def _is_without(step: Step) -> bool:
    found: list[Carried] = []

    def look(one: Any) -> None:
        if isinstance(one, Carried):
            found.append(one)
        elif isinstance(one, (list, tuple)):
            for part in one:
                look(part)

    for one in step.given.values():
        look(one)
    return all(one.carried is None for one in found)


def _weights(values: Any) -> Any:
    return Carried(values, None) if isinstance(values, Tensor) else [Carried(one, None) for one in values]


def _getitem(step: Step) -> Any:
    values, index = step.given["args"]
    return values[index]


def _handed_on(step: Step) -> Carried:
    """What works on each token by itself, or a product or sum with a constant."""
    value = step.call(**_sides(step).value)
    carriers = [one for one in step.given.values() if isinstance(one, Carried)]
    if all(one.carried is None for one in carriers):
        return Carried(value, None)
    parts = [one.carried.expand_as(value) for one in carriers if one.carried is not None]
    return Carried(value, sum(parts[1:], parts[0]) / len(parts))


def _first_of_several(step: Step) -> list[Carried]:
    """A norm that hands on statistics too, which nothing reads."""
    value, read = step.call(**_sides(step).value)[0], step.given["input"]
    return [Carried(value, None if read.carried is None else read.carried.expand_as(value))]


def _linear(step: Step) -> Carried:
    value, (read,) = step.call(**_sides(step).value), [one for one in step.given.values() if isinstance(one, Carried)]
    if read.carried is None:
        return Carried(value, None)
    return Carried(value, read.carried.mean(-1, keepdim=True).expand_as(value))


def _convolution(step: Step) -> Carried:
    value, read = step.call(**_sides(step).value), step.given["input"]
    if read.carried is None:
        return Carried(value, None)
    one = read.carried.mean(1, keepdim=True)
    kernel = torch.ones(1, 1, *step.given["weight"].shape[2:]).to(one)
    settings = {name: step.given[name] for name in ("stride", "padding", "dilation")}
    count = F.conv2d(torch.ones_like(one), kernel, **settings)
    return Carried(value, (F.conv2d(one, kernel, **settings) / count.clamp(min=1)).expand_as(value))


def _softmax(step: Step) -> Carried:
    return Carried(step.call(**_sides(step).value), None)


def _product(step: Step) -> Carried:
    """Weights times carriers carry; carriers times carriers are scores."""
    first, second = step.given["self"], step.given["other"]
    value = step.call(**_sides(step).value)
    match first, second:
        case Carried(weights, None), Carried(_, Tensor() as carried):
            _check(step, weights.sum(-1))
            return Carried(value, weights @ carried)
        case Carried(_, Tensor() as carried), Carried(weights, None):
            _check(step, weights.sum(-2))
            return Carried(value, carried @ weights)
        case _:
            return Carried(value, None)


def _check(step: Step, sums: Tensor) -> None:
    if not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
        why = "its weights do not sum to one, as where heads are mixed after the softmax"
        raise no_rule(NAME, operation(step.node), module_of(step.node), why)


def _sized(step: Step) -> Carried:
    """A length, or something made as large as something else: it carries nothing, or what it did before."""
    given, (read,) = _sides(step).value, [one for name, one in step.given.items() if name == "self"]
    value = step.call(**given)
    if step.given.get("other") is None or not isinstance(read, Carried) or read.carried is None:
        return Carried(value, None)
    return Carried(value, read.carried.expand_as(value))


def _attention(step: Step) -> Carried:
    v, given = step.given["value"], _sides(step).value
    weights = weights_of(given["query"], given["key"], given)
    value = weights @ given["value"]
    if not isinstance(v, Carried) or v.carried is None:
        return Carried(value, None)
    return Carried(value, weights @ v.carried)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        [*SHAPES, "cat", "concat", "stack", "pad", "constant_pad_nd", "mean", "adaptive_avg_pool2d"], _moved
    ),
    **dict.fromkeys(["avg_pool2d"], _moved),
    **dict.fromkeys([*_TOKENWISE, "add", "sub", "mul", "div"], _handed_on),
    "getitem": _getitem,
    "linalg_vector_norm": _sized,
    "expand_as": _sized,
    "_native_batch_norm_legit_no_training": _first_of_several,
    "linear": _linear,
    "conv2d": _convolution,
    "softmax": _softmax,
    "_softmax": _softmax,
    "matmul": _product,
    "scaled_dot_product_attention": _attention,
}
