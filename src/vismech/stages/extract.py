"""Stage extract: each layer's pointwise feature vectors, and the logits, from one pass over the images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import numpy as np

from vismech.config.choices import Positions, Stage
from vismech.costs.cost import Amount, Cost, Kind
from vismech.network.layers import LOGITS, PIXELS
from vismech.passes.extract import CONTRIBUTION, ExtractLoop, ExtractSettings, extract_columns
from vismech.passes.start import run_loop
from vismech.stages.context import Context, Job
from vismech.stages.counted import counted, passing, reading, written
from vismech.stages.work import Work, compact, some_kept, write_images
from vismech.store.artifacts import Spec, write_json
from vismech.store.rows import Column, Rows
from vismech.store.settings import UNUSED

log = logging.getLogger(__name__)
VERSION = 1
LOADED = 60
"""Passes begun that take as long as loading their libraries, which the first of a run does."""
RELEVANCE = 3
"""Passes forward that relevance takes beside the gradient's, as measured."""


def job(ctx: Context, logits: bool, also: Iterable[str] = ()) -> Job:
    """One job for all layers, others that transcoders read, and for the logits where a later stage needs them."""
    extract = ctx.config.extract
    draw: dict[str, Any] = {"seed": ctx.config.seed}
    if extract.positions is Positions.all:
        draw = {"per_image": UNUSED}
    settings = [
        ExtractSettings.from_group(extract, source=ctx.source, layer=layer, **draw)
        for layer in dict.fromkeys([*ctx.layers, *also])
    ]
    settings += [ExtractSettings.only(source=ctx.source, layer=LOGITS)] if logits else []
    specs = {one.layer: Spec(Stage.extract.value, VERSION, one.layer, one) for one in settings}
    return Job(Stage.extract, specs, compute, cost, passes=True, concurrent=extract.positions not in CONTRIBUTION)


def cost(work: Work, specs: Mapping[str, Spec[ExtractSettings]]) -> dict[str, Cost]:
    """One pass as far as the last layer that is asked for; positions by their relevance take one more way back."""
    images, found = len(work.data), {}
    order = [*work.outline.layers, LOGITS]
    drawn = {spec.settings.positions for spec in specs.values()} & set(CONTRIBUTION)
    deepest = LOGITS if drawn else max(specs, key=order.index)
    shared = reading(work, images) + passing(work, PIXELS, deepest, images, backs=bool(drawn) + RELEVANCE * len(drawn))
    opened = {Kind.open: Amount(counted(work, PIXELS, LOGITS).launches), Kind.start: Amount(float(LOADED))}
    shared += Cost(work=opened)
    for name, spec in specs.items():
        columns = {"logits": Column(work.outline.shape(LOGITS))}
        if name != LOGITS:
            columns = extract_columns(work.layout(name), spec.settings)
        each = images * columns["positions"].shape[0] if name != LOGITS else 0
        own = Cost(images, each, written=written(columns, images), exact=True)
        found[name] = (shared if not found else Cost()) + own
    return found


def compute(work: Work, specs: Mapping[str, Spec[ExtractSettings]]) -> None:
    """Fill ``specs`` in one pass; a pass that was killed is continued."""
    with ExitStack() as stack:
        folders = {name: stack.enter_context(work.store.writer(spec, resume=True)) for name, spec in specs.items()}
        layouts = {name: work.layout(name) for name in specs if name != LOGITS}
        rows = {}
        for name, folder in folders.items():
            if name == LOGITS:
                columns = {"logits": Column(work.network.shape(LOGITS))}
            else:
                columns = extract_columns(layouts[name], specs[name].settings)
            rows[name] = Rows(folder, columns, len(work.data))
        how = {name: specs[name].settings for name in layouts}
        run_loop(ExtractLoop(work.site, work.data, range(len(work.data)), rows, "extract", layouts=layouts, how=how))
        for name, folder in folders.items():
            kept = rows[name].finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(work, kept)))
            if "uniform" in rows[name].columns and (count := int(np.load(folder / "uniform.npy").sum())):
                log.info(
                    "%s: no position adds to the logit in %d of %d images, drawn uniformly", name, count, len(kept)
                )
            if name != LOGITS:
                write_json(folder / "layout.json", layouts[name])
