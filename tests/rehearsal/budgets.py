"""How often the host may wait for the device: as often as when this was last recorded, in ``budgets.json``.

A wait more is a failure that names the functions that wait most. To record what is found, and look at the difference:
``VISMECH_RECORD=1 pytest tests/rehearsal``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from rehearsal.device import OUTSIDE, Counts

FILE = Path(__file__).parent / "budgets.json"


def within_budget(name: str, counts: Counts) -> None:
    """Fail if ``name`` made the host wait more often than is recorded."""
    budgets = json.loads(FILE.read_text())
    waits = counts.waits.total() - counts.waits[OUTSIDE]
    if os.environ.get("VISMECH_RECORD"):
        FILE.write_text(json.dumps({**budgets, name: waits}, indent=0, sort_keys=True) + "\n")
        return
    assert counts.launches.total(), f"{name}: nothing was done on the device"
    assert waits <= budgets[name], f"{name}: {waits} waits instead of {budgets[name]}: {counts}"
