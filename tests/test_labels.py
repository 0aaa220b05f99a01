"""Which class of the model a folder stands for: by its name, its wnid or the user's word, and never by its rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vismech.config.choices import DataSource, Labels
from vismech.errors import UserError
from vismech.sources.data import CIFAR10, imagenet_names
from vismech.sources.labels import class_index, class_labels
from vismech.sources.pictures import ImageData, Sample

IMAGENET = dict(enumerate(imagenet_names()))


def own(*folders: str) -> ImageData:
    """A folder of one's own with one image in each class folder."""
    samples = [Sample(f"{name}/a.jpg", label) for label, name in enumerate(folders)]
    return ImageData(Path("/photos"), samples, dict(enumerate(folders)))


def published(source: str, names, *labels: int) -> ImageData:
    samples = [Sample(f"{label}.jpg", label) for label in labels]
    return ImageData(Path("/photos"), samples, dict(enumerate(names)), DataSource(source))


def classes(data: ImageData, names, outputs: int | None = None, **options) -> list[int]:
    joined = class_labels(data, names, len(names) if outputs is None else outputs, **options)
    return joined.classes(np.array([sample.label for sample in data.samples])).tolist()


def test_two_folders_of_ones_own_are_not_tench_and_goldfish() -> None:
    assert classes(own("holiday", "wedding"), IMAGENET) == [-1, -1]
    assert classes(own("goldfish", "tench"), IMAGENET) == [1, 0]


def test_names_fit_without_case_underscores_and_composed_letters() -> None:
    names = {0: "Tabby cat", 1: "great-white shark", 2: "caf\u00e9"}
    assert classes(own("GREAT_WHITE_SHARK", "cafe\u0301", "tabby_cat", "tabby"), names) == [1, 2, 0, -1]


def test_a_name_of_several_classes_tells_none_and_the_exact_one_goes_first() -> None:
    assert classes(own("crane"), {0: "crane", 1: "crane"}) == [-1]
    assert classes(own("cardigan", "Cardigan", "CARDIGAN"), IMAGENET) == [474, 264, -1]


def test_wnids_are_known_where_the_model_has_imagenets_classes() -> None:
    assert classes(own("n01440764", "n02119789", "n00000000"), IMAGENET) == [0, 278, -1]
    assert classes(own("n01440764"), {}, 1000) == [-1]


def test_a_table_goes_before_names() -> None:
    data, names = own("cat", "dog", "odd"), {0: "dog", 1: "cat", 2: "bird"}
    assert classes(data, names) == [1, 0, -1]
    assert classes(data, names, class_map={"odd": 2, "dog": "bird", "cat": None}) == [-1, 2, 2]
    assert classes(data, {}, 5, class_map={"odd": 4}) == [-1, -1, 4]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({"cats": 1}, "there is no folder 'cats'; nearest: cat"),
        ({"cat": 3}, "cat is given class 3, but the model has 3 classes"),
        ({"cat": -1}, "cat is given class -1"),
        ({"cat": "brid"}, "cat is given 'brid', which is no one class of the model; nearest: bird"),
        ({"cat": True}, "cat is given True"),
    ],
)
def test_tables_that_fit_nothing_are_refused(table, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        classes(own("cat", "dog"), {0: "dog", 1: "cat", 2: "bird"}, class_map=table)


def test_a_table_may_name_folders_of_the_other_images() -> None:
    assert classes(own("cat"), {0: "x"}, class_map={"elsewhere": 0}, folders={"elsewhere"}) == [-1]


def test_ranks_count_where_the_user_says_so_and_the_counts_agree() -> None:
    assert classes(own("b", "c", "d"), {}, 3, labels=Labels.rank) == [0, 1, 2]
    with pytest.raises(UserError, match=r"has 2 folders, but the model has 3 classes: give \+data.class_map"):
        classes(own("b", "c"), {}, 3, labels=Labels.rank)


def test_published_numberings_are_the_models_where_counts_and_names_agree() -> None:
    imagenet = published("imagenet", IMAGENET.values(), 0, 134, 999)
    assert classes(imagenet, IMAGENET) == [0, 134, 999]
    assert classes(imagenet, {}, 1000) == [0, 134, 999]
    verbose = {index: f"{name}, or so" for index, name in IMAGENET.items()}
    assert classes(imagenet, verbose) == [0, 134, 999]
    assert classes(imagenet, {}, 21_841) == [-1, -1, -1]
    assert classes(imagenet, dict(enumerate(CIFAR10))) == [-1, -1, -1]


def test_a_published_numbering_in_another_order_is_told_by_names() -> None:
    backwards = dict(enumerate(reversed(CIFAR10)))
    assert classes(published("cifar10", CIFAR10, 0, 3), backwards) == [9, 6]
    assert classes(published("cifar10", CIFAR10, 0, 3), {0: "cat", 1: "dog"}) == [-1, 0]


@pytest.mark.parametrize("options", [{"class_map": {"cat": 1}}, {"labels": Labels.rank}])
def test_published_numberings_take_no_table(options) -> None:
    with pytest.raises(UserError, match="is for data=imagefolder: the classes of data=cifar10 are published"):
        classes(published("cifar10", CIFAR10, 0), dict(enumerate(CIFAR10)), **options)


def test_what_is_in_a_key_is_what_changed() -> None:
    names = {0: "a", 1: "b", 2: "c"}
    assert class_labels(own("a", "b"), names, 3).inputs == {}
    assert class_labels(own("b", "x"), names, 3).inputs == {"class_of_label": {0: 1, 1: None}}
    assert class_labels(published("cifar10", CIFAR10, 1, 2), {}, 10).inputs == {}


def test_class_names_are_those_of_the_folders_that_stand_for_them() -> None:
    joined = class_labels(own("b", "x"), {}, 3, class_map={"x": 2})
    assert joined.class_names == {2: "x"} and joined.unknown == ["b"]
    with pytest.raises(UserError, match=r"the folders \(b\) has the name of .* \+data.class_map=.*data.labels=rank"):
        class_labels(own("b"), {}, 3).require("evaluate.correct_only=true")


@pytest.mark.parametrize(
    ("given", "index"),
    [
        (129, 129),
        ("spoonbill", 129),
        ("SpoonBill", 129),
        ("great white shark", 2),
        ("great_white_shark", 2),
        ("Cardigan", 264),
        ("cardigan", 474),
        ("n02006656", 129),
        ("129", 129),
        ("-1", -1),
        (-1, -1),
    ],
)
def test_a_class_is_told_by_its_index_or_its_name(given, index) -> None:
    assert class_index("graph.classes", given, IMAGENET) == index


def test_digits_that_are_a_classs_name_are_its_name() -> None:
    assert class_index("graph.classes", "1", {0: "1", 1: "2"}) == 0
    assert class_index("graph.classes", "7", {}) == 7


@pytest.mark.parametrize(
    ("given", "names", "sentence"),
    [
        ("spoonbil", IMAGENET, "graph.classes: 'spoonbil' is not a class of this model; nearest: spoonbill"),
        ("xyz", {0: "cat", 1: "dog"}, "graph.classes: 'xyz' is not a class of this model; it has cat, dog"),
        ("CARDIGAN", IMAGENET, r"'CARDIGAN' may be class 264 \(Cardigan\) or 474 \(cardigan\): give the index"),
        ("crane", {3: "crane", 5: "crane"}, r"'crane' may be class 3 \(crane\) or 5 \(crane\): give the index"),
        (
            "cat",
            {},
            r"'cat' is a name, but classes of this model have none: give an index, or model.classes=\[NAME, …\]",
        ),
    ],
)
def test_names_of_no_one_class_are_refused(given, names, sentence) -> None:
    with pytest.raises(UserError, match=sentence) as error:
        class_index("graph.classes", given, names)
    assert "\n" not in str(error.value)
