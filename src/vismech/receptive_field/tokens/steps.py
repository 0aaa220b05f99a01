"""Computing a graph with rules in the place of its operations; an operation without a rule is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, fx

from vismech.errors import UserError
from vismech.network.capture import operation
from vismech.network.norms import GUARDED
from vismech.receptive_field.calls import arguments

SHAPES = {
    "reshape", "reshape_as", "view", "_unsafe_view", "permute", "transpose", "movedim", "flatten", "unflatten",
    "squeeze", "unsqueeze", "select", "slice", "getitem", "unbind", "split", "split_with_sizes", "chunk", "roll",
    "index", "expand", "expand_as", "repeat", "clone", "contiguous", "alias", "to", "_to_copy", "dropout", "t",
    "narrow", "pixel_unshuffle", "pixel_shuffle", "mT", "numpy_T", "moveaxis",
}  # fmt: skip
"""Operations that only move, copy or choose values (a dropout does nothing in eval mode)."""


@dataclass
class Carried:
    """A value and what its tokens carry beside it, of one shape; None where they carry nothing."""

    value: Tensor
    carried: Tensor | None


_NEW = {"new_zeros", "new_ones", "new_full", "zeros_like", "ones_like", "full_like"}
"""They read a value's size and type only."""


class Step(NamedTuple):
    """One call of a graph, as a rule sees it.

    Attributes:
        node: the call.
        given: its arguments by name, with the values computed so far.
        follows: which of them depend on the tokens.
    """

    node: fx.Node
    given: dict[str, Any]
    follows: dict[str, bool]

    def call(self, /, **changed: Any) -> Any:
        """The operation itself, some arguments replaced."""
        target: Any = self.node.target
        schema = _schema(target)
        if schema is None:
            return target(*{**self.given, **changed}["args"])
        given = {**self.given, **changed}
        if operation_of(self.node) in ("view", "_unsafe_view"):  # a rule's result may lie otherwise in memory
            return given["self"].reshape(given["size"])
        named = {one.name for one in schema.arguments if one.kwarg_only}
        return target(
            *(given[one.name] for one in schema.arguments if one.name not in named),
            **{name: given[name] for name in named if given[name] is not None},
        )


Rule = Callable[[Step], Any]


class NoTokenRule(UserError):
    """An operation that a kind of field has no rule for."""


def compute(graph: fx.GraphModule, tokens: Any, rules: Mapping[str, Rule], kind: str) -> Any:
    """What ``graph`` makes of ``tokens``, each operation that depends on them by its rule.

    Raises:
        NoTokenRule: an operation without a rule.
    """
    values: dict[fx.Node, Any] = {}
    follows: set[fx.Node] = set()
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node] = tokens
            follows.add(node)
        elif node.op == "get_attr":
            path, _, name = str(node.target).rpartition(".")
            values[node] = getattr(graph.get_submodule(path), name)
        elif node.op == "output":
            return fx.map_arg(node.args[0], values.__getitem__)[0]
        else:
            values[node] = _value(node, values, follows, rules, kind)
    raise AssertionError("a graph without an output")


def module_of(node: fx.Node) -> str:
    """Path of the innermost module that a node belongs to."""
    return list((node.meta.get("nn_module_stack") or {"": ("", "")}).values())[-1][0]


def no_rule(kind: str, name: str, path: str, why: str = "") -> NoTokenRule:
    """What to say of an operation without a rule."""
    where = f" in module {path!r}" if path else ""
    return NoTokenRule(
        f"{kind} has no rule for {name!r}{where}{f' ({why})' if why else ''}: "
        "take gradient_x_input or ig, which work for every network"
    )


def _value(
    node: fx.Node, values: Mapping[fx.Node, Any], follows: set[fx.Node], rules: Mapping[str, Rule], kind: str
) -> Any:
    assert callable(node.target)
    name = operation_of(node)
    if not any(read in follows for read in node.all_input_nodes) or not _is_value(node) or name in _NEW:
        args: Any = fx.map_arg(node.args, lambda read: _plain(values[read]))
        kwargs: Any = fx.map_arg(node.kwargs, lambda read: _plain(values[read]))
        with torch.no_grad():
            return node.target(*args, **kwargs)
    follows.add(node)
    if name not in rules:
        path = module_of(node)
        raise no_rule(kind, name, path)
    schema = _schema(node.target)
    if schema is not None:
        at = arguments(node, schema)
        named = {key: fx.map_arg(value, values.__getitem__) for key, value in at.items()}
        depends = {key: _depends(value, follows) for key, value in at.items()}
    else:
        named, depends = {"args": fx.map_arg(node.args, values.__getitem__)}, {"args": True}
    return rules[name](Step(node, named, depends))


_ORIGINAL = {guarded: original for original, guarded in GUARDED.items()}


def operation_of(node: fx.Node) -> str:
    """Name of the ATen operation; of what stands for one in a cut, that of the original."""
    original = _ORIGINAL.get(cast(Any, node.target))
    return operation(node) if original is None else original._opname


def _schema(target: Any) -> Any:
    """The schema of an ATen operation, or of what stands for one in a cut; None of plain functions."""
    return getattr(_ORIGINAL.get(target, target), "_schema", None)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, Carried) else value


def _is_value(node: fx.Node) -> bool:
    """Not a size or a device."""
    return operation(node) not in ("sym_size", "getattr") and isinstance(
        node.meta.get("val", torch.empty(0)), (Tensor, tuple, list)
    )


def _depends(value: Any, follows: set[fx.Node]) -> bool:
    found: list[fx.Node] = []
    fx.map_arg((value,), lambda node: found.append(node) or node)
    return any(node in follows for node in found)
