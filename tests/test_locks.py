"""Locks of the system, and leases on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vismech.errors import UserError
from vismech.store import locks
from vismech.store.artifacts import Spec, Store
from vismech.store.locks import held, tried

SPEC = Spec("stage", 1, "unit", {"x": 1})
# A file system without locks, in a process of its own.
WITHOUT = """
import errno, fcntl, os, signal, sys, time
from pathlib import Path
from vismech.store import locks

def refuse(*_arguments):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

fcntl.flock = refuse
locks.BEAT, locks.LOOK = 0.05, 0.005
"""
COUNTER = """
counter = Path(sys.argv[2])
for _ in range(40):
    with locks.held(Path(sys.argv[1])):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
DIES = """
with locks.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def without(monkeypatch):
    """A file system without locks."""

    def refuse(*_arguments):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "BEAT", 0.02)


class Clock:
    """Time that passes only where somebody looks at a lease again: by ``step`` seconds, after ``before`` is done."""

    def __init__(self, step: float, before=lambda: None) -> None:
        self.now, self.step, self.before = 0.0, step, before

    def monotonic(self) -> float:
        return self.now

    def sleep(self, _seconds: float) -> None:
        self.before()
        self.now += self.step


def start(code: str, *arguments: object, **pipes: int) -> subprocess.Popen:
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **pipes)


def test_leases_exclude_other_processes(tmp_path) -> None:
    (tmp_path / "counter").write_text("0")
    processes = [start(COUNTER, tmp_path / "lock", tmp_path / "counter") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert (tmp_path / "counter").read_text() == "120"
    assert len([*tmp_path.glob("lock.lease.*")]) == 2  # the last one and its mark


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_lease_of_who_says_nothing_is_taken_over(tmp_path, without, caplog, monkeypatch, how) -> None:
    with start(DIES, tmp_path / "lock", stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "held\n"
        os.kill(process.pid, how)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        monkeypatch.setattr(locks, "time", Clock(locks.STALE / 3))
        heard = []
        with held(tmp_path / "lock", told=heard.append) as still:
            assert heard == [f"process {process.pid} of {os.uname().nodename}"]
            assert "taken over from process" in caplog.text
            still()
            process.kill()


def test_a_living_holder_is_waited_for(tmp_path, without, monkeypatch) -> None:
    """Though it holds the lease for longer than a silent one would be believed."""
    order, looks, enough = [], [], threading.Event()

    def beaten() -> None:
        """The holder has touched its lease since the last look."""
        (lease,) = tmp_path.glob("lock.lease.?")
        before = looks[-1] if looks else 0
        while (now := lease.stat().st_mtime_ns) == before and not enough.is_set():
            enough.wait(0.001)
        looks.append(now)
        if len(looks) > 5:
            clock.step = 0
            enough.set()

    def other() -> None:
        with held(tmp_path / "lock"):
            order.append("other")

    clock = Clock(0.9 * locks.STALE, beaten)
    monkeypatch.setattr(locks, "time", clock)
    with held(tmp_path / "lock"):
        thread = threading.Thread(target=other)
        thread.start()
        assert enough.wait(60)
        order.append("first")
    thread.join(60)
    assert order == ["first", "other"]


def test_who_lost_a_lease_commits_nothing(tmp_path, without) -> None:
    store = Store(tmp_path)
    with (
        pytest.raises(UserError, match=r"another run has taken .* over"),
        store.lock(SPEC),
        store.writer(SPEC) as folder,
    ):
        (folder / "x").write_text("half")
        (lease,) = tmp_path.glob("stage/*.lease.0")
        lease.rename(lease.with_name(lease.name[:-1] + "1"))
    assert store.find(SPEC) is None


def test_who_was_asleep_while_others_came_and_went_has_nothing(tmp_path) -> None:
    path = tmp_path / "lock"
    late = locks._Lease(path, 3)
    (path.with_name("lease")).touch()
    assert locks._Lease(path, 7).make()
    assert not late.make() and not late.path.exists()
    assert locks._numbers(path) == {7}


def test_a_store_without_locks_works_for_one_run_and_refuses_what_needs_them(tmp_path, without) -> None:
    store = Store(tmp_path)
    with store.uses.recorded(), store.lock(SPEC), store.writer(SPEC) as folder:
        (folder / "x").write_text("x")
        with store.unless_busy(store.folder(SPEC)) as free:
            assert not free
    with store.unless_busy(store.folder(SPEC)) as free:
        assert free
    assert store.open(SPEC).problems() == []
    with pytest.raises(UserError, match="no file locks, so that runs cannot share"), store.lock(SPEC, shared=True):
        pass
    with pytest.raises(UserError, match="nobody can tell which artifacts"), store.uses.gated():
        pass


def test_other_refusals_are_not_taken_for_a_lack_of_locks(tmp_path, monkeypatch) -> None:
    def refuse(*_arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", refuse)
    for lock in (held(tmp_path / "lock"), tried(tmp_path / "lock", make=True)):
        with pytest.raises(OSError, match="Input/output"), lock:
            pass


def test_a_second_run_says_what_it_waits_for(tmp_path, caplog) -> None:
    """And by whom that is computed; it goes on when the first is done."""
    caplog.set_level("INFO")
    waits, store, done = threading.Event(), Store(tmp_path), []

    class Heard(Store):
        pass

    def second() -> None:
        with Heard(tmp_path).lock(SPEC):
            done.append(store.find(SPEC) is not None)

    class Handler(locks.logging.Handler):
        def emit(self, record) -> None:
            if "waiting for it" in record.getMessage():
                waits.set()

    handler = Handler()
    locks.logging.getLogger("vismech").addHandler(handler)
    try:
        with store.lock(SPEC):
            thread = threading.Thread(target=second)
            thread.start()
            assert waits.wait(30)
            with store.writer(SPEC) as folder:
                (folder / "x").write_text("x")
        thread.join(30)
    finally:
        locks.logging.getLogger("vismech").removeHandler(handler)
    assert done == [True]
    assert f"stage unit is being computed by process {os.getpid()} of {os.uname().nodename}: waiting" in caplog.text
    assert Path(store.root).is_dir()
