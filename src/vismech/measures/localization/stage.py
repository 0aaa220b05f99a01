"""How much of a concept survives in the pixels that its localisation maps point at, layer by layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from vismech.config.choices import Evaluation, Stage
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.measures.base import Kind
from vismech.measures.localization.loop import LocalizationSettings, LocalizeLoop, localize_columns
from vismech.measures.localization.scores import Place, Region, Survival, image_means, survival
from vismech.measures.statistics import bootstrap
from vismech.network.layers import PIXELS
from vismech.passes.start import run_loop
from vismech.receptive_field import sharing_ratios
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, count_of, passing, reading, traced_to_pixels, written
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work, compact, some_kept, write_images
from vismech.store.artifacts import Spec, write_json
from vismech.store.rows import Rows

log = logging.getLogger(__name__)
VERSION = 1


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One layer each.

    Raises:
        UserError: a share of pixels outside (0, 1], or more concepts per image than a dictionary has.
    """
    evaluate = ctx.config.evaluate
    if not evaluate.fractions or not all(0 < fraction <= 1 for fraction in evaluate.fractions):
        raise UserError(f"evaluate.fractions={evaluate.fractions}: give shares of the pixels above 0 and at most 1")
    for layer in plan.dictionaries:
        size = dictionary_stage.size(ctx, layer)
        if not 1 <= evaluate.concepts_per_image <= size:
            raise UserError(f"evaluate.concepts_per_image={evaluate.concepts_per_image}: {layer} has 1 to {size}")
    coding = dictionary_stage.coding_of(ctx.config)
    settings = LocalizationSettings.from_group(
        evaluate, measure=Evaluation.localization, coding=coding, seed=ctx.config.seed
    )
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, settings, {"dictionary": spec})
        for layer, spec in plan.dictionaries.items()
    }
    return [Job(Stage.evaluate, {layer: spec}, compute, cost, passes=True) for layer, spec in specs.items()]


def cost(work: Work, specs: Mapping[str, Spec[LocalizationSettings]]) -> dict[str, Cost]:
    """Codes and sharing ratios, if there are any, and the network as far as the layer for all that is kept."""
    found = {}
    for layer, spec in specs.items():
        wanted = spec.settings
        images = len(work.data) if wanted.images is None else min(len(work.data), wanted.images)
        pairs = images * wanted.concepts_per_image
        looks = 3 + len(Region) * len(wanted.fractions)  # the image, the same and nothing of it again, and the masks
        dictionary, columns = spec.parents["dictionary"], (len(Region), len(wanted.fractions))
        own = reading(work, images) + activations(work, layer, images)
        own += coded(work, layer, dictionary, wanted.coding, images) + traced_to_pixels(work, images, pairs)
        own += activations(work, layer, pairs * looks) + passing(work, PIXELS, layer, pairs, 0, 1)
        arrays = written(localize_columns(wanted.concepts_per_image, *columns), images)
        found[layer] = own + Cost(images, written=arrays, about=True)
    return found


def compute(work: Work, specs: Mapping[str, Spec[LocalizationSettings]]) -> None:
    """The arrays of :func:`localize_columns`, ``regions.json`` and ``images.json``; a killed pass is continued."""
    for layer, spec in specs.items():
        wanted, regions = spec.settings, _regions(work, layer)
        indices = spread(list(range(len(work.data))), wanted.images)
        columns = localize_columns(wanted.concepts_per_image, len(regions), len(wanted.fractions))
        with work.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, columns, len(indices))
            loop = LocalizeLoop(
                work.site,
                work.data,
                indices,
                {"evaluate": rows},
                f"localize {layer}",
                how=wanted,
                layer=layer,
                layout=work.layout(layer),
                dictionary=dictionary_stage.read(work, spec.parents["dictionary"], wanted.coding),
                regions=regions,
            )
            run_loop(loop)
            kept = rows.finish()
            some_kept(kept)
            write_json(folder / "regions.json", regions)
            (folder / "images.json").write_bytes(compact(write_images(work, kept, indices)))


def _regions(work: Work, layer: str) -> list[Region]:
    """All regions, without receptive fields where the layer has none."""
    return [region for region in Region if region is not Region.receptive_fields or has_fields(work, layer)]


def has_fields(work: Work, layer: str) -> bool:
    """Whether sharing ratios have a rule for all on the way to ``layer``; where not, the log says why."""
    try:
        sharing_ratios(work.network, work.model.example[:1], layers=[layer])
    except UserError as error:
        log.warning("%s is localised without receptive fields: %s", layer, error)
        return False
    return True


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer, place, region and fraction, in the form of ``localization.csv``.

    ``n`` counts pairs of an image and a concept. Intervals resample images, whose pairs are averaged first.
    ``difference_to_receptive_fields`` is the recovery in receptive fields minus that in the region, pair by pair.
    """
    keys, found = plan.columns, []
    for layer, spec in plan.evaluations[Evaluation.localization].items():
        artifact = work.store.open(spec)
        regions = [Region(name) for name in artifact.json("regions.json")]
        arrays = {name: np.asarray(artifact.array(f"{name}.npy")) for name in ("concepts", "clean", "blank", "kept")}
        pairs = int((arrays["concepts"] >= 0).sum())
        base = {"layer": layer, **keys, "k": count_of(work, plan.dictionaries[layer])}
        for index, place in enumerate(Place):
            left = survival(*(arrays[name][..., index] for name in ("kept", "clean", "blank")))
            for number, region in enumerate(regions):
                for step, fraction in enumerate(spec.settings.fractions):
                    here = {**base, "map": region.value, "fraction": fraction, "place": place.value}
                    found += [{**here, **row} for row in _metrics(left, regions, number, step, pairs)]
    return tidy(
        found, ["layer", "dictionary", "k", "code", "center", "mean_rule", "budget", "map", "fraction", "place"]
    )


def _metrics(left: Survival, regions: list[Region], number: int, step: int, pairs: int) -> list[dict[str, Any]]:
    """What one region keeps in one fraction of the pixels, as rows without their keys."""
    recovery = left.recovery[:, :, :, step]
    values = {"surviving_projection": left.projection[:, :, number, step], "recovery": recovery[:, :, number]}
    if regions[0] is Region.receptive_fields and number:
        values["difference_to_receptive_fields"] = recovery[:, :, 0] - recovery[:, :, number]
    count, found = int(left.measured.sum()), []
    if count:
        for metric, value in values.items():
            means = image_means(value, left.measured)
            row = (metric, float(means.mean()), count, *bootstrap(means), "share")
            found.append(dict(zip(TAIL, row, strict=True)))
    return [*found, dict(zip(TAIL, ("skipped", pairs - count, pairs, None, None, "pairs"), strict=True))]


KIND = Kind(jobs, "localization", "localization/{layer}/{map}/{fraction:g}/{place}", rows)
