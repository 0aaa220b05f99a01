"""What the numbers of a shortcut's removal depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from vismech.config.choices import Evaluation
from vismech.measures.images import MeasuredSettings
from vismech.measures.shortcut import ShortcutOptions
from vismech.sources.groups import Groups
from vismech.stages.dictionary import CodingSettings
from vismech.stages.work import Work
from vismech.store.settings import FLAT, UNUSED, Settings


@dataclass(frozen=True)
class StrengthSettings(Settings):
    """Of which images each concept's mean code is taken."""

    measure: str
    layer: str
    coding: CodingSettings = field(metadata=FLAT)
    measured: MeasuredSettings = field(metadata=FLAT)


@dataclass(frozen=True, kw_only=True)
class ShortcutSettings(ShortcutOptions):
    """Which concepts are edited and how.

    Attributes:
        given: concepts named by hand, of this layer.
    """

    measure: Evaluation
    layer: str
    measured: MeasuredSettings = field(metadata=FLAT)
    groups: Groups
    attribute: str = UNUSED
    target: int = UNUSED
    given: tuple[int, ...]
    seed: int


def has_attribute(work: Work, wanted: ShortcutSettings, ids: Sequence[str]) -> np.ndarray:
    """Whether each image has the attribute."""
    values = wanted.groups.columns[wanted.attribute]
    return np.array([values[work.measured.place[sample]] == wanted.present for sample in ids])
