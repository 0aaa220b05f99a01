"""Walking the exported graph: every value is given its role, and every map of PFVs the terms of its z."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx

from vismech.network.capture import operation
from vismech.network.cut import ExportedNetwork
from vismech.network.layers import LOGITS
from vismech.receptive_field import operations, pooling  # noqa: F401  (they register their rules)
from vismech.receptive_field.calls import FLAT_RULES, RULES, arguments, shape, size
from vismech.receptive_field.plan import (
    Averaged,
    Beyond,
    Concatenated,
    Flat,
    Head,
    Mapped,
    MapPlan,
    MaxPooled,
    NoRule,
    Open,
    Padded,
    Plan,
    Role,
    Strided,
)
from vismech.receptive_field.rules import Average, Branch, Whole

ALTERNATIVE = (
    "take the maps of gradient × input or integrated gradients, which work for every network (attribution_maps)"
)

_POOLED = "it belongs to the head and has no positions"


def module_of(node: fx.Node) -> str:
    """Path of the innermost module that a node belongs to."""
    return list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]


class Walk:
    """One pass over the nodes of a graph, in order.

    Attributes:
        roles: what each value is.
        fused: values that no longer stand for themselves, and what to tell whoever asks for them.
        passed_by: a concatenation → the batch norms that take its parts directly.
    """

    def __init__(self, network: ExportedNetwork) -> None:
        self.module, self.input, self.output = network.module, network.input, network.output
        self._layers = network.layers
        self.roles: dict[fx.Node, Role] = {}
        self.fused: dict[fx.Node, str] = {}
        self.passed_by: dict[fx.Node, list[fx.Node]] = {}
        self._maps: list[MapPlan] = []
        self._closed: dict[fx.Node, int] = {}

    def plan(self) -> Plan:
        """The network's maps, layers and head."""
        for node in self.module.graph.nodes:
            if node is self.input:
                self._maps.append(MapPlan(node, size(node), []))
                self.roles[node] = Mapped(0)
            elif node.op == "call_function" and isinstance(node.meta.get("val"), (Tensor, tuple, list)):
                self._give_role(node)
        plan = Plan(self._maps)
        match self.roles.get(self.output[LOGITS]):
            case Head() as head:
                plan.head = head
            case Flat() as flat if flat.averaged or size(flat.value) == (1, 1):
                plan.head = Head(flat)
            case Beyond(reason, refused):
                plan.no_head, plan.refused = reason, refused
            case _:
                plan.no_head = "the network does not end in a linear layer on a pooled map"
        for layer in self._layers:
            self._name(plan, layer, self.output[layer])
        return plan

    def _give_role(self, node: fx.Node) -> None:
        inputs = [self.roles[read] for read in node.all_input_nodes if read in self.roles]
        if not inputs:
            return
        beyond = sorted((role for role in inputs if isinstance(role, Beyond)), key=lambda role: not role.refused)
        name = operation(node)
        flat = any(isinstance(role, (Flat, Head, Beyond)) for role in inputs)
        try:
            if beyond and (beyond[0].refused or (name in FLAT_RULES and len(shape(node)) == 1)):
                self.roles[node] = beyond[0]
            elif beyond or name not in (FLAT_RULES if flat else RULES):
                raise NoRule
            else:
                self.roles[node] = (FLAT_RULES if flat else RULES)[name](self, node, arguments(node))
        except NoRule as detail:
            at = detail.at or node
            module = module_of(at)
            where = f" in module {module!r}" if module else ""
            why = f" ({detail})" if str(detail) else ""
            self.roles[node] = Beyond(
                f"sharing ratios have no rule for {operation(at)!r}{where}{why}: {ALTERNATIVE}", refused=True
            )

    def close(self, node: fx.Node) -> int:
        """The map of a value that is read as PFVs; an open one gets a map of its own."""
        if node in self._closed:
            return self._closed[node]
        match self.roles.get(node):
            case Mapped(number):
                return number
            case Averaged(pool=pool) | MaxPooled(pool=pool) if pool is not node:  # handed on by a dropout
                return self.close(pool)
            case Open(summands):
                branches = [summand.branch(summand) for summand in summands]
            case MaxPooled(term, _):
                branches = [Branch([term])]
            case Averaged(source, value, window, _):
                branches = [Branch([Average(source, window, value)])]
            case Strided(source, window):
                branches = [Branch([Whole(source, window, node)])]
            case Concatenated() as blocks:
                branches = [blocks.branch()]
            case Padded():
                raise NoRule("only convolutions and pools may read a padded map")
            case _:
                raise NoRule("it reads a value that is no map")
        if any(branch.inside.sum(0).min() == 0 for branch in branches):
            raise NoRule("some of its output positions lie wholly in the padding", at=node)
        self._closed[node] = len(self._maps)
        self._maps.append(MapPlan(node, size(node), branches))
        return self._closed[node]

    def _name(self, plan: Plan, layer: str, node: fx.Node) -> None:
        """Find the layer's map; one that nothing has closed is closed now, for seeds."""
        match self.roles.get(node):
            case Beyond(reason, _):
                plan.unmapped[layer] = reason
            case None | Flat() | Head():
                plan.unmapped[layer] = _POOLED
            case Averaged(pool=pool) if pool not in self._closed:
                plan.unmapped[layer] = _POOLED
            case _ if node in self.fused:
                plan.unmapped[layer] = self.fused[node]
            case _:
                try:
                    plan.layers[layer] = (self.close(node), *map(self._map_read_by, self.passed_by.get(node, [])))
                except NoRule as detail:
                    plan.unmapped[layer] = str(detail)

    def _map_read_by(self, norm: fx.Node) -> int:
        """The map of a batch norm, which may hand its values on through a getitem."""
        for node in (norm, *norm.users):
            if node in self._closed:
                return self._closed[node]
        raise NoRule("the batch norm that reads it is one branch of a sum: name the layer that puts out the sum")

    def constant(self, node: Any) -> Tensor:
        """A parameter or buffer of the network."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            raise NoRule("it reads a tensor that is computed, not stored")
        path, _, name = str(node.target).rpartition(".")
        return getattr(self.module.get_submodule(path), name).detach()
