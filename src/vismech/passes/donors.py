"""Another image for each of a pass: whose codes replace its own, or whose run a concept is put into."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vismech.config.choices import Unreadable
from vismech.draws import seed_of
from vismech.errors import UserError
from vismech.passes.loop import ImageLoop


def donor_images(
    loop: ImageLoop, rows: list[int], seed: int, like: Tensor, classes: np.ndarray | None = None
) -> Tensor:
    """For each row another of the loop's images, drawn from (seed, sample id).

    Args:
        loop: the pass.
        rows: of the batch, without those that only fill it up.
        seed: of the draw.
        like: the batch's images [B, 3, H, W]; as many are returned, the last one filling up.
        classes: of each row; where there are several, the other image is of another class.
    """
    images = torch.stack([_donor(loop, row, seed, classes) for row in rows])
    images = torch.cat([images, images[-1:].expand(len(like) - len(rows), -1, -1, -1)]).to(like)
    return images.to(memory_format=torch.channels_last) if loop.site.runtime.channels_last else images


def _donor(loop: ImageLoop, row: int, seed: int, classes: np.ndarray | None) -> Tensor:
    assert loop.resources is not None
    others = len(loop.indices) - 1
    first = seed_of(seed, "donor", loop.sample_id(row), byteorder="little") % max(1, others)
    for turn in range(others):
        other = (row + 1 + (first + turn) % others) % len(loop.indices)
        if classes is not None and classes[other] == classes[row] and (classes != classes[row]).any():
            continue
        try:
            return loop.resources.model.preprocess(loop.data.load(loop.indices[other]))
        except UserError:
            if loop.site.unreadable is Unreadable.fail:
                raise
    raise UserError("another image is needed, but no other could be read: give more images")
