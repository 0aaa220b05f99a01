"""The folders that Hydra makes for runs and sweeps: counted, given up where nothing came of them, tables collected."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from vismech.store.disk import remove

PLANNED = "plan.json"


class Launch:
    """What the command at hand has started: one run, or the jobs of a sweep.

    Attributes:
        folder: of the run or the sweep, once Hydra has composed its configuration.
        sweep: whether it is a sweep.
        tasks: how many jobs have begun in this process.
        failures: number of a job → its sentence, of the jobs that failed in this process.
    """

    def __init__(self) -> None:
        self.begin(None, False)

    def begin(self, folder: Path | None, sweep: bool) -> None:
        """Forget the launch before, and see which folders there are already."""
        self.folder, self.sweep, self.tasks = folder, sweep, 0
        self.failures: dict[int, str] = {}
        self.missing: list[Path] = []
        for place in [] if folder is None else [folder.absolute(), *folder.absolute().parents]:
            if os.path.lexists(place):
                break
            self.missing.append(place)

    @property
    def jobs(self) -> list[Path]:
        """The folders of a sweep's jobs that began, in the order of their numbers."""
        if not self.sweep or self.folder is None or not os.path.isdir(self.folder):
            return []
        from vismech.compare.sweep import numbered

        return numbered(self.folder)

    def tidy(self) -> None:
        """Remove the folders that this launch made, if they hold nothing but what Hydra wrote and what was planned."""
        if not self.missing or self.folder is None or not os.path.isdir(self.folder):
            return
        inner = self.jobs if self.sweep else [self.folder]
        outer = {path.name for path in self.folder.iterdir()} - {"multirun.yaml"} if self.sweep else set()
        if outer - {job.name for job in inner} or not all(_bare(folder) for folder in inner):
            return
        with suppress(OSError):
            remove(self.folder)
            for parent in self.missing[1:]:
                parent.rmdir()  # another run may have begun in it


def _bare(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir()}
    return all(name in (".hydra", PLANNED) or name.endswith(".log") for name in names)


launch = Launch()


def count_jobs(sweep: Path) -> int | None:
    """How many jobs a sweep has, by what Hydra wrote when it began; None for sweepers that choose as they go."""
    from vismech.compare.sweep import read_yaml
    from vismech.config.composition import combinations
    from vismech.errors import UserError

    try:
        hydra = read_yaml(sweep / "multirun.yaml")["hydra"]
        if not hydra["sweeper"]["_target_"].endswith(".BasicSweeper"):
            return None
        given = [f"{key}={value}" for key, value in (hydra["sweeper"].get("params") or {}).items()]
        return combinations([*given, *hydra["overrides"]["task"]])
    except (UserError, KeyError, TypeError, AttributeError):
        return None


class Folders:
    """Hydra callback: notes where a run or sweep goes; after a sweep, one CSV per table at its top."""

    def on_run_start(self, config: Any, **_: Any) -> None:
        """Note the run's folder before it is made."""
        with suppress(Exception):  # Hydra says what is wrong with it in a moment
            launch.begin(Path(config.hydra.run.dir), sweep=False)

    def on_multirun_start(self, config: Any, **_: Any) -> None:
        """Note the sweep's folder before it is made."""
        with suppress(Exception):
            launch.begin(Path(config.hydra.sweep.dir), sweep=True)

    def on_multirun_end(self, config: Any, **_: Any) -> None:
        """Collect ``<job>/tables/*.csv`` into ``<sweep>/<table>.csv``."""
        from vismech.compare.sweep import collect

        collect(Path(config.hydra.sweep.dir))

    def __getattr__(self, name: str) -> Any:
        """Hydra's other events need nothing."""
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *_arguments, **_facts: None
