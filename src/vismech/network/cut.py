"""A trained network as named layers: activations at a layer, and the network cut between two layers.

A layer's name is a module path and always means that module's **output**; ``logits`` is the output of the whole model,
and ``pixels`` its input, which can be the lower end of a cut.
One mechanism serves every cut: the graph of ``torch.export`` (batch size dynamic, image size fixed), where the
``nn_module_stack`` of a node says which modules it belongs to. Models it cannot capture fall back to forward hooks.

Legend: B images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, fx, nn

from vismech.errors import UserError
from vismech.network.capture import capture, device_node, operation
from vismech.network.folding import Folded, Folding, Pair, foldable
from vismech.network.held import HeldCut, HeldSegment, Packing, frontier
from vismech.network.hooked import HookedNetwork
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.locality import Reaches, reach_of
from vismech.network.network import Network
from vismech.network.norms import GUARDED
from vismech.network.pfv import Layout, layout_of
from vismech.network.placement import Placement, device_of
from vismech.network.prefix import prefix_tokens

log = logging.getLogger(__name__)


def open_network(model: nn.Module, example: Tensor) -> Network:
    """Cut ``model`` (in eval mode) by its exported graph, or by hooks when it cannot be exported.

    Args:
        model: any module from images [B, 3, H, W] to logits [B, n].
        example: an image batch [≥1, 3, H, W] of the size that will be used; cuts are specialised to it.

    Raises:
        UserError: a model that fails on images of this size, or that returns anything but one tensor of logits.
    """
    if model.training:
        raise ValueError("the model is in training mode: call model.eval() first")
    try:
        return ExportedNetwork(capture(model, example), model)
    except UserError:
        raise
    except Exception as error:  # torch.export raises many kinds; all mean the same to a user
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        log.warning("torch.export cannot capture %s (%s): cutting with hooks instead", type(model).__name__, reason)
    try:
        return HookedNetwork(model, example)
    except UserError:
        raise
    except Exception as error:
        size = "×".join(str(side) for side in example.shape[2:])
        raise UserError(
            f"the model fails on blank images of {size} pixels ({type(error).__name__}: {error}): "
            "set model.crop to a size that it takes"
        ) from error


class ExportedNetwork(Network):
    """Cuts along the nodes of an exported graph; every cut computes only the nodes between its ends.

    Graph and cuts compute where the model is: moved by `nn.Module.to`, it takes them along.
    """

    concurrent = True

    def __init__(self, module: fx.GraphModule, model: nn.Module) -> None:
        self.module, self.model = module, model
        nodes = list(module.graph.nodes)
        self.input = next(node for node in nodes if node.op == "placeholder")
        result = nodes[-1].args[0]
        if isinstance(result, (tuple, list)) and len(result) == 1:
            result = result[0]
        if not isinstance(result, fx.Node):
            raise UserError("the model returns several values: wrap it in a module that returns the logits alone")
        self._device = device_node(module)
        self._batch_size = str(self.input.meta["val"].shape[0])
        self.output: dict[str, fx.Node] = {}
        self._find_outputs(nodes)
        order = {node: index for index, node in enumerate(nodes)}
        self.layers = sorted(
            (name for name in self.output if name not in (PIXELS, LOGITS)), key=lambda name: order[self.output[name]]
        )
        # Of modules that end together the outermost has its name first.
        owner = {self.output[name]: name for name in sorted(self.layers, key=len, reverse=True)}
        taken = {name: [owner.get(node) for node in self._taken_in[name]] for name in self.layers}
        self.inputs = {name: only[0] for name, only in taken.items() if len(only) == 1 and only[0] is not None}
        self.output |= {PIXELS: self.input, LOGITS: result}
        self._prefix_at = prefix_tokens(module, self.input)
        self.prefixes = {name: self._prefix_at[node] for name, node in self.output.items() if node in self._prefix_at}
        self._cuts: dict[tuple[str, ...], fx.GraphModule] = {}
        self._placements: dict[nn.Module, Placement] = {module: Placement(module, model)}
        self._foldings: dict[nn.Module, Folding] = {}
        self._folded: dict[fx.Node, Folded] = {}

    def _find_outputs(self, nodes: list[fx.Node]) -> None:
        """A module's output is its only value that is read outside it; sizes are no values."""
        inside = {node: dict(_modules_of(node)) for node in nodes}
        calls: dict[str, set[str]] = {}
        handed_on: dict[str, set[fx.Node]] = {}
        self._taken_in: dict[str, set[fx.Node]] = {}
        for node in nodes:
            for path, call in inside[node].items():
                calls.setdefault(path, set()).add(call)
                if any(path not in inside[user] for user in node.users) and not _is_size(node):
                    handed_on.setdefault(path, set()).add(node)
                outside = (read for read in node.all_input_nodes if path not in inside[read])
                self._taken_in.setdefault(path, set()).update(filter(self._has_row_per_image, outside))
        self.calls = {path: len(found) for path, found in calls.items()}
        for path, values in handed_on.items():
            (value, *others), once = values, self.calls[path] == 1
            if path and once and not others and self._has_row_per_image(value):
                self.output[path] = value

    def _has_row_per_image(self, node: fx.Node) -> bool:
        value = node.meta.get("val")
        return isinstance(value, Tensor) and value.ndim > 1 and str(value.shape[0]) == self._batch_size

    def shape(self, layer: str) -> tuple[int, ...]:
        """See :meth:`Network.shape`."""
        return tuple(int(size) for size in self._value(layer).meta["val"].shape[1:])

    def layout_at(self, node: fx.Node) -> Layout:
        """How a value of the graph is read as PFVs; see :meth:`Layers.layout`."""
        shape = tuple(int(size) for size in node.meta["val"].shape[1:])
        asked = self.prefix_tokens
        return layout_of(shape, _place_of(node), self._prefix_at.get(node) if asked is None else asked)

    def activations(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """See :meth:`Network.activations`."""
        values = self._run(self._cut(self.input, tuple(layers)), images)
        return dict(zip(layers, values, strict=True))

    def segment(self, lower: str, upper: str, folded: bool = False) -> nn.Module:
        """See :meth:`Network.segment`."""
        self._check_pair(lower, upper)
        start, end = self._value(lower), self._value(upper)
        around = self._path_around(start, end)
        if around is not None:
            raise UserError(
                f"{upper!r} can be reached around {lower!r}, through {' → '.join(around)}: "
                "cut where all paths meet, such as at the end of a block"
            )
        cut = self._cut_at(start, (end,), folded=folded)
        return _Single(cut, self._placements[cut], self._foldings.get(cut))

    def around(self, lower: str, upper: str) -> HeldCut:
        """See :meth:`Network.around`."""
        self._check_pair(lower, upper)
        start, end = self._value(lower), self._value(upper)
        order = [node for node in self.module.graph.nodes if node in self._reach(end, start)]
        held = frontier(order, start, end, self.input, self._is_told_by_any)
        if held is None:
            raise UserError(f"no path leads from {lower!r} to {upper!r}: choose another pair of layers")
        if odd := [node for node in held if not self._has_row_per_image(node)]:
            raise UserError(
                f"{_place_of(odd[0])}, on the way to {upper!r} around {lower!r}, has no row per image and cannot be "
                "held: cut where all paths meet, such as at the end of a block"
            )
        packing = Packing.of([node.meta["val"] for node in (start, *held)])
        cut, read = self._cut_at(start, (end,), held), self._cut_at(self.input, (start, *held))
        return HeldCut(
            HeldSegment(cut, self._placements[cut].follow, packing),
            lambda images: packing.packed(self._run(read, images)),
            packing,
            tuple(map(_place_of, held)),
        )

    def _run(self, cut: fx.GraphModule, images: Tensor) -> tuple[Tensor, ...]:
        self._placements[cut].follow(images.device)
        return cut(images)

    def graph_from(self, start: fx.Node | None, end: fx.Node) -> fx.GraphModule:
        """The graph from one of its values (None: the images) to another, on the device of the model.

        Raises:
            UserError: a path to ``end`` around ``start``.
        """
        begin: fx.Node = self.input if start is None else start
        around = self._path_around(begin, end)
        if around is not None or begin not in self._reach(end, begin):
            raise UserError(f"{_place_of(end)} does not follow from {_place_of(begin)} alone: choose a later layer")
        cut = self._cut_at(begin, (end,))
        self._placements[cut].follow(device_of(self.model))
        return cut

    def follow(self) -> None:
        """Bring the tensors of :attr:`module` to where the model's are; passes and segments do so themselves."""
        self._placements[self.module].follow(device_of(self.model))

    def _value(self, layer: str) -> fx.Node:
        if layer in self.output:
            return self.output[layer]
        raise self._no_layer(layer)

    def _cut(self, start: fx.Node, layers: tuple[str, ...]) -> fx.GraphModule:
        """The graph from ``start`` to the outputs of ``layers``."""
        return self._cut_at(start, tuple(self._value(layer) for layer in layers))

    def _cut_at(
        self, start: fx.Node, ends: tuple[fx.Node, ...], held: tuple[fx.Node, ...] = (), folded: bool = False
    ) -> fx.GraphModule:
        """The graph from ``start`` and ``held`` to ``ends``, cached; its parameters are the model's own."""
        key = (str(folded), start.name, *(node.name for node in held), "", *(end.name for end in ends))
        if key not in self._cuts:
            needed = set().union(*(self._reach(end, start, held) for end in ends))
            graph, copies = fx.Graph(), {}
            copies[start] = graph.placeholder("activation")
            copies[start].meta = dict(start.meta)
            for node in held:
                copies[node] = graph.placeholder(f"held_{node.name}")
            for node in self.module.graph.nodes:
                if node not in needed or node in copies:
                    continue
                if start is not self.input and self._is_told_by_any(node):
                    size = torch.ops.aten.sym_size.int, (copies[start], 0)
                    told = (getattr, (copies[start], "device")) if node is self._device else size
                    copies[node] = graph.call_function(*told)
                else:
                    copies[node] = graph.node_copy(node, copies.__getitem__)
                    copies[node].target = GUARDED.get(node.target, node.target)
            graph.output(tuple(copies[end] for end in ends))
            cut = fx.GraphModule(self.module, graph).eval()
            self._cuts[key], self._placements[cut] = cut, Placement(cut, self.model)
            if folded:
                self._placements[cut].follow(device_of(self.model))
                pairs = [
                    (self._folded.setdefault(pair.first, Folded(pair)), Pair(*map(copies.__getitem__, pair)))
                    for pair in foldable(self.module.graph, needed, {start, *ends})
                ]
                self._foldings[cut] = Folding(cut, pairs)
        return self._cuts[key]

    def _reach(self, end: fx.Node, start: fx.Node, held: Sequence[fx.Node] = ()) -> set[fx.Node]:
        """Every node that ``end`` needs once ``start`` and ``held`` are given."""
        found, stack = set(), [end]
        while stack:
            node = stack.pop()
            if node in found:
                continue
            found.add(node)
            if node not in (start, *held) and not (start is not self.input and self._is_told_by_any(node)):
                stack.extend(node.all_input_nodes)
        return found

    def _path_around(self, start: fx.Node, end: fx.Node) -> list[str] | None:
        """The modules on a path from the input to ``end`` around ``start``; None if every path passes it."""
        reached = self._reach(end, start)
        if self.input not in reached or start is self.input:
            return None
        names, node, before = [], self.input, self._reach(start, self.input)
        while node is not end:
            node = next(
                user for user in node.users if user in reached and user is not start and not self._is_told_by_any(user)
            )
            path = [path for path, _ in _modules_of(node) if path]
            if node in before:  # the way around begins at the last value that also leads to start
                names = path[-1:]
            elif path and names[-1:] != path[-1:]:
                names.append(path[-1])
        return names if len(names) <= 6 else [*names[:3], "…", *names[-3:]]

    def _is_told_by_any(self, node: fx.Node) -> bool:
        """Whether any value of a pass tells it: the number of images, or the device."""
        is_size = operation(node) == "sym_size" and str(node.meta["val"]) == self._batch_size
        return is_size or node is self._device


class _Single(nn.Module):
    """A cut with one output, as a function from tensor to tensor."""

    def __init__(self, cut: nn.Module, placement: Placement, folding: Folding | None) -> None:
        super().__init__()
        self.cut, self.placement, self.folding = cut, placement, folding

    @cached_property
    def reach(self) -> Reaches | None:
        """See :func:`~vismech.network.locality.reach_of`."""
        return reach_of(self.cut)

    def forward(self, activation: Tensor) -> Tensor:
        self.placement.follow(activation.device)
        if self.folding is not None:
            self.folding.follow()
        return self.cut(activation)[0]


def _modules_of(node: fx.Node) -> Iterator[tuple[str, str]]:
    """(module path, call key) from the outermost module to the innermost."""
    for call, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
        if not call.startswith("_"):  # torch.export's own marks are no modules
            yield path, call


def _place_of(node: fx.Node) -> str:
    """A value, in words: by the innermost module that it belongs to."""
    path = [path for path, _ in _modules_of(node) if path]
    return f"the value {node.name!r}{f' in module {path[-1]!r}' if path else ''}"


def _is_size(node: fx.Node) -> bool:
    return not isinstance(node.meta.get("val", torch.empty(0)), (Tensor, tuple, list))
