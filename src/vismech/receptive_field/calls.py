"""Reading ATen calls of an exported graph, and the registry of rules by operation name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import fx

from vismech.receptive_field.plan import Role
from vismech.receptive_field.windows import Pair

if TYPE_CHECKING:
    from vismech.receptive_field.walk import Walk

Arguments = dict[str, Any]
Rule = Callable[["Walk", fx.Node, Arguments], Role]
RULES: dict[str, Rule] = {}
FLAT_RULES: dict[str, Rule] = {}  # for values that have lost their rows and columns

SAME = ["dropout", "alpha_dropout", "feature_dropout", "alias", "clone", "contiguous", "detach", "to", "_to_copy"]
ACTIVATIONS = [
    "relu", "relu6", "hardtanh", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu",
    "mish", "sigmoid", "log_sigmoid", "hardsigmoid", "hardswish", "tanh", "softplus", "softsign", "threshold", "clamp",
    "clamp_min", "clamp_max", "abs", "pow", "square", "exp", "neg", "hardshrink", "softshrink", "sub", "mul", "div",
]  # fmt: skip


def rule(*names: str, rules: dict[str, Rule] = RULES) -> Callable[[Rule], Rule]:
    """Register a rule for ATen operations."""

    def register(function: Rule) -> Rule:
        rules.update(dict.fromkeys(names, function))
        return function

    return register


def arguments(node: fx.Node, schema: Any = None) -> Arguments:
    """The arguments of an ATen call by name, defaults filled in; of another call by the ``schema`` given."""
    schema = getattr(node.target, "_schema", None) if schema is None else schema
    if schema is None:
        return {}
    return {
        argument.name: node.args[index]
        if index < len(node.args)
        else node.kwargs.get(argument.name, argument.default_value)
        for index, argument in enumerate(schema.arguments)
    }


def shape(node: fx.Node) -> tuple[int, ...]:
    """Shape of a node's value for one image (of its first value, if it has several)."""
    value = node.meta["val"]
    value = value[0] if isinstance(value, (tuple, list)) else value
    return tuple(int(side) for side in value.shape[1:])


def size(node: fx.Node) -> Pair:
    """(H, W) of a node's value."""
    return pair(shape(node)[-2:])


def pair(value: Any) -> Pair:
    """Rows and columns from one number for both, a list of one or a list of two."""
    values = [value] if isinstance(value, int) else list(value)
    return values[0], values[-1]
