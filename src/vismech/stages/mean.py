"""Stage extract: the mean over images of a layer's whole activation, position by position, or of the images themselves.

Of tokens it is the mean token with what its position's embedding makes of it, and of class tokens their mean.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vismech.config.choices import Stage, Unreadable
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.network.layers import PIXELS
from vismech.passes.progress import track
from vismech.stages.context import Context, Job
from vismech.stages.counted import activations, reading
from vismech.stages.explained import spread
from vismech.stages.work import Work, compact, some_kept, write_images
from vismech.store.artifacts import Spec
from vismech.store.settings import FLAT, Settings

log = logging.getLogger(__name__)
VERSION = 1
AVERAGED = 256
"""At most so many images, spread evenly over the sample ids: a mean's error falls with the root of their number."""
BATCH = 8
"""Images in a pass, always, so that the mean depends on no size of batches."""


@dataclass(frozen=True)
class MeanSettings(Settings):
    """Of what the mean is.

    Attributes:
        source: the model and the images.
        layer: the layer, or ``pixels``.
        averaged: at most so many images.
    """

    source: Mapping[str, Any] = field(metadata=FLAT)
    layer: str
    averaged: int = AVERAGED


def mean_spec(ctx: Context, layer: str) -> Spec[MeanSettings]:
    """The mean at a layer, or of the images at ``pixels``."""
    return Spec(Stage.extract.value, VERSION, f"mean {layer}", MeanSettings(ctx.source, layer))


def job(spec: Spec[MeanSettings]) -> Job:
    """The job of one mean."""
    return Job(Stage.extract, {spec.unit: spec}, compute, cost)


def cost(work: Work, specs: Mapping[str, Spec[MeanSettings]]) -> dict[str, Cost]:
    """A pass over the images as far as the layer."""
    found = {}
    for unit, spec in specs.items():
        images, layer = min(len(work.data), spec.settings.averaged), spec.settings.layer
        passes = Cost() if layer == PIXELS else activations(work, layer, images)
        found[unit] = reading(work, images) + passes
    return found


def compute(work: Work, specs: Mapping[str, Spec[MeanSettings]]) -> None:
    """``mean.npy`` [1, …], summed in double precision."""
    for spec in specs.values():
        layer = spec.settings.layer
        places = spread(list(range(len(work.data))), spec.settings.averaged)
        total, kept = torch.zeros(work.network.shape(layer), dtype=torch.float64), []
        read = _readable(work, track(places, f"mean of {layer}", len(places)))
        while some := list(islice(read, BATCH)):
            kept += [place for place, _ in some]
            images = torch.stack([image for _, image in some] + [some[-1][1]] * (BATCH - len(some)))
            with torch.no_grad():
                total += work.network.activations(images, [layer])[layer][: len(some)].double().sum(0)
        some_kept(kept)
        if not total.isfinite().all():
            raise UserError(f"the mean of {layer} over {len(kept)} images is not finite: the network overflows on some")
        with work.store.writer(spec) as folder:
            np.save(folder / "mean.npy", (total / len(kept)).float()[None].numpy())
            rows = [places.index(place) for place in kept]
            (folder / "images.json").write_bytes(compact(write_images(work, rows, places)))


def _readable(work: Work, places: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """Places and images of those that can be read.

    Raises:
        UserError: an image that cannot be read, where that ends the run.
    """
    for place in places:
        try:
            image = work.model.preprocess(work.data.load(place))
        except UserError as error:
            if work.site.unreadable is Unreadable.fail:
                raise
            log.warning("%s", error)
        else:
            yield place, image
