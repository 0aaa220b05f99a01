"""``vismech-store``: list, show, verify, and clean up without touching what is in use or being written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from vismech.commands.store import main
from vismech.store.artifacts import PROVENANCE, Spec, Store, write_json


class Answer:
    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err


@pytest.fixture
def ask(tmp_path, capsys):
    def ask(*arguments: str, root: Path | None = None) -> Answer:
        with pytest.raises(SystemExit) as left:
            main(["--root", str(root or tmp_path / "artifacts"), *arguments])
        out, err = capsys.readouterr()
        return Answer(left.value.code or 0, out, err)

    return ask


@pytest.fixture
def specs() -> list[Spec]:
    first, second = (Spec("extract", 1, layer, {"x": 1}) for layer in ("layer1", "layer2"))
    return [first, second, Spec("dictionary", 1, "layer1", {"k": 8}, {"vectors": first})]


@pytest.fixture
def store(tmp_path, specs) -> Store:
    store = Store(tmp_path / "artifacts")
    for size, spec in enumerate(specs, 1):
        with store.lock(spec), store.writer(spec) as folder:
            (folder / "data.bin").write_bytes(bytes(1000 * size))
    write_json(store.folder(specs[0]) / PROVENANCE, {"time": "2030-01-02T03:04:05", "seconds": 12.34})
    return store


def in_use(tmp_path, *specs: Spec) -> Path:
    run = tmp_path / "outputs" / "runs" / "one"
    run.mkdir(parents=True)
    write_json(
        run / "plan.json", [{"stage": spec.stage, "unit": spec.unit, "key": spec.key, "hit": True} for spec in specs]
    )
    return tmp_path / "outputs"


def everything(store: Store) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}


def test_ls(ask, store, specs) -> None:
    answer = ask("ls")
    lines = answer.out.splitlines()
    assert answer.status == 0 and len(lines) == 4 and lines[-1] == "6.0 kB in all"
    line = next(line for line in lines if specs[0].key in line)
    assert line.split()[:2] == ["extract", "layer1"]
    assert "1.0 kB" in line and "2030-01-02T03:04:05" in line and "12.3 s" in line
    assert len(ask("ls", "dictionary").out.splitlines()) == 2


def test_show(ask, store, specs) -> None:
    answer = ask("show", specs[2].key[:6])
    shown = json.loads(answer.out)
    assert shown["manifest"]["inputs"] == {"k": 8}
    assert shown["manifest"]["parents"] == {"vectors": specs[0].key}
    assert json.loads(ask("show", specs[0].key).out)["provenance"]["seconds"] == 12.34


@pytest.mark.parametrize("key", ["zzz", ""])
def test_show_needs_one_artifact(ask, store, key) -> None:
    answer = ask("show", key)
    assert answer.status == 1 and answer.out == ""
    assert (
        answer.err
        == f"vismech-store: {0 if key else 3} artifacts have a key that starts with {key!r}: see vismech-store ls\n"
    )


def test_a_root_that_is_not_there(ask, tmp_path) -> None:
    answer = ask("ls", root=tmp_path / "nowhere")
    assert answer.status == 1
    assert answer.err == f"vismech-store: there is no store at {tmp_path / 'nowhere'}: name it with --root\n"


def test_verify(ask, store, specs) -> None:
    assert (ask("verify").status, ask("verify").out) == (0, "3 artifacts, 0 problems\n")
    data = store.folder(specs[1]) / "data.bin"
    data.write_bytes(b"\x01" + data.read_bytes()[1:])
    answer = ask("verify")
    assert answer.status == 1
    assert (
        answer.out
        == f"extract/{specs[1].key}: data.bin has another content than was written\n3 artifacts, 1 problems\n"
    )
    assert ask("verify", specs[0].key).status == 0 and ask("verify", specs[1].key[:8]).status == 1
    (store.folder(specs[2]) / "manifest.json").write_text("{")
    assert "manifest.json cannot be read" in ask("verify").out


def test_gc_finds_nothing_in_a_clean_store(ask, store) -> None:
    before = everything(store)
    assert (ask("gc").out, ask("gc", "--delete").out) == ("0 folders\n", "0 folders\n")
    assert everything(store) == before


def leave_unfinished(store: Store, spec: Spec) -> Path:
    with pytest.raises(RuntimeError), store.lock(spec), store.writer(spec) as folder:
        (folder / "half.bin").touch()
        raise RuntimeError
    return folder


def test_gc_of_unfinished_folders(ask, store, specs) -> None:
    left = leave_unfinished(store, Spec("extract", 1, "layer3", {}))
    before = everything(store)
    answer = ask("gc")
    assert answer.out == f"would remove extract/{left.name} (unfinished)\n1 folders; --delete removes them\n"
    assert everything(store) == before
    answer = ask("gc", "--delete")
    assert answer.out == f"removed extract/{left.name} (unfinished)\n1 folders\n"
    assert not left.exists() and ask("verify").out == "3 artifacts, 0 problems\n"


def test_gc_leaves_alone_what_is_being_written(ask, store) -> None:
    spec = Spec("extract", 1, "layer3", {})
    with store.lock(spec), store.writer(spec) as folder:
        (folder / "half.bin").touch()
        assert ask("gc", "--delete").out == "0 folders\n"
        assert (folder / "half.bin").exists()


def test_gc_of_unused_artifacts(ask, store, specs, tmp_path) -> None:
    runs, before = in_use(tmp_path, *specs[:2]), everything(store)
    answer = ask("gc", "--unused", "--runs", str(runs))
    assert answer.out == f"would remove dictionary/{specs[2].key} (unused)\n1 folders; --delete removes them\n"
    assert everything(store) == before
    ask("gc", "--unused", "--runs", str(runs), "--delete")
    assert store.find(specs[2]) is None
    assert [store.open(spec).problems() for spec in specs[:2]] == [[], []]


def test_gc_without_any_run_does_not_take_everything_for_unused(ask, store, tmp_path) -> None:
    (tmp_path / "outputs").mkdir()
    answer = ask("gc", "--unused", "--delete", "--runs", str(tmp_path / "outputs"))
    assert answer.status == 1 and "no run below" in answer.err and "--runs" in answer.err
    assert len(list(store.artifacts())) == 3


def test_gc_does_not_guess_what_a_damaged_plan_uses(ask, store, specs, tmp_path) -> None:
    runs = in_use(tmp_path, *specs)
    (runs / "runs" / "one" / "plan.json").write_text('[{"key": ')
    answer = ask("gc", "--unused", "--delete", "--runs", str(runs))
    assert answer.status == 1 and "plan.json cannot be read" in answer.err and answer.err.count("\n") == 1
    assert len(list(store.artifacts())) == 3


def test_gc_of_corrupted_artifacts(ask, store, specs) -> None:
    (store.folder(specs[0]) / "data.bin").write_bytes(b"short")
    (store.folder(specs[1]) / "manifest.json").write_text("{")
    before = everything(store)
    answer = ask("gc", "--corrupted")
    assert sorted(answer.out.splitlines()[:-1]) == sorted(
        f"would remove extract/{spec.key} (corrupted)" for spec in specs[:2]
    )
    assert everything(store) == before
    assert ask("gc").out == "0 folders\n"  # only when asked for
    ask("gc", "--corrupted", "--delete")
    assert [path.name for path in store.artifacts()] == [specs[2].key]


# What runs at work use

AT_WORK = """
import sys
from vismech.store.artifacts import Spec, Store
store, vectors = Store(sys.argv[1]), Spec("extract", 1, "layer1", {"x": 1})
spec = Spec("dictionary", 1, "layer1", {"k": 8}, {"vectors": vectors})
with store.uses.recorded():
    print("found" if store.find(spec) else "missing", flush=True)
    sys.stdin.read()
"""


def test_gc_leaves_alone_what_a_run_at_work_uses(ask, store, specs, tmp_path) -> None:
    """Though no plan below --runs names it: another user's run, or one that looks up more than its plan."""
    runs = in_use(tmp_path, *specs[:2])
    command = [sys.executable, "-c", AT_WORK, str(store.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "found\n"
        assert ask("gc", "--unused", "--runs", str(runs), "--delete").out == "0 folders\n"
        assert store.open(specs[2]).problems() == []
        process.kill()  # and what it leaves behind protects nothing
    assert "1 folders" in ask("gc", "--unused", "--runs", str(runs), "--delete").out
    assert store.find(specs[2]) is None
    assert [path.name for path in (store.root / ".uses").iterdir()] == ["gate"]


def test_gc_leaves_alone_an_unused_artifact_that_is_being_replaced(ask, store, specs, tmp_path) -> None:
    runs = in_use(tmp_path, *specs[:2])
    with store.lock(specs[2]):
        assert ask("gc", "--unused", "--runs", str(runs), "--delete").out == "0 folders\n"
    assert store.find(specs[2]) is not None


def test_uses_are_recorded_only_inside_and_leave_nothing(store, specs) -> None:
    with store.uses.recorded():
        store.find(specs[0])
        with Store(store.root).uses.gated() as at_work:
            assert at_work == {specs[0].key}
    store.find(specs[1])
    with Store(store.root).uses.gated() as at_work:
        assert at_work == set()


def test_a_store_that_may_only_be_read_can_be_used(store, specs, monkeypatch) -> None:
    def refuse(*_arguments, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with store.uses.recorded():
        assert store.find(specs[0]) is not None
