"""Which images a graph explains, and as which class: a pure function of predictions and configuration."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from vismech.config.choices import Images, Scope
from vismech.config.schema import GraphConfig
from vismech.errors import UserError
from vismech.sources.labels import UNKNOWN
from vismech.store.settings import FLAT, UNUSED, Settings, used

if TYPE_CHECKING:
    from vismech.stages.context import Context

NEAREST_AMONG = 10_000  # comparing names with more than so many takes longer than looking


@dataclass(frozen=True)
class ExplainedSettings(Settings):
    """Which images are explained; the configuration's group ``graph`` documents the fields.

    Of scope=dataset without ``capped`` the cap is one of the whole data set, as it was when keys were first made.
    ``joined`` says which class each folder is, where its images are chosen by that.
    """

    scope: Scope
    classes: tuple[int, ...]
    image: str | None
    images: Images
    images_per_class: int | None
    capped: str = UNUSED
    limit: int | None = UNUSED
    joined: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)

    @classmethod
    def of(
        cls, graph: GraphConfig, classes: Sequence[int], images: int, joined: Mapping[str, Any]
    ) -> ExplainedSettings:
        """What the configuration's group, whose ``classes`` are these, explains of so many ``images``."""
        most = graph.images_per_class
        caps: dict[str, Any] = {"images_per_class": most}
        if graph.scope is Scope["dataset"]:
            # Keys are those of when images_per_class was a cap of the whole data set, where that is what is asked for.
            if most is None:
                caps["images_per_class"] = graph.limit
            elif most < images or graph.limit is not None:
                caps |= {"capped": "each predicted class", "limit": graph.limit}
        return cls(graph.scope, tuple(classes), graph.image, graph.images, **caps, joined=joined)

    @property
    def caps(self) -> tuple[int | None, int | None]:
        """At most so many images of each class, and in all."""
        if self.scope is Scope["dataset"] and not self.capped:
            return None, self.images_per_class
        return self.images_per_class, used(self.limit, None)


class Group(NamedTuple):
    """Images that are averaged together.

    Attributes:
        key: the class index as text, ``all`` for the whole dataset, ``image`` for a single one, ``error`` for errors.
        index: the class, or None where each image stands for its own predicted class.
        against: of errors the images' true class.
    """

    key: str
    index: int | None
    against: int | None = None


class Explained(NamedTuple):
    """The images of a graph, by ascending row.

    Attributes:
        groups: what is averaged.
        rows: rows of the logits artifact [n].
        group: index into ``groups`` per image [n].
        classes: the class whose logit is explained, per image [n]; of errors the class answered and the true one
            [n, 2], whose difference is explained.
    """

    groups: list[Group]
    rows: np.ndarray
    group: np.ndarray
    classes: np.ndarray


def spread(items: list[int], count: int | None) -> list[int]:
    """``count`` of ``items``, evenly spaced, so that no stretch of the sample ids is favoured."""
    if count is None or count >= len(items):
        return items
    return [items[index * len(items) // count] for index in range(count)]


def check_scope(graph: GraphConfig) -> None:
    """Refuse a scope without what it explains, before anything is computed.

    Raises:
        UserError: no image, or another number of classes than the scope has.
    """
    if graph.scope is Scope["image"] and graph.image is None:
        raise UserError("graph.scope=image needs graph.image=SAMPLE_ID, the image's path below data.root")
    _check_count(graph, graph.classes)


def _check_count(graph: GraphConfig, classes: Sequence[int | str]) -> None:
    """Refuse another number of different classes than the scope has; the same class may have been given twice."""
    if graph.scope in (Scope["image"], Scope["dataset"]):
        return
    wanted = (
        ["LABELLED", "ANSWERED"] if graph.scope is Scope["error"] else ["CLASS"] * (2 - (graph.scope is Scope["class"]))
    )
    if len(set(classes)) != len(wanted):
        raise UserError(
            f"graph.scope={graph.scope.value} explains {len(wanted)} class{'es' if len(wanted) > 1 else ''}, "
            f"but graph.classes={graph.classes}: give graph.classes=[{','.join(wanted)}]"
        )


def explained(
    graph: ExplainedSettings, ids: list[str], labels: np.ndarray, logits: np.ndarray, names: Mapping[int, str]
) -> Explained:
    """Choose the images.

    Args:
        graph: what is explained.
        ids: sample ids [n].
        labels: the model's class that each image is labelled as [n], −1 where it is unknown.
        logits: of each image [n, classes].
        names: the model's class → its name.

    Raises:
        UserError: a class, number of classes or image that the data cannot answer.
    """
    predicted = np.asarray(logits).argmax(1)
    each_most, most = graph.caps
    if graph.scope is Scope["image"]:
        check_listed(graph, ids)
        row = ids.index(str(graph.image))
        group = Group("image", int(predicted[row]))
        return Explained([group], np.array([row]), np.zeros(1, dtype=int), predicted[[row]])
    if graph.scope is Scope["dataset"]:
        each = (np.flatnonzero(predicted == one).tolist() for one in np.unique(predicted))
        every = sorted(row for one in each for row in spread(one, each_most))
        rows = np.array(spread(every, most))
        return Explained([Group("all", None)], rows, np.zeros(len(rows), dtype=int), predicted[rows])
    if graph.scope is Scope["error"]:
        for index in graph.classes:
            _check_class(index, np.asarray(logits).shape[1])
        check_listed(graph, ids)
        rows = np.array(spread(_errors(graph, ids, labels, predicted, names), each_most))
        true, answered = graph.classes
        group = Group("error", answered, true)
        return Explained([group], rows, np.zeros(len(rows), dtype=int), np.tile([answered, true], (len(rows), 1)))
    standing = predicted if graph.images is Images.predicted else labels
    rows, groups = [], []
    for position, index in enumerate(graph.classes):
        _check_class(index, np.asarray(logits).shape[1])
        members = spread(_members(standing, index, names, graph.images), each_most)
        rows += members
        groups += [position] * len(members)
    order = np.argsort(rows, kind="stable")
    chosen, group = np.array(rows)[order], np.array(groups)[order]
    keys = [Group(str(index), index) for index in graph.classes]
    return Explained(keys, chosen, group, np.array(graph.classes)[group])


def check_listed(graph: GraphConfig | ExplainedSettings, ids: list[str]) -> None:
    """Refuse to explain an image that is not there, as soon as the images are listed.

    Raises:
        UserError: the image, and those of the same name elsewhere.
    """
    if graph.scope not in (Scope["image"], Scope["error"]) or graph.image is None or graph.image in ids:
        return
    name = graph.image.rpartition("/")[2]
    near = [sample for sample in ids if sample.rpartition("/")[2] == name][:3]
    if not near and len(ids) <= NEAREST_AMONG:
        near = difflib.get_close_matches(graph.image, ids, n=3)
    known = f"nearest: {', '.join(near)}" if near else f"the first is {ids[0]!r}"
    raise UserError(f"graph.image={graph.image} is not a sample id of this data; {known}")


def check_classes(ctx: Context) -> None:
    """Refuse classes that the model does not have or that no image is labelled as, before anything is computed.

    Raises:
        UserError: the class.
    """
    graph = ctx.config.graph
    if graph.scope not in (Scope["class"], Scope["pair"], Scope["error"]):
        return
    classes = ctx.explained_classes
    _check_count(graph, classes)
    for index in classes:
        _check_class(index, ctx.outputs)
    error = graph.scope is Scope["error"]
    if error or graph.images is Images.labelled:
        ctx.class_labels.require("graph.scope=error" if error else "graph.images=labelled")
        labels = ctx.class_labels.classes(np.array([sample.label for sample in ctx.data.samples]))
        for index in classes[:1] if error else classes:
            _members(labels, index, ctx.class_names, Images.labelled)


def _check_class(index: int, outputs: int) -> None:
    if not 0 <= index < outputs:
        raise UserError(
            f"graph.classes: {index} is not a class of this model, which has {outputs}: give 0 to {outputs - 1}"
        )


def _errors(
    graph: ExplainedSettings, ids: list[str], labels: np.ndarray, predicted: np.ndarray, names: Mapping[int, str]
) -> list[int]:
    """Rows of the images of the first class that are answered as the second, or the one that is asked for."""
    true, answered = graph.classes
    wrong = (labels == true) & (predicted == answered)
    if graph.image is not None:
        row = ids.index(graph.image)
        if not wrong[row]:
            label = "unknown" if labels[row] == UNKNOWN else _told(labels[row], names)
            raise UserError(
                f"graph.image={graph.image} is labelled {label} and answered {_told(predicted[row], names)}, not "
                f"{_told(true, names)} answered {_told(answered, names)}: give graph.classes as it is, or another image"
            )
        return [row]
    if wrong.any():
        return np.flatnonzero(wrong).tolist()
    known = (labels != UNKNOWN) & (labels != predicted)
    confused = Counter(zip(labels[known].tolist(), predicted[known].tolist(), strict=True)).most_common(5)
    common = ", ".join(
        f"{_told(one, names)} answered {_told(other, names)} ({count})" for (one, other), count in confused
    )
    raise UserError(
        f"none of the {int((labels == true).sum())} images of class {_told(true, names)} is answered as "
        f"{_told(answered, names)}; the most common confusions are {common or 'none'}: choose graph.classes among them "
        "or add images"
    )


def _told(index: int, names: Mapping[int, str]) -> str:
    return f"{index} {names.get(int(index), '')}".rstrip()


def _members(standing: np.ndarray, index: int, names: Mapping[int, str], images: Images) -> list[int]:
    """Rows of the images that stand for a class; ``standing`` is each image's class, −1 where it is unknown."""
    members = np.flatnonzero(standing == index).tolist()
    if not members:
        common = ", ".join(
            f"{_told(value, names)} ({count})"
            for value, count in Counter(standing[standing != UNKNOWN].tolist()).most_common(5)
        )
        verb = "predicted" if images is Images.predicted else "labelled"
        raise UserError(
            f"none of the {len(standing)} images is {verb} as class {_told(index, names)}"
            + f"; most are {common}: choose graph.classes among them or add images"
        )
    return members
