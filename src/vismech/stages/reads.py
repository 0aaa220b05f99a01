"""Where transcoders read their codes, and what a code that is read from another layer cannot be asked for."""

from __future__ import annotations

from collections.abc import Iterable

from vismech.config.choices import Baseline, Code, Method, Positions, ReadOut
from vismech.dictionaries.saved import read_saved, saved_folder
from vismech.errors import UserError
from vismech.stages.context import Context

BOTH = (Positions.all, Positions.uniform)
"""Draws that take the same positions at every layer of a size."""
OWN_START = (Baseline.mean, Baseline.mean_position)
"""Baselines that are vectors of the layer alone, without an image in which another could be read."""


def read_from(ctx: Context, layer: str) -> str | None:
    """The layer whose vectors the encoder of a layer's dictionary reads; None where these are the layer's own.

    Raises:
        UserError: no such layer, none before ``layer``, or one of other positions.
    """
    wanted, width = ctx.config.dictionary, None
    if wanted.method is Method.transcoder:
        place, said = wanted.reads or ctx.outline.inputs.get(layer), f"dictionary.reads={wanted.reads}"
        if place is None:
            raise UserError(
                f"dictionary=transcoder: {layer} does not take in the output of one layer alone, as an MLP does: "
                "choose such a layer, or name the one to read with dictionary.reads=LAYER"
            )
    elif wanted.method is Method.saved:
        saved = read_saved(folder := saved_folder(wanted.path, layer))
        place, said = saved.info.get("reads"), f"{folder} reads {saved.info.get('reads')}, which"
        if place is None:
            return None
        width = saved.encoder["weight"].shape[1]
    else:
        return None
    here, there, order = ctx.layout(layer), ctx.layout(place), ctx.outline.layers
    if place not in order or order.index(place) >= order.index(layer):
        raise UserError(f"{said} does not come before {layer}, which is rebuilt from it: name an earlier layer")
    if there.grid != here.grid:
        raise UserError(
            f"{said} has {there.grid[0]}×{there.grid[1]} positions and {layer} {here.grid[0]}×{here.grid[1]}, but a "
            "code is read at the position that it rebuilds: name a layer of the same grid"
        )
    if width is not None and width != there.channels:
        raise UserError(f"{said} has {there.channels} channels here and {width} there: is it another network's?")
    if (positions := ctx.config.extract.positions) not in BOTH:
        raise UserError(
            f"extract.positions={positions.value} draws other positions at {place} than at {layer}, and a transcoder "
            "needs the same at both: give extract=uniform or extract=all"
        )
    return place


def check_reach(ctx: Context, places: Iterable[tuple[str, str]], measures: Iterable[str], traced: bool) -> None:
    """Refuse what codes that are read from another layer have no meaning for.

    Args:
        ctx: the run.
        places: layers, and what their codes are read from.
        measures: names of the measures that are asked for and code vectors of a layer after changing them.
        traced: whether there are edges.

    Raises:
        UserError: the value and the remedy.
    """
    config, refused = ctx.config, [f"evaluate.kinds={name}" for name in measures]
    if traced:
        refused += ["graph.measured=true"] if config.graph.measured else []
        refused += [f"attribute.baseline={one}" for one in (config.attribute.baseline,) if one in OWN_START]
        refused += ["attribute.readout=code"] if config.attribute.readout is ReadOut.code else []
    for layer, place in places:
        if refused and config.dictionary.code is Code.encoder:
            raise UserError(
                f"{refused[0]} needs codes of {layer}'s own vectors, but a transcoder reads them from {place}: leave "
                "it out, or give dictionary.code=lasso or omp, which write these vectors in its concepts"
            )
