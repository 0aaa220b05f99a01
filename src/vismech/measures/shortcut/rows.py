"""What the edits of a shortcut did, as rows: on both halves, and of each order the edit that one half chooses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.config.choices import EditOrder, EditValue, Evaluation, Half
from vismech.measures.base import measured_rows
from vismech.measures.shortcut.scores import (
    Answers,
    Choice,
    by_attribute,
    chosen,
    confusion,
    removal,
    told_apart,
)
from vismech.measures.shortcut.settings import ShortcutSettings, has_attribute
from vismech.sources.data import half_of
from vismech.stages.context import Plan
from vismech.stages.counted import count_of
from vismech.stages.dictionary import TABLE_KEYS
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work, read_images

KEYS = ["layer", *TABLE_KEYS, "k", "order", "edit", "count", "half"]
CHOSEN = "chosen"
SHOWN = 20
"""Classes of which a confusion is told, at most."""


class _Read(NamedTuple):
    """One layer's answers."""

    base: dict[str, Any]
    wanted: ShortcutSettings
    images: Answers
    ids: list[str]
    after: np.ndarray
    sets: list[list[int]]
    names: list[tuple[EditOrder, int, EditValue]]
    attributed: np.ndarray
    told: np.ndarray


def _read(work: Work, plan: Plan) -> Iterator[_Read]:
    for spec in plan.evaluations[Evaluation.shortcut].values():
        if not isinstance(spec.settings, ShortcutSettings):
            continue
        wanted, artifact = spec.settings, work.store.open(spec)
        images = read_images(artifact)
        clean = None
        if "twin" in spec.parents:
            answers = work.store.open(spec.parents["twin"])
            told = dict(
                zip(read_images(answers).ids, np.asarray(answers.array("logits.npy")).argmax(1).tolist(), strict=True)
            )
            clean = np.array([told[sample] for sample in images.ids])
        answered = Answers(
            work.measured_labels.classes(images.labels),
            has_attribute(work, wanted, images.ids),
            wanted.target,
            np.asarray(artifact.array("before.npy")),
            clean,
        )
        names = [(order, count, value) for order in wanted.orders for count in wanted.counts for value in wanted.values]
        k = count_of(work, plan.dictionaries[wanted.layer])
        strength = np.asarray(work.store.open(spec.parents["strength"]).array("mean.npy"))
        sets, after = artifact.json("sets.json"), np.asarray(artifact.array("after.npy"))
        difference, told = by_attribute(strength, answered.attribute), told_apart(strength, answered.attribute)
        base = {**plan.columns, "layer": wanted.layer, "k": k}
        yield _Read(base, wanted, answered, images.ids, after, sets, names, difference, told)


def _halves(ids: Sequence[str]) -> dict[Half, np.ndarray]:
    each = np.array([half_of(sample) is Half.choosing for sample in ids])
    return {Half.choosing: each, Half.confirming: ~each}


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every edit on both halves; and of each order the edit that the choosing half chooses, of one layer and (layer
    ``chosen``) of all layers together, scored on the confirming half."""
    found: list[dict[str, Any]] = []
    best: dict[EditOrder, tuple[Choice, _Read]] = {}
    for one in _read(work, plan):
        for half, inside in _halves(one.ids).items():
            part = one.images.take(inside)
            base = {**one.base, "order": "none", "edit": "none", "count": 0, "half": half.value}
            found += _rows(base, part, part.before)
            for place, (order, count, value) in enumerate(one.names):
                here = {**base, "order": order.value, "edit": value.value, "count": count}
                found += _rows(here, part, one.after[inside][:, place])
        found += list(_ranks(one))
        for order, choice in _choices(one).items():
            found += _of_chosen({**one.base, "order": order.value}, one, choice.place)
            if order not in best or choice.gain > best[order][0].gain:
                best[order] = choice, one
    for order, (choice, one) in best.items():
        found += _of_chosen({**one.base, "layer": CHOSEN, "order": order.value}, one, choice.place)
    return tidy(found, KEYS)


def _choices(one: _Read) -> dict[EditOrder, Choice]:
    """Of each order the edit that the choosing half chooses, where there is any."""
    inside = _halves(one.ids)[Half.choosing]
    part, found = one.images.take(inside), {}
    for order in one.wanted.orders:
        places = [place for place, name in enumerate(one.names) if name[0] is order]
        choice = chosen(part, one.after[inside][:, places])
        if choice is not None:
            found[order] = choice._replace(place=places[choice.place])
    return found


def _of_chosen(base: dict[str, Any], one: _Read, edit: int) -> list[dict[str, Any]]:
    """The chosen edit on the confirming half, with ``count`` −1 and its real size as a number."""
    inside = _halves(one.ids)[Half.confirming]
    _, count, value = one.names[edit]
    here = {**base, "edit": value.value, "count": -1, "half": "confirming, chosen on the other"}
    rows = _rows(here, one.images.take(inside), one.after[inside][:, edit])
    tail = ("concepts_removed", count, 1, None, None, f"concepts of {one.wanted.layer}")
    return [*rows, {**here, **dict(zip(TAIL, tail, strict=True))}]


def _rows(base: dict[str, Any], images: Answers, after: np.ndarray) -> list[dict[str, Any]]:
    told = removal(images, after)
    sizes = {
        "accuracy_contradicting": images.contradicting,
        "scr": images.contradicting,
        "collateral": ~images.attribute,
    }
    values = {"accuracy_contradicting": told.contradicting, "scr": told.scr, "collateral": told.collateral}
    rows = [
        (metric, value[0], int(sizes[metric].sum()), value[1], value[2], "share")
        for metric, value in values.items()
        if value is not None and sizes[metric].any()
    ]
    rows.append(("worst_group", told.worst_group, len(images.labels), None, None, "share"))
    return [{**base, **dict(zip(TAIL, row, strict=True))} for row in rows]


def _ranks(one: _Read) -> Iterator[dict[str, Any]]:
    """How well each order's first concept tells images with the attribute from those without, and where the concept
    that differs most between them stands in the order."""
    first = int(one.attributed.argmax())
    total = one.attributed.sum()
    for order in one.wanted.orders:
        if order in (EditOrder.attribute, EditOrder.given):
            continue
        longest = max((sets for name, sets in zip(one.names, one.sets, strict=True) if name[0] is order), key=_length)
        concepts = [concept for concept in longest if concept >= 0]
        base = {**one.base, "order": order.value, "edit": "none", "count": 0, "half": "all"}
        tail = ("auc_of_first", float(one.told[concepts[0]]), len(one.ids), None, None, "area under the ROC curve")
        yield {**base, **dict(zip(TAIL, tail, strict=True))}
        if first in concepts:
            tail = ("rank_of_attribute", concepts.index(first) + 1, len(one.ids), None, None, "place")
            yield {**base, **dict(zip(TAIL, tail, strict=True))}
        for count in one.wanted.counts:
            share = one.attributed[concepts[:count]].sum() / total if total else 0.0
            tail = ("share_of_attribute", float(share), len(one.ids), None, None, "share")
            yield {**base, "count": count, **dict(zip(TAIL, tail, strict=True))}


def _length(concepts: Sequence[int]) -> int:
    return sum(concept >= 0 for concept in concepts)


def confusions(work: Work, plan: Plan) -> pd.DataFrame:
    """Shares of each class's answers before and after each layer's chosen edit, on the confirming half."""
    found = []
    for one in _read(work, plan):
        if len(np.unique(one.images.labels)) > SHOWN:
            continue
        confirming = _halves(one.ids)[Half.confirming] & one.images.attribute
        for order, choice in _choices(one).items():
            for when, answers in (("before", one.images.before), ("after", one.after[:, choice.place])):
                for label, answer, share in confusion(one.images.labels[confirming], answers[confirming], work.outputs):
                    names = {"true": work.class_name(label), "answer": work.class_name(answer)}
                    found.append({**one.base, "order": order.value, "when": when, **names, "share": share})
    return pd.DataFrame(found)


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """``shortcut.png``: what each order recovers and what it costs; ``confusion.csv`` and its picture."""
    from vismech.measures.shortcut.figure import removal_figure

    folder.mkdir(parents=True, exist_ok=True)
    confusions(work, plan).to_csv(folder / "confusion.csv", index=False)
    return [
        removal_figure(measured_rows(work, plan, Evaluation.shortcut), folder / "shortcut.png"),
        folder / "confusion.csv",
    ]
