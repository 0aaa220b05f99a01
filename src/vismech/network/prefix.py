"""Class, register and distillation tokens, told by the graph: constants put before tokens that come from the image."""

from __future__ import annotations

from torch import Tensor, fx

from vismech.network.capture import operation


def prefix_tokens(module: fx.GraphModule, images: fx.Node) -> dict[fx.Node, int]:
    """For values [B, T, C] of the graph, how many of the T tokens stand before those that come from the image.

    A concatenation along the tokens of constants and then of one value from the images begins a prefix; it stays as
    long as T does, and a slice takes of it. Nothing is said of values that no such concatenation leads to.
    """
    found: dict[fx.Node, int] = {}
    from_images = {images}
    for node in module.graph.nodes:
        if node is images or not isinstance(node.meta.get("val"), (Tensor, tuple, list)):
            continue
        reads = [read for read in node.all_input_nodes if read in from_images]
        if not reads:
            continue
        from_images.add(node)
        length = _tokens(node)
        if length is None:
            continue
        before = [found[read] for read in reads if read in found and _tokens(read) == length]
        if operation(node) in ("cat", "concat"):
            _concatenation(node, from_images, found)
        elif operation(node) == "slice" and reads[0] in found and node.args[1] == 1 and len(node.args) > 2:
            start = node.args[2]
            if isinstance(start, int) and 0 <= start <= found[reads[0]] and length + start == _tokens(reads[0]):
                found[node] = found[reads[0]] - start
        elif before:
            found[node] = max(before)
            if operation(node) in ("add", "add_"):
                for read in reads:
                    _back(read, length, max(before), from_images, found)
    return found


def _back(node: fx.Node, length: int, count: int, from_images: set[fx.Node], found: dict[fx.Node, int]) -> None:
    """Say so of a value and of those that it was made from one by one, as far as they have as many tokens."""
    while node not in found and _tokens(node) == length:
        found[node] = count
        reads = [read for read in node.all_input_nodes if read in from_images]
        if len(reads) != 1:
            return
        node = reads[0]


def _concatenation(node: fx.Node, from_images: set[fx.Node], found: dict[fx.Node, int]) -> None:
    parts = node.args[0]
    dim = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim", 0)
    if dim not in (1, -2) or not isinstance(parts, (list, tuple)):
        return
    before = 0
    for place, part in enumerate(parts):
        if not isinstance(part, fx.Node) or (length := _tokens(part)) is None:
            return
        if part in from_images:
            # What follows may be another prefix's patches (a class token that was updated first), or anything.
            if length == 1 and place == 0 and len(parts) == 2:
                before += 1
                continue
            if place == len(parts) - 1:
                found[node] = before + found.get(part, 0)
            return
        before += length


def _tokens(node: fx.Node) -> int | None:
    """T of a value [B, T, C]."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or value.ndim != 3 or not isinstance(value.shape[1], int):
        return None  # to ask a symbol for its number would fix the number of images
    return value.shape[1]
