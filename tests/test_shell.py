"""What every command does around its work, and every odd thing that can be typed after ``vismech``."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vismech.commands import main as cli
from vismech.commands.run_folders import launch
from vismech.commands.shell import Interrupted, command

COMMANDS = tuple(f"vismech.commands.{name}" for name in ("main", "store", "compare", "concept", "edit"))


def ended(capsys, function, *arguments) -> tuple[int, str]:
    with pytest.raises(SystemExit) as left:
        function(*arguments)
    return left.value.code or 0, capsys.readouterr().err


# Pipes


TYPED = [
    *((module, ["--help"]) for module in COMMANDS),
    *(("vismech.commands.main", x) for x in (["--version"], ["--cfg", "job"])),
]


@pytest.mark.parametrize(("module", "arguments"), TYPED, ids=str)
def test_a_reader_that_has_read_enough_is_no_error(module, arguments) -> None:
    """As ``| head -1``: the pipe is closed before anything is written."""
    read, write = os.pipe()
    os.close(read)
    code = f"from {module} import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=write, stderr=subprocess.PIPE, text=True, timeout=120
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


# Signals


@pytest.fixture(autouse=True)
def hooks() -> Iterator[None]:
    """A command that was signalled silences its threads for the rest of its process, which here goes on."""
    before = sys.excepthook, threading.excepthook
    yield
    sys.excepthook, threading.excepthook = before


def test_threads_are_silent_once_a_signal_has_come(capsys) -> None:
    """As multiprocessing's, which loses its other end when a worker is killed in the middle of a transfer."""

    @command("name")
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            thread = threading.Thread(target=lambda: sys.excepthook(EOFError, EOFError(), None) or 1 / 0)
            thread.start()
            thread.join()

    assert ended(capsys, main) == (143, "name: terminated\n")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("swallowed", [None, SystemExit(1), RuntimeError("a worker was killed")], ids=repr)
def test_a_signal_is_told_whatever_a_library_makes_of_it(capsys, number, status, swallowed) -> None:
    before = signal.getsignal(number)

    @command("name", ": advice")
    def main() -> None:
        try:
            os.kill(os.getpid(), number)
        except Interrupted:
            if swallowed is None:
                raise
            raise swallowed from None

    word = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}[number]
    assert ended(capsys, main) == (status, f"name: {word}: advice\n")
    assert signal.getsignal(number) is before


def test_a_signal_is_no_exception_that_is_caught_on_the_way(capsys) -> None:
    @command("name")
    def main() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except (Exception, KeyboardInterrupt):
            return

    assert ended(capsys, main) == (143, "name: terminated\n")


def test_a_second_signal_ends_at_once() -> None:
    code = """
import os, signal
from vismech.commands.shell import command
@command("name", ": advice")
def main():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        while True:
            os.kill(os.getpid(), signal.SIGTERM)
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (130, "name: interrupted: advice\n")


def test_under_nohup_an_ignored_signal_stays_ignored() -> None:
    @command("name")
    def main() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        main()
    finally:
        signal.signal(signal.SIGINT, before)


# Errors


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (OSError(28, "No space left on device"), "name: the disk is full: free some space, then run the same command"),
        (PermissionError(13, "Permission denied", "/a/b"), "name: /a/b cannot be read or written (Permission denied)"),
        (MemoryError(), "name: out of memory: free some"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 bytes"), "name: out of memory: free"),
        (OSError(30, "Read-only file system", "/a/b"), "name: /a/b cannot be read or written (Read-only file system)"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(capsys, error, sentence) -> None:
    @command("name")
    def main() -> None:
        raise error

    status, said = ended(capsys, main)
    assert status == 1 and said.startswith(sentence) and said.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback() -> None:
    @command("name")
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


# What can be typed


@pytest.fixture
def typed(tmp_path, monkeypatch, capsys):
    """Type arguments to ``vismech``, whose runs do nothing; what it says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "_run", lambda cfg, folder, sweep: cli.refuse_unknown(cfg) or 0.0)

    def typed(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["vismech", *arguments])
        try:
            cli.main()
            status = 0
        except SystemExit as left:
            status = left.code or 0
        return status, capsys.readouterr().err

    return typed


ODD = [
    *("~=[a,b]", "~", "~~", "+=$", "=", "=x", "+", "++", "~model=[]", "~model", "~seed", "~model.kwargs", "~hydra"),
    *("experiment=[1,[2,{a:3}]]", "+experiment=" + "x" * 3000, "experiment=../../config", "model=", "model=[a,b]"),
    *("seed={a:1}", "seed=[1,2]", "seed=1e999", "seed=nan", "seed=99999999999999999999999x", "seed=${", "seed=$"),
    *("name=${oc.env:NOT_SET_ANYWHERE}", "name=${nowhere}", "name=???", "name=null/\\0", "name=" + "x" * 300),
    *("hydra=null", "hydra.run.dir=null", "hydra.run.dir=[a]", "hydra.job_logging=null", "hydra.verbose={a:1}"),
    *("hydra/launcher=nowhere", "hydra.searchpath=[nowhere]", "model@x=resnet50", "@x", "x@=y", "_self_=1"),
    *("data.classes=choice(1,2)", "data.classes=glob(*)", "data.limit=range(1,3)", "data.limit=sort(3,1)"),
    *("model.kwargs=!!python/object/apply:os.system", "evaluate.groups=[1]", "+evaluate.groups.a=1", "a b", "'"),
]


@pytest.mark.parametrize("override", ODD, ids=lambda text: text[:30])
def test_no_override_is_a_traceback(typed, override) -> None:
    status, said = typed(override)
    assert "Traceback" not in said and status in (0, 1)
    assert status == 0 or (said.startswith("vismech: ") and said.count("\n") == 1), said


PIECES = st.sampled_from(
    [*"~+=@/.,:[]{}()'\"$\\ x1", "seed", "model", "null", "???", "hydra", "data.classes", "\u0000"]
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, min_size=1, max_size=6).map("".join).filter(lambda text: not text.startswith("-")))
def test_no_combination_of_characters_is_a_traceback(typed, override) -> None:
    status, said = typed(override)
    assert "Traceback" not in said and status in (0, 1)
    assert status == 0 or (said.startswith("vismech: ") and said.count("\n") == 1), said


def test_a_configuration_with_a_tag_is_one_sentence_and_executes_nothing(typed, tmp_path) -> None:
    (tmp_path / "mine/experiment").mkdir(parents=True)
    text = "# @package _global_\nname: !!python/object/apply:os.system [touch hacked]\n"
    (tmp_path / "mine/experiment/odd.yaml").write_text(text)
    status, said = typed("--config-dir", str(tmp_path / "mine"), "experiment=odd")
    assert status == 1 and said.startswith("vismech: a configuration file cannot be read: ") and "odd.yaml" in said
    assert said.count("\n") == 1 and not (tmp_path / "hacked").exists()


# Folders


def test_a_bare_folder_is_given_up_with_those_above_it_that_were_made(typed, tmp_path) -> None:
    (tmp_path / "outputs").mkdir()
    assert typed("name=a")[0] == 0
    assert [*tmp_path.rglob("*")] == [tmp_path / "outputs"]


@pytest.mark.parametrize("kept", ["events.jsonl", "notes.txt"])
def test_a_folder_with_anything_else_in_it_stays(tmp_path, kept) -> None:
    folder = tmp_path / "deep/run"
    launch.begin(folder, sweep=False)
    (folder / ".hydra").mkdir(parents=True)
    (folder / kept).touch()
    launch.tidy()
    assert (folder / kept).is_file()
    (folder / kept).unlink()
    launch.tidy()
    assert [*tmp_path.iterdir()] == []


def test_a_folder_that_was_there_before_stays(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    launch.begin(tmp_path / "run", sweep=False)
    launch.tidy()
    assert Path(tmp_path / "run").is_dir()


# Completion


@pytest.mark.thorough
def test_the_tab_key_completes_groups_choices_and_keys(tmp_path) -> None:
    """As the documentation says it is set up, in a bash of its own."""
    program = tmp_path / "vismech"
    code = "import sys; sys.argv[0] = 'vismech'; from vismech.commands.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{code}" "$@"\n')
    program.chmod(0o755)
    lines = {
        "vismech model=cifar_resnet2": "model=cifar_resnet20",
        "vismech experiment=quickstart graph.scop": "graph.scope=",
        "vismech debug=fe": "debug=few",
    }
    asked = [
        f'COMP_LINE="{line}"; COMP_CWORD={line.count(" ")}; hydra_bash_completion; echo "${{COMPREPLY[@]}}"'
        for line in lines
    ]
    script = "\n".join(['eval "$(vismech -sc install=bash)"', *asked])
    path = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120, env=path, cwd=tmp_path)
    assert done.stdout.splitlines() == list(lines.values())
