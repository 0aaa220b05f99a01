"""A sweep's tables in one: each job's rows, with the keys that the sweep varied as columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vismech.errors import UserError
from vismech.store.disk import writing

DONE = "metrics.json"


def collect(sweep: Path, jobs: Sequence[Path] | None = None) -> list[Path]:
    """Write ``<sweep>/<table>.csv`` from ``<sweep>/<job>/tables/<table>.csv``; jobs in the order of their numbers.

    Args:
        sweep: the sweep's folder.
        jobs: only these; default: all.

    Raises:
        UserError: the sweep's folder cannot be written, or its disk is full.
    """
    import pandas as pd

    jobs = numbered(sweep) if jobs is None else jobs
    frames: dict[str, list[pd.DataFrame]] = {}
    overrides = _varied(numbered(sweep))
    for job in jobs:
        for table in sorted((job / "tables").glob("*.csv")):
            try:
                frame = pd.read_csv(table)
            except (OSError, ValueError):  # a job was killed while it wrote
                continue
            for place, (key, value) in enumerate(overrides[job].items()):
                # A table may have a column of a group's name: its own stays.
                column = f"overrides.{key}" if key in ("job", *frame.columns) else key
                frame.insert(place, column, value)
            frame.insert(0, "job", int(job.name))
            frames.setdefault(table.name, []).append(frame)
    written = []
    with writing(sweep, "hydra.sweep.dir"):
        for name, parts in frames.items():
            pd.concat(parts, ignore_index=True).to_csv(sweep / name, index=False)
            written.append(sweep / name)
    return written


def failed_jobs(sweep: Path) -> dict[str, str]:
    """Number of each job that did not come to its end → what it was to vary."""
    return {
        job.name: ", ".join(f"{key}={value}" for key, value in given.items() if value is not None)
        for job, given in _varied(numbered(sweep)).items()
        if not (job / DONE).is_file()
    }


def read_yaml(file: Path) -> Any:
    """The content of a YAML file, of plain data alone.

    Raises:
        UserError: it cannot be read, is no YAML, or has a tag that would make objects of it.
    """
    import yaml

    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise UserError(f"{file} cannot be read as plain YAML ({words}): take a run whose folder is whole") from error


def numbered(sweep: Path) -> list[Path]:
    """The folders of a sweep's jobs, in the order of their numbers."""
    return sorted((path for path in sweep.iterdir() if path.name.isdecimal()), key=lambda path: int(path.name))


def _varied(jobs: Sequence[Path]) -> dict[Path, dict[str, str | None]]:
    """The overrides of each job in which the jobs differ; all of them where there is one job."""
    overrides = {job: _overrides(job) for job in jobs}
    keys = dict.fromkeys(key for given in overrides.values() for key in given)
    varied = [key for key in keys if len({given.get(key) for given in overrides.values()}) > 1 or len(jobs) == 1]
    return {job: {key: given.get(key) for key in varied} for job, given in overrides.items()}


def _overrides(job: Path) -> dict[str, str]:
    file = job / ".hydra" / "overrides.yaml"
    given = read_yaml(file) if file.is_file() else []
    pairs = (text.lstrip("+~").partition("=") for text in given or [] if isinstance(text, str))
    return {key: value for key, _, value in pairs}
