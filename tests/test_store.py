"""The store: what is written is read, and what is damaged is not believed."""

from __future__ import annotations

import numpy as np
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


def test_what_is_written_is_read(store) -> None:
    assert store.find(SPEC) is None
    with pytest.raises(UserError, match="stage unit has not been computed yet: run the pipeline up to stage"):
        store.open(SPEC)
    write(store)
    artifact = store.open(SPEC)
    assert artifact.path("data.bin").read_bytes() == b"content"
    assert artifact.json("deep/more.json") == [1, 2]
    assert artifact.problems() == [] and artifact.bytes == 14 and artifact.key == SPEC.key
    assert artifact.manifest["inputs"] == {"x": 1} and set(artifact.manifest["files"]) == {"data.bin", "deep/more.json"}
    assert list(store.artifacts()) == [artifact.folder] and list(store.leftovers()) == []


def test_arrays_are_mapped_read_only(store) -> None:
    with store.lock(SPEC), store.writer(SPEC) as folder:
        np.save(folder / "x.npy", np.arange(5))
    values = store.open(SPEC).array("x.npy")
    assert values.tolist() == [0, 1, 2, 3, 4] and isinstance(values, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        values[0] = 9


def test_two_writers_of_one_spec_leave_the_same_bytes(tmp_path) -> None:
    for name in ("a", "b"):
        write(Store(tmp_path / name))
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("a", "b")
    )
    assert len(first) == 4
    assert first == second


def test_a_writers_own_files_are_no_payload(store) -> None:
    with store.lock(SPEC), store.writer(SPEC) as folder:
        (folder / "data.bin").write_bytes(b"content")
        (folder / ".journal").write_text("working")
    artifact = store.open(SPEC)
    assert set(artifact.manifest["files"]) == {"data.bin"}
    assert not (artifact.folder / ".journal").exists()


def test_an_error_while_writing_leaves_nothing_that_looks_complete(store) -> None:
    with pytest.raises(RuntimeError, match="on purpose"), store.lock(SPEC), store.writer(SPEC) as folder:
        (folder / "data.bin").write_bytes(b"half")
        raise RuntimeError("on purpose")
    assert store.find(SPEC) is None and list(store.artifacts()) == []
    assert [path.name for path in store.leftovers()] == [f"{SPEC.key}.partial"]


def test_a_resumed_writer_finds_what_was_left_and_another_does_not(store) -> None:
    for resume, expected in ((True, [".left", "left"]), (False, [])):
        with pytest.raises(RuntimeError), store.lock(SPEC), store.writer(SPEC, resume=True) as folder:
            (folder / "left").touch()
            (folder / ".left").touch()
            raise RuntimeError
        with store.lock(SPEC), store.writer(SPEC, resume=resume) as folder:
            assert sorted(path.name for path in folder.iterdir()) == expected
            (folder / "data.bin").touch()
        assert ("left" in store.open(SPEC).manifest["files"]) == resume


def test_force_replaces_the_artifact(store) -> None:
    write(store, content=b"old")
    write(store, content=b"new")
    assert store.open(SPEC).path("data.bin").read_bytes() == b"new"
    assert [path.name for path in sorted((store.root / "stage").iterdir())] == [SPEC.key, f"{SPEC.key}.lock"]


def test_a_failed_force_keeps_the_old_artifact(store) -> None:
    write(store, content=b"old")
    with pytest.raises(RuntimeError), store.lock(SPEC), store.writer(SPEC) as folder:
        (folder / "data.bin").write_bytes(b"new, half")
        raise RuntimeError
    assert store.open(SPEC).path("data.bin").read_bytes() == b"old"


# Damage


def one_sentence(error) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert f"the artifact stage/{SPEC.key} is corrupted" in text
    assert "verify --repair` and run again" in text and "force=[stage]" in text
    return text


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"c0ntent"), "data.bin has another content than was written"),
        (lambda path: path.write_bytes(b"conten"), "data.bin has 6 bytes, not 7"),
        (lambda path: path.unlink(), "data.bin is missing"),
    ],
    ids=["content", "size", "missing"],
)
def test_a_damaged_file_is_one_sentence(store, damage, words) -> None:
    write(store)
    damage(store.folder(SPEC) / "data.bin")
    artifact = store.open(SPEC)
    with pytest.raises(UserError) as error:
        artifact.path("data.bin")
    assert words in one_sentence(error)
    assert artifact.problems() == [words]
    assert artifact.json("deep/more.json") == [1, 2]  # what is whole can still be read


@pytest.mark.parametrize("content", [b"", b'{"files": {', b"[]", b"{}", b"\xff\xfe", b'"text"'])
def test_a_damaged_manifest_is_one_sentence(store, content) -> None:
    write(store)
    (store.folder(SPEC) / "manifest.json").write_bytes(content)
    with pytest.raises(UserError) as error:
        store.open(SPEC)
    assert "manifest.json " in one_sentence(error)
    assert store.find(SPEC) is None  # a run computes it anew
    write(store)
    assert store.open(SPEC).problems() == []


def test_a_file_that_is_not_in_the_manifest_is_not_believed(store) -> None:
    write(store)
    (store.folder(SPEC) / "extra.bin").touch()
    with pytest.raises(UserError, match=r"extra.bin is not in its manifest"):
        store.open(SPEC).path("extra.bin")


def test_a_folder_without_a_manifest_is_no_artifact(store) -> None:
    write(store)
    (store.folder(SPEC) / "manifest.json").unlink()
    assert store.find(SPEC) is None and list(store.artifacts()) == []
