"""Attributions that are no weight on a straight path, by the name that ``attribute.path`` gives them.

Each has its options, one frozen dataclass, which ``attribute.options`` fills; a wrong name or value there is refused.
``passes`` is what one image costs the network, ``calls`` the sum of both; ig's is S · (1 + T).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple, cast

from jaxtyping import Int
from torch import Tensor

from vismech.attribution.autoencoder import read
from vismech.attribution.bent import Decoder, manifold_ig, spectral_ig
from vismech.attribution.controls import occlusion, smooth_grad
from vismech.attribution.coordinates import coordinates_of
from vismech.attribution.idgi import idgi
from vismech.attribution.model_calls import Problem
from vismech.attribution.paths import made
from vismech.attribution.quadrature import Quadrature
from vismech.attribution.searched import Found, guided_ig, ig2
from vismech.attribution.sources import Edges, Source
from vismech.attribution.variances import expected_gradients_variance, smooth_grad_variance
from vismech.config.choices import PathWeight
from vismech.errors import UserError


class Passes(NamedTuple):
    """Rows that go through the network for one image, and gradients that come back."""

    forward: int
    backward: int


@dataclass(frozen=True)
class Options:
    """Of a method that has none.

    Raises:
        UserError: an option out of its range.
    """

    own_target = False
    """Whether every target has a path of its own, so that cost grows with targets as with images."""
    version = 1
    """Of what it computes; above 1 it is in keys. Guided IG's and IG2's first summed over as many coordinates as the
    widest image of a pass has, so that images told who shared a pass with them."""
    together = False
    """Whether it takes several baselines at once; of the others the mean over baselines is taken."""

    def passes(self, steps: int, targets: int, units: int) -> Passes:
        """Of one image."""
        return Passes(steps, steps * targets)

    def calls(self, steps: int, targets: int, units: int) -> int:
        """Model calls of one image, forward and backward passes alike."""
        return sum(self.passes(steps, targets, units))


@dataclass(frozen=True)
class Guided(Options):
    """Of guided_ig: the share of coordinates that move at a time, and how far from the straight path."""

    own_target = True
    version = 2
    fraction: float = 0.25
    max_dist: float = 0.02

    def __post_init__(self) -> None:
        _check("fraction", self.fraction, 0 < self.fraction <= 1, "above 0 and at most 1: it is a share")
        _check("max_dist", self.max_dist, 0 <= self.max_dist <= 1, "between 0 and 1: it is a share of the way")

    def passes(self, steps: int, targets: int, units: int) -> Passes:
        """See :class:`Options`."""
        return Passes(steps * targets, steps * targets)


@dataclass(frozen=True)
class Ig2(Options):
    """Of ig2: the length of a step (null: twice the straight way's), and whether numbers stay in the input's range."""

    version = 2
    step: float | None = None
    clip: bool = True

    def __post_init__(self) -> None:
        _check("step", self.step, self.step is None or self.step > 0, "above 0, or null")

    def passes(self, steps: int, targets: int, units: int) -> Passes:
        """See :class:`Options`."""
        return Passes(steps, steps * (1 + targets))


@dataclass(frozen=True)
class Spectral(Options):
    """Of spectral_ig: the share of the path over which a component enters."""

    window: float = 0.4

    def __post_init__(self) -> None:
        _check("window", self.window, 0 < self.window <= 1, "above 0 and at most 1: it is a share of the path")


@dataclass(frozen=True)
class Manifold(Options):
    """Of manifold_ig: a decoder (a file of our autoencoder's weights, or ``_target_`` and arguments of a class), and
    rounds of the search for the shortest path, whose decoding is in no count of model calls."""

    decoder: Any = None
    iterations: int = 20

    def __post_init__(self) -> None:
        named = "_target_" in self.decoder if isinstance(self.decoder, Mapping) else isinstance(self.decoder, str)
        if not (named or hasattr(self.decoder, "decode")):
            raise UserError(
                "attribute.path=manifold_ig needs a manifold: give attribute.options.decoder=FILE (of several methods "
                "evaluate.method_options.manifold_ig.decoder), weights that experiments/paths/vae.py trained, or "
                "decoder._target_=package.module.Class, with methods encode and decode"
            )
        _check("iterations", self.iterations, self.iterations >= 0, "a number of rounds, 0 or more")


@dataclass(frozen=True)
class SmoothGrad(Options):
    """Of smooth_grad and smooth_grad_variance: noise as a share of the range of an image's numbers, and its seed."""

    noise: float = 0.15
    seed: int = 0

    def __post_init__(self) -> None:
        _check("noise", self.noise, self.noise >= 0, "a share of the range, 0 or more")


@dataclass(frozen=True)
class Expected(Options):
    """Of expected_gradients_variance, which takes all baselines at once: the seed of its places between the ends."""

    together = True
    seed: int = 0


@dataclass(frozen=True)
class Occlusion(Options):
    """Of occlusion: the side of the squares of pixels that are left out at once."""

    patch: int = 1

    def __post_init__(self) -> None:
        _check("patch", self.patch, self.patch >= 1, "a side of at least 1 pixel")

    def passes(self, steps: int, targets: int, units: int) -> Passes:
        """See :class:`Options`; of concepts and channels, which no square joins."""
        return Passes(1 + -(-units // self.patch**2), 0)


OPTIONS: Mapping[PathWeight, type[Options]] = {
    PathWeight.guided_ig: Guided,
    PathWeight.ig2: Ig2,
    PathWeight.spectral_ig: Spectral,
    PathWeight.manifold_ig: Manifold,
    PathWeight.idgi: Options,
    PathWeight.smooth_grad: SmoothGrad,
    PathWeight.smooth_grad_variance: SmoothGrad,
    PathWeight.expected_gradients_variance: Expected,
    PathWeight.occlusion: Occlusion,
}
COMPLETE = (PathWeight.guided_ig, PathWeight.ig2, PathWeight.spectral_ig, PathWeight.manifold_ig)
"""Those that are paths, so that their gap is an error of the steps."""
UNSIGNED = (PathWeight.smooth_grad_variance, PathWeight.expected_gradients_variance)
"""Those that tell how much of a target a unit matters to, and not whether it raises or lowers it."""


def options_of(path: PathWeight, given: Mapping[str, Any]) -> Options:
    """The options of a method from ``attribute.options``.

    Raises:
        UserError: an option that it does not have, of the wrong kind, or out of its range.
    """
    kind, chosen = OPTIONS[path], dict(given)
    known = {one.name: one.default for one in fields(kind)}
    for name, value in given.items():
        if name not in known:
            some = f"it has {', '.join(known)}" if known else "it has none"
            raise UserError(f"attribute.options.{name} is no option of attribute.path={path}: {some}")
        wanted = float if name == "step" else type(known[name])
        if name == "decoder" or (name == "step" and value is None):
            continue
        if isinstance(value, bool) != (wanted is bool) or not isinstance(
            value, (float, int) if wanted is float else wanted
        ):
            sort = {bool: "true or false", int: "whole number", float: "number"}[wanted]
            raise UserError(f"attribute.options.{name}={value} is no {sort}")
        chosen[name] = wanted(value)
    return kind(**chosen)


def told_cost(path: PathWeight, given: Mapping[str, Any], steps: int) -> str:
    """What a trace costs, before it is known how many targets and concepts it has."""
    options = options_of(path, given)
    if isinstance(options, Occlusion):
        return f"attribute.path={path.value}: one model call an image for each concept, whatever the targets"
    first, both, plain = options.calls(steps, 1, 0), options.calls(steps, 2, 0), Options().calls(steps, 1, 0)
    own = "; each target has a path of its own, so fewer kept concepts (graph.important) cost less"
    return (
        f"attribute.path={path.value}: {first} model calls an image, and {both - first} for each further target, where "
        f"ig takes {plain} and {steps}{own if options.own_target else ''}"
    )


def attributed(
    path: PathWeight,
    options: Options,
    problem: Problem,
    sources: Sequence[Source],
    images: Int[Tensor, " i"],
    rule: Quadrature,
    rows: int,
) -> Found:
    """What a method attributes of some images; ``rule`` counts where only the number of steps does.

    There is one source, unless the method takes several ``together``.

    Raises:
        UserError: a source that the method cannot take.
        NotFinite: a value or gradient is not finite.
    """
    steps, source = len(rule.nodes), sources[0]
    if isinstance(options, Expected):
        return expected_gradients_variance(problem, sources, images, steps, rows, **asdict(options))
    if isinstance(options, Manifold):
        numbers, decoder = coordinates_of(source), load_decoder(options.decoder)
        return manifold_ig(problem, source, numbers, images, steps, rows, decoder, options.iterations)
    if path is PathWeight.idgi:
        return _idgi(problem, source, images, steps, rows)
    numbers = coordinates_of(source)
    match path:
        case PathWeight.guided_ig:
            return guided_ig(problem, numbers, images, steps, rows, **asdict(options))
        case PathWeight.ig2:
            return ig2(problem, numbers, images, steps, rows, **asdict(options))
        case PathWeight.spectral_ig:
            return spectral_ig(problem, source, numbers, images, rule, rows, **asdict(options))
        case PathWeight.smooth_grad:
            return smooth_grad(problem, numbers, images, steps, rows, **asdict(options))
        case PathWeight.smooth_grad_variance:
            return smooth_grad_variance(problem, numbers, images, steps, rows, **asdict(options))
        case _:
            return occlusion(problem, numbers, images, rows, **asdict(options))


def _idgi(problem: Problem, source: Source, images: Int[Tensor, " i"], steps: int, rows: int) -> Found:
    found = idgi(problem.segment, problem.layout, source, problem.clean, problem.targets, steps, rows)
    edges = Edges(*(part[images] for part in found.edges))
    return Found(edges, found.value[images], found.baseline[images])


def load_decoder(decoder: Any) -> Decoder:
    """The decoder that ``attribute.options.decoder`` names, a file or a class; an object is taken as it is.

    Raises:
        UserError: no such file or class, arguments that it does not take, or one without ``encode`` and ``decode``.
    """
    if isinstance(decoder, str):
        return read(decoder)
    found = made(decoder, "attribute.options.decoder") if isinstance(decoder, Mapping) else decoder
    if not (callable(getattr(found, "encode", None)) and callable(getattr(found, "decode", None))):
        raise UserError(f"attribute.options.decoder: {type(found).__name__} must have methods encode and decode")
    return cast(Decoder, found)


def _check(name: str, value: Any, fine: bool, remedy: str) -> None:
    if not fine:
        raise UserError(f"attribute.options.{name}={value} must be {remedy}")
