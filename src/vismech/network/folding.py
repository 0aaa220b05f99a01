"""Batch norms folded into the convolution or linear layer before them, where many points of a path pass a segment.

In eval mode a batch norm is ``γ (y − μ) / √(σ² + ε) + β``: with ``s = γ / √(σ² + ε)`` it is one convolution of weights
``s W`` and bias ``s (b − μ) + β``. That is the same function; its values differ in the last digits. What a path point
costs is then the convolution, forward and backward: neither the norm's passes over its maps nor the maps that it keeps.

Folded weights belong to the network, so that cuts share them, and are computed anew when what they come from changes.

Legend: O channels out, I channels in.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from vismech.network.capture import operation

aten = torch.ops.aten

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d", "convolution")


class Pair(NamedTuple):
    """A convolution or linear layer, and the batch norm that alone reads it.

    Attributes:
        first: the convolution or linear layer.
        norm: the batch norm's call.
        result: its value; another node where the norm returns several.
    """

    first: fx.Node
    norm: fx.Node
    result: fx.Node


def foldable(graph: fx.Graph, inside: Collection[fx.Node], kept: Collection[fx.Node]) -> list[Pair]:
    """What can be folded in the part ``inside`` of a graph, of which the values ``kept`` are given or wanted."""
    found = []
    for norm in graph.nodes:
        result = _result_of_norm(norm) if norm in inside else None
        if result is None:
            continue
        first = norm.args[0]
        if first in inside and first not in kept and _reads(first, inside) == [norm] and _multiplies(first, norm):
            found.append(Pair(first, norm, result))
    return found


def _result_of_norm(node: fx.Node) -> fx.Node | None:
    """The value of a batch norm in eval mode whose moments are tensors of the model; None for every other node."""
    if node.target is aten.batch_norm.default:
        evaluates, result = node.args[5] is False, node
    elif node.target is aten._native_batch_norm_legit_no_training.default:
        values = [user for user in node.users if user.args[1] == 0]
        evaluates, result = len(values) == len(node.users) == 1, values[0] if values else None
    else:
        return None
    moments = node.args[1:5]
    told = all(moment is None or _is_stored(moment) for moment in moments) and None not in moments[2:]
    return result if evaluates and told else None


def _is_stored(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _reads(node: fx.Node, inside: Collection[fx.Node]) -> list[fx.Node]:
    return [user for user in node.users if user in inside]


def _multiplies(first: fx.Node, norm: fx.Node) -> bool:
    """Whether ``first`` is a product with stored weights whose output channels are the axis that the norm scales."""
    name = operation(first)
    if name == "convolution" and first.args[6]:  # transposed: its channels out are the weight's second axis
        return False
    if name == "linear":
        if first.meta["val"].ndim != 2:  # of tokens: the norm scales these
            return False
    elif name not in CONVOLUTIONS:
        return False
    return not first.kwargs and all(part is None or _is_stored(part) for part in first.args[1:3])


class Folded:
    """The weight and bias of one folded pair, as long as what they come from stays as it is.

    Args:
        pair: the pair in the captured graph.
    """

    def __init__(self, pair: Pair) -> None:
        product = [*pair.first.args[1:3], None][:2]  # a bias that there is not may be left out
        self._sources = [_target(node) for node in (*product, *pair.norm.args[1:5])]
        legit = pair.norm is not pair.result
        self._eps = float(pair.norm.args[6 if legit else 7])  # pyright: ignore[reportArgumentType]
        self._of: list[tuple[Any, ...]] = []
        self._read: list[Tensor | None] = []
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, module: nn.Module) -> tuple[Tensor, Tensor]:
        """Weight [O, I, …] and bias [O], from the tensors that ``module`` has now."""
        read = [None if name is None else _stored(module, name) for name in self._sources]
        of = [() if part is None else _state(part) for part in read]
        same = len(read) == len(self._read) and all(one is other for one, other in zip(read, self._read, strict=True))
        if self._found is None or not same or of != self._of:
            # Whoever asks may be inside a transformation of torch's; these are constants to all of them.
            with torch.inference_mode(False), torch.no_grad():
                self._found = _folded(*read, eps=self._eps)  # pyright: ignore[reportArgumentType]
            self._of, self._read = of, read
        return self._found


def _target(node: Any) -> str | None:
    return None if node is None else str(node.target)


def _stored(module: nn.Module, name: str) -> Tensor:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)


def _state(tensor: Tensor) -> tuple[Any, ...]:
    """What changes when a tensor is moved or written to."""
    version = 0 if tensor.is_inference() else tensor._version
    return tensor.data_ptr(), version, tensor.device, tensor.dtype


def _folded(
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Of half precision the products are taken in single precision, so that each number is rounded once."""
    kind = torch.promote_types(weight.dtype, torch.float32)
    weight_, mean, variance = (part.detach().to(kind) for part in (weight, mean, variance))
    slope = (variance + eps).rsqrt()
    if scale is not None:
        slope = slope * scale.detach().to(kind)
    offset = -mean if bias is None else bias.detach().to(kind) - mean
    offset = offset * slope
    if shift is not None:
        offset = offset + shift.detach().to(kind)
    product = weight_ * slope.reshape(-1, *[1] * (weight.ndim - 1))
    return product.to(weight.dtype), offset.to(weight.dtype)


class Folding:
    """The folded pairs of a cut, put into its graph.

    Args:
        cut: a graph with the tensors of the model, which is changed.
        pairs: the folded weights, and the pair as the cut has it.
    """

    def __init__(self, cut: fx.GraphModule, pairs: list[tuple[Folded, Pair]]) -> None:
        self._cut, self._parts = cut, []
        for number, (folded, pair) in enumerate(pairs):
            names = f"_folded_weight_{number}", f"_folded_bias_{number}"
            for name, value in zip(names, folded(cut), strict=True):
                cut.register_buffer(name, value, persistent=False)
            self._parts.append((folded, names))
            with cut.graph.inserting_before(pair.first):
                constants = [cut.graph.get_attr(name) for name in names]
            pair.first.args = (pair.first.args[0], *constants, *pair.first.args[3:])
            pair.result.replace_all_uses_with(pair.first)
            for node in dict.fromkeys((pair.result, pair.norm)):
                cut.graph.erase_node(node)
        cut.graph.eliminate_dead_code()
        cut.recompile()

    def follow(self) -> None:
        """Take the weights anew from what the cut's tensors are now."""
        for folded, names in self._parts:
            for name, value in zip(names, folded(self._cut), strict=True):
                self._cut._buffers[name] = value
