"""Saturation along paths (SAT), layer by layer and for pixels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from vismech.attribution.quadrature import quadrature
from vismech.config.choices import Evaluation, PathWeight
from vismech.measures.attribution.scores import ABPC_SHARES
from vismech.measures.base import TRACED, Kind
from vismech.measures.saturation.loop import SaturationLoop, saturation_columns
from vismech.measures.saturation.scores import RELATIONS, WEIGHTS
from vismech.measures.units import Scores, count_row, interval_row, nodes_of, unit_jobs
from vismech.network.layers import PIXELS
from vismech.stages.context import Context, Job, Plan
from vismech.stages.explained import spread
from vismech.stages.tables import tidy
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Spec

if TYPE_CHECKING:
    from vismech.measures.saturation import figure as drawing  # loads matplotlib

VERSION = 1
IG = WEIGHTS.index(PathWeight.ig)
SHOWN = 4
"""Photographs whose heat maps are drawn."""
UNITS = {"abpc": "area", "sensitivity": "share"}


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One pair of layers each, and the pixels."""
    return unit_jobs(ctx, plan, Evaluation.saturation, VERSION, SaturationLoop, saturation_columns, masks=_masks)


def _masks(pixels: bool, targets: int) -> int:
    return 2 * len(ABPC_SHARES) * len(WEIGHTS) * targets


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every source, in the form of ``saturation.csv``; a metric stands in the row of the part of the path it is about.

    ``n`` counts images; intervals resample them, after the mean over an image's targets. Ratios and completeness are
    medians, of targets and of images. ``<metric>_minus_ig`` is the difference target by target. Counts: targets
    ``absent`` from an image, ``still`` (no change along the path), ``uncrossed`` (no node reaches φ: right is zero) and
    crossed ``at_once`` (left is zero); ABPC and max-sensitivity of a part that is zero are left out.
    """
    found = []
    for spec in plan.evaluations[Evaluation.saturation].values():
        scores = Scores(work.store.open(spec))
        base = {"lower": spec.inputs["lower"], "upper": spec.inputs["upper"], "phi": spec.settings.path.phi}
        paths = {weight: {**base, "path": weight.value} for weight in WEIGHTS}
        left, right = paths[PathWeight.left_ig], paths[PathWeight.right_ig]
        present, moves, crossing = scores.array("present"), scores.array("moves"), scores.array("crossing")
        each = [row[here].mean() for row, here in zip(crossing, moves, strict=True) if here.any()]
        found += interval_row(left, "alpha_star", np.array(each), "share of the path")
        for metric in RELATIONS:
            middle = np.median if metric.endswith("ratio") else np.mean
            where = left if metric == "cosine_left_full" else right
            found += interval_row(where, metric, scores.images(metric, middle=middle), "ratio", middle)
        gap = scores.images("completeness", middle=np.median)
        found += interval_row(paths[PathWeight.ig], "completeness", gap, "share", np.median)
        for column, weight in enumerate(WEIGHTS):
            for metric, units in UNITS.items():
                found += interval_row(paths[weight], metric, scores.images(metric, column), units)
                if column != IG:
                    cases = scores.images(metric, column, against=IG)
                    found += interval_row(paths[weight], f"{metric}_minus_ig", cases, units)
        counts = {
            "absent": ~present,
            "still": present & ~moves,
            "uncrossed": moves & ~scores.array("crosses"),
            "at_once": moves & ~scores.array("norm_ratio_defined"),
        }
        found += [count_row({**base, "path": "all"}, name, flags) for name, flags in counts.items()]
    return tidy(found, ["lower", "upper", "path", "phi"])


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """Curves along the path, ratios of norms, differences of the paths, and of pixels the heat maps."""
    from vismech.measures.saturation import figure as drawing

    specs = plan.evaluations[Evaluation.saturation].values()
    panels = [_panel(work, spec) for spec in specs]
    drawn = [panel for panel in panels if len(panel.ratios)]
    written = []
    if drawn:
        phi = next(iter(specs)).settings.path.phi
        written += [
            drawing.curves_figure(drawn, phi, folder / "saturation_curves.png"),
            drawing.ratios_figure(drawn, folder / "saturation_ratios.png"),
            drawing.paths_figure(rows(work, plan), folder / "saturation_paths.png"),
        ]
    for spec in specs:
        if spec.inputs["lower"] == PIXELS:
            written.append(drawing.maps_figure(_photographs(work, spec), folder / "saturation_maps.png"))
    return written


def _panel(work: Work, spec: Spec[Any]) -> drawing.Panel:
    from vismech.measures.saturation import figure as drawing

    scores = Scores(work.store.open(spec))
    moves, crossing = scores.array("moves"), scores.array("crossing")

    def mean(values: np.ndarray) -> np.ndarray:
        return np.stack(
            [row[here].mean(0) for row, here in zip(values, moves, strict=True) if here.any()] or [values[0]]
        )

    norms = scores.array("norms")
    norms = norms / np.where(norms.any(2), norms.max(2), 1)[..., None]
    chosen = nodes_of(work, spec)
    nodes = quadrature(chosen.rule, chosen.steps, chosen.power).nodes
    middle = float(np.median(crossing[moves])) if moves.any() else 1.0
    ratios = scores.images("norm_ratio", middle=np.median)
    title = f"{spec.inputs['lower']} → {spec.inputs['upper']}"
    return drawing.Panel(title, nodes, mean(scores.array("outputs")), mean(norms), middle, ratios)


def _photographs(work: Work, spec: Spec[Any]) -> list[drawing.Photograph]:
    """Evenly spread over the images."""
    from vismech.measures.saturation import figure as drawing

    artifact = work.store.open(spec)
    ids, classes, maps = read_images(artifact).ids, artifact.json("units.json")["classes"], artifact.array("maps.npy")
    found = []
    for row in spread(list(range(len(ids))), SHOWN):
        pixels = np.asarray(work.model.preprocess.geometry(work.data.load(work.data.place[ids[row]])))
        found.append(drawing.Photograph(work.class_name(classes[row]), pixels, np.asarray(maps[row])))
    return found


KIND = Kind(
    jobs,
    "saturation",
    "saturation/{lower}->{upper}/{path}",
    rows,
    figures,
    needs=TRACED,
)
