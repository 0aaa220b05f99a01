"""Which class of the model an image's folder stands for: told by names or by the user, never by position.

The data numbers its classes for itself (:attr:`vismech.sources.data.ImageData.classes`): folders by rank, ImageNet's
and CIFAR-10's by their published indices. The model numbers its logits. Only what this module joins may be compared.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vismech.config.choices import DataSource, Labels
from vismech.errors import UserError
from vismech.sources.data import imagenet_names, imagenet_wnids
from vismech.sources.pictures import UNLABELLED, ImageData

UNKNOWN = UNLABELLED


@dataclass(frozen=True)
class ClassLabels:
    """What the data's own labels are to the model.

    Attributes:
        known: the data's label → the model's class; labels that are absent are no class of the model's.
        names: the data's label → its name.
        present: the labels that images have.
        noun: what tells an image's class: folders or labels.
    """

    known: Mapping[int, int]
    names: Mapping[int, str]
    present: Sequence[int]
    noun: str = "folders"

    def classes(self, labels: np.ndarray) -> np.ndarray:
        """The model's class of each label, −1 where it is unknown."""
        return np.array([self.known.get(int(label), UNKNOWN) for label in labels], dtype=np.int64)

    @property
    def class_names(self) -> dict[int, str]:
        """The model's class → what the data calls it."""
        return {index: self.names[label] for label, index in self.known.items()}

    @property
    def unknown(self) -> list[str]:
        """Names of the images' classes that the model has no class for."""
        return [self.names[label] for label in self.present if label not in self.known and label != UNLABELLED]

    @property
    def inputs(self) -> dict[str, Any]:
        """The part of a key of whatever reads :meth:`classes`; nothing where each label is its own class."""
        told = {label: self.known.get(label) for label in self.present}
        return {} if all(label == index for label, index in told.items()) else {"class_of_label": told}

    def require(self, key: str) -> None:
        """Refuse what cannot be without classes.

        Raises:
            UserError: no image has a known class.
        """
        if set(self.present) <= {UNLABELLED}:
            raise UserError(
                f"{key} needs the images' classes, but no image has a label: give data=imagefolder, or data=csv with "
                "a column of labels"
            )
        if not any(label in self.known for label in self.present):
            raise UserError(
                f"{key} needs the images' classes, but none of the {self.noun} ({_some(self.unknown)}) has the name of "
                f"a class of the model: {REMEDY}"
            )


REMEDY = (
    "give +data.class_map={FOLDER: CLASS, …} with the classes' indices or names, model.classes=[NAME, …], "
    "data.labels=rank if the folders are the model's classes in alphabetical order, or data.labels=indices "
    "if they are indices"
)


def class_labels(
    data: ImageData,
    classes: Mapping[int, str],
    outputs: int,
    labels: Labels = Labels.names,
    class_map: Mapping[str, Any] | None = None,
    folders: Collection[str] = (),
) -> ClassLabels:
    """Join the data's labels to the model's classes.

    Args:
        data: the images.
        classes: the model's class names by index, as far as they are known.
        outputs: number of the model's logits.
        labels: whether a folder is told by its name or by its rank.
        class_map: folder → class index, class name, or None for no class; before ``labels``.
        folders: further names that ``class_map`` may have, those of another folder of images.

    Raises:
        UserError: a folder or class in ``class_map`` that is not there, or ranks where counts differ.
    """
    present = list(dict.fromkeys(sample.label for sample in data.samples))
    if data.source.published or data.source is DataSource.folder:
        if class_map or labels is not Labels.names:
            key = "data.class_map" if class_map else f"data.labels={labels}"
            why = "are published" if data.source.published else "are unknown"
            raise UserError(f"{key} is for data=imagefolder: the classes of data={data.source} {why}")
        return ClassLabels(_published(data.classes, classes, outputs), data.classes, present)
    given = {
        str(folder): _named(folder, value, classes, outputs, {*data.classes.values(), *folders})
        for folder, value in (class_map or {}).items()
    }
    noun = "folders" if data.source is DataSource.imagefolder else "labels"
    if labels is Labels.rank and len(data.classes) != outputs:
        raise UserError(
            f"data.labels=rank: {data.root} has {len(data.classes)} {noun}, but the model has {outputs} classes: "
            "give +data.class_map={FOLDER: CLASS, …} instead"
        )
    find = _Finder(classes)
    known: dict[int, int] = {}
    for label, name in data.classes.items():
        if name in given:
            index = given[name]
        elif labels is Labels.indices:
            index = _indexed(name, outputs)
        else:
            index = label if labels is Labels.rank else find(name)
        if index is not None:
            known[label] = index
    return ClassLabels(known, data.classes, present, noun)


def _indexed(name: str, outputs: int) -> int:
    """The class whose index a folder or label is."""
    if not name.isdecimal() or int(name) >= outputs:
        raise UserError(
            f"data.labels=indices: {name!r} is no index below {outputs}, the number of the model's classes: give "
            "data.labels=names, or +data.class_map={LABEL: CLASS, …}"
        )
    return int(name)


def _published(data: Mapping[int, str], model: Mapping[int, str], outputs: int) -> dict[int, int]:
    """A published numbering is the model's where both have as many classes, unless the names say another order."""
    find = _Finder(model)
    found = {label: find(name) for label, name in data.items()}
    agrees = all(find.fits(data[label], label) or index is None for label, index in found.items())
    if len(data) == outputs and agrees:
        return {label: label for label in data}
    return {label: index for label, index in found.items() if index is not None}


def _named(folder: str, value: Any, classes: Mapping[int, str], outputs: int, folders: Collection[str]) -> int | None:
    """The class that ``data.class_map`` gives a folder."""
    if folder not in folders:
        near = difflib.get_close_matches(str(folder), list(folders), n=3) or sorted(folders)[:5]
        raise UserError(f"data.class_map: there is no folder {folder!r}; nearest: {', '.join(near)}")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        if not 0 <= value < outputs:
            raise UserError(f"data.class_map: {folder} is given class {value}, but the model has {outputs} classes")
        return value
    index = _Finder(classes)(str(value))
    if index is None:
        near = difflib.get_close_matches(str(value), list(classes.values()), n=3)
        what = f"nearest: {', '.join(near)}" if near else "give its index"
        raise UserError(f"data.class_map: {folder} is given {value!r}, which is no one class of the model; {what}")
    return index


def class_index(key: str, given: int | str, classes: Mapping[int, str]) -> int:
    """The class that somebody means by an index or a name: the name as written, else without case and underscores.

    Args:
        key: what it was given for, for the message.
        given: index or name; digits that are no class's name are an index.
        classes: the model's class → its name.

    Raises:
        UserError: a name that no class has, with the nearest, or that several have.
    """
    if isinstance(given, int):
        return given
    index = _Finder(classes)(given)
    if index is not None:
        return index
    if several := [one for one, name in classes.items() if _plain(name) == _plain(given)]:
        told = " or ".join(f"{one} ({classes[one]})" for one in several)
        raise UserError(f"{key}: {given!r} may be class {told}: give the index")
    if re.fullmatch(r"-?\d+", given):
        return int(given)
    if not classes:
        raise UserError(
            f"{key}: {given!r} is a name, but classes of this model have none: give an index, or "
            "model.classes=[NAME, …]"
        )
    plain = {_plain(name): name for name in classes.values()}
    near = [plain[one] for one in difflib.get_close_matches(_plain(given), list(plain), n=3)]
    what = f"nearest: {', '.join(near)}" if near else f"it has {_some([*classes.values()])}"
    raise UserError(f"{key}: {given!r} is not a class of this model; {what}")


class _Finder:
    """Name → class of the model: as written, then without case and underscores, then as ImageNet's wnid.

    A name that several classes have, such as CARDIGAN of ImageNet's Cardigan (a dog) and cardigan, tells none of them.
    """

    def __init__(self, classes: Mapping[int, str]) -> None:
        self._classes = classes
        self._written, self._loose = Counter(classes.values()), Counter(map(_plain, classes.values()))
        self._by_name = {name: index for index, name in classes.items()}
        self._by_plain = {_plain(name): index for index, name in classes.items()}

    def __call__(self, name: str) -> int | None:
        if self._written[name]:
            return self._by_name[name] if self._written[name] == 1 else None
        if self._loose[_plain(name)]:
            return self._by_plain[_plain(name)] if self._loose[_plain(name)] == 1 else None
        if re.fullmatch(r"n\d{8}", name) and self._classes == dict(enumerate(imagenet_names())):
            return imagenet_wnids().get(name)
        return None

    def fits(self, name: str, index: int) -> bool:
        """Whether the class of that index has the name."""
        return _plain(self._classes.get(index, "")) == _plain(name)


def _plain(name: str) -> str:
    return " ".join(re.split(r"[\s_-]+", unicodedata.normalize("NFKC", name).casefold())).strip()


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (" …" if len(names) > 5 else "")
