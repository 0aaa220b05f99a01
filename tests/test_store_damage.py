"""Damaged artifacts: whatever a manifest or a provenance holds, they are named, set aside and computed anew."""

from __future__ import annotations

import io
import json
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vismech.commands.store import main
from vismech.store.artifacts import Spec, Store, write_json
from vismech.store.manifest import MANIFEST, PROVENANCE

SPEC, OTHER = Spec("extract", 1, "layer1", {"x": [1, 0.5, None]}), Spec("trace", 2, "layer2", {})
COMMANDS = (["ls"], ["show", SPEC.key], ["verify"], ["gc"], ["gc", "--corrupted"])


def write(store: Store, spec: Spec, content: bytes = b"content") -> None:
    with store.lock(spec), store.writer(spec) as folder:
        (folder / "data.bin").write_bytes(content)
    write_json(store.folder(spec) / PROVENANCE, {"time": "2030-01-02T03:04:05", "seconds": 1.5})


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    store = Store(tmp_path_factory.mktemp("fuzz") / "artifacts")
    for spec in (SPEC, OTHER):
        write(store, spec)
    return store


def ask(store: Store, *arguments: str) -> int:
    """The exit status of a real command; anything but a clean exit is an error of the test."""
    with pytest.raises(SystemExit) as left:
        main(["--root", str(store.root), *arguments])
    return left.value.code or 0


def answer(store: Store, *arguments: str) -> tuple[int, str]:
    """The exit status and all that a terminal of UTF-8 shows."""
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True)
    with redirect_stdout(terminal), redirect_stderr(terminal):
        status = ask(store, *arguments)
    return status, terminal.buffer.getvalue().decode()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def places(value, above=()):
    """Every place in nested JSON."""
    yield above
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*above, key))


@st.composite
def mutated(draw, text: str) -> bytes:
    """JSON with some values replaced, removed or added, or a text that is cut, padded or has a byte changed."""
    content = json.loads(text)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from([*places(content)]))
        if not where:
            content = draw(VALUES) if draw(st.integers(0, 9)) == 0 else content
            continue
        holder = content
        for key in where[:-1]:
            holder = holder[key]
        match draw(st.sampled_from(["replace", "remove", "add"])):
            case "replace":
                holder[where[-1]] = draw(VALUES)
            case "remove":
                del holder[where[-1]]
            case _ if isinstance(holder, dict):
                holder[draw(st.text(max_size=5))] = draw(VALUES)
    raw = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        match draw(st.sampled_from(["cut", "change", "pad"])):
            case "cut":
                raw = raw[: draw(st.integers(0, len(raw)))]
            case "change" if raw:
                raw[draw(st.integers(0, len(raw) - 1))] = draw(st.integers(0, 255))
            case _:
                raw += draw(st.binary(max_size=4))
    return bytes(raw)


MANIFEST_TEXT = json.dumps(
    {
        **SPEC.describe(),
        "key": SPEC.key,
        "files": {
            "data.bin": {"bytes": 7, "sha256": "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"}
        },
    }
)


def same(one: bytes, text: str) -> bool:
    try:
        return json.loads(one) == json.loads(text)
    except (ValueError, RecursionError):
        return False


@settings(max_examples=250)
@given(mutated(MANIFEST_TEXT))
def test_no_manifest_is_a_traceback_and_none_but_the_true_one_is_believed(store, raw) -> None:
    folder = store.folder(SPEC)
    (folder / MANIFEST).write_bytes(raw)
    whole = same(raw, MANIFEST_TEXT)
    for arguments in COMMANDS:
        status, text = answer(store, *arguments)
        assert status in ((0, 1) if arguments[0] == "show" else (0,) if arguments[0] != "verify" else (not whole,)), (
            text
        )
        assert "Traceback" not in text
        # Files that are named wrongly, in the right shape, show when they are hashed.
        assert whole or arguments[-1] not in ("verify", "--corrupted") or f"extract/{SPEC.key}" in text
    found = store.find(SPEC)
    assert (found is not None and found.problems() == []) == whole
    assert store.open(OTHER).problems() == []


@settings(max_examples=150)
@given(mutated(json.dumps({"time": "2030-01-02T03:04:05", "seconds": 1.5, "versions": {"torch": "2"}})))
def test_no_provenance_is_a_traceback_and_a_run_does_not_need_it(store, raw) -> None:
    folder = store.folder(OTHER)
    (folder / PROVENANCE).write_bytes(raw)
    for arguments in (["ls"], ["show", OTHER.key], ["verify", OTHER.key]):
        assert "Traceback" not in answer(store, *arguments)[1]
    assert store.open(OTHER).problems() == []


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"1", b'{"seconds": "long"}', b'{"time": 3}', b"[" * 100_000])
def test_a_damaged_provenance_is_named_and_set_aside_alone(tmp_path, capsys, raw) -> None:
    store = Store(tmp_path / "artifacts")
    write(store, SPEC)
    (store.folder(SPEC) / PROVENANCE).write_bytes(raw)
    for arguments, status in ((["ls"], 0), (["show", SPEC.key], 1), (["verify"], 1)):
        assert ask(store, *arguments) == status
        said = capsys.readouterr()
        assert f"extract/{SPEC.key}" in said.out + said.err and "provenance.json " in said.out + said.err
    assert ask(store, "verify", "--repair") == 0
    assert ask(store, "verify") == ask(store, "show", SPEC.key) == 0
    assert store.open(SPEC).problems() == []
    (kept,) = (path for path in (store.root / "quarantine").rglob("*") if path.is_file())
    assert kept.read_bytes() == raw


def damage_manifest(folder: Path) -> None:
    (folder / MANIFEST).write_text('{"files": {}}')


def damage_content(folder: Path) -> None:
    (folder / "data.bin").write_bytes(b"c0ntent")


def damage_missing(folder: Path) -> None:
    (folder / "data.bin").unlink()


def damage_extra(folder: Path) -> None:
    (folder / "more.bin").touch()


def damage_kind(folder: Path) -> None:
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).mkdir()


def damage_other(folder: Path) -> None:
    """The whole manifest of another artifact."""
    text = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**text, "inputs": {}, "key": Spec("extract", 1, "layer1", {}).key}))


DAMAGES = [damage_manifest, damage_content, damage_missing, damage_extra, damage_kind, damage_other]


@pytest.mark.parametrize("damage", DAMAGES)
def test_repair_sets_aside_and_the_next_run_computes_anew(tmp_path, capsys, damage) -> None:
    store = Store(tmp_path / "artifacts")
    for number in (1, 2):  # the second time the place in the quarantine is taken
        for spec in (SPEC, OTHER):
            write(store, spec)
        damage(store.folder(SPEC))
        before = sorted(path.name for path in store.folder(SPEC).iterdir())
        assert ask(store, "verify") == 1
        capsys.readouterr()
        assert ask(store, "verify", "--repair") == 0
        assert f"set aside to {store.root}/quarantine/extract/{SPEC.key}" in capsys.readouterr().out
        place = store.root / "quarantine/extract" / (SPEC.key + ("" if number == 1 else ".2"))
        assert sorted(path.name for path in place.iterdir()) == before
        assert store.find(SPEC) is None and store.find(OTHER) is not None
        assert [ask(store, "verify"), ask(store, "gc", "--corrupted", "--delete")] == [0, 0]
        assert "0 folders" in capsys.readouterr().out and place.is_dir()  # never deleted


def test_repair_leaves_alone_what_is_being_written(tmp_path, capsys) -> None:
    store = Store(tmp_path / "artifacts")
    write(store, SPEC)
    damage_content(store.folder(SPEC))
    with store.lock(SPEC):
        assert ask(store, "verify", "--repair") == 1
    assert "is being written by a run and is left" in capsys.readouterr().out
    assert store.folder(SPEC).is_dir()


@pytest.mark.parametrize("damage", [damage_manifest, damage_kind, damage_other])
def test_a_run_takes_a_damaged_manifest_for_missing_and_says_so(tmp_path, caplog, damage) -> None:
    store = Store(tmp_path / "artifacts")
    write(store, SPEC)
    damage(store.folder(SPEC))
    assert store.find(SPEC) is None
    assert f"extract/{SPEC.key} is corrupted: manifest.json" in caplog.text and "taken for missing" in caplog.text
    write(store, SPEC, b"new")
    assert store.open(SPEC).path("data.bin").read_bytes() == b"new" and store.open(SPEC).problems() == []


# What stands where the store wants its own


def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/precious.txt").write_text("precious")
    return tmp_path / "outside"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("kind", ["link to a folder", "link to a file", "dangling link", "file"])
def test_a_partial_folder_that_is_none_is_replaced_and_nothing_outside_is_touched(tmp_path, kind, resume) -> None:
    store, other = Store(tmp_path / "artifacts"), outside(tmp_path)
    partial = store.folder(SPEC).with_name(SPEC.key + ".partial")
    partial.parent.mkdir(parents=True)
    if kind == "file":
        partial.write_text("x")
    else:
        partial.symlink_to({"link to a folder": other, "link to a file": other / "precious.txt"}.get(kind, "nowhere"))
    with store.lock(SPEC), store.writer(SPEC, resume=resume) as folder:
        (folder / "data.bin").write_bytes(b"x")
    assert set(store.open(SPEC).manifest["files"]) == {"data.bin"} and not store.folder(SPEC).is_symlink()
    assert [path.name for path in other.iterdir()] == ["precious.txt"]
    assert (other / "precious.txt").read_text() == "precious"


def test_links_and_folders_in_a_partial_folder_are_dropped(tmp_path) -> None:
    store, other = Store(tmp_path / "artifacts"), outside(tmp_path)
    partial = store.folder(SPEC).with_name(SPEC.key + ".partial")
    partial.mkdir(parents=True)
    (partial / "data.bin").symlink_to(other / "precious.txt")
    (partial / "deep").symlink_to(other)
    (partial / "images.json").mkdir()
    (partial / "kept").write_text("kept")
    with store.lock(SPEC), store.writer(SPEC, resume=True) as folder:
        (folder / "data.bin").write_bytes(b"mine")
        (folder / "images.json").write_text("{}")
    assert set(store.open(SPEC).manifest["files"]) == {"data.bin", "images.json", "kept"}
    assert (other / "precious.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".replaced"])
def test_a_file_where_an_artifact_should_be_gives_way(tmp_path, name, capsys) -> None:
    store = Store(tmp_path / "artifacts")
    place = store.folder(SPEC).with_name(SPEC.key + name)
    place.parent.mkdir(parents=True)
    place.write_text("x")
    assert store.find(SPEC) is None and ask(store, "ls") == ask(store, "gc", "--delete") == 0
    place.write_text("x")
    write(store, SPEC)
    assert store.open(SPEC).problems() == []
    shutil.rmtree(store.folder(SPEC))


def test_a_folder_that_lost_its_manifest_to_a_killed_gc_is_found_by_the_next(tmp_path, capsys) -> None:
    store = Store(tmp_path / "artifacts")
    write(store, SPEC)
    (store.root / "extract/notes").mkdir()  # a person's own
    (store.folder(SPEC) / MANIFEST).unlink()
    assert ask(store, "gc", "--delete") == 0
    assert f"removed extract/{SPEC.key} (unfinished)" in capsys.readouterr().out
    assert not store.folder(SPEC).exists() and (store.root / "extract/notes").is_dir()
