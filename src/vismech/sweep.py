"""A sweep's tables in one: each job's rows, with the keys that the sweep varied as columns."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import yaml


def collect(sweep: Path) -> list[Path]:
    """Write ``<sweep>/<table>.csv`` from ``<sweep>/<job>/tables/<table>.csv``; jobs in the order of their numbers."""
    jobs = numbered(sweep)
    frames: dict[str, list[pd.DataFrame]] = {}
    overrides = {job: _overrides(job) for job in jobs}
    varied = [
        key
        for key in dict.fromkeys(key for given in overrides.values() for key in given)
        if len({given.get(key) for given in overrides.values()}) > 1 or len(jobs) == 1
    ]
    for job in jobs:
        for table in sorted((job / "tables").glob("*.csv")):
            if not table.stat().st_size:  # a job was killed while it wrote
                continue
            frame = pd.read_csv(table)
            for place, key in enumerate(varied):
                # A table may have a column of a group's name: its own stays.
                column = f"overrides.{key}" if key in ("job", *frame.columns) else key
                frame.insert(place, column, overrides[job].get(key))
            frame.insert(0, "job", int(job.name))
            frames.setdefault(table.name, []).append(frame)
    written = []
    for name, parts in frames.items():
        pd.concat(parts, ignore_index=True).to_csv(sweep / name, index=False)
        written.append(sweep / name)
    return written


def numbered(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, in the order of their numbers."""
    return sorted((path for path in sweep.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))


def _overrides(job: Path) -> dict[str, str]:
    file = job / ".hydra" / "overrides.yaml"
    given = yaml.safe_load(file.read_text()) if file.is_file() else []
    pairs = (text.lstrip("+~").partition("=") for text in given)
    return {key: value for key, _, value in pairs}
