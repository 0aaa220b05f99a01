"""Groups of images: a table by sample id or a level of folders, in the key by content."""

from __future__ import annotations

from pathlib import Path

import pytest

from vismech.errors import UserError
from vismech.sources.groups import read_groups

IDS = ["cats/home/1.png", "cats/wild/2.png", "dogs/home/3.png"]


def table(folder: Path, text: str) -> str:
    path = folder / "groups.csv"
    path.write_text(text)
    return str(path)


def test_a_table_is_read_in_the_order_of_the_images(tmp_path) -> None:
    rows = ["id,stamp,place"] + [f"{sample},{index},p{index}" for index, sample in enumerate(reversed(IDS))]
    found = read_groups(table(tmp_path, "\n".join(rows)), IDS)
    assert found.columns == {"stamp": ["2", "1", "0"], "place": ["p2", "p1", "p0"]}
    assert found.attributes == ["stamp", "place"] and found.boxes() is None


def test_the_key_is_that_of_the_content(tmp_path) -> None:
    text = "id,stamp\n" + "\n".join(f"{sample},1" for sample in IDS)
    first = read_groups(table(tmp_path, text), IDS)
    assert first.inputs() == {"content": first.content}
    assert read_groups(table(tmp_path, text + "\nother.png,0"), IDS).content == first.content
    assert read_groups(table(tmp_path, text.replace(",1", ",2", 1)), IDS).content != first.content


def test_a_level_of_folders() -> None:
    assert read_groups("level:2", IDS).columns == {"level_2": ["home", "wild", "home"]}


def test_boxes_are_no_attributes(tmp_path) -> None:
    rows = ["id,left,top,right,bottom,stamp"] + [f"{sample},0.1,0,0.5,1,1" for sample in IDS]
    found = read_groups(table(tmp_path, "\n".join(rows)), IDS)
    boxes = found.boxes()
    assert found.attributes == ["stamp"] and boxes is not None and boxes.tolist() == [[0.1, 0, 0.5, 1]] * 3
    wrong = read_groups(table(tmp_path, "\n".join(rows).replace("0.1,0,0.5", "0.6,0,0.5")), IDS)
    with pytest.raises(UserError, match="left < right"):
        wrong.boxes()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,stamp\ncats/home/1.png,1", r"misses 2 of the 3 images, such as 'cats/wild/2\.png'"),
        ("id\n1", "first column of sample ids"),
        ("id,stamp\na,1,2", "the same in all rows"),
        ("", "no table"),
    ],
)
def test_tables_that_are_none_are_one_sentence(text, said, tmp_path) -> None:
    with pytest.raises(UserError, match=said):
        read_groups(table(tmp_path, text), IDS)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("nowhere.csv", "No such file"),
        ("level:0", "at least 1"),
        ("level:x", "write level:N"),
        ("level:3", "fewer folders"),
    ],
)
def test_sources_that_are_none_are_one_sentence(source, said) -> None:
    with pytest.raises(UserError, match=said):
        read_groups(source, IDS)
