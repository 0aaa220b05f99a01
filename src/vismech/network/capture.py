"""A model as a graph of ATen calls in which no value is changed after it was computed."""

from __future__ import annotations

import operator
from typing import cast

import torch
from torch import Tensor, fx, nn


def capture(model: nn.Module, example: Tensor) -> fx.GraphModule:
    """``model`` as a graph of ATen calls without in-place operations; parameters are shared with ``model``.

    Args:
        model: a module in eval mode, from images [B, 3, H, W].
        example: an image batch [≥1, 3, H, W]; the graph takes any batch size but this image size only.
    """
    # A batch of one would be specialised, so the example is shown as a batch of two.
    images = torch.zeros_like(example[:1]).repeat(2, 1, 1, 1)
    batch = torch.export.Dim("batch", min=1, max=65_536)
    with torch.no_grad():
        program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},), strict=False)
    graph_module = cast(fx.GraphModule, program.module(check_guards=False))
    if not _without_in_place(graph_module):
        program = program.run_decompositions({})
        graph_module = cast(fx.GraphModule, program.module(check_guards=False))
    _on_any_device(graph_module)
    return graph_module


def device_node(module: fx.GraphModule) -> fx.Node | None:
    """The node that tells the device of what comes in, in a graph where something is made on it."""
    return next((node for node in module.graph.nodes if node.target is getattr), None)


def _on_any_device(module: fx.GraphModule) -> None:
    """Where the code made a tensor on the device that it was captured on, make it on the device of what comes in."""
    graph, named = module.graph, []
    for node in list(graph.nodes):
        if operation(node) == "_assert_tensor_metadata":
            graph.erase_node(node)
        elif any(isinstance(value, torch.device) for value in (*node.args, *node.kwargs.values())):
            named.append(node)
    if not named:
        module.recompile()
        return
    images = next(node for node in graph.nodes if node.op == "placeholder")
    with graph.inserting_after(images):
        device = graph.call_function(getattr, (images, "device"))
        device.meta["val"] = images.meta["val"].device
    for node in named:
        node.args = tuple(device if isinstance(value, torch.device) else value for value in node.args)
        node.kwargs = {
            name: device if isinstance(value, torch.device) else value for name, value in node.kwargs.items()
        }
    module.recompile()


def operation(node: fx.Node) -> str:
    """Name of the ATen operation without its overload, such as ``relu_``."""
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else getattr(target, "__name__", str(target))


def _without_in_place(module: fx.GraphModule) -> bool:
    """Replace ``relu_`` by ``relu`` and so on; False where another value would miss the change.

    That is so when a view of the changed value, or the value that it is a view of, is read afterwards: then the graph
    needs torch's full functionalisation, which also rewrites operations that are easier to read as they are.
    """
    position = {node: index for index, node in enumerate(module.graph.nodes)}
    for node in list(module.graph.nodes):
        if not (isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable):
            continue
        changed = node.args[0]
        twin = getattr(torch.ops.aten, operation(node).removesuffix("_"), None)
        overload = node.target._overloadname
        if not operation(node).endswith("_") or not hasattr(twin, overload):
            return False
        sharing = _sharing_memory(changed) - {changed, node}
        if any(position[user] > position[node] for value in sharing for user in value.users):
            return False
        node.target = getattr(twin, overload)
        # Whoever reads the changed value later meant the new one.
        changed.replace_all_uses_with(node, lambda user, node=node: position[user] > position[node])
    module.recompile()
    return True


def _sharing_memory(node: fx.Node) -> set[fx.Node]:
    """``node``, the values that it may be a view of, and the views of all these."""
    found: set[fx.Node] = set()
    stack = [node]
    while stack:
        value = stack.pop()
        if value not in found:
            found.add(value)
            stack += _viewed(value)
            stack += [user for user in value.users if value in _viewed(user)]
    return found


def _viewed(node: fx.Node) -> list[fx.Node]:
    """The inputs whose memory the value of ``node`` may share, by the operation's schema."""
    if node.target is operator.getitem:
        return list(node.all_input_nodes)
    if not isinstance(node.target, torch._ops.OpOverload):
        return []
    arguments = zip(node.target._schema.arguments, node.args, strict=False)
    return [value for argument, value in arguments if argument.alias_info is not None and isinstance(value, fx.Node)]
