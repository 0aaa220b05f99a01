"""The tokens that fields of other tokens end at: what the first block with attention reads; pixels where there is none.

Legend: B images, N tokens with their prefix, P patch tokens, C or D channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, fx

from vismech.errors import UserError
from vismech.network.capture import operation
from vismech.network.cut import ExportedNetwork, Network
from vismech.network.layers import LOGITS
from vismech.network.pfv import Axes, Layout, layout_of
from vismech.receptive_field.calls import shape

ATTENTION = {"scaled_dot_product_attention", "softmax", "_softmax"}
_THROUGH = {"dropout", "clone", "contiguous", "alias", "cat", "concat", "reshape", "view", "expand"}


@dataclass(frozen=True)
class Ground:
    """Where fields end.

    Attributes:
        node: the value of the graph.
        layout: how it is read as tokens.
        pixels: whether it is the image itself.
    """

    node: fx.Node
    layout: Layout
    pixels: bool


def exported(network: Network) -> ExportedNetwork:
    """The network, cut by its graph.

    Raises:
        UserError: it is cut by hooks.
    """
    if not isinstance(network, ExportedNetwork):
        raise UserError(
            "torch.export cannot capture this model, so it has no fields over tokens: take gradient_x_input of pixels"
        )
    return network


def ground_of(network: Network) -> Ground:
    """The input of the first residual block with attention, or the pixels of a network without one.

    Raises:
        UserError: a network that is cut by hooks.
    """
    network = exported(network)
    for node in _before_the_first_block(network):
        try:
            layout = network.layout_at(node)
        except UserError:
            continue
        if layout.positions > 1 and layout.grid[0] == layout.grid[1]:  # not windows, nor patches taken apart
            return Ground(node, layout, pixels=False)
    return Ground(network.input, layout_of(shape(network.input), "pixels"), pixels=True)


def _before_the_first_block(network: ExportedNetwork) -> list[fx.Node]:
    """Values that all ways to the first attention and to the logits pass, the last first.

    The last is where the two sides of the first sum after the first attention part: what its residual block reads.
    """
    nodes = list(network.module.graph.nodes)
    attention = next((node for node in nodes if operation(node) in ATTENTION), None)
    if attention is None:
        return []
    after, total = {attention}, None
    above: dict[fx.Node, set[fx.Node]] = {network.input: {network.input}}  # the values that every way to one passes
    for node in nodes:
        reads = [read for read in node.all_input_nodes if read in above and _is_tensor(read)]
        if node is network.input or not reads or not _is_tensor(node):
            continue
        above[node] = set.intersection(*(above[read] for read in reads)) | {node}
        after |= {node} if after & set(reads) else set()
        if total is None and operation(node) == "add" and len(reads) == 2 and len(after & set(reads)) == 1:
            total = node
    parted = attention if total is None else total
    order = {node: index for index, node in enumerate(nodes)}
    passed = (above[parted] - {parted, network.input}) & above[network.output[LOGITS]]
    return sorted(passed, key=order.__getitem__, reverse=True)


def _is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), (Tensor, tuple, list))


def position_embedding(network: ExportedNetwork, ground: Ground) -> Float[Tensor, "p c"] | None:
    """The learnt embedding that was added to the patch tokens on their way to the ground; None where none was."""
    node = ground.node
    values: dict[fx.Node, Any] = {}
    moving = _from_images(network)
    while True:
        reads = [read for read in node.all_input_nodes if read in moving]
        if operation(node) == "add":
            constants = [read for read in node.all_input_nodes if read not in moving]
            if len(reads) == 1 and len(constants) == 1:
                found = _constant(network, constants[0], values)
                return None if found is None else _patch_part(found, ground.layout)
        if operation(node) not in _THROUGH or len(reads) != 1:
            return None
        node = reads[0]


def _from_images(network: ExportedNetwork) -> set[fx.Node]:
    found = {network.input}
    for node in network.module.graph.nodes:
        if _is_tensor(node) and found & set(node.all_input_nodes):
            found.add(node)
    return found


def _constant(network: ExportedNetwork, node: fx.Node, values: dict[fx.Node, Any]) -> Tensor | None:
    if node in values:
        return values[node]
    if node.op == "get_attr":
        path, _, name = str(node.target).rpartition(".")
        values[node] = getattr(network.module.get_submodule(path), name)
    elif any(not _is_tensor(read) for read in node.all_input_nodes) or not callable(node.target):
        return None  # it follows the number of images
    else:
        if any(_constant(network, read, values) is None for read in node.all_input_nodes):
            return None
        args = fx.map_arg(node.args, lambda read: _constant(network, read, values))
        kwargs = fx.map_arg(node.kwargs, lambda read: _constant(network, read, values))
        with torch.no_grad():
            values[node] = node.target(*args, **kwargs)
    return values[node]


def _patch_part(found: Tensor, layout: Layout) -> Tensor | None:
    if layout.axes is not Axes.tokens or found.shape[-1] != layout.channels or found.ndim not in (2, 3):
        return None
    found = found.flatten(0, -2).detach()
    if len(found) == layout.positions + layout.prefix:
        return found[layout.prefix :]
    return found if len(found) == layout.positions else None


@torch.no_grad()
def mean_tokens(network: Network, images: Float[Tensor, "b c h w"], rows: int = 64) -> Float[Tensor, "p d"]:
    """The token that says nothing, at each position of the ground.

    The mean patch token over data and positions, less the mean position embedding, plus the position's own; where no
    embedding was added, the mean over the data at each position. Of pixels: the mean image.
    """
    network = exported(network)
    ground = ground_of(network)
    start = network.graph_from(None, ground.node)
    total = torch.zeros(ground.layout.positions, ground.layout.channels, dtype=torch.float64, device=images.device)
    for part in images.split(rows):
        total += ground.layout.vectors(start(part)[0]).double().sum(0)
    mean = total / len(images)
    embedding = None if ground.pixels else position_embedding(network, ground)
    if embedding is not None:
        embedding = embedding.double()
        mean = (mean - embedding).mean(0, keepdim=True) + embedding
    return mean.to(images)
