"""Where the paths of a trace start: one activation for all images, or several that every image shares with the others.

Legend: B images, E baselines, P positions, C channels, K concepts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from vismech.config.choices import Baseline
from vismech.draws import digest_of
from vismech.errors import UserError


@dataclass(frozen=True)
class Start:
    """Which baseline, before any of its images is opened.

    Attributes:
        kind: which.
        mean: mean vector of the layer [C], for kind=mean.
        samples: places in the data of the images whose activations are baselines, for kind=image and kind=images.
    """

    kind: Baseline = Baseline.zero
    mean: Float[Tensor, " c"] | None = None
    samples: tuple[int, ...] = ()


class Baselines(NamedTuple):
    """Baselines at one layer, computed once per process.

    Attributes:
        start: what they are.
        vectors: PFVs.
        codes: the same in concepts.
    """

    start: Start
    vectors: Float[Tensor, "e p c"]
    codes: Float[Tensor, "e p k"]

    def of(self, places: Sequence[int]) -> list[tuple[Float[Tensor, "b p c"], Float[Tensor, "b p k"]]]:
        """Vectors and codes of each baseline of the images at ``places`` in the data; an image is never its own."""
        if self.start.kind is not Baseline.images:
            return [(self.vectors.expand(len(places), -1, -1), self.codes.expand(len(places), -1, -1))]
        each = [[e for e, sample in enumerate(self.start.samples) if sample != place] for place in places]
        turns = zip(*(chosen[: len(self.start.samples) - 1] for chosen in each), strict=True)
        return [(self.vectors[list(turn)], self.codes[list(turn)]) for turn in turns]


def draw_baselines(ids: Sequence[str], seed: int, count: int) -> list[str]:
    """``count`` + 1 sample ids, the same for every image: each takes the first ``count`` that are not itself.

    Ids are ranked by a hash of (seed, id), so the draw depends neither on how images are grouped nor on their order,
    and E + 1 activations serve all images.

    Raises:
        UserError: fewer images than that.
    """
    if count + 1 > len(ids):
        raise UserError(
            f"attribute.baselines={count} other images were asked for, but there are {len(ids)} in all: "
            f"give at most {len(ids) - 1}"
        )
    return sorted(ids, key=lambda sample: digest_of(seed, "baseline", sample))[: count + 1]
