"""How well attributions tell what units do, for concepts of each layer and for pixels."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from vismech.attribution.autoencoder import Autoencoder
from vismech.attribution.methods import Manifold, load_decoder, options_of
from vismech.config.choices import AttributionMethod, Evaluation, PathWeight, SourceKind
from vismech.measures.attribution.loop import SCORES, SHARES, AttributionLoop, methods_of
from vismech.measures.attribution.methods import MethodSettings
from vismech.measures.attribution.scores import ABPC_SHARES, DRAWN_SETS, STEPS
from vismech.measures.base import TRACED, Kind
from vismech.measures.unit_loop import score_columns
from vismech.measures.units import Scores, interval_row, unit_jobs
from vismech.network.layers import PIXELS
from vismech.network.pfv import Layout
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.tables import tidy
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Spec
from vismech.store.rows import Column
from vismech.store.settings import used

VERSION = 2
MEDIANS = ("completeness", "infidelity", "infidelity_relative")
"""Errors relative to a change that may be small, or squared: a mean would be that of a few targets."""
UNITS = {"infidelity": "output squared"}
KEYS = ["source", "target", "path"]


def _columns(how: MethodSettings | None, targets: int, steps: int, pixels: Layout | None) -> dict[str, Column]:
    width = len(methods_of(how, pixels is not None))
    return score_columns(dict.fromkeys(SCORES, (width,)), targets)


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One pair of layers each, and the pixels.

    Raises:
        UserError: settings that cannot be used, a decoder of other sources among them.
    """
    how = MethodSettings.of(ctx.config.evaluate)
    _check_decoder(ctx)
    loop = partial(AttributionLoop, methods=how or None)
    columns, masks = partial(_columns, how or None), partial(_masks, how or None)
    return unit_jobs(ctx, plan, Evaluation.attribution, VERSION, loop, columns, how, masks=masks)


def _check_decoder(ctx: Context) -> None:
    evaluate, method = ctx.config.evaluate, PathWeight.manifold_ig
    if AttributionMethod.manifold_ig not in evaluate.methods:
        return
    options = options_of(method, evaluate.method_options.get(method.value, {}))
    decoder = load_decoder(options.decoder) if isinstance(options, Manifold) else None
    if isinstance(decoder, Autoencoder):
        if SourceKind.pixels in evaluate.sources:
            decoder.check(ctx.layout(PIXELS).positions, ctx.layout(PIXELS).channels)
        for layer in ctx.layers if SourceKind.concepts in evaluate.sources else ():
            decoder.check(ctx.layout(layer).positions, dictionary_stage.size(ctx, layer))


def _masks(how: MethodSettings | None, pixels: bool, targets: int) -> int:
    """Of the curves and of ABPC for every method and target; random sets are the same for all."""
    ordered = 2 * (STEPS + 1) + 2 * len(ABPC_SHARES)
    return len(methods_of(how, pixels)) * targets * ordered + len(SHARES) * DRAWN_SETS


def _methods(spec: Spec[Any]) -> tuple[str, ...]:
    return methods_of(used(spec.settings.further, None), spec.inputs["lower"] == PIXELS)


def _base(spec: Spec[Any], method: str) -> dict[str, Any]:
    return {"source": spec.inputs["lower"], "target": spec.inputs["upper"], "path": method}


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every source, target and method, in the form of ``attribution.csv``; ``n`` counts images, which are resampled.

    ``<metric>_minus_ig`` is the difference to ig target by target, with the interval of paired cases.
    """
    found = []
    for spec in plan.evaluations[Evaluation.attribution].values():
        scores = Scores(work.store.open(spec))
        names = _methods(spec)
        for column, method in enumerate(names):
            base = _base(spec, method)
            for metric in SCORES:
                middle = np.median if metric in MEDIANS else np.mean
                units = UNITS.get(metric, "share")
                found += interval_row(base, metric, scores.images(metric, column, middle=middle), units, middle)
                if column:
                    cases = scores.images(metric, column, against=names.index("ig"), middle=middle)
                    found += interval_row(base, f"{metric}_minus_ig", cases, units, middle)
    return tidy(found, KEYS)


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """What :func:`rows` averages, image by image, for paired comparisons between runs."""
    frames = [frame for spec in plan.evaluations[Evaluation.attribution].values() for frame in _cases(work, spec)]
    if not frames:
        return pd.DataFrame(columns=[*KEYS, "metric", "image", "value"])
    return pd.concat(frames, ignore_index=True)


def _cases(work: Work, spec: Spec[Any]) -> Iterator[pd.DataFrame]:
    artifact = work.store.open(spec)
    scores, ids = Scores(artifact), np.array(read_images(artifact).ids)
    for column, method in enumerate(_methods(spec)):
        for metric in SCORES:
            middle = np.median if metric in MEDIANS else np.mean
            some = scores.array(f"{metric}_defined")[..., column].any(1)
            values = scores.images(metric, column, middle=middle)
            yield pd.DataFrame({**_base(spec, method), "metric": metric, "image": ids[some], "value": values})


KIND = Kind(jobs, "attribution", "attribution/{source}->{target}/{path}", rows, cases=cases, needs=TRACED)
