"""What one position of a cut's output depends on: a window of the cut's input, where everything between is local.

Convolutions, pools and what acts on each position alone are local; an average over the whole map, attention or a layer
of its own weight at each position is not, and then no window is told.

A window cut out of the input, passed through the same graph, gives the same value at that position: where it ends
inside the map, zeros are padded instead of its neighbours, which by the window's size never reach the position; where
it ends with the map, the padding is the map's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any, NamedTuple

from torch import Tensor, fx, nn

from vismech.network.capture import operation

POINTWISE = frozenset(
    [
        *("add", "sub", "mul", "div", "neg", "clamp", "clamp_max", "clamp_min", "exp", "sqrt"),
        *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "mish", "softplus", "log_sigmoid"),
        *("sigmoid", "tanh", "hardtanh", "hardsigmoid", "hardswish", "dropout", "feature_dropout"),
        *("alias", "clone", "contiguous", "detach", "to", "_to_copy"),
    ]
)
"""Operations whose value at a position is told by the values of their maps at that position."""
POOLS = frozenset(["max_pool2d", "avg_pool2d"])


class Reach(NamedTuple):
    """Along one side, position i of the output reads positions ``stride · i − before`` … ``stride · i + after``."""

    stride: int = 1
    before: int = 0
    after: int = 0

    def then(self, size: int, stride: int, padding: int, dilation: int) -> Reach:
        """Followed by a convolution or pool."""
        before = self.stride * padding + self.before
        after = self.stride * (dilation * (size - 1) - padding) + self.after
        return Reach(self.stride * stride, max(before, 0), max(after, 0))

    def window(self, side: int) -> int:
        """Positions of a window, the same for every output position, that holds what one of them reads of a map."""
        needed = self.before + self.after + self.stride
        return side - max(0, (side - needed) // self.stride) * self.stride

    def start(self, position: Tensor, side: int) -> Tensor:
        """Where the windows of output positions begin: on a multiple of the stride, and within the map."""
        first = (self.stride * position - self.before).clamp(min=0) // self.stride * self.stride
        return first.clamp(max=side - self.window(side))


Reaches = tuple[Reach, Reach]


def reach_of(cut: nn.Module) -> Reaches | None:
    """What a position of a cut's output reads of its input, along rows and columns; None where not all is local."""
    if not isinstance(cut, fx.GraphModule):
        return None
    found: dict[fx.Node, Reaches | None] = {}  # None: a constant
    for node in cut.graph.nodes:
        match node.op:
            case "placeholder":
                if found:
                    return None
                found[node] = Reach(), Reach()
            case "get_attr":
                found[node] = None
            case "output":
                (values,) = node.args
                return found[values[0]] if isinstance(values, tuple) and len(values) == 1 else None
            case "call_function":
                try:
                    found[node] = _through(cut, node, found)
                except _NotLocal:
                    return None
            case _:
                return None
    return None


def window_share(cut: Any, sides: Sequence[int]) -> float:
    """Positions of a window over those of the input, of so many rows and columns; 1 where there is no window."""
    reaches: Reaches | None = getattr(cut, "reach", None)
    if reaches is None or len(sides) != 2:
        return 1.0
    return prod(reach.window(side) for reach, side in zip(reaches, sides, strict=True)) / prod(sides)


class _NotLocal(Exception):
    pass


def _through(cut: fx.GraphModule, node: fx.Node, found: dict[fx.Node, Reaches | None]) -> Reaches:
    """The reach of a call's value.

    Raises:
        _NotLocal: it is none of a window, or it is not known to be one.
    """
    name = operation(node)
    arguments: tuple[Any, ...] = node.args
    maps = [read for read in node.all_input_nodes if found[read] is not None]
    if not maps:
        raise _NotLocal
    if name == "getitem" and operation(arguments[0]) == "batch_norm_no_training" and arguments[1] == 0:
        return _joined([found[arguments[0]]])
    if len({read.meta["val"].shape[2:] for read in maps}) > 1 or maps[0].meta["val"].ndim != 4:
        raise _NotLocal
    if name == "batch_norm_no_training" or (name == "batch_norm" and arguments[5] is False):
        return _joined([found[read] for read in maps])  # one by the moments of the map itself is none
    if name in POINTWISE or (name == "cat" and _argument(node, 1, "dim", 0) == 1):
        for read in node.all_input_nodes:
            if found[read] is None and not _is_the_same_everywhere(_stored(cut, read)):
                raise _NotLocal
        return _joined([found[read] for read in maps])
    (first,) = maps
    before = found[first]
    assert before is not None
    if name in ("conv2d", "convolution"):
        if arguments[0] is not first or node.kwargs or (name == "convolution" and arguments[6]):
            raise _NotLocal
        size = tuple(_stored(cut, arguments[1]).shape[2:])
        options = _argument(node, 3, "", (1,)), _argument(node, 4, "", (0,)), _argument(node, 5, "", (1,))
        return _windowed(before, size, *options)
    if name in POOLS:
        size = _argument(node, 1, "kernel_size", None)
        stride = _argument(node, 2, "stride", ()) or size
        padding = _argument(node, 3, "padding", (0,))
        dilated = name == "max_pool2d"
        dilation = _argument(node, 4, "dilation", (1,)) if dilated else (1,)
        if _argument(node, 5 if dilated else 4, "ceil_mode", False):
            raise _NotLocal
        return _windowed(before, size, stride, padding, dilation)
    if name == "slice":
        return _sliced(node, before)
    if name in ("pad", "constant_pad_nd"):
        return _padded(node, before)
    raise _NotLocal


def _argument(node: fx.Node, place: int, name: str, default: Any) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _stored(cut: fx.GraphModule, node: Any) -> Tensor:
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise _NotLocal
    path, _, last = str(node.target).rpartition(".")
    return getattr(cut.get_submodule(path), last)


def _is_the_same_everywhere(constant: Tensor) -> bool:
    return constant.numel() == 1 or (constant.ndim >= 3 and tuple(constant.shape[-2:]) == (1, 1))


def _joined(each: list[Reaches | None]) -> Reaches:
    sides = []
    for side in range(2):
        reaches = [both[side] for both in each if both is not None]
        if len({reach.stride for reach in reaches}) > 1:
            raise _NotLocal
        before, after = max(reach.before for reach in reaches), max(reach.after for reach in reaches)
        sides.append(Reach(reaches[0].stride, before, after))
    return sides[0], sides[1]


def _windowed(before: Reaches, *options: Any) -> Reaches:
    both = []
    for given in options:
        if not isinstance(given, (int, tuple, list)) or (not isinstance(given, int) and len(given) not in (1, 2)):
            raise _NotLocal
        both.append((given, given) if isinstance(given, int) else (given[0], given[-1]))
    rows, columns = (reach.then(*(option[side] for option in both)) for side, reach in enumerate(before))
    return rows, columns


def _padded(node: fx.Node, before: Reaches) -> Reaches:
    """A constant around a map, and channels of it before and after."""
    sides: Any = node.args[1]
    constant = operation(node) == "constant_pad_nd" or _argument(node, 2, "mode", "constant") == "constant"
    if not constant or len(sides) > 6 or min(sides) < 0:
        raise _NotLocal
    columns, _, rows, _ = (*sides, 0, 0, 0, 0)[:4]
    return before[0].then(1, 1, rows, 1), before[1].then(1, 1, columns, 1)


def _sliced(node: fx.Node, before: Reaches) -> Reaches:
    """Channels of a map, or every so-manieth row or column of the whole."""
    dim, start = _argument(node, 1, "dim", 0), _argument(node, 2, "start", None)
    end, step = _argument(node, 3, "end", None), _argument(node, 4, "step", 1)
    if dim == 1:
        return before
    if dim not in (2, 3) or start not in (None, 0) or (end is not None and end < 2**31):
        raise _NotLocal
    rows, columns = (reach.then(1, step if dim == side else 1, 0, 1) for side, reach in enumerate(before, 2))
    return rows, columns
