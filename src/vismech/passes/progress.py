"""Progress of anything longer than two seconds: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

log = logging.getLogger(__name__)
Item = TypeVar("Item")
PATIENCE, INTERVAL = 2.0, 10.0


def pace(count: int, total: int, seconds: float) -> str:
    """How fast ``count`` of ``total`` steps were, and how long the others take at that rate."""
    rate = count / seconds
    speed = f"{rate:.1f} a second" if rate >= 1 else f"{1 / rate:.1f} s each"
    return f"{speed}, {duration((total - count) / rate)} left"


def duration(seconds: float) -> str:
    """Seconds, minutes and seconds, or hours and minutes."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


class Meter:
    """Counts steps and shows them once they have taken two seconds."""

    def __init__(self, title: str, total: int, console: Console | None = None) -> None:
        self.title, self.total, self.count = title, total, 0
        self.console = console or Console(stderr=True)
        self.started = self.said = time.monotonic()
        self.bar: Bar | None = None

    def advance(self) -> None:
        """Note one more step."""
        self.count += 1
        now = time.monotonic()
        if now - self.started < PATIENCE:
            return
        if self.console.is_terminal:
            if self.bar is None:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(),
                    MofNCompleteColumn(),
                    TextColumn("{task.fields[pace]}"),
                )
                self.bar = Bar(*columns, console=self.console, transient=True)
                self.bar.start()
                self.bar.add_task(self.title, total=self.total, pace="")
            told = pace(self.count, self.total, now - self.started)
            self.bar.update(self.bar.task_ids[0], completed=self.count, pace=told)
        elif now - self.said >= INTERVAL:
            self.said = now
            told = pace(self.count, self.total, now - self.started)
            log.info("%s: %d of %d, %s", self.title, self.count, self.total, told)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def track(items: Iterable[Item], title: str, total: int) -> Iterator[Item]:
    """Yield ``items`` and show how far they are."""
    meter = Meter(title, total)
    try:
        for item in items:
            yield item
            meter.advance()
    finally:
        meter.close()
