"""Everything that is measured beside the graph: a folder for each measure, and what they share."""

from __future__ import annotations

from dataclasses import dataclass

from vismech.config.choices import Half
from vismech.store.settings import Settings


@dataclass(frozen=True)
class MeasuredOptions(Settings):
    """Which images are measured."""

    images: int | None = 500
    """At most so many images, spread evenly over the sample ids (repair: right ones of each class); null: all."""
    correct_only: bool = False
    """reconstruction, insertion, transfer, interlayer: only images that the network classifies as they are labelled."""
    half: Half = Half.all
    """reconstruction, insertion, transfer, interlayer: all images, or the half for choosing between methods, or the
    half for confirming the choice; a hash of its sample id tells an image's half, whatever the seed."""
