"""Counts that the costs of several stages are made of: images read, rows through parts of the network, codes."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, prod
from typing import Any

import numpy as np

from vismech.config.choices import DataSource, Method
from vismech.costs.coding import coding, encoder_sweeps
from vismech.costs.cost import Amount, Cost, Kind
from vismech.costs.counts import Counts, count
from vismech.dictionaries.coding import l0_of
from vismech.dictionaries.lasso import GRAM_BYTES
from vismech.network.layers import LOGITS, PIXELS
from vismech.stages.work import Work
from vismech.store.artifacts import Spec
from vismech.store.rows import Column
from vismech.store.settings import used

BYTES = 4
PHOTOGRAPH = 500 * 375
"""Pixels of an image file before it is resized, as those of ImageNet have them."""
FORWARD_HELD = 0.1
"""Of the numbers that a pass computes, the most that are there at any time without a gradient to come."""
RATIOS, SWEEP = 6.0, 3.6
"""Passes forward that take as long as an image's sharing ratios, and as following one vector or concept through them,
as measured on ResNets."""
SMALL = (DataSource.cifar10, DataSource.custom)
"""Sources whose images are no larger than the model's input."""


def counted(work: Work, lower: str, upper: str) -> Counts:
    """What a row costs between two layers, kept with the model's outline."""
    known = work.outline.counts
    if (lower, upper) not in known:
        if (lower, upper) in work.outline.held:
            cut = work.network.around(lower, upper)
            segment, shape = cut.segment, (cut.packing.numbers,)
        else:
            segment, shape = work.network.segment(lower, upper), work.outline.shape(lower)
        known[lower, upper] = tuple(count(segment, shape))
        work.keep_outline()
    return Counts(*known[lower, upper])


def reading(work: Work, images: int) -> Cost:
    """A pass that begins, and reads so many images."""
    crop = prod(work.outline.shape(PIXELS)[1:])
    pixels = 3 * crop + (crop if work.data.source in SMALL else PHOTOGRAPH)
    return Cost(images, work={Kind.read: Amount(float(pixels * images)), Kind.start: Amount(1.0)})


def passing(work: Work, lower: str, upper: str, rows: float, calls: float = 0, backs: float = 0) -> Cost:
    """So many rows from one layer to another, in so many calls, and so many gradients back for each of the rows.

    ``calls`` are those of the batch's size where they are not given.
    """
    counts, calls = counted(work, lower, upper), calls or ceil(rows / work.site.runtime.batch_size)
    back = Amount(**{name: value * backs for name, value in vars(counts.backward).items()})
    # Without a gradient to come, values are forgotten as soon as the next are there.
    at_once = min(rows, rows / calls if calls else 0)
    held = BYTES * counts.kept * at_once * (1 if backs else FORWARD_HELD)
    done = {Kind.forward: counts.forward.times(rows, calls), Kind.backward: back.times(rows, calls)}
    return Cost(forward=rows, backward=rows * backs, held=held, work=done)


def activations(work: Work, layer: str, images: int) -> Cost:
    """A forward pass over images as far as a layer."""
    return passing(work, PIXELS, layer, images)


def edited(work: Work, layer: str, rows: float, concepts: float) -> Cost:
    """So many edits of one layer's activation, of so many concepts each, and what the network answers."""
    layout, calls = work.layout(layer), rows / work.site.runtime.path_batch_size
    changes = Amount(2.0 * rows * layout.positions * layout.channels * concepts, launches=8.0 * calls)
    return passing(work, layer, LOGITS, rows, calls) + Cost(work={Kind.products: changes})


def traced_to_pixels(work: Work, images: int, sweeps: int) -> Cost:
    """Sharing ratios of so many images, and what so many vectors or concepts come from in one of them."""
    rows = images * RATIOS + sweeps * SWEEP
    return reading(work, images) + passing(work, PIXELS, LOGITS, rows, rows / images if images else 0)


def pictured(pixels: float) -> Cost:
    """Pixels that are drawn and encoded."""
    return Cost(work={Kind.picture: Amount(pixels)}, written=pixels)


def coded(work: Work, layer: str, dictionary: Spec[Any], how: Any, images: float) -> Cost:
    """The codes of every position of so many images of a layer.

    Args:
        work: the run.
        layer: the layer.
        dictionary: its dictionary's spec.
        how: the ``CodingSettings``.
        images: how many.
    """
    layout, k = work.layout(layer), concepts_of(work, layer, dictionary)
    n, c = images * layout.positions, layout.channels
    l0 = used(how.concepts_per_image, 0) or l0_of(used(how.l0_per_channel, 0.5), c)
    done = coding(how.code, n, k, c, l0, images)
    method = dictionary.settings.method
    if how.code.value == "encoder" and method in (Method.nmf, Method.semi_nmf):
        done = encoder_sweeps(n, k)
    held = 3.0 * BYTES * layout.positions * k * min(images, work.site.runtime.batch_size) + min(8.0 * k * k, GRAM_BYTES)
    return Cost(vectors=round(n), work=done, held=held)


def concepts_of(work: Work, layer: str, dictionary: Spec[Any]) -> int:
    """Concepts of a layer's dictionary; the most there may be where their number is chosen and not known yet."""
    settings = dictionary.settings
    if not settings.counting or work.store.find(dictionary) is not None:
        return count_of(work, dictionary)
    return max(1, min(settings.k, vectors_of(work, dictionary) // settings.counting.vectors_per_concept))


def count_of(work: Work, spec: Spec[Any]) -> int:
    """How many concepts a dictionary that is there was made with: ``dictionary.k``, or what was chosen."""
    if not spec.settings.counting:
        return int(spec.settings.k)
    return int(work.store.open(spec).json("dictionary.json")["info"]["chosen"]["k"])


def vectors_of(work: Work, dictionary: Spec[Any]) -> int:
    """Vectors that a dictionary is made from."""
    extract = dictionary.parents["vectors"].settings
    return len(work.data) * used(extract.per_image, work.layout(extract.layer).positions)


def written(columns: Mapping[str, Column], rows: float) -> float:
    """Bytes of an artifact's arrays."""
    return rows * sum(np.dtype(column.dtype).itemsize * prod(column.shape) for column in columns.values())
