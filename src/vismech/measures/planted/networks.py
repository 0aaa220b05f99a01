"""The planted networks, chosen before any method was run on them; none was changed or left out afterwards.

Every network has sources in layer 1, some that nothing reads (distractors, which occur beside the others and are
stronger), and targets in its last layer, 2 to 4 layers above. What each is for:

    linear         sums of sums: everything but |u| should find the edges
    inhibition     sources that lower their target: signs
    distractors    sums whose sources each have a twin, at the same positions and stronger, that nothing reads
    saturated      targets that clip sums at once: the slope at the image is zero for nearly all edges
    cancelling     two routes of a source that cancel beyond a strength (slope zero at the image), two that always
                   cancel (no edge), and pairs of inputs that cancel each other
    multi_hop      four layers of sums, thresholds and clips in a row
    gate_and       relu(a + b − 1): nothing comes of one source alone
    redundant_or   min(1, a + b), each enough by itself: leave-one-out and patching see nothing
    disinhibition  a source shuts off a unit that is always on and lowers the target: slope zero at the image
    superposed     16 concepts in 12 channels of layer 1, one at each position, read through thresholds
    oblique        sums; concept vectors that are not orthogonal: projections of one read others as well
    tent           a source that helps up to a strength and harms beyond: its effects cancel over images, so any signed
                   mean loses the edge; the slope at the image has the same sign in every image, and u × gradient wins
    off_path       a unit that is active only at strengths that no image has opens a gate early on the straight path
                   from zero: ig gives its source a part of what is another's (no edge on the data), while
                   leave-one-out and patching, which stay on the data, give it nothing, and nor does the slope
    ghost          a gate that only the path opens and closes again: what it adds to two sources sums to zero, so that
                   completeness says nothing; ig should lose here too
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from vismech.errors import UserError
from vismech.measures.planted.circuits import COHERENCE, Circuit, Concept, Offset, Source, Unit, Wire

DISTRACTOR = Source(2.0, 3.0)
STRONGEST = 1.5
"""The strength of a concept in superposition is at most this, so that its threshold hides all others."""


class _Draw:
    """The choices of one network."""

    def __init__(self, name: str, seed: int) -> None:
        self.of = Circuit(name, seed, (), ()).generator("wiring")

    def weight(self, low: float = 0.5, high: float = 1.5) -> float:
        return float(self.of.uniform(low, high))

    def offset(self) -> Offset:
        y, x = self.of.integers(-1, 2, size=2)
        return int(y), int(x)

    def order(self, count: int) -> list[int]:
        return self.of.permutation(count).tolist()

    def some(self, count: int, size: int) -> list[int]:
        return self.of.choice(count, size=size, replace=False).tolist()


def _sum(wires: Iterable[tuple[int, float]], bias: float = 0.0, weight: float = 1.0) -> Unit:
    """``weight · relu(bias + Σ w a)`` of concepts at the same position."""
    return Unit(tuple(Wire(source, factor) for source, factor in wires), bias, weight)


def _relay(source: int, offset: Offset = (0, 0)) -> Concept:
    return (Unit((Wire(source, 1.0, offset),)),)


def _clipped(wires: tuple[Wire, ...], top: float, weight: float = 1.0) -> Concept:
    """``weight · min(top, relu(Σ wires))``."""
    return Unit(wires, 0.0, weight), Unit(wires, -top, -weight)


def _bump(source: int, offset: Offset) -> Concept:
    """Up from 0 to ½ at strength ½, down to 0 at strength 1, and 0 beyond."""
    wires = (Wire(source, 1.0, offset),)
    return Unit(wires), Unit(wires, -0.5, -2.0), Unit(wires, -1.0)


def _sums(draw: _Draw, sources: int) -> tuple[tuple[Concept, ...], ...]:
    """Pairs of sources, and three targets that read two of the pairs each."""
    order = draw.order(sources)
    pairs = tuple(
        (Unit(tuple(Wire(one, draw.weight(), draw.offset()) for one in order[at : at + 2])),)
        for at in range(0, sources, 2)
    )
    targets = tuple((_sum((pair, draw.weight()) for pair in draw.some(len(pairs), 2)),) for _ in range(3))
    return pairs, targets


def linear(seed: int) -> Circuit:
    """Sums of sums."""
    return Circuit("linear", seed, (Source(),) * 8 + (DISTRACTOR,) * 3, _sums(_Draw("linear", seed), 8))


def oblique(seed: int) -> Circuit:
    """Sums of sums, concept vectors not orthogonal."""
    sources = (Source(),) * 8 + (DISTRACTOR,) * 3
    return Circuit("oblique", seed, sources, _sums(_Draw("oblique", seed), 8), oblique=True)


def distractors(seed: int) -> Circuit:
    """Sums of sums, each source with a stronger twin."""
    sources = (Source(),) * 8 + tuple(Source(2.0, 3.0, twin=source) for source in range(8))
    return Circuit("distractors", seed, sources, _sums(_Draw("distractors", seed), 8))


def inhibition(seed: int) -> Circuit:
    """Targets of one source that raises them and two that lower them, never to zero."""
    draw = _Draw("inhibition", seed)
    relays = tuple(_relay(source, draw.offset()) for source in range(9))
    targets = tuple(
        (_sum([(up, draw.weight(1.0)), (up + 1, -draw.weight(high=1.0)), (up + 2, -draw.weight(high=1.0))]),)
        for up in (0, 3, 6)
    )
    sources = (Source(2.0, 3.0, 1.0), Source(0.3, 0.8), Source(0.3, 0.8)) * 3 + (DISTRACTOR,) * 3
    return Circuit("inhibition", seed, sources, (relays, targets))


def saturated(seed: int) -> Circuit:
    """Targets of two clipped pairs, and one weak source that is not clipped."""
    draw = _Draw("saturated", seed)
    middle: list[Concept] = []
    for first in range(0, 15, 5):
        for pair in (first, first + 2):
            wires = tuple(Wire(source, draw.weight(), draw.offset()) for source in (pair, pair + 1))
            middle.append(_clipped(wires, 0.5))
        middle.append(_relay(first + 4, draw.offset()))
    targets = tuple(
        (_sum([(at, draw.weight()), (at + 1, draw.weight()), (at + 2, draw.weight(0.1, 0.3))]),) for at in (0, 3, 6)
    )
    return Circuit("saturated", seed, (Source(),) * 15 + (DISTRACTOR,) * 3, (tuple(middle), targets))


def cancelling(seed: int) -> Circuit:
    """Per target a base, a source whose routes cancel beyond 0.4, one whose routes always do, a cancelling pair."""
    draw = _Draw("cancelling", seed)
    middle, targets = [], []
    for first in (0, 5):
        base, part, void, plus, minus = range(first, first + 5)
        there, at = draw.offset(), len(middle)
        middle += [_relay(base, draw.offset()), _relay(part, there), (Unit((Wire(part, 1.0, there),), -0.4),)]
        there = draw.offset()
        middle += [_relay(void, there), _relay(void, there), _relay(plus, draw.offset()), _relay(minus, draw.offset())]
        one, two, three = draw.weight(), draw.weight(), draw.weight(high=1.0)
        weights = (1.0, one, -one, two, -two, three, -three)
        targets.append((_sum((at + step, weight) for step, weight in enumerate(weights)),))
    each = (Source(2.0, 3.0, 1.0), Source(), Source(1.5, 2.5), Source(1.0, 1.5), Source(1.0, 1.5))
    void = frozenset({(2, 0), (7, 1)})
    return Circuit("cancelling", seed, each * 2 + (DISTRACTOR,) * 2, (tuple(middle), tuple(targets)), void)


def multi_hop(seed: int) -> Circuit:
    """Relays, thresholded sums, clips, sums: four layers from source to target."""
    draw = _Draw("multi_hop", seed)
    relays = tuple((Unit((Wire(source, draw.weight(), draw.offset()),)),) for source in draw.order(8))
    order = draw.order(8)
    gates = tuple(
        (_sum([(order[at], draw.weight()), (order[at + 1], draw.weight())], bias=-0.2),) for at in range(0, 8, 2)
    )
    clips = tuple(_clipped((Wire(at, 1.0, draw.offset()),), 1.0) for at in range(4))
    targets = tuple((_sum((at, draw.weight()) for at in draw.some(4, 2)),) for _ in range(3))
    return Circuit("multi_hop", seed, (Source(),) * 8 + (DISTRACTOR,) * 3, (relays, gates, clips, targets))


def gate_and(seed: int) -> Circuit:
    """Targets of two gates relu(a + b − 1)."""
    draw = _Draw("gate_and", seed)
    relays = tuple(_relay(source, draw.offset()) for source in range(12))
    targets = tuple(
        tuple(_sum([(at, 1.0), (at + 1, 1.0)], -1.0, draw.weight()) for at in (first, first + 2)) for first in (0, 4, 8)
    )
    return Circuit("gate_and", seed, (Source(0.7, 0.95, 0.9),) * 12 + (DISTRACTOR,) * 3, (relays, targets))


def redundant_or(seed: int) -> Circuit:
    """Targets of min(1, a + b), each at least 1, and a weaker source that nothing replaces."""
    draw = _Draw("redundant_or", seed)
    relays = tuple(_relay(source, draw.offset()) for source in range(9))
    targets = tuple(
        (*_clipped((Wire(at, 1.0), Wire(at + 1, 1.0)), 1.0, draw.weight()), _sum([(at + 2, draw.weight(0.2, 0.4))]))
        for at in (0, 3, 6)
    )
    sources = (Source(1.0, 1.5, 1.0), Source(1.0, 1.5, 1.0), Source()) * 3 + (DISTRACTOR,) * 3
    return Circuit("redundant_or", seed, sources, (relays, targets))


def disinhibition(seed: int) -> Circuit:
    """Targets of two units relu(s − r), r = relu(1 − q): q lets s through."""
    draw = _Draw("disinhibition", seed)
    middle = tuple(
        _relay(source, draw.offset()) if source % 2 == 0 else (Unit((Wire(source, -1.0, draw.offset()),), 1.0),)
        for source in range(12)
    )
    targets = tuple(
        tuple(_sum([(at, 1.0), (at + 1, -1.0)], 0.0, draw.weight()) for at in (first, first + 2)) for first in (0, 4, 8)
    )
    sources = (Source(1.2, 1.6, 1.0), Source(1.2, 2.0)) * 6 + (DISTRACTOR,) * 3
    return Circuit("disinhibition", seed, sources, (middle, targets))


def superposed(seed: int) -> Circuit:
    """Targets of four sources, each read through a threshold that no other concept at its position passes."""
    draw, threshold = _Draw("superposed", seed), COHERENCE * STRONGEST
    around = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    offsets = [around[place] for _ in range(3) for place in draw.some(len(around), 4)]
    reads = tuple((Unit((Wire(source, 1.0, offset),), -threshold),) for source, offset in enumerate(offsets))
    targets = tuple((_sum((at, draw.weight()) for at in range(first, first + 4)),) for first in (0, 4, 8))
    return Circuit("superposed", seed, (Source(1.0, STRONGEST),) * 16, (reads, targets), superposed=12)


def tent(seed: int) -> Circuit:
    """Targets of a base, two sources that help up to ½ and harm beyond, and one that is plain."""
    draw = _Draw("tent", seed)
    middle: list[Concept] = []
    for base in (0, 4, 8):
        middle.append(_relay(base, draw.offset()))
        for source in (base + 1, base + 2):
            wires = (Wire(source, 1.0, draw.offset()),)
            middle.append((Unit(wires), Unit(wires, -0.5, -2.0)))
        middle.append(_relay(base + 3, draw.offset()))
    targets = tuple(
        (_sum([(at, 1.0), (at + 1, draw.weight(0.5, 1.0)), (at + 2, draw.weight(0.5, 1.0)), (at + 3, draw.weight())]),)
        for at in (0, 4, 8)
    )
    each = (Source(1.5, 2.0, 1.0), Source(0.5, 1.5), Source(0.5, 1.5), Source())
    return Circuit("tent", seed, each * 3 + (DISTRACTOR,) * 3, (tuple(middle), targets))


def off_path(seed: int) -> Circuit:
    """Targets of relu(2 bump(d) + q − ½) and a weak source; d has no strength at which its bump is up."""
    draw = _Draw("off_path", seed)
    middle = tuple(
        _bump(source, draw.offset()) if source % 3 == 0 else _relay(source, draw.offset()) for source in range(9)
    )
    targets = tuple(
        (_sum([(at, 2.0), (at + 1, 1.0)], -0.5, draw.weight()), _sum([(at + 2, draw.weight(0.05, 0.15))]))
        for at in (0, 3, 6)
    )
    sources = (Source(1.05, 1.5, 1.0), Source(1.0, 1.5, 1.0), Source()) * 3 + (DISTRACTOR,) * 3
    void = frozenset({(0, 0), (3, 1), (6, 2)})
    return Circuit("off_path", seed, sources, (middle, targets), void)


def ghost(seed: int) -> Circuit:
    """Targets of two sources, and of 3 relu(bump(d) + bump(e) − ½), zero on every image."""
    draw = _Draw("ghost", seed)
    middle = tuple(
        _bump(source, draw.offset()) if source % 4 < 2 else _relay(source, draw.offset()) for source in range(12)
    )
    targets = tuple(
        (
            _sum([(at, 1.0), (at + 1, 1.0)], -0.5, 3.0),
            _sum([(at + 2, draw.weight(0.1, 0.5)), (at + 3, draw.weight(0.1, 0.5))]),
        )
        for at in (0, 4, 8)
    )
    each = (Source(1.05, 1.3, 1.0), Source(1.7, 2.3, 1.0), Source(), Source())
    void = frozenset((at + step, place) for place, at in enumerate((0, 4, 8)) for step in (0, 1))
    return Circuit("ghost", seed, each * 3 + (DISTRACTOR,) * 3, (middle, targets), void)


NETWORKS: dict[str, Callable[[int], Circuit]] = {
    make.__name__: make
    for make in (
        linear,
        inhibition,
        distractors,
        saturated,
        cancelling,
        multi_hop,
        gate_and,
        redundant_or,
        disinhibition,
        superposed,
        oblique,
        tent,
        off_path,
        ghost,
    )
}


def circuit_of(name: str, seed: int) -> Circuit:
    """The network of a name.

    Raises:
        UserError: no such network.
    """
    if name not in NETWORKS:
        raise UserError(f"evaluate.networks: there is no planted network {name!r}: choose among {', '.join(NETWORKS)}")
    return NETWORKS[name](seed)
