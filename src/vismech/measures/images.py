"""Which images the evaluations of dictionaries measure, and the network's answers that the choice may need."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vismech.config.choices import Half, Stage
from vismech.errors import UserError
from vismech.network.layers import LOGITS
from vismech.passes.extract import ExtractLoop
from vismech.passes.start import run_loop
from vismech.sources.data import half_of
from vismech.stages import extract
from vismech.stages.context import Context, Job, Plan, compact, read_images, some_kept, write_images
from vismech.stages.explained import spread
from vismech.store.artifacts import Spec
from vismech.store.rows import Column, Rows


def measured_inputs(ctx: Context) -> dict[str, Any]:
    """The part of a key that says which images are measured."""
    evaluate = ctx.config.evaluate
    inputs = {"images": evaluate.images, **ctx.measured_source}
    if evaluate.half is not Half.all:
        inputs["half"] = evaluate.half.value
    return {**inputs, **ctx.measured_labels.inputs, "correct_only": True} if evaluate.correct_only else inputs


def measured_parents(plan: Plan) -> dict[str, Spec]:
    """The parents by which the images are chosen."""
    return {} if plan.answers is None else {"answers": plan.answers}


def measured_indices(ctx: Context, spec: Spec) -> list[int]:
    """Places in ``ctx.measured`` of the images that an evaluation measures; of unknown class is never correct.

    Raises:
        UserError: when none is left.
    """
    evaluate, samples = ctx.config.evaluate, ctx.measured.samples
    chosen = list(range(len(samples)))
    if "answers" in spec.parents:
        answers = ctx.store.open(spec.parents["answers"])
        images = read_images(answers)
        classes = ctx.measured_labels.classes(images.labels)
        right = np.asarray(answers.array("logits.npy")).argmax(1) == classes
        correct = {sample for sample, good in zip(images.ids, right, strict=True) if good}
        chosen = [index for index in chosen if samples[index].id in correct]
    if evaluate.half is not Half.all:
        chosen = [index for index in chosen if half_of(samples[index].id) is evaluate.half]
    if not chosen:
        raise UserError(
            f"evaluate.half={evaluate.half.value}, evaluate.correct_only={evaluate.correct_only}: none of the "
            f"{len(samples)} images is left to measure: change these, or give evaluate.root other images"
        )
    return spread(chosen, evaluate.images)


def answers_job(ctx: Context) -> Job:
    """The logits of every measured image.

    Raises:
        UserError: no measured image has a class that the model knows.
    """
    ctx.measured_labels.require("evaluate.correct_only=true")
    source = {**ctx.source, **ctx.measured_source}
    spec = Spec(Stage.extract.value, extract.VERSION, LOGITS, {**source, "layer": LOGITS})
    return Job(Stage.extract, {LOGITS: spec}, compute_answers)


def compute_answers(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Fill ``logits.npy`` and ``images.json``; a pass that was killed is continued."""
    for spec in specs.values():
        with ctx.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, {"logits": Column(ctx.network.shape(LOGITS))}, len(ctx.measured))
            indices = range(len(ctx.measured))
            run_loop(ExtractLoop(ctx.config, ctx.measured, indices, {LOGITS: rows}, "answers", layouts={}))
            kept = rows.finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(ctx, kept, data=ctx.measured)))
