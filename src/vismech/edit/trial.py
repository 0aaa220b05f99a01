"""What a model says of photographs before and after an edit.

Legend: B images, N classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vismech.edit.saved import ModelEdit
from vismech.errors import UserError
from vismech.finished.localization import read
from vismech.finished.opened import Opened
from vismech.passes.threads import one_thread

MOST = 5


class Trial(NamedTuple):
    """The most probable classes of one photograph, most probable first, each with its probability."""

    photo: str
    before: list[tuple[str, float]]
    after: list[tuple[str, float]]


def inputs(opened: Opened, photos: Sequence[Path]) -> list[tuple[str, Tensor]]:
    """Each photograph's name, and the photograph as the run's model takes it [1, 3, H, W].

    Raises:
        UserError: a photograph that cannot be read or is too narrow.
    """
    if not photos:
        return []
    preprocess = opened.ctx.model.preprocess
    return [(str(photo), preprocess(read(photo, str(photo), preprocess))[None]) for photo in photos]


def trials(opened: Opened, edit: ModelEdit, images: Sequence[tuple[str, Tensor]]) -> list[Trial]:
    """Each photograph of :func:`inputs` as the run's model sees it, and as the edited model does.

    Raises:
        UserError: weights that are not those of the run any more, answers that are not finite.
    """
    model = opened.ctx.model.module
    edited = edit.apply(model)
    with one_thread(), torch.no_grad():
        return [Trial(name, _top(opened, model(image)), _top(opened, edited(image))) for name, image in images]


def _top(opened: Opened, logits: Tensor) -> list[tuple[str, float]]:
    if not logits.isfinite().all():
        raise UserError("the model's answers are not finite under this edit: scale the concepts by less")
    found = logits[0].softmax(0).topk(min(MOST, logits.shape[1]))
    return [
        (opened.ctx.class_name(index), probability)
        for index, probability in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]


def table(found: Iterable[Trial]) -> str:
    """Of each photograph its name and, side by side, its classes before and after."""
    lines = []
    for one in found:
        before, after = ["before", *_cells(one.before)], ["after", *_cells(one.after)]
        width = max(map(len, before))
        lines += [one.photo, *(f"  {left:<{width}}   {right}" for left, right in zip(before, after, strict=True))]
    return "\n".join(lines)


def _cells(classes: Sequence[tuple[str, float]]) -> list[str]:
    width = max(len(name) for name, _ in classes)
    return [f"{name:<{width}}  {100 * probability:6.2f} %" for name, probability in classes]
