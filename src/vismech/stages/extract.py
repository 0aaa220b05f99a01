"""Stage extract: each layer's pointwise feature vectors, and the logits, from one pass over the images."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np

from vismech.config.choices import Positions, Stage
from vismech.network.layers import LOGITS
from vismech.passes.extract import ExtractLoop, extract_columns
from vismech.passes.start import run_loop
from vismech.stages.context import Context, Job, compact, some_kept, write_images
from vismech.store.artifacts import Spec, plain, write_json
from vismech.store.rows import Column, Rows

log = logging.getLogger(__name__)
VERSION = 1


def job(ctx: Context, logits: bool) -> Job:
    """One job for all layers, and for the logits where a later stage needs them."""
    extract = ctx.config.extract
    draw = {"positions": extract.positions}
    if extract.positions is not Positions.all:
        draw |= {"per_image": extract.per_image, "seed": ctx.config.seed}
    specs = {
        layer: Spec(Stage.extract.value, VERSION, layer, {**ctx.source, "layer": layer, **plain(draw)})
        for layer in ctx.layers
    }
    if logits:
        specs[LOGITS] = Spec(Stage.extract.value, VERSION, LOGITS, {**ctx.source, "layer": LOGITS})
    return Job(Stage.extract, specs, compute)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Fill ``specs`` in one pass; a pass that was killed is continued."""
    with ExitStack() as stack:
        folders = {name: stack.enter_context(ctx.store.writer(spec, resume=True)) for name, spec in specs.items()}
        layouts = {name: ctx.layout(name) for name in specs if name != LOGITS}
        extract = ctx.config.extract
        rows = {}
        for name, folder in folders.items():
            if name == LOGITS:
                columns = {"logits": Column(ctx.network.shape(LOGITS))}
            else:
                columns = extract_columns(layouts[name], extract)
            rows[name] = Rows(folder, columns, len(ctx.data))
        run_loop(ExtractLoop(ctx.config, ctx.data, range(len(ctx.data)), rows, "extract", layouts=layouts))
        for name, folder in folders.items():
            kept = rows[name].finish()
            some_kept(kept)
            (folder / "images.json").write_bytes(compact(write_images(ctx, kept)))
            if "uniform" in rows[name].columns and (count := int(np.load(folder / "uniform.npy").sum())):
                log.info(
                    "%s: no position adds to the logit in %d of %d images, drawn uniformly", name, count, len(kept)
                )
            if name != LOGITS:
                write_json(folder / "layout.json", layouts[name])
