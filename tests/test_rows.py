"""Rows: entries written in any order, by several processes, and continued after a kill give the same bytes."""

from __future__ import annotations

import multiprocessing
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vismech.store.artifacts import Spec, Store
from vismech.store.disk import remove
from vismech.store.rows import PROGRESS, Column, Rows, writer_name

COLUMNS = {"x": Column((3, 2)), "n": Column((), "int64"), "flag": Column((1,), "bool")}
IMAGES = 10


def values(indices: list[int]) -> dict[str, np.ndarray]:
    """What each image's entry is, as a function of its index alone."""
    index = np.array(indices)
    return {
        "x": (index[:, None, None] + np.arange(6).reshape(3, 2) / 7).astype(np.float32),
        "n": index * 1000,
        "flag": (index % 3 == 0)[:, None],
    }


def write(rows: Rows, indices: list[int], unreadable: tuple[int, ...] = ()) -> None:
    rows.write(indices, [index not in unreadable for index in indices], values(indices))


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / f"{name}.npy").read_bytes() for name in COLUMNS}


def new(folder: Path) -> Rows:
    folder.mkdir(exist_ok=True)
    return Rows(folder, COLUMNS, IMAGES)


@pytest.fixture
def expected(tmp_path) -> dict[str, bytes]:
    """The files that numpy itself writes."""
    (tmp_path / "numpy").mkdir()
    for name, array in values(list(range(IMAGES))).items():
        np.save(tmp_path / "numpy" / f"{name}.npy", array)
    return content(tmp_path / "numpy")


def test_the_files_are_numpys_own(tmp_path, expected) -> None:
    rows = new(tmp_path / "rows")
    write(rows, list(range(IMAGES)))
    assert rows.finish() == list(range(IMAGES))
    assert content(rows.folder) == expected


@given(st.permutations(range(IMAGES)), st.integers(1, IMAGES))
def test_the_order_of_writing_does_not_matter(tmp_path_factory, order, size) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows = new(folder)
    for first in range(0, IMAGES, size):
        write(rows, order[first : first + size])
    assert rows.finish() == list(range(IMAGES))
    for name, array in values(list(range(IMAGES))).items():
        assert np.array_equal(np.load(folder / f"{name}.npy"), array)


def _write_share(folder: Path, rank: int) -> None:
    rows = Rows(folder, COLUMNS, IMAGES)
    for index in range(IMAGES)[rank::2][::-1]:
        write(rows, [index])
    rows.close()


def test_two_processes_leave_the_same_bytes(tmp_path, expected) -> None:
    rows = new(tmp_path / "rows")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_write_share, args=(rows.folder, rank)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(list(rows.folder.glob(f"{PROGRESS}*"))) == 2
    assert rows.finish() == list(range(IMAGES))
    assert content(rows.folder) == expected


def test_what_is_finished_is_known_to_the_next_process(tmp_path, expected) -> None:
    first = new(tmp_path / "rows")
    write(first, [7, 2, 5], unreadable=(2,))
    first.close()
    second = new(tmp_path / "rows")
    assert second.done() == {7: True, 2: False, 5: True}
    write(second, [2])  # it can be read now
    write(second, [index for index in range(IMAGES) if index not in (7, 2, 5)])
    assert second.done()[2]
    assert second.finish() == list(range(IMAGES)) and content(second.folder) == expected


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_a_journal_line_that_was_cut_off_is_computed_again(tmp_path, expected, cut) -> None:
    first = new(tmp_path / "rows")
    write(first, [0, 1])
    write(first, [2, 3])
    first.close()
    (journal,) = first.folder.glob(f"{PROGRESS}*")
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-cut])
    second = new(tmp_path / "rows")
    known = second.done()
    assert set(known) in ({0, 1, 2, 3}, {0, 1}, set())
    assert (len(known) == 4) == (cut == 1)  # without its newline the last line is still whole
    # The same process number may come again, and then the new lines follow the broken one in the same file.
    write(second, [index for index in range(IMAGES) if index not in known])
    assert len(second.done()) == IMAGES
    assert second.finish() == list(range(IMAGES)) and content(second.folder) == expected


def test_a_kill_before_the_journal_line_loses_only_that_batch(tmp_path, expected) -> None:
    first = new(tmp_path / "rows")
    write(first, [0, 1, 2])
    wrong = {name: np.ones_like(array) for name, array in values([4]).items()}
    for name in COLUMNS:  # entries of image 4 are there, but the journal does not say so
        path = first.folder / f"{name}.npy"
        array = np.load(path, mmap_mode="r+")
        array[4] = wrong[name][0]
        array.flush()
    first.close()
    second = new(tmp_path / "rows")
    assert set(second.done()) == {0, 1, 2}
    write(second, list(range(3, IMAGES)))
    assert second.finish() == list(range(IMAGES)) and content(second.folder) == expected


@pytest.mark.parametrize("unreadable", [(0,), (9,), (3, 4), (0, 2, 4, 6, 8), tuple(range(10))])
def test_images_that_could_not_be_read_are_left_out(tmp_path, unreadable) -> None:
    rows = new(tmp_path / "rows")
    write(rows, list(range(IMAGES)), unreadable)
    kept = [index for index in range(IMAGES) if index not in unreadable]
    assert rows.finish() == kept
    for name, array in values(kept).items() if kept else ():
        found = np.load(rows.folder / f"{name}.npy")
        assert found.dtype == array.dtype and np.array_equal(found, array)
    assert len(np.load(rows.folder / "n.npy")) == len(kept)
    assert sorted(path.name for path in rows.folder.iterdir() if not path.name.startswith(".")) == [
        "flag.npy",
        "n.npy",
        "x.npy",
    ]


def test_finishing_twice_is_finishing_once(tmp_path) -> None:
    """As after a kill between the rows' last step and the store's commit, or half way through leaving images out."""
    rows = new(tmp_path / "rows")
    write(rows, list(range(IMAGES)), (0, 5))
    whole = rows.folder / "x.npy"
    before = whole.read_bytes()
    rows.finish()
    after = content(rows.folder)
    whole.write_bytes(before)  # the kill came before this one's turn
    again = new(tmp_path / "rows")
    assert len(again.done()) == IMAGES
    assert again.finish() == [1, 2, 3, 4, 6, 7, 8, 9]
    assert content(again.folder) == after


def test_missing_images_are_an_error_of_ours(tmp_path) -> None:
    rows = new(tmp_path / "rows")
    write(rows, [0, 1])
    with pytest.raises(AssertionError, match="8 images are missing"):
        rows.finish()


def test_entries_of_another_shape_are_an_error_of_ours(tmp_path) -> None:
    rows = new(tmp_path / "rows")
    with pytest.raises(AssertionError):
        rows.write([0], [True], {**values([0]), "x": np.zeros((1, 2, 3), np.float32)})


def test_other_types_are_converted(tmp_path) -> None:
    rows = new(tmp_path / "rows")
    given = values(list(range(IMAGES)))
    given |= {"x": given["x"].astype(np.float64), "n": given["n"].astype(np.int32)}
    rows.write(range(IMAGES), [True] * IMAGES, given)
    rows.finish()
    assert np.load(rows.folder / "x.npy").dtype == np.float32 and np.load(rows.folder / "n.npy").dtype == np.int64


def test_journals_and_unfinished_files_never_become_payload(tmp_path) -> None:
    store, spec = Store(tmp_path / "store"), Spec("stage", 1, "", {})
    with store.lock(spec), store.writer(spec, resume=True) as folder:
        (folder / ".x.npy.12345").write_bytes(b"left by a kill while it was preallocated")
        rows = Rows(folder, COLUMNS, IMAGES)
        write(rows, list(range(IMAGES)))
        rows.finish()
    artifact = store.open(spec)
    assert set(artifact.manifest["files"]) == {"x.npy", "n.npy", "flag.npy"}
    assert sorted(path.name for path in artifact.folder.iterdir()) == ["flag.npy", "manifest.json", "n.npy", "x.npy"]


def test_files_are_as_large_as_their_arrays_from_the_start(tmp_path) -> None:
    rows = Rows(tmp_path, {"x": Column((1000,)), "none": Column((0,))}, 50)
    assert (tmp_path / "x.npy").stat().st_size == 128 + 50 * 1000 * 4
    assert not np.load(tmp_path / "x.npy").any() and np.load(tmp_path / "none.npy").shape == (50, 0)
    rows.close()


def test_arrays_of_another_shape_are_not_continued(tmp_path) -> None:
    write(new(tmp_path), [0, 1])
    other = Rows(tmp_path, {**COLUMNS, "x": Column((2, 2))}, IMAGES)
    assert other.done() == {} and np.load(tmp_path / "x.npy").shape == (IMAGES, 2, 2)


# What cannot be believed


def started(folder: Path) -> Rows:
    """Six of ten images are finished, by two processes."""
    rows = new(folder)
    write(rows, [0, 1])
    write(rows, [2, 3], unreadable=(3,))
    rows.close()
    (journal,) = folder.glob(f"{PROGRESS}*")
    journal.rename(folder / f"{PROGRESS}.1")
    rows = new(folder)
    write(rows, [8, 9])
    rows.close()
    return rows


def finished(folder: Path) -> None:
    """Continue after the damage, and see that every byte comes out right."""
    rows = new(folder)
    known = rows.done()
    assert {*known} <= {*range(IMAGES)} and all(known[index] is (index != 3) for index in known)
    write(rows, [index for index in range(IMAGES) if index not in known and index != 3], unreadable=(3,))
    write(rows, [3], unreadable=(3,))
    kept = [index for index in range(IMAGES) if index != 3]
    assert rows.finish() == kept
    for name, array in values(kept).items():
        assert np.array_equal(np.load(folder / f"{name}.npy"), array)


def entry(text: str) -> bytes:
    """A line with the checksum that belongs to it."""
    return f"{text} {zlib.crc32(text.encode()):08x}\n".encode()


def right(index: int) -> int:
    """The checksum of an image's entries, in the order of the columns."""
    found = 0
    for array in values([index]).values():
        found = zlib.crc32(array.tobytes(), found)
    return found


ZEROS = zlib.crc32(bytes(sum(array.nbytes for array in values([0]).values())))  # of entries that nobody wrote
LINES = {
    "empty": b"",
    "garbage": bytes(range(256)) * 3,
    "zeros": bytes(300),
    "no list": entry("5") + entry('"abc"') + entry("[1, 2]") + entry("[[1]]") + entry("null") + entry('{"4": true}'),
    "deep": entry("[" * 200_000),
    "beyond the rows": entry("[[10, true, 0], [99999999999999999999, true, 0], [-1, true, 0]]"),
    "no indices": entry(
        '[[true, true, 0], [4.0, true, 0], ["4", true, 0], [null, true, 0], [[4], true, 0], [4, 1, 0]]'
    ),
    "no checksums": entry("[[4, true, true], [5, true, null], [6, true, 0.5], [7, true]]"),
    "not what is written": entry(f"[[4, true, {right(4)}], [5, true, 1]]"),
    "no checksum": f"[[4, true, {ZEROS}]]\n".encode(),
    "another checksum": f"[[4, true, {ZEROS}]] 00000000\n".encode(),
}


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("where", ["instead", "before", "after"])
def test_a_journal_that_cannot_be_believed_is_no_journal(tmp_path, lines, where) -> None:
    started(tmp_path)
    journal = tmp_path / f"{PROGRESS}.1"
    old = b"" if where == "instead" else journal.read_bytes()
    journal.write_bytes(LINES[lines] + b"\n" + old if where == "before" else old + b"\n" + LINES[lines])
    assert {*new(tmp_path).done()} == ({8, 9} if where == "instead" else {0, 1, 2, 3, 8, 9})
    finished(tmp_path)


@given(st.data())
def test_a_journal_with_any_byte_changed_names_only_what_it_named(tmp_path_factory, data) -> None:
    folder = tmp_path_factory.mktemp("rows")
    started(folder)
    journal = folder / f"{PROGRESS}.1"
    raw = bytearray(journal.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    journal.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    finished(folder)


@pytest.mark.parametrize("kind", ["folder", "link", "dangling link", "pipe"])
def test_a_journal_that_is_no_file_is_dropped_and_not_followed(tmp_path, kind) -> None:
    folder, outside = tmp_path / "rows", tmp_path / "outside"
    started(folder)
    outside.write_bytes(entry(f"[[4, true, {ZEROS}], [5, true, {ZEROS}]]"))
    journal = folder / f"{PROGRESS}.{writer_name()}"
    remove(journal)
    match kind:
        case "folder":
            (journal / "inner").mkdir(parents=True)
        case "pipe":
            os.mkfifo(journal)
        case _:
            journal.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    assert {*new(folder).done()} == {0, 1, 2, 3}
    finished(folder)
    assert (
        outside.read_bytes() == entry(f"[[4, true, {ZEROS}], [5, true, {ZEROS}]]")
        and not (tmp_path / "nowhere").exists()
    )


HEADERS = {
    "empty": lambda raw: b"",
    "cut in the magic": lambda raw: raw[:5],
    "cut in the header": lambda raw: raw[:40],
    "cut in the rows": lambda raw: raw[:-1],
    "longer": lambda raw: raw + b"x",
    "garbage": lambda raw: bytes(range(256)) * (len(raw) // 256) + bytes(len(raw) % 256),
    "zeros": lambda raw: bytes(len(raw)),
    "another type": lambda raw: raw.replace(b"<f4", b"<i4"),
    "another order": lambda raw: raw.replace(b"False", b"True "),
    "another shape": lambda raw: raw.replace(b"(10, 3, 2)", b"(10, 2, 3)"),
    "objects": lambda raw: raw.replace(b"'<f4'", b"'|O' "),
    "code": lambda raw: raw.replace(b"'<f4'", b"1/0  "),
}


@pytest.mark.parametrize("damage", HEADERS)
def test_an_array_that_is_not_as_it_was_made_is_made_anew(tmp_path, damage) -> None:
    started(tmp_path)
    raw = (tmp_path / "x.npy").read_bytes()
    assert HEADERS[damage](raw) != raw
    (tmp_path / "x.npy").write_bytes(HEADERS[damage](raw))
    assert new(tmp_path).done() == {}  # the other arrays cannot say what this one lost
    finished(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "folder", "link", "dangling link", "pipe"])
@pytest.mark.parametrize("name", ["x.npy", ".x.npy.{process}"])
def test_an_array_that_is_no_file_is_made_anew_and_not_followed(tmp_path, kind, name) -> None:
    folder, outside, name = tmp_path / "rows", tmp_path / "outside.npy", name.format(process=writer_name())
    started(folder)
    before = (folder / "x.npy").read_bytes()
    outside.write_bytes(before)
    (folder / "x.npy").unlink()
    match kind:
        case "folder":
            (folder / name / "inner").mkdir(parents=True)
        case "pipe":
            os.mkfifo(folder / name)
        case "link" | "dangling link":
            (folder / name).symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    assert new(folder).done() == {}
    finished(folder)
    assert not (folder / "x.npy").is_symlink() and outside.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("image", [0, 3, 9])
def test_entries_that_are_not_as_written_are_written_again(tmp_path, name, image) -> None:
    """As after a loss of power, which keeps files' pages in no order."""
    started(tmp_path)
    raw = bytearray((tmp_path / f"{name}.npy").read_bytes())
    size = (len(raw) - 128) // IMAGES
    raw[128 + (image + 1) * size - 1] ^= 1
    (tmp_path / f"{name}.npy").write_bytes(raw)
    assert {*new(tmp_path).done()} == {0, 1, 2, 3, 8, 9} - {image}
    finished(tmp_path)


@pytest.mark.parametrize("left", [None, ("x",)])
def test_a_finished_pass_whose_entries_changed_is_begun_anew(tmp_path, left) -> None:
    rows = new(tmp_path)
    write(rows, [*range(IMAGES)], unreadable=(3,))
    rows.finish(left)
    raw = bytearray((tmp_path / "x.npy").read_bytes())
    raw[-1] ^= 1
    assert new(tmp_path).done() == {index: index != 3 for index in range(IMAGES)}
    (tmp_path / "x.npy").write_bytes(raw)
    assert new(tmp_path).done() == {}
    finished(tmp_path)


def test_fewer_rows_are_believed_only_where_all_images_are_finished(tmp_path) -> None:
    started(tmp_path)
    np.save(tmp_path / "x.npy", values([0, 1, 2, 8, 9])["x"])
    assert new(tmp_path).done() == {}
    finished(tmp_path)
