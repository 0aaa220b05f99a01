"""The methods that are measured beside the weights on the straight path, each for one source and its targets.

Legend: B images, T targets, Q units, N images of the pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from vismech.attribution.covariance import covariances, neighbours
from vismech.attribution.engine import Settings as Integral
from vismech.attribution.engine import attribute
from vismech.attribution.gig import Segment
from vismech.attribution.methods import Passes, options_of
from vismech.attribution.sources import Source
from vismech.attribution.targets import Targets
from vismech.config.choices import AttributionMethod, PathWeight, Rule
from vismech.errors import UserError
from vismech.measures.attribution import AttributionOptions
from vismech.measures.unit_scores import all_units
from vismech.network.pfv import Layout
from vismech.passes.settings import decoder_code
from vismech.store.settings import UNUSED, used

REFERENCES = 2
"""Images of other classes that IG2 goes down to."""
DRAWN = 8
"""Images that expected gradients start from, the same for all images, but never the image itself."""
RULES = {PathWeight.spectral_ig: Rule.midpoint, PathWeight.manifold_ig: Rule.midpoint}
"""Of the others only the number of steps counts."""


@dataclass(frozen=True)
class MethodSettings(AttributionOptions):
    """Which methods are measured and what of them.

    ``decoder_code`` is the hash of manifold_ig's decoder, its weights with it, ``versions`` are those of methods that
    have changed.
    """

    decoder_code: str = UNUSED
    versions: Mapping[str, int] = UNUSED

    @classmethod
    def of(cls, evaluate: Any) -> MethodSettings:
        """From the configuration's group; UNUSED where nothing beyond the weights is asked for.

        Raises:
            UserError: an option that a method does not have, or a number out of its range.
        """
        names = tuple(dict.fromkeys(evaluate.methods))
        for name, given in evaluate.method_options.items():
            if name not in [one.value for one in names]:
                raise UserError(f"evaluate.method_options.{name} is for no method of evaluate.methods: leave it out")
            if name == AttributionMethod.covariance or not isinstance(given, Mapping):
                raise UserError(f"evaluate.method_options.{name}={given}: give the options of attribute.path={name}")
        decoder, versions = UNUSED, {}
        for name in names:
            if name is not AttributionMethod.covariance:
                options = options_of(PathWeight(name.value), evaluate.method_options.get(name.value, {}))
                decoder = decoder_code(options) or decoder
                versions |= {name.value: options.version} if options.version > 1 else {}
        if evaluate.filter is not None and not 0 < evaluate.filter <= 1:
            raise UserError(
                f"evaluate.filter={evaluate.filter} must be above 0 and at most 1: it is a share of the side"
            )
        if evaluate.neighbours < 3:
            raise UserError(f"evaluate.neighbours={evaluate.neighbours} must be at least 3: fewer have no covariance")
        if not names and evaluate.filter is None and not evaluate.mosaics:
            return UNUSED
        return cls(
            methods=list(names),
            method_options=evaluate.method_options,
            filter=UNUSED if evaluate.filter is None else evaluate.filter,
            mosaics=evaluate.mosaics or UNUSED,
            neighbours=evaluate.neighbours if AttributionMethod.covariance in names else UNUSED,
            decoder_code=decoder,
            versions=versions or UNUSED,
        )


class Problem(NamedTuple):
    """A source and its targets; ``starts`` are, for a method that needs some, the same source from other images."""

    segment: Segment
    layout: Layout
    source: Source
    starts: Mapping[AttributionMethod, Sequence[Source]]
    clean: Tensor
    targets: Targets


def edges_of(
    name: AttributionMethod, how: MethodSettings, problem: Problem, steps: int, rows: int
) -> Float[Tensor, "b t q"]:
    """What a method attributes to all units, the error node last."""
    path = PathWeight(name.value)
    options = options_of(path, how.method_options.get(name.value, {}))
    settings = Integral(RULES.get(path, Rule.riemann_left), steps, (path,), rows=rows, options=options)
    sources = problem.starts.get(name, [problem.source])
    found = attribute(problem.segment, problem.layout, sources, problem.clean, problem.targets, settings)
    return all_units(found.edges[path])


def passes_of(how: MethodSettings, steps: int, targets: int, units: int) -> list[Passes]:
    """What the methods cost the network for one image, each."""
    found = []
    for name in how.methods:
        if name is not AttributionMethod.covariance:
            options = options_of(PathWeight(name.value), how.method_options.get(name.value, {}))
            times = REFERENCES if name is AttributionMethod.ig2 else 1
            found.append(Passes(*(times * each for each in options.passes(steps, targets, units))))
    return found


class Ensemble(NamedTuple):
    """Activations of the pass's images.

    Attributes:
        told: what they are compared by [N, D].
        units: codes or pixels, summed over positions or channels, the error (0) last [N, Q].
        outputs: the logits or probabilities [N, classes].
    """

    told: np.ndarray
    units: Float[Tensor, "n q"]
    outputs: Float[Tensor, "n k"]

    def covariance(self, told: np.ndarray, classes: np.ndarray, how: MethodSettings) -> Float[Tensor, "b 1 q"]:
        """Of each image's class, over its neighbours; of two classes their difference."""
        near = neighbours(self.told, told, used(how.neighbours, 50))
        found = []
        for rows, own in zip(torch.from_numpy(near).to(self.units.device), classes, strict=True):
            answers = self.outputs[rows]
            target = answers[:, own] if np.ndim(own) == 0 else answers[:, own[0]] - answers[:, own[1]]
            found.append(covariances(self.units[rows], target[:, None]))
        return torch.stack(found)
