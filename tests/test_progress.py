"""How far a long pass is, how fast, and how long the rest takes, by a clock of the test's own."""

from __future__ import annotations

import io
import logging

import pytest
from rich.console import Console

from vismech.passes import progress
from vismech.passes.progress import Meter, duration, pace, track


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


@pytest.mark.parametrize(
    ("count", "total", "seconds", "said"),
    [
        (50, 150, 20.0, "2.5 a second, 40 s left"),
        (2, 12, 50.0, "25.0 s each, 4 min 10 s left"),
        (1, 1000, 10.0, "10.0 s each, 2 h 46 min left"),
        (7, 7, 7.0, "1.0 a second, 0 s left"),
    ],
)
def test_rate_and_time_left(count, total, seconds, said) -> None:
    assert pace(count, total, seconds) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(59.4, "59 s"), (59.6, "1 min 0 s"), (3599.6, "1 h 0 min"), (7325, "2 h 2 min")]
)
def test_durations(seconds, said) -> None:
    assert duration(seconds) == said


def test_lines_every_ten_seconds(clock, caplog) -> None:
    caplog.set_level(logging.INFO)

    def items():
        for item in range(12):
            clock.now += 4.0
            yield item

    assert list(track(items(), "the pass", 12)) == list(range(12))
    assert caplog.messages == [
        "the pass: 3 of 12, 4.0 s each, 36 s left",
        "the pass: 6 of 12, 4.0 s each, 24 s left",
        "the pass: 9 of 12, 4.0 s each, 12 s left",
        "the pass: 12 of 12, 4.0 s each, 0 s left",
    ]


def test_a_terminal_has_a_bar_with_the_same_words(clock) -> None:
    screen = io.StringIO()
    meter = Meter("the pass", 4, Console(file=screen, force_terminal=True, width=120))
    for _ in range(3):
        clock.now += 5.0
        meter.advance()
        if meter.bar is not None:
            meter.bar.refresh()
    meter.close()
    assert "3/4" in screen.getvalue() and "5.0 s each, 5 s left" in screen.getvalue()


def test_what_is_short_says_nothing(clock, caplog) -> None:
    caplog.set_level(logging.INFO)
    for _ in track(range(5), "the pass", 5):
        clock.now += 0.1
    assert not caplog.messages
