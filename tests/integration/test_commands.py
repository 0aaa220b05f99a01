"""``vismech`` as it is typed: what it leaves behind and says at signals, failures, full disks and odd arguments."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.process import BaseProcess
from pathlib import Path

import pandas as pd
import pytest

from integration.conftest import (
    FileLimit,
    command,
    digest,
    draw_pictures,
    run_apart,
    said,
    start_command,
    tiny_arguments,
    tiny_config,
)
from vismech.store.artifacts import Store
from vismech.store.rows import Rows


def folders(base: Path) -> list[str]:
    """Every file and folder below the working directory."""
    return sorted(path.relative_to(base).as_posix() for path in base.rglob("*"))


@pytest.fixture
def arguments(pictures, tmp_path) -> list[str]:
    return [*tiny_arguments(pictures, tmp_path / "store"), "until=dictionary"]


@pytest.fixture
def base(tmp_path) -> Path:
    return tmp_path / "here"


# What a command leaves


def test_a_run_leaves_its_folder_and_a_plan_leaves_none(arguments, base) -> None:
    plan = command([*arguments, "plan=true"], base)
    assert (plan.status, plan.out.splitlines()[-1]) == (0, "0 hits, 6 misses") and folders(base) == []
    done = command(arguments, base)
    assert done.status == 0, done.err
    (run,) = base.glob("outputs/runs/tiny/*")
    assert {"plan.json", "metrics.json", "events.jsonl", "run.log", ".hydra"} <= {path.name for path in run.iterdir()}
    before = folders(base)
    plan = command([*arguments, "plan=true"], base)
    assert plan.out.splitlines()[-1] == "6 hits, 0 misses" and folders(base) == before


def test_a_plan_in_a_folder_of_the_persons_own_touches_nothing_there(arguments, base) -> None:
    (base / "mine").mkdir(parents=True)
    (base / "mine/plan.json").write_text("[]")
    assert command([*arguments, "plan=true", "hydra.run.dir=mine"], base).status == 0
    assert (base / "mine/plan.json").read_text() == "[]"


def test_the_plan_of_a_sweep_leaves_no_folder(arguments, base) -> None:
    plan = command(["-m", *arguments, "plan=true", "dictionary.k=8,12"], base)
    assert plan.status == 0 and plan.out.count("0 hits, 6 misses") == 2 and folders(base) == []


@pytest.mark.parametrize(
    ("extra", "sentence"),
    [
        (["data.root=nowhere"], "data.root=nowhere is not a folder"),
        (["extract.layers=[layr2]"], "no layer 'layr2'; nearest: layer"),
        (["graph.prune=2"], "graph.prune=2.0 must be above 0"),
        (["seed=x"], "seed=x does not fit"),
        (["-m", "data.root=nowhere,elsewhere"], "2 of 2 jobs failed, job 0 (data.root=nowhere): data.root=nowhere is"),
        (["-m", "seed=1,x"], "seed=x does not fit"),
    ],
    ids=str,
)
def test_a_command_that_failed_before_it_computed_leaves_no_folder(extra, sentence, arguments, base) -> None:
    sweep = extra[:1] if extra[0] == "-m" else []
    ended = command([*sweep, *arguments, *extra[len(sweep) :]], base)
    assert ended.status == 1 and sentence in ended.sentence
    assert folders(base) == []


def test_a_sweep_with_a_failed_job_collects_the_others_and_names_it(arguments, base) -> None:
    ended = command(["-m", *arguments, "dictionary.k=8,1000,12"], base)
    assert ended.status == 1
    (sweep,) = base.glob("outputs/sweeps/tiny/*")
    table = pd.read_csv(sweep / "timings.csv")
    assert table["job"].drop_duplicates().tolist() == [0, 2] and set(table["dictionary.k"]) == {8, 12}
    assert ended.sentence.startswith("1 of 3 jobs failed, job 1 (")
    assert "dictionary.k=1000): " in ended.sentence and "180" in ended.sentence  # vectors: the job's own sentence
    assert ended.sentence.endswith(f"collected in outputs/sweeps/tiny/{sweep.name}")


# Signals


class Signal:
    """A signal to this process alone, in the middle of a pass over images."""

    def __init__(self, number: int, batches: int = 4) -> None:
        self.number, self.batches = number, batches

    def __call__(self) -> None:
        write, count = Rows.write, 0

        def signalled(rows, *arguments) -> None:
            nonlocal count
            count += 1
            write(rows, *arguments)
            if count == self.batches:
                os.kill(os.getpid(), self.number)

        Rows.write = signalled


SIGNALS = [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
SLOW_SIGNALS = [SIGNALS[0], pytest.param(*SIGNALS[1], marks=pytest.mark.slow)]


@pytest.mark.parametrize(("number", "status", "word"), SLOW_SIGNALS)
def test_a_signal_is_one_sentence_and_the_same_command_continues(number, status, word, arguments, base) -> None:
    ended = command(arguments, base, Signal(number))
    assert ended.status == status
    assert ended.sentence == f"{word}; run the same command again to continue: what is finished is kept"
    assert len(list((base.parent / "store").glob("extract/*.partial"))) == 3
    assert command(arguments, base).status == 0
    mine = digest(base.parent / "store")
    assert len(mine) == 6
    assert command([*arguments, f"store.root={base.parent / 'other'}"], base).status == 0
    assert digest(base.parent / "other") == mine


@pytest.mark.parametrize(("number", "status", "word"), SIGNALS)
def test_a_signal_between_passes_is_one_sentence_too(number, status, word, arguments, base) -> None:
    ended = command(arguments, base, SignalInCommit(number))
    assert (ended.status, ended.sentence.partition(";")[0]) == (status, word)
    assert command(arguments, base).status == 0 and len(digest(base.parent / "store")) == 6


class SignalInCommit:
    """A signal while an artifact is about to be committed, no library at work."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self) -> None:
        commit = Store._commit

        def signalled(store, spec, partial) -> None:
            if spec.stage == "dictionary":
                os.kill(os.getpid(), self.number)
            commit(store, spec, partial)

        Store._commit = signalled


def descendants(pid: int) -> set[int]:
    """Processes that a process started, and those that they started."""
    try:
        direct = {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()
    return direct.union(*(descendants(child) for child in direct))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool], process: BaseProcess, limit: float = 300) -> bool:
    """Look again each time that the process has not ended within a moment."""
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end or process.exitcode is not None:
            return condition()
        process.join(0.05)
    return True


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks for processes in Linux's /proc")
@pytest.mark.thorough
@pytest.mark.parametrize(
    "runtime",
    [["runtime.workers=1"], pytest.param(["runtime.devices=2", "runtime.strategy=ddp_spawn"], marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(("number", "status", "word"), SLOW_SIGNALS)
def test_a_signal_ends_workers_and_spawned_processes(number, status, word, runtime, tmp_path, base) -> None:
    pictures = draw_pictures(tmp_path / "pictures", per_class=500)
    long = [*tiny_arguments(pictures, tmp_path / "store"), "until=extract", "runtime.batch_size=1", *runtime]
    process = start_command(long, base)
    assert process.pid is not None
    assert wait_for(lambda: bool([*tmp_path.glob("store/extract/*.partial/.progress*")]), process)
    started = descendants(process.pid)
    os.kill(process.pid, number)
    ended = said(process, base)
    assert (ended.status, ended.sentence.partition(";")[0]) == (status, word)
    assert started
    for pid in started:  # those of spawned processes end when they find themselves alone
        with suppress(ProcessLookupError):
            select.select([os.pidfd_open(pid)], [], [], 30)
    assert not [pid for pid in started if alive(pid)]


@pytest.mark.slow  # two processes that import everything
def test_more_processes_than_batches_are_no_error(arguments, base) -> None:
    """One batch for two processes: one of them has nothing to do."""
    two = ["runtime.devices=2", "runtime.strategy=ddp_spawn", "runtime.batch_size=64", "until=extract"]
    ended = command([*arguments, *two], base)
    assert ended.status == 0, ended.err
    assert command([*arguments, *two, "plan=true"], base).out.splitlines()[-1] == "3 hits, 0 misses"


# Disks and folders


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory) -> list[str]:
    """A whole run as typed, with nothing left to compute."""
    base = tmp_path_factory.mktemp("finished")
    assert run_apart(tiny_config(pictures, base / "store"), base / "run") == 0
    return tiny_arguments(pictures, base / "store")


@pytest.mark.parametrize("limit", [600, 6_000], ids=["plan", "graph"])
def test_a_disk_that_is_full_for_the_runs_folder_is_one_sentence(limit, finished, base) -> None:
    ended = command([*finished, "until=graph", "describe.cards=0", "hydra.output_subdir=null"], base, FileLimit(limit))
    assert ended.status == 1
    assert ended.sentence.startswith("the disk that holds ") and "set hydra.run.dir to another disk" in ended.sentence
    assert f"{base}/outputs/runs/tiny/" in ended.sentence


def test_folders_that_cannot_be_made_are_one_sentence(arguments, base, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    for extra, words in (
        (f"hydra.run.dir={tmp_path}/file/run", "set hydra.run.dir to another folder"),
        (f"hydra.run.dir={tmp_path}/{'x' * 300}", "File name too long"),
        (f"store.root={tmp_path}/file/store", "set store.root to another folder"),
        (f"store.root={tmp_path}/{'x' * 300}", "set store.root to another folder"),
    ):
        ended = command([*arguments, extra], base)
        assert ended.status == 1 and words in ended.sentence and folders(base) == []


@pytest.mark.parametrize("name", ["events.jsonl", "tables", "cards", "report"])
def test_what_stands_in_the_way_in_the_runs_folder_is_one_sentence(name, finished, base) -> None:
    taken = base / "run" / name
    taken.parent.mkdir(parents=True)
    if "." in name:
        taken.mkdir()
    else:
        taken.write_text("")
    ended = command([*finished, "hydra.run.dir=run"], base)
    assert ended.status == 1
    assert f"{base}/run cannot be written (" in ended.sentence and "set hydra.run.dir" in ended.sentence
