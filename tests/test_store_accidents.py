"""The store under kills, rivals for a lock, and disks that are full or may not be written."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vismech.errors import UserError
from vismech.store.artifacts import Spec, Store

SPEC = Spec("stage", 1, "unit", {"x": 1})


def write(store: Store, spec: Spec = SPEC, content: bytes = b"content", **options) -> None:
    with store.lock(spec), store.writer(spec, **options) as folder:
        (folder / "data.bin").write_bytes(content)
        (folder / "deep").mkdir(exist_ok=True)
        (folder / "deep" / "more.json").write_text("[1, 2]\n")


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "store")


# Kills

CHILD = """
import os, signal, sys
from pathlib import Path
import vismech.store.artifacts as module
from vismech.store.artifacts import Spec, Store

def die(*_arguments, **_options):
    os.kill(os.getpid(), signal.SIGKILL)

def dies_at(name, call):
    owner, attribute = {OWNERS}[name]
    original, count = getattr(owner, attribute), 0
    def replacement(*arguments, **options):
        nonlocal count
        count += 1
        return die() if count == call else original(*arguments, **options)
    setattr(owner, attribute, replacement)

store, spec = Store(sys.argv[1]), Spec("stage", 1, "unit", {"x": 1})
point, _, call = sys.argv[2].partition(":")
if point != "payload":
    dies_at(point, int(call))
with store.lock(spec), store.writer(spec) as folder:
    (folder / "data.bin").write_bytes(b"new")
    if point == "payload":
        (folder / "more.bin").write_bytes(b"half")
        die()
    (folder / "more.bin").write_bytes(b"whole")
print("survived")
""".replace(
    "{OWNERS}",
    """{
    "hash": (module, "hash_file"),
    "manifest": (module, "write_json"),
    "flush": (module, "_flush"),
    "rename": (Path, "rename"),
    "remove": (module, "remove"),
}""",
)
# What a kill at each point leaves for a reader where an old artifact is replaced, and where there is none.
KILLS = {
    "payload": "old",
    "hash:1": "old",
    "hash:2": "old",
    "manifest:1": "old",
    "flush:3": "old",
    "rename:1": "old",
    "rename:2": "nothing",
    "remove:2": "new",
}


def child(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, timeout=60, **options
    )


FIRST = [(point, False) for point in KILLS if point not in ("rename:2", "remove:2")]  # a first commit has one rename


@pytest.mark.parametrize(("point", "before"), [*FIRST, *((point, True) for point in KILLS)])
def test_a_kill_at_any_point_leaves_nothing_or_something_whole(store, point, before) -> None:
    if before:
        write(store, content=b"old")
    done = child(str(store.root), point)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = store.find(SPEC)
    seen = "nothing" if found is None else found.path("data.bin").read_bytes().decode()
    assert seen in (KILLS[point] if before else "nothing")
    assert found is None or found.problems() == []
    # Whoever locks the key next finds the old or the new artifact, and nothing is left of the writer before.
    with store.lock(SPEC):
        found = store.find(SPEC)
        assert found is None if not before else found.path("data.bin").read_bytes().decode() in ("old", "new")
    with store.lock(SPEC), store.writer(SPEC) as folder:
        assert list(folder.iterdir()) == []
        (folder / "data.bin").write_bytes(b"next")
    assert store.open(SPEC).path("data.bin").read_bytes() == b"next" and store.open(SPEC).problems() == []
    assert {path.name for path in (store.root / "stage").iterdir()} == {SPEC.key, f"{SPEC.key}.lock"}


def test_the_child_of_these_tests_survives_by_itself(store) -> None:
    done = child(str(store.root), "hash:99")
    assert done.stdout == "survived\n", done.stderr
    assert store.open(SPEC).path("more.bin").read_bytes() == b"whole"


# Locks

COUNTER = """
import sys
from pathlib import Path
from vismech.store.artifacts import Spec, Store
store, spec, counter = Store(sys.argv[1]), Spec("stage", 1, "unit", {"x": 1}), Path(sys.argv[2])
for _ in range(150):
    with store.lock(spec):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
HOLDER = """
import sys
from vismech.store.artifacts import Spec, Store
with Store(sys.argv[1]).lock(Spec("stage", 1, "unit", {"x": 1})):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_the_lock_excludes_other_processes(store, tmp_path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")
    command = [sys.executable, "-c", COUNTER, str(store.root), str(counter)]
    processes = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert counter.read_text() == "450"


def test_the_lock_dies_with_its_process(store) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(store.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        lock = store.folder(SPEC).with_name(f"{SPEC.key}.lock")
        with lock.open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (store.folder(SPEC).with_name(f"{SPEC.key}.partial")).mkdir()
        assert list(store.leftovers()) == []  # it is being written
        process.kill()
    write(store)
    assert store.find(SPEC) is not None


def test_locks_of_two_keys_do_not_meet(store) -> None:
    with store.lock(SPEC), store.lock(Spec("stage", 1, "unit", {"x": 2})):
        pass


# Disks

FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from vismech.errors import UserError
from vismech.store.rows import Column, Rows
from vismech.store.artifacts import Spec, Store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
store, values = Store(sys.argv[1]), np.ones(10_000, dtype=np.float32)
writers = {
    "bytes": lambda folder: (folder / "x").write_bytes(values.tobytes()),
    "numpy": lambda folder: np.save(folder / "x.npy", values),
    "safetensors": lambda folder: save_file({"x": values}, folder / "x.safetensors"),
    "rows": lambda folder: Rows(folder, {"x": Column((10_000,))}, 4),
}
spec = Spec("stage", 1, "big", {})
try:
    with store.lock(spec), store.writer(spec) as folder:
        writers[sys.argv[2]](folder)
except UserError as error:
    print(error)
    sys.exit(7)
"""


@pytest.mark.parametrize("writer", ["bytes", "numpy", "safetensors", "rows"])
def test_a_full_disk_is_one_sentence_and_spares_what_is_finished(store, writer) -> None:
    write(store)
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(store.root), writer], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout.startswith(f"the disk that holds {store.root} is full: free some space or set store.root")
    assert done.stdout.count("\n") == 1
    assert store.open(SPEC).problems() == [] and len(list(store.artifacts())) == 1
    write(store, Spec("stage", 1, "big", {}))  # with space, the next try succeeds


READ_ONLY = """
import os, sys
from vismech.errors import UserError
from vismech.store.artifacts import Spec, Store
if os.geteuid() == 0:
    os.setuid(65534)
spec = Spec("stage", 1, "unit", {"x": 1})
try:
    with Store(sys.argv[1]).lock(spec):
        pass
except UserError as error:
    print(error)
    sys.exit(7)
"""


def test_a_read_only_root_is_one_sentence(tmp_path) -> None:
    (tmp_path / "store").mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(tmp_path / "store")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 7, done.stderr
    assert done.stdout == f"{tmp_path}/store cannot be written (Permission denied): set store.root to another folder\n"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM])
def test_other_refusals_of_the_system_are_one_sentence(store, monkeypatch, number) -> None:
    def refuse(*_arguments, **_options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(UserError, match=f"cannot be written .{os.strerror(number)}.: set store.root"), store.lock(SPEC):
        pass


ROOTS = {
    "a file": "file",
    "below a file": "file/store",
    "a dangling link": "dangling",
    "below a dangling link": "dangling/store",
    "a loop": "loop/store",
    "too long a name": "x" * 300,
    "too long a path": "/".join(["folder"] * 1000),
    "a null": "a\0b",
    "no text": "\ud800",
}


@pytest.mark.parametrize("kind", ROOTS)
def test_a_root_that_cannot_be_made_is_one_sentence_before_anything_is_computed(tmp_path, kind) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere" / "deep")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    store = Store(tmp_path / ROOTS[kind])
    assert store.find(SPEC) is None
    for attempt in (store.check, lambda: store.lock(SPEC).__enter__()):
        remedy = r"cannot be (written|made) \(.*: set store.root to another folder$"
        with pytest.raises(UserError, match=remedy) as error:
            attempt()
        assert "\n" not in str(error.value)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs Linux's /proc, in which nothing can be made")
def test_a_root_in_a_system_that_makes_no_folders_is_one_sentence() -> None:
    with pytest.raises(UserError, match="cannot be made"), Store("/proc/nowhere/store").lock(SPEC):
        pass


def test_checking_a_root_makes_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for root in ("new/deep/store", tmp_path / "new/store", "."):
        Store(root).check()
    assert list(tmp_path.iterdir()) == []


def test_an_error_about_another_file_names_that_file(store, tmp_path) -> None:
    """Not the store, whose folder has nothing to do with it."""
    (tmp_path / "weights").mkdir()
    with (
        pytest.raises(UserError, match=f"^{tmp_path}/weights cannot be read or written .Is a directory.$"),
        store.lock(SPEC),
        store.writer(SPEC),
    ):
        (tmp_path / "weights").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_an_error_that_came_in_words_from_another_process_is_told_too(store, number) -> None:
    said = f"Caught OSError in process 1.\nTraceback …\nOSError: [Errno {number}] {os.strerror(number)}"
    full = f"the disk that holds {store.root} is full"
    with pytest.raises(UserError, match=full), store.lock(SPEC), store.writer(SPEC):
        raise RuntimeError(said)


@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_is_no_file_is_one_sentence_and_not_followed(store, tmp_path, kind) -> None:
    (tmp_path / "precious").write_text("precious")
    lock = store.folder(SPEC).with_name(f"{SPEC.key}.lock")
    lock.parent.mkdir(parents=True)
    lock.mkdir() if kind == "folder" else lock.symlink_to(tmp_path / "precious")
    with pytest.raises(UserError, match="cannot be written"), store.lock(SPEC):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_other_errors_keep_their_own_words(store) -> None:
    with pytest.raises(FileNotFoundError), store.lock(SPEC), store.writer(SPEC) as folder:
        (folder / "nowhere" / "x").write_bytes(b"")
    with pytest.raises(ZeroDivisionError), store.lock(SPEC), store.writer(SPEC):
        _ = 1 / 0
