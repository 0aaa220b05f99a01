"""Images that are no folders of classes: tables, flat folders, tar files, and data sets of Hugging Face."""

from __future__ import annotations

import csv
import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from conftest import CLASSES, draw_photos
from test_config import composed
from vismech.config.choices import Fingerprint, Labels
from vismech.errors import UserError
from vismech.sources.checks import check_config_sources
from vismech.sources.data import Columns, open_data
from vismech.sources.labels import class_labels
from vismech.sources.pictures import UNLABELLED, ImageData, load_image

KINDS = list(Fingerprint)


def table(path: Path, rows: list[list[str]], names: tuple[str, ...] = ("path", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([names, *rows])
    return path


def listed(photos: Path) -> list[list[str]]:
    """Path below the photographs' parent, and class, of every photograph."""
    return [[f"photos/{path.parent.name}/{path.name}", path.parent.name] for path in sorted(photos.glob("*/*.png"))]


def shard(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def packed(photos: Path, folder: Path, label: str = "cls") -> Path:
    """The photographs in two tar files, labels in a member of their own."""
    files = sorted(photos.glob("*/*.png"))
    for number, some in enumerate((files[:7], files[7:])):
        members = []
        for place, path in enumerate(some):
            told = str(CLASSES.index(path.parent.name)) if label == "cls" else json.dumps({"label": path.parent.name})
            members += [(f"{place:03}.png", path.read_bytes()), (f"{place:03}.{label}", told.encode())]
        shard(folder / f"train-{number}.tar", members)
    return folder


def same_pictures(data: ImageData, photos: Path) -> None:
    """The photographs in the order of their paths, each with its class's name."""
    files = sorted(photos.glob("*/*.png"))
    assert [data.classes[sample.label] for sample in data.samples] == [path.parent.name for path in files]
    for index, path in enumerate(files):
        assert np.array_equal(np.asarray(data.load(index)), np.asarray(load_image(path)))


# Tables


def test_a_table_is_the_folders_that_it_lists(photos) -> None:
    data = open_data("csv", table(photos.parent / "list.csv", listed(photos)[::-1]))
    same_pictures(data, photos)
    assert data.ids[0] == "photos/apple/000.png" and data.classes == dict(enumerate(CLASSES))
    assert class_labels(data, {0: "cherry", 1: "Apple"}, 2).known == {0: 1, 2: 0}


def test_columns_order_and_what_paths_look_like(photos) -> None:
    rows = [[label, str((photos.parent / path).absolute()), "x"] for path, label in listed(photos)]
    rows[0][1] = "photos/../photos//apple/./000.png"
    path = table(photos.parent / "a.csv", rows, ("kind", "file", "more"))
    data = open_data("csv", path, columns=Columns("file", "kind"))
    plain = open_data("csv", table(photos.parent / "b.csv", listed(photos)))
    assert data.samples == plain.samples
    for kind in KINDS:
        assert data.fingerprint(kind) == plain.fingerprint(kind)
    assert open_data("csv", path, columns=Columns("file", None)).classes == {}


def test_tabs_a_byte_order_mark_and_empty_labels(photos) -> None:
    path = photos.parent / "list.tsv"
    path.write_text("\ufeffpath\tlabel\nphotos/apple/000.png\tapple\n\nphotos/berry/000.png\t\n", encoding="utf-8")
    data = open_data("csv", path)
    assert [sample.label for sample in data.samples] == [0, UNLABELLED] and data.classes == {0: "apple"}


def test_the_fingerprint_of_a_table_sees_labels_and_bytes(photos) -> None:
    rows = listed(photos)
    first = open_data("csv", table(photos.parent / "a.csv", rows))
    other = open_data("csv", table(photos.parent / "b.csv", [[rows[0][0], "cherry"], *rows[1:]]))
    path = photos / "apple" / "000.png"
    before = {kind: first.fingerprint(kind) for kind in KINDS}
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    after = {kind: first.fingerprint(kind) for kind in KINDS}
    assert other.fingerprint() != before[Fingerprint.listing] == after[Fingerprint.listing]
    assert after[Fingerprint.content] != before[Fingerprint.content]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", r"no column 'path' in its first row \(nothing\): give data.image_column=NAME"),
        ("file,label\na.png,x\n", r"no column 'path' in its first row \(file, label\): give data.image_column=NAME"),
        ("path,class\na.png,x\n", "no column 'label' .* data.label_column=NAME, or data.label_column=null"),
        ("path,label\na.png\n", "line 2 has not as many cells as there are columns"),
        ("path,label\n,x\n", "line 2 names no path"),
        ("path,label\na\0b,x\n", "line 2 names no path|is no CSV in UTF-8"),
        ("path,label\nq.png,x\nq.png,y\n", "line 3 names 'q.png' again, which line 2 has"),
        ("path,label\nq.png,x\n", "none of its 1 paths is a file, such as 'q.png': they are relative to"),
        ('path,label\n"q.png,x\n', "is no CSV in UTF-8"),
        ("path,label\n", "there is no image below .* data=csv expects one row per image"),
    ],
)
def test_what_is_wrong_with_a_table_is_one_sentence(text, sentence, tmp_path) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(UserError, match=sentence) as error:
        open_data("csv", tmp_path / "list.csv")
    assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_and_a_missing_table(tmp_path) -> None:
    (tmp_path / "list.csv").write_bytes(b"path,label\ncaf\xe9.png,x\n")
    with pytest.raises(UserError, match="is no CSV in UTF-8"):
        open_data("csv", tmp_path / "list.csv")
    with pytest.raises(UserError, match=r"data.root=.*gone.csv is not a file: data=csv needs FILE.csv"):
        check_config_sources(composed("data=csv", f"data.root={tmp_path / 'gone.csv'}"))
    with pytest.raises(UserError, match=r"data=csv needs data.root=FILE.csv"):
        check_config_sources(composed("data=csv"))


def test_one_missing_image_is_an_unreadable_image(photos) -> None:
    data = open_data("csv", table(photos.parent / "a.csv", [*listed(photos), ["photos/gone.png", "apple"]]))
    assert len(data) == 13
    with pytest.raises(UserError, match=r"photos/gone.png is not a readable image"):
        data.load(data.place["photos/gone.png"])


# Labels of the user's own


def test_numbers_are_indices_only_where_the_user_says_so(photos) -> None:
    rows = [[path, str(3 * CLASSES.index(label) + 4)] for path, label in listed(photos)]
    data = open_data("csv", table(photos.parent / "a.csv", rows))
    assert data.classes == {0: "4", 1: "7", 2: "10"}  # in the order of numbers
    assert class_labels(data, {}, 11).known == {}
    assert class_labels(data, {}, 11, Labels.indices).known == {0: 4, 1: 7, 2: 10}
    assert class_labels(data, {}, 3, Labels.rank).known == {0: 0, 1: 1, 2: 2}
    with pytest.raises(UserError, match="'10' is no index below 10, the number of the model's classes"):
        class_labels(data, {}, 10, Labels.indices)
    with pytest.raises(UserError, match="'apple' is no index below 10"):
        class_labels(open_data("imagefolder", photos), {}, 10, Labels.indices)
    with pytest.raises(UserError, match=r"none of the labels .* data.labels=indices if they are indices"):
        class_labels(data, {}, 11).require("evaluate.kinds=audit")


def test_some_classes_and_those_of_other_images(photos) -> None:
    path = table(photos.parent / "a.csv", listed(photos))
    assert {sample.label for sample in open_data("csv", path, classes=[2, 1]).samples} == {1, 2}
    some = open_data("csv", path, key="evaluate.root", folders=["cherry"])
    assert len(some) == 4 and {some.classes[sample.label] for sample in some.samples} == {"cherry"}
    with pytest.raises(UserError, match=r"evaluate.root=.* has no image of the class 'pear'"):
        open_data("csv", path, key="evaluate.root", folders=["cherry", "pear"])


# A flat folder


def test_a_flat_folder_has_images_and_no_classes(photos) -> None:
    data = open_data("folder", photos)
    assert data.ids == open_data("imagefolder", photos).ids and data.classes == {}
    assert {sample.label for sample in data.samples} == {UNLABELLED}
    joined = class_labels(data, {0: "apple"}, 1)
    assert joined.classes(np.array([UNLABELLED])).tolist() == [-1] and joined.unknown == []
    with pytest.raises(UserError, match=r"evaluate.kinds=audit needs the images' classes, but no image has a label"):
        joined.require("evaluate.kinds=audit")
    with pytest.raises(UserError, match=r"data.labels=rank is for data=imagefolder: .* data=folder are unknown"):
        class_labels(data, {}, 3, Labels.rank)
    (photos / "more").mkdir()
    with pytest.raises(UserError, match=r"there is no image below .*more: data=folder expects images in a folder"):
        check_config_sources(composed("data=folder", f"data.root={photos / 'more'}"))
    check_config_sources(composed("data=folder", f"data.root={photos}"))


# Tar files


@pytest.mark.parametrize("label", ["cls", "json"])
def test_tar_files_are_the_photographs_in_them(photos, tmp_path, label) -> None:
    data = open_data("webdataset", packed(photos, tmp_path / "shards", label))
    assert data.ids[0] == "train-0/000" and data.ids[-1] == "train-1/004" and len(data) == 12
    if label == "json":
        same_pictures(data, photos)
    else:
        assert data.classes == {0: "0", 1: "1", 2: "2"}
        assert class_labels(data, {}, 3, Labels.indices).known == {0: 0, 1: 1, 2: 2}
    again = pickle.loads(pickle.dumps(data))  # as workers get it
    assert np.array_equal(np.asarray(again.load(11)), np.asarray(load_image(photos / "cherry" / "003.png")))
    one = open_data("webdataset", tmp_path / "shards" / "train-1.tar")
    assert one.ids == [f"train-1/{place:03}" for place in range(5)]


def test_the_order_in_a_tar_file_and_its_place_do_not_matter_but_every_byte_does(photos, tmp_path) -> None:
    members = [(f"{path.parent.name}_{path.stem}.png", path.read_bytes()) for path in sorted(photos.glob("*/*.png"))]
    first = open_data("webdataset", shard(tmp_path / "a" / "x.tar", members))
    second = open_data("webdataset", shard(tmp_path / "b" / "x.tar", [*members[::-1], ("note.txt", b"no image")]))
    assert first.samples == second.samples
    damaged = [(members[0][0], members[0][1][:-1] + b"\0"), *members[1:]]
    third = open_data("webdataset", shard(tmp_path / "c" / "x.tar", damaged))
    for kind in KINDS:
        assert first.fingerprint(kind) == second.fingerprint(kind) != third.fingerprint(kind)
    relabelled = open_data("webdataset", shard(tmp_path / "d" / "x.tar", [*members, ("apple_000.cls", b"7")]))
    assert relabelled.fingerprint() != first.fingerprint()


@pytest.mark.parametrize(
    ("members", "columns", "sentence"),
    [
        ([("a.png", b"1"), ("a.png", b"2")], Columns(), "has a.png twice"),
        ([("a.png", b"1"), ("a.seg.png", b"2")], Columns(), r"several images of a \(png, seg.png\).*image_column=png"),
        ([("a.png", b"1"), ("a.json", b"{")], Columns(), "a label of a that cannot be read"),
        ([("a.png", b"1"), ("a.json", b"[1]")], Columns(), "a label of a that cannot be read"),
        ([("a.png", b"1"), ("a.cls", b"\xff")], Columns(), "a label of a that cannot be read"),
        ([("a.png", b"1"), ("a.json", b'{"label": [1]}')], Columns(), r"'label' of a.json is \[1\], neither"),
        ([("a.txt", b"1")], Columns(), "there is no image below .* data=webdataset expects"),
        ([("a.png", b"1")], Columns("seg.png"), "there is no image below"),
    ],
)
def test_what_is_wrong_with_a_tar_file_is_one_sentence(members, columns, sentence, tmp_path) -> None:
    with pytest.raises(UserError, match=sentence):
        open_data("webdataset", shard(tmp_path / "x.tar", members), columns=columns)


def test_damaged_compressed_and_missing_tar_files(photos, tmp_path) -> None:
    folder = packed(photos, tmp_path / "shards")
    content = (folder / "train-1.tar").read_bytes()
    data = open_data("webdataset", folder)
    (folder / "train-1.tar").write_bytes(content[: len(content) // 3])
    with pytest.raises(UserError, match=r"train-1.tar is cut off"):
        data.load(11)
    (folder / "train-1.tar").write_bytes(b"this is no archive" * 100)
    with pytest.raises(UserError, match=r"train-1.tar is no tar file that can be read"):
        open_data("webdataset", folder)
    (folder / "train-1.tar").rename(folder / "train-1.tar.gz")
    with pytest.raises(UserError, match=r"train-1.tar.gz is compressed"):
        open_data("webdataset", folder)
    with pytest.raises(UserError, match="is neither a folder nor a file: data=webdataset needs FOLDER"):
        check_config_sources(composed("data=webdataset", f"data.root={tmp_path / 'gone'}"))


def test_an_image_is_chosen_among_several_of_a_key(photos, tmp_path) -> None:
    files = [(photos / name / "000.png").read_bytes() for name in CLASSES[:2]]
    path = shard(tmp_path / "x.tar", [("k.in.png", files[0]), ("k.out.PNG", files[1])])
    data = open_data("webdataset", path, columns=Columns("out.png"))
    assert np.array_equal(np.asarray(data.load(0)), np.asarray(load_image(photos / CLASSES[1] / "000.png")))


# Hugging Face


def rows(photos: Path, names: bool = True):
    datasets = pytest.importorskip("datasets", reason="needs the extra 'huggingface'")
    files = sorted(photos.glob("*/*.png"))
    kind = datasets.ClassLabel(names=list(CLASSES)) if names else datasets.Value("string")
    labels = [CLASSES.index(path.parent.name) if names else path.parent.name for path in files]
    content = {"image": [{"bytes": path.read_bytes(), "path": None} for path in files], "label": labels}
    return datasets.Dataset.from_dict(content, features=datasets.Features(image=datasets.Image(), label=kind))


@pytest.mark.parametrize("names", [True, False])
def test_a_saved_data_set_is_the_photographs_in_it(photos, tmp_path, names) -> None:
    rows(photos, names).save_to_disk(tmp_path / "saved")
    data = open_data("huggingface", tmp_path / "saved")
    same_pictures(data, photos)
    assert data.ids[0] == "train/000000000" and open_data("huggingface", tmp_path / "saved", limit=3).ids[1][-1] == "4"
    same_pictures(pickle.loads(pickle.dumps(data)), photos)


def test_a_data_set_is_told_by_its_content(photos, tmp_path) -> None:
    rows(photos).save_to_disk(tmp_path / "a")
    rows(photos).map(lambda row: row).save_to_disk(tmp_path / "b")  # of another history
    draw_photos(tmp_path / "other", order=-1)
    path = tmp_path / "other" / "apple" / "000.png"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    rows(tmp_path / "other").save_to_disk(tmp_path / "c")
    first, second, third = (open_data("huggingface", tmp_path / name) for name in "abc")
    for kind in KINDS:
        assert first.fingerprint(kind) == second.fingerprint(kind) != third.fingerprint(kind)


def test_splits_columns_and_folders_of_images(photos, tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'huggingface'")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.DatasetDict(test=rows(photos).rename_column("image", "photo")).save_to_disk(tmp_path / "saved")
    data = open_data("huggingface", tmp_path / "saved", columns=Columns("photo", split="test"))
    assert data.ids[0] == "test/000000000" and len(data) == 12
    assert open_data("huggingface", tmp_path / "saved", columns=Columns("photo", None, "test")).classes == {}
    same_pictures(open_data("huggingface", photos), photos)
    for columns, sentence in [
        (Columns(), "data.split=train: .* has the splits test"),
        (Columns(split="test"), "data.image_column=image: .* has the columns photo, label: give one"),
        (Columns("photo", "kind", "test"), "data.label_column=kind: .* give one, or null"),
        (Columns("label", None, "test"), "data.image_column=label: this column of .* holds no images"),
        (Columns("photo", "photo", "test"), "data.label_column=photo: this column of .* holds neither names nor"),
    ]:
        with pytest.raises(UserError, match=sentence):
            open_data("huggingface", tmp_path / "saved", columns=columns)


def test_a_data_set_that_is_not_there_is_one_sentence(tmp_path, monkeypatch) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra 'huggingface'")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    for root in (tmp_path / "empty", "somebody/nothing", "somebody/nothing@main"):
        with pytest.raises(UserError, match="is no data set that can be opened") as error:
            open_data("huggingface", root)
        assert "\n" not in str(error.value)


def test_the_extra_is_named_where_it_is_missing(photos, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"data=huggingface needs the extra 'huggingface': pip install"):
        open_data("huggingface", photos)
