"""Running a network's graph once, reducing it to sharing ratios as soon as a pre-activation is known."""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from torch import Tensor, fx

from vismech.errors import UserError
from vismech.network.cut import ExportedNetwork, Network
from vismech.receptive_field.rules import sharing_ratios_of
from vismech.receptive_field.sweep import RatioMap, Share
from vismech.receptive_field.walk import ALTERNATIVE, Walk, module_of


class Pass(NamedTuple):
    """One run: every map of the network, and the values that were to be kept."""

    maps: tuple[RatioMap, ...]
    values: dict[fx.Node, Tensor]


class _Step(NamedTuple):
    """A node to compute, the maps whose z it is, and the values that nothing reads after it."""

    node: fx.Node
    maps: list[int]
    last_read: list[fx.Node]


_runners: WeakKeyDictionary[Network, Runner] = WeakKeyDictionary()


def runner_of(network: Network) -> Runner:
    """The network's runner, made anew when a parameter has changed or moved since (it holds folded weights).

    A change is seen when a parameter is replaced or written to in place, but not through its ``data``.

    Raises:
        UserError: a network that is not cut by its graph.
    """
    if not isinstance(network, ExportedNetwork):
        raise UserError(f"torch.export cannot capture this model, so it has no sharing ratios: {ALTERNATIVE}")
    network.follow()
    if network not in _runners or not _runners[network].is_current():
        _runners[network] = Runner(network)
    return _runners[network]


class Runner:
    """A network's plan, its parameters, and the order of its nodes. It does not hold the network itself."""

    def __init__(self, network: ExportedNetwork) -> None:
        self.plan = Walk(network).plan()
        self.input, self.output = network.input, network.output
        self._graph = network.module.graph
        # Modules look their parameters up slowly, and some call for each is due on every pass.
        self._parameters: dict[fx.Node, tuple[dict[str, Any], str]] = {}
        for node in self._graph.nodes:
            if node.op == "get_attr":
                path, _, name = str(node.target).rpartition(".")
                owner = network.module.get_submodule(path)
                of = next((kind for kind in (owner._parameters, owner._buffers) if name in kind), owner.__dict__)
                self._parameters[node] = (of, name)
        self._state = self._stamps()
        self._schedules: dict[tuple[frozenset[int], frozenset[fx.Node]], list[_Step]] = {}

    def is_current(self) -> bool:
        """Whether no parameter has been replaced or written to."""
        return self._stamps() == self._state

    def _stamps(self) -> list[tuple[torch.device, int, int]]:
        tensors = [of[name] for of, name in self._parameters.values()]
        return [(one.device, one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors]

    def run(self, images: Float[Tensor, "b c h w"], measured: set[int], ends: set[fx.Node]) -> Pass:
        """Compute what ``ends`` and the maps ``measured`` need, each value forgotten after its last reader.

        Raises:
            UserError: images of another size, or not finite; activations so large that their squares are not finite.
            ValueError: activations that are not finite.
        """
        self._check(images)
        values: dict[fx.Node, Any] = {self.input: images}
        ratios: dict[int, list[Tensor | None]] = {}
        for node, maps, last_read in self._schedule(frozenset(measured), frozenset(ends)):
            if node not in values:
                values[node] = self._call(node, values)
            for number in maps:
                ratios[number] = sharing_ratios_of(self.plan.maps[number].branches, values, values[node])
            for read in last_read:
                del values[read]
        self._check_finite(ratios, images)
        maps = []
        for number, planned in enumerate(self.plan.maps):
            found = ratios.get(number, [None] * len(planned.terms))
            shares = [Share(term.source, term.window, one) for term, one in zip(planned.terms, found, strict=True)]
            maps.append(RatioMap(planned.size, tuple(shares), number in measured or number == 0))
        return Pass(tuple(maps), values)

    def _call(self, node: fx.Node, values: dict[fx.Node, Any]) -> Any:
        if node.op == "get_attr":
            of, name = self._parameters[node]
            return of[name]
        assert node.op == "call_function" and callable(node.target)
        return node.target(*fx.map_arg(node.args, values.__getitem__), **fx.map_arg(node.kwargs, values.__getitem__))

    def _schedule(self, measured: frozenset[int], ends: frozenset[fx.Node]) -> list[_Step]:
        if (measured, ends) in self._schedules:
            return self._schedules[measured, ends]
        maps: dict[fx.Node, list[int]] = {}
        for number in sorted(measured - {0}):
            maps.setdefault(self.plan.maps[number].value, []).append(number)
        needed: set[fx.Node] = set()
        stack = [*maps, *ends]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(node.all_input_nodes)
        order = [node for node in self._graph.nodes if node in needed]
        last: dict[fx.Node, fx.Node] = {}
        for node in order:
            for_ratios = (read for number in maps.get(node, ()) for read in self.plan.maps[number].reads)
            for read in (node, *node.all_input_nodes, *for_ratios):
                last[read] = node
        steps = {node: _Step(node, maps.get(node, []), []) for node in order}
        for read, node in last.items():
            if read not in ends:
                steps[node].last_read.append(read)
        self._schedules[measured, ends] = list(steps.values())
        return self._schedules[measured, ends]

    def _check(self, images: Tensor) -> None:
        expected = tuple(int(side) for side in self.input.meta["val"].shape[1:])
        if tuple(images.shape[1:]) != expected or not len(images):
            given = " × ".join(map(str, images.shape))
            raise UserError(
                f"the images are {given}, but the network was opened for B × {' × '.join(map(str, expected))}"
            )
        if not images.isfinite().all():
            raise UserError("the images hold NaN or infinite values: mend them before the pass")

    def _check_finite(self, ratios: dict[int, list[Tensor | None]], images: Tensor) -> None:
        sums = {
            (number, place): one.sum()
            for number, found in ratios.items()
            for place, one in enumerate(found)
            if one is not None
        }
        if sums and not torch.stack(list(sums.values())).isfinite().all():
            number = next(number for (number, _), total in sums.items() if not total.isfinite())
            node = self.plan.maps[number].value
            value = self.run(images, set(), {node}).values[node]
            if value.isfinite().all():
                raise UserError(
                    f"the sharing ratios in module {module_of(node)!r} are not finite: its activations reach "
                    f"{float(value.abs().max()):.1e}, too much to be squared; {ALTERNATIVE}"
                )
            raise ValueError(
                f"the sharing ratios at node {node.name!r} are not finite: its activations are NaN or infinite"
            )
