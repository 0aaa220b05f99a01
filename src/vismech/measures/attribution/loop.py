"""How well attributions of every image tell what its units do."""

from __future__ import annotations

from typing import ClassVar

import torch

from vismech.draws import seed_of
from vismech.intervene.coded import Coded
from vismech.measures.attribution import scores as metrics
from vismech.measures.attribution.scores import Measured
from vismech.measures.saturation.scores import WEIGHTS
from vismech.measures.unit_loop import Case, UnitLoop

METHODS = (*(weight.value for weight in WEIGHTS), "random")
"""The last is a control: ig's values dealt out to the units at random, which keeps their sum."""
SHARES = (0.1, 0.5)
"""Sizes of the random sets of sensitivity-n, as shares of the units; infidelity's are half of them."""


class AttributionLoop(UnitLoop):
    """Writes the scores of :mod:`~vismech.measures.attribution.scores` of every method in ``METHODS`` [T, W]."""

    scores: ClassVar = dict.fromkeys(
        [
            "completeness",
            *metrics.Areas._fields,
            "abpc",
            "infidelity",
            "infidelity_relative",
            *(f"sensitivity_n_{share:g}" for share in SHARES),
            "max_sensitivity",
        ],
        (len(METHODS),),
    )

    def measure(self, coded: Coded, case: Case) -> dict[str, Measured]:
        """See :class:`UnitLoop`; max-sensitivity of a random order says nothing and is left undefined."""
        generator = self._generator(case.row)
        shuffled = torch.randperm(len(case.units), generator=generator).to(case.units)
        full = case.attribution[:, :1]
        attribution = torch.cat([case.attribution, full[:, :, shuffled]], 1)
        everywhere = attribution.any(2)
        found = {
            "completeness": metrics.completeness(attribution, case.ends),
            "abpc": metrics.abpc(case.outputs, attribution, case.ends),
        }
        areas = metrics.areas(metrics.curves(case.outputs, attribution, case.ends))
        found |= {name: Measured(area, everywhere) for name, area in areas._asdict().items()}
        for share in SHARES:
            drawn = metrics.removals(case.outputs, case.ends, len(case.units), share, generator)
            found[f"sensitivity_n_{share:g}"] = metrics.sensitivity_n(attribution, drawn)
        # The last sets are of half the units.
        infidelity = metrics.infidelity(attribution, drawn)
        change = case.ends.change[:, None].expand_as(infidelity)
        found["infidelity"] = Measured(infidelity, torch.ones_like(everywhere))
        found["infidelity_relative"] = metrics.ratio(infidelity, change.square())
        disturbed = self.sensitivity(coded, case)
        found["max_sensitivity"] = Measured(*(torch.nn.functional.pad(part, (0, 1)) for part in disturbed))
        return found

    def _generator(self, row: int) -> torch.Generator:
        """From (seed, sample id) alone."""
        seed = seed_of(self.seed, "units", self.sample_id(row), byteorder="little")
        return torch.Generator().manual_seed(seed)
