"""What a network's graph is made of, for sharing ratios: maps of PFVs, and the terms that each one's z is the sum of.

Every value of the graph has one of the roles below. A z stays **open** (a sum still to be completed) as long as only a
batch norm or another addition reads it; any other reader closes it to a map of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, fx

from vismech.receptive_field.rules import Block, Branch, Maximum, Term
from vismech.receptive_field.sweep import map_of_layer
from vismech.receptive_field.windows import Pair, Window


class NoRule(Exception):
    """A call has no rule, for the reason given; it becomes a :class:`Beyond` and never leaves the walk.

    Args:
        at: the call at fault, where it is not the one that is being given a role.
    """

    def __init__(self, reason: str = "", at: fx.Node | None = None) -> None:
        super().__init__(reason)
        self.at = at


@dataclass(frozen=True)
class Mapped:
    """A pointwise function of the vectors of one map: pixels, activations, a batch norm that stands alone, dropout."""

    map: int


@dataclass(frozen=True)
class Summand:
    """One summand of an open z: ``value`` is its node, ``norm`` the node of the batch norm folded into it, if any."""

    value: fx.Node
    branch: Callable[[Summand], Branch]
    norm: fx.Node | None = None


@dataclass(frozen=True)
class Open:
    """A convolution, with its batch norm, or a sum; not yet closed."""

    summands: tuple[Summand, ...]


@dataclass(frozen=True)
class Padded:
    """A map with rows and columns put before and after it."""

    map: int
    value: fx.Node
    before: Pair
    fill: float


@dataclass(frozen=True)
class MaxPooled:
    """The max pool at node ``pool``, to be fused with each convolution that reads it."""

    term: Maximum
    pool: fx.Node


@dataclass(frozen=True)
class Averaged:
    """The average pool at node ``pool``; over the whole map it may turn out to be the head's."""

    map: int
    value: fx.Node
    window: Window
    pool: fx.Node


@dataclass(frozen=True)
class Strided:
    """Every s-th row and column of a map, perhaps between channels of zeros: an option-A shortcut."""

    map: int
    window: Window


@dataclass(frozen=True)
class Concatenated:
    """Maps side by side in channels: (map, node, number of channels) of each."""

    parts: tuple[tuple[int, fx.Node, int], ...]
    size: Pair

    def branch(self, affine: Callable[[], tuple[Tensor, Tensor]] | None = None) -> Branch:
        """The parts as terms of one z; with the scale and offset of a batch norm, which they share."""
        blocks, start = [], 0
        scale = None if affine is None else lambda: affine()[0]
        for source, value, channels in self.parts:
            window = Window(self.size, self.size)
            blocks.append(Block(source, window, value, slice(start, start + channels), scale))
            start += channels
        return Branch(blocks, None if affine is None else lambda: affine()[1])


@dataclass(frozen=True)
class Flat:
    """A map without its rows and columns: averaged over them, or laid out in one vector."""

    map: int
    value: fx.Node
    averaged: bool


@dataclass(frozen=True)
class Head:
    """The logits: a linear layer on a flat map, or the flat map itself (no weight)."""

    flat: Flat
    weight: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Beyond:
    """A value that no rule reaches, and why; ``refused`` where an operation is at fault."""

    reason: str
    refused: bool


Role = Mapped | Open | Padded | MaxPooled | Averaged | Strided | Concatenated | Flat | Head | Beyond


@dataclass
class MapPlan:
    """One map of PFVs: the node of its z, (h, w), and the branches that sum to it (none for the pixels)."""

    value: fx.Node
    size: Pair
    branches: list[Branch]

    @property
    def terms(self) -> list[Term]:
        """The terms of all branches."""
        return [term for branch in self.branches for term in branch.terms]

    @property
    def sources(self) -> set[int]:
        """The maps that this one is made of."""
        return {term.source for term in self.terms}

    @property
    def reads(self) -> set[fx.Node]:
        """The nodes whose values its ratios are measured from, besides z; none where they are 1 throughout."""
        terms = self.terms
        one = len(terms) == 1 and terms[0].window.taps == 1
        return set() if one else {term.value for term in terms}


@dataclass
class Plan:
    """A network's maps, each after those it is made of (0 is the pixels), the layers among them, and the head.

    Attributes:
        layers: layer → the map that its seeds go to, then maps whose relevance passes it by on the way to its parts
            (batch norms that read a concatenation).
        unmapped: layer → why it has no map.
        head: None for a network that gives no map per class, for the reason ``no_head``; ``refused`` when an operation
            without a rule is that reason.
    """

    maps: list[MapPlan]
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    unmapped: dict[str, str] = field(default_factory=dict)
    head: Head | None = None
    no_head: str = ""
    refused: bool = False

    def below(self, maps: set[int]) -> set[int]:
        """``maps`` and all that they are made of: what their receptive fields need."""
        found = set(maps)
        for number in reversed(range(len(self.maps))):
            if number in found:
                found |= self.maps[number].sources
        return found

    def above(self, maps: set[int]) -> set[int]:
        """The maps made of ``maps``, at any remove: what relevance passes on its way down to them."""
        found: set[int] = set()
        for number, planned in enumerate(self.maps):
            if planned.sources & (maps | found):
                found.add(number)
        return found

    def map_of(self, layer: str) -> int:
        """The map that a layer's seeds go to.

        Raises:
            UserError: an unknown layer, or one without a map.
        """
        return map_of_layer(layer, self.layers, self.unmapped)
