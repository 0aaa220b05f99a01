"""AttnLRP in its gradient form (Achtibat et al. 2024): the network's own values, with other gradients.

Relevance is then gradient × input. The rules, one per operation:

    linear operations   their own gradient (the ε-rule with ε → 0; biases keep their share)
    x/std of a norm     std is a constant (their rule for normalisations)
    activations f       f(x) = x · (f(x)/x), the quotient a constant (their identity rule)
    products A·B        the gradient of each factor is halved (their uniform rule): in attention v gets ½, q and k ¼
    softmax             its own gradient (their Taylor rule)

Conservation holds for all but biases and the softmax, whose rule has a constant term.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.receptive_field.tokens.steps import SHAPES, Rule, Step

NAME = "attnlrp"
_OWN = SHAPES | {
    "conv1d", "conv2d", "convolution", "linear", "addmm", "add", "sub", "neg", "cat", "concat", "stack", "pad",
    "constant_pad_nd", "mean", "sum", "avg_pool2d", "adaptive_avg_pool2d", "max_pool2d", "max_pool2d_with_indices",
    "batch_norm", "_native_batch_norm_legit_no_training", "softmax", "_softmax", "masked_fill", "relu", "leaky_relu",
    "upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "rsub",
}  # fmt: skip
_ACTIVATIONS = ["gelu", "silu", "hardswish", "tanh", "elu", "selu", "mish", "celu", "softsign", "relu6", "hardtanh"]
_NEAR_ZERO = 1e-6


def halved(x: Tensor) -> Tensor:
    """``x`` itself, with half of its gradient."""
    return x / 2 + (x / 2).detach()


def _own(step: Step) -> Any:
    return step.call()


def _activation(step: Step) -> Tensor:
    """f(x) = x · (f(x)/x) of functions that are zero at zero; there the quotient is the slope."""
    x = step.given["self"]
    with torch.no_grad():
        safe = torch.where(x.abs() < _NEAR_ZERO, torch.full_like(x, _NEAR_ZERO), x)
        quotient = step.call(self=safe) / safe
    return x * quotient


def _product(first: str, second: str) -> Rule:
    def rule(step: Step) -> Tensor:
        if not (step.follows[first] and step.follows[second]):
            return step.call()
        return step.call(**{first: halved(step.given[first]), second: halved(step.given[second])})

    return rule


def _quotient(step: Step) -> Tensor:
    """x/y: a length or a sum that values are divided by is a constant, as the std of a norm is."""
    y = step.given["other"]
    return step.call(other=y.detach() if isinstance(y, Tensor) else y)


def _constant(step: Step) -> Any:
    with torch.no_grad():
        return step.call()


def _layer_norm(step: Step) -> Tensor:
    given, shape = step.given, step.given["normalized_shape"]
    return _normalised(given["input"], tuple(range(-len(shape), 0)), given["eps"], given["weight"], given["bias"])


def _rms_norm(step: Step) -> Tensor:
    x, eps = step.given["input"], step.given["eps"]
    dims = tuple(range(-len(step.given["normalized_shape"]), 0))
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    scale = (x.square().mean(dims, keepdim=True) + eps).rsqrt().detach()
    weight = step.given["weight"]
    return x * scale if weight is None else x * scale * weight


def _group_norm(step: Step) -> Tensor:
    x, groups = step.given["input"], step.given["num_groups"]
    parts = x.unflatten(1, (groups, -1))
    whole = _normalised(parts, tuple(range(2, parts.ndim)), step.given["eps"], None, None).flatten(1, 2)
    side = (-1, *(1,) * (x.ndim - 2))
    weight, bias = (None if one is None else one.view(side) for one in (step.given["weight"], step.given["bias"]))
    whole = whole if weight is None else whole * weight
    return whole if bias is None else whole + bias


def _normalised(x: Tensor, dims: tuple[int, ...], eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    scale = (x.var(dims, correction=0, keepdim=True) + eps).rsqrt().detach()
    found = (x - x.mean(dims, keepdim=True)) * scale
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _attention(step: Step) -> Tensor:
    """softmax(q kᵀ s) v: two products and a softmax between them."""
    given = step.given
    q, k, v = (halved(given[name]) if step.follows[name] else given[name] for name in ("query", "key", "value"))
    return halved(weights_of(q, k, given)) @ v


def weights_of(q: Tensor, k: Tensor, given: dict[str, Any]) -> Float[Tensor, "*heads queries keys"]:
    """The weights of scaled dot-product attention.

    Raises:
        AssertionError: grouped queries, which no captured network has had.
    """
    assert not given.get("enable_gqa")
    scale, mask = given.get("scale"), given.get("attn_mask")
    scores = q @ k.transpose(-2, -1) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if given.get("is_causal"):
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    return scores.softmax(-1)


RULES: dict[str, Rule] = {
    **dict.fromkeys(_OWN, _own),
    **dict.fromkeys(_ACTIVATIONS, _activation),
    "mul": _product("self", "other"),
    "matmul": _product("self", "other"),
    "bmm": _product("self", "mat2"),
    "div": _quotient,
    "linalg_vector_norm": _constant,
    "clamp_min": _constant,
    "layer_norm": _layer_norm,
    "rms_norm": _rms_norm,
    "group_norm": _group_norm,
    "scaled_dot_product_attention": _attention,
}
