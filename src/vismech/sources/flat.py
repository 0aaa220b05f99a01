"""A folder of images whose classes nobody knows."""

from __future__ import annotations

from pathlib import Path

from vismech.sources.data import Columns
from vismech.sources.folders import image_files
from vismech.sources.pictures import UNLABELLED, ImageData, Sample


def open_flat(root: Path, columns: Columns) -> ImageData:
    """Every image below ``root``, at any depth, without a label; ``columns`` are of no use here.

    Raises:
        UserError: a folder that cannot be read, or a name that is not UTF-8.
    """
    samples = [Sample(path.relative_to(root).as_posix(), UNLABELLED) for path in image_files(root)]
    return ImageData(root, samples, {})
