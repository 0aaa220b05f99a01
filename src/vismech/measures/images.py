"""Which images the evaluations of dictionaries measure, and the network's answers that the choice may need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vismech.config.choices import Half, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.measures import MeasuredOptions
from vismech.network.layers import LOGITS, PIXELS
from vismech.passes.extract import ExtractLoop, ExtractSettings
from vismech.passes.start import run_loop
from vismech.sources.data import half_of
from vismech.stages import extract
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import passing, reading, written
from vismech.stages.explained import spread
from vismech.stages.work import Work, compact, read_images, some_kept, write_images
from vismech.store.artifacts import Spec
from vismech.store.rows import Column, Rows
from vismech.store.settings import FLAT, UNUSED, used


@dataclass(frozen=True)
class MeasuredSettings(MeasuredOptions):
    """Which images are measured.

    Attributes:
        source: the images' fingerprint, where they are not those of the parents.
        joined: which class each folder is, where only correctly classified images are measured.
    """

    source: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)
    joined: Mapping[str, Any] = field(default_factory=dict, metadata=FLAT)


def measured_of(ctx: Context) -> MeasuredSettings:
    """The images that the configuration measures."""
    evaluate = ctx.config.evaluate
    half = UNUSED if evaluate.half is Half.all else evaluate.half
    given: dict[str, Any] = (
        {"joined": ctx.measured_labels.inputs} if evaluate.correct_only else {"correct_only": UNUSED}
    )
    return MeasuredSettings.from_group(evaluate, half=half, source=ctx.measured_source, **given)


def measured_parents(plan: Plan) -> dict[str, Spec[Any]]:
    """The parents by which the images are chosen."""
    return {} if plan.answers is None else {"answers": plan.answers}


def measured_indices(work: Work, wanted: MeasuredSettings, spec: Spec[Any]) -> list[int]:
    """Places in ``work.measured`` of the images that an evaluation measures; of unknown class is never correct.

    Raises:
        UserError: when none is left.
    """
    half, samples = used(wanted.half, Half.all), work.measured.samples
    chosen = list(range(len(samples)))
    if "answers" in spec.parents:
        answers = work.store.open(spec.parents["answers"])
        images = read_images(answers)
        classes = work.measured_labels.classes(images.labels)
        right = np.asarray(answers.array("logits.npy")).argmax(1) == classes
        correct = {sample for sample, good in zip(images.ids, right, strict=True) if good}
        chosen = [index for index in chosen if samples[index].id in correct]
    if half is not Half.all:
        chosen = [index for index in chosen if half_of(samples[index].id) is half]
    if not chosen:
        raise UserError(
            f"evaluate.half={half.value}, evaluate.correct_only={bool(wanted.correct_only)}: none of the "
            f"{len(samples)} images is left to measure: change these, or give evaluate.root other images"
        )
    return spread(chosen, wanted.images)


def measured_count(work: Work, wanted: MeasuredSettings) -> int:
    """How many images an evaluation measures, at the most."""
    count = len(work.measured) // (1 if used(wanted.half, Half.all) is Half.all else 2)
    return count if wanted.images is None else min(count, wanted.images)


def answers_cost(work: Work, specs: Mapping[str, Spec[ExtractSettings]]) -> dict[str, Cost]:
    """A pass through the whole network."""
    images = len(work.measured)
    passes = reading(work, images) + passing(work, PIXELS, LOGITS, images)
    own = Cost(written=written({"logits": Column(work.outline.shape(LOGITS))}, images))
    return dict.fromkeys(specs, passes + own)


def answers_job(ctx: Context) -> Job:
    """The logits of every measured image.

    Raises:
        UserError: no measured image has a class that the model knows.
    """
    ctx.measured_labels.require("evaluate.correct_only=true")
    settings = ExtractSettings.only(source={**ctx.source, **ctx.measured_source}, layer=LOGITS)
    spec = Spec(Stage.extract.value, extract.VERSION, LOGITS, settings)
    return Job(Stage.extract, {LOGITS: spec}, compute_answers, answers_cost, passes=True)


def compute_answers(work: Work, specs: Mapping[str, Spec[ExtractSettings]]) -> None:
    """Fill ``logits.npy`` and ``images.json``; a pass that was killed is continued."""
    for spec in specs.values():
        with work.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, {"logits": Column(work.network.shape(LOGITS))}, len(work.measured))
            indices = range(len(work.measured))
            run_loop(ExtractLoop(work.site, work.measured, indices, {LOGITS: rows}, "answers", layouts={}))
            kept = rows.finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, data=work.measured)))
