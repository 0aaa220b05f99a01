"""Where the paths of a trace start: one activation for all images, several that they share, or each image's own.

Legend: B images, E baselines, P positions, C channels, K concepts, M tokens before the patch tokens.
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
        whole: mean over images of the layer's whole activation [1, …], for kind=mean_position and where kind=mean has
            tokens before the patch tokens; of the images themselves, for kind=mean_image.
        blur: standard deviation, as a share of the image's shorter side, for kind=blur.
    """

    kind: Baseline = Baseline.zero
    mean: Float[Tensor, " c"] | None = None
    samples: tuple[int, ...] = ()
    whole: Tensor | None = None
    blur: float = 0.0


class Begun(NamedTuple):
    """Where the paths of some images start: PFVs, the same in concepts, and the tokens before the patch tokens.

    Zero where None.
    """

    vectors: Float[Tensor, "b p c"] | None = None
    codes: Float[Tensor, "b p k"] | None = None
    before: Float[Tensor, "b m c"] | None = None

    def take(self, rows: list[int]) -> Begun:
        """Some of the images, or one of them several times."""
        return Begun(*(None if part is None else part[rows] for part in self))


class Baselines(NamedTuple):
    """Baselines at one layer that images share, computed once per process.

    Attributes:
        start: what they are.
        each: E baselines as images.
    """

    start: Start
    each: Begun

    def of(self, places: Sequence[int]) -> list[Begun]:
        """Each baseline of the images at ``places`` in the data; an image is never its own."""
        if self.start.kind is not Baseline.images:
            return [self.each.take([0] * len(places))]
        each = [[e for e, sample in enumerate(self.start.samples) if sample != place] for place in places]
        turns = zip(*(chosen[: len(self.start.samples) - 1] for chosen in each), strict=True)
        return [self.each.take(list(turn)) for turn in turns]


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
