"""What an artifact costs to compute, in counts that hold for every machine; seconds are a machine's (`machines`).

A stage declares its counts beside its settings, as a function from a run and specs to unit → :class:`Cost`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """A kind of work, for each of which a machine has a rate; ``flops`` count in the unit that is told here."""

    open = "open"  # operations of a network that is captured
    start = "start"  # passes over images that are begun
    read = "read"  # pixels that are decoded, resized and normalised
    forward = "forward"  # FLOPs
    backward = "backward"  # FLOPs
    lasso = "lasso"  # FLOPs of ADMM and exchanges
    pursuit = "pursuit"  # FLOPs
    products = "products"  # FLOPs of plain products of matrices
    bisecting = "bisecting"  # FLOPs of 2-means
    splits = "splits"  # splits of a bisection
    kmeans = "kmeans"  # FLOPs
    search = "search"  # FLOPs of exact neighbours
    picture = "picture"  # pixels that are drawn and encoded
    host = "host"  # numbers that statistics look at, each once


ON_DEVICE = frozenset({Kind.forward, Kind.backward, Kind.lasso, Kind.pursuit, Kind.products, Kind.search})
"""Kinds that a GPU takes over; the others stay with one thread of the host."""
PER_IMAGE = frozenset({*ON_DEVICE, Kind.read}) - {Kind.search}
"""Kinds that processes, or GPUs, share between them."""


@dataclass(frozen=True)
class Amount:
    """Work of one kind.

    Attributes:
        flops: in the unit of its kind; of products in float32.
        doubles: the same in float64.
        traffic: bytes read and written in memory.
        launches: operations that are begun one after another.
    """

    flops: float = 0.0
    doubles: float = 0.0
    traffic: float = 0.0
    launches: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.flops + other.flops,
            self.doubles + other.doubles,
            self.traffic + other.traffic,
            self.launches + other.launches,
        )

    def times(self, rows: float, calls: float) -> Amount:
        """Of so many rows in so many calls, where ``launches`` are those of one call and the rest is of one row."""
        return Amount(self.flops * rows, self.doubles * rows, self.traffic * rows, self.launches * calls)


@dataclass(frozen=True)
class Cost:
    """What one artifact takes.

    Attributes:
        images: that are looked at.
        vectors: that are clustered or coded.
        forward, backward: rows that go through the network or a part of it, and gradients that come back.
        written: bytes that are put into the store.
        exact: whether ``written`` is no more than what is certain to be written.
        held: bytes in memory at the peak, beside the program itself.
        work: kind → amount.
        about: whether numbers are estimates, as what decides is not computed yet.
    """

    images: int = 0
    vectors: int = 0
    forward: float = 0.0
    backward: float = 0.0
    written: float = 0.0
    exact: bool = False
    held: float = 0.0
    work: Mapping[Kind, Amount] = field(default_factory=dict)
    about: bool = False

    def __add__(self, other: Cost) -> Cost:
        """Both, one after the other and of the same images."""
        kinds = {**self.work, **other.work}
        return Cost(
            max(self.images, other.images),
            self.vectors + other.vectors,
            self.forward + other.forward,
            self.backward + other.backward,
            self.written + other.written,
            self.exact and other.exact,
            max(self.held, other.held),
            {kind: self.work.get(kind, Amount()) + other.work.get(kind, Amount()) for kind in kinds},
            self.about or other.about,
        )

    @property
    def flops(self) -> float:
        """FLOPs of all kinds whose unit that is."""
        counted = set(Kind) - {Kind.open, Kind.start, Kind.read, Kind.splits, Kind.picture, Kind.host}
        return sum(self.work[kind].flops + self.work[kind].doubles for kind in self.work if kind in counted)

    @property
    def launches(self) -> float:
        """Operations that are begun."""
        return sum(amount.launches for amount in self.work.values())
