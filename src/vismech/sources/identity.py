"""What a network of the user's own computes, as a hash: two that compute differently never share a key.

The exported graph says it: operations, their constants, the modules that they belong to (a layer's name means its
output), and every tensor that no weights file holds. A network that cannot be exported is told by its code instead
(:mod:`vismech.sources.source_code`). Parameters are not in here but in :func:`vismech.sources.weights.fingerprint`;
neither are names of files, so that a package may be moved or renamed.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn

from vismech.config.choices import ModelSource
from vismech.network.cut import ExportedNetwork, Network
from vismech.sources.models import Model
from vismech.sources.probe import Probed
from vismech.sources.source_code import tell_module, tensor_digest


def identity_of(model: Model, network: Network) -> dict[str, Any]:
    """What the store's keys hold of a model: of one of the user's own also what it computes.

    Models of libraries are told by their names, arguments and weights, as they were before; those that a file beside
    the weights describes, or that end in a probe, as the user's own.
    """
    told = model.identity
    own = told["source"] in (ModelSource.custom.value, ModelSource.open_clip.value) or ":" in told["name"]
    own |= isinstance(model.module, Probed)
    return {**model.identity, "code": code_of(model.module, network)} if own else model.identity


def code_of(module: nn.Module, network: Network) -> str:
    """Twenty hexadecimal digits that say what ``module`` computes, cut into layers as ``network``; told once."""
    if network not in _TOLD:  # a pass moves the graph's tensors to a device, where they would have to be fetched from
        _TOLD[network] = _digest(module, network)
    return _TOLD[network]


_TOLD: WeakKeyDictionary[Network, str] = WeakKeyDictionary()


def _digest(module: nn.Module, network: Network) -> str:
    if isinstance(network, ExportedNetwork):
        told: Any = ["graph", list(_tell_graph(network.module, module.state_dict()))]
    else:
        told = ["code", tell_module(module)]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]


def _tell_graph(module: fx.GraphModule, weights: Mapping[str, Tensor]) -> Iterator[Any]:
    """Every node that the result needs, in order; a node is called by its place."""
    nodes = list(module.graph.nodes)
    needed, stack = set(), [nodes[-1], *(node for node in nodes if node.op == "placeholder")]
    while stack:
        node = stack.pop()
        if node not in needed:
            needed.add(node)
            stack.extend(node.all_input_nodes)
    places = {node: index for index, node in enumerate(node for node in nodes if node in needed)}
    for node in places:
        inside = [path for call, (path, _) in (node.meta.get("nn_module_stack") or {}).items() if call[:1] != "_"]
        arguments = [_tell(node.args, places), _tell(node.kwargs, places)]
        yield [node.op, _target(node, module, weights), *arguments, inside]


def _target(node: fx.Node, module: fx.GraphModule, weights: Mapping[str, Tensor]) -> Any:
    if node.op == "placeholder":
        value = node.meta.get("val")
        return [str(value.dtype), *map(_size, value.shape)] if isinstance(value, Tensor) else "value"
    if node.op == "get_attr":
        value = operator.attrgetter(str(node.target))(module)
        if isinstance(value, fx.GraphModule):
            return list(_tell_graph(value, weights))
        if not isinstance(value, Tensor):
            return type(value).__name__
        own = weights.get(str(node.target))
        # By content: one of the two may have been moved to a device.
        same = own is not None and own.shape == value.shape and torch.equal(own.cpu(), value.cpu())
        return ["weights", str(node.target)] if same else tensor_digest(value)
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target)
    return getattr(node.target, "__name__", str(node.target))


def _size(size: Any) -> int | str:
    # The batch's symbol is called otherwise in every version of torch.
    return size if isinstance(size, int) else "any"


def _tell(value: Any, places: Mapping[fx.Node, int]) -> Any:
    """An argument as JSON; floats with every digit."""
    if isinstance(value, fx.Node):
        return ["node", places[value]]
    if isinstance(value, (list, tuple)):
        return [_tell(item, places) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _tell(item, places) for key, item in value.items()}
    if isinstance(value, slice):
        return ["slice", *(_tell(item, places) for item in (value.start, value.stop, value.step))]
    if isinstance(value, torch.device):
        return "device"
    if isinstance(value, torch.SymInt):
        return "size"
    return repr(value)
