"""What a layer's dictionary keeps, measured on the vectors and on the network's answers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch

from vismech.choices import Evaluation, Stage
from vismech.evaluation.reconstruction import Moments, Reconstruction
from vismech.evaluation.statistics import wilson
from vismech.lit.loop import run_loop
from vismech.lit.reconstruct import ReconstructLoop, reconstruct_columns
from vismech.rows import Rows
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan, some_kept
from vismech.stages.explained import spread
from vismech.stages.tables import TAIL, tidy
from vismech.store import Spec, write_json

VERSION = 1
UNITS = {"l0": "concepts per vector", "dead": "concepts", "dense": "concepts", "r2": "share", "relative_error": "share"}


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One layer each."""
    inputs = {**dictionary_stage.coding_inputs(ctx), "images": ctx.config.evaluate.images}
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, inputs, {"dictionary": spec})
        for layer, spec in plan.dictionaries.items()
    }
    return [Job(Stage.evaluate, {layer: spec}, compute) for layer, spec in specs.items()]


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """``metrics.json``: R², relative error, L0, dead and dense concepts, accuracy clean and spliced."""
    indices = spread(list(range(len(ctx.data))), ctx.config.evaluate.images)
    for layer, spec in specs.items():
        concepts = dictionary_stage.read(ctx, ctx.store.open(spec.parents["dictionary"]))
        with ctx.store.writer(spec, resume=True) as folder:
            rows = Rows(folder, reconstruct_columns(concepts.c, concepts.k), len(indices))
            loop = ReconstructLoop(
                ctx.config,
                ctx.data,
                indices,
                {"evaluate": rows},
                f"evaluate {layer}",
                layer=layer,
                layout=ctx.layout(layer),
                dictionary=concepts,
            )
            run_loop(loop)
            kept = rows.finish()
            some_kept(kept)
            arrays = {name: np.load(folder / f"{name}.npy") for name in rows.columns}
            positions, total = ctx.layout(layer).positions, Reconstruction(concepts.c)
            for row in range(len(kept)):
                sums = {name: torch.from_numpy(arrays[name][row]) for name in Moments._fields if name in arrays}
                total.add(Moments(**sums, count=positions))
            labels = np.array([ctx.data.samples[indices[row]].label for row in kept])
            clean, spliced = arrays["predicted"].T
            metrics = {
                **total.result()._asdict(),
                "accuracy_clean": float((clean == labels).mean()),
                "accuracy_spliced": float((spliced == labels).mean()),
                "agreement_spliced": float((clean == spliced).mean()),
                "images": len(kept),
                "positions": positions * len(kept),
            }
            write_json(folder / "metrics.json", metrics)


def rows(ctx: Context, plan: Plan) -> pd.DataFrame:
    """Every layer, in the form of ``extraction.csv``."""
    keys, found = dictionary_stage.table_keys(ctx), []
    for layer, spec in plan.evaluations[Evaluation.reconstruction].items():
        metrics = ctx.store.open(spec).json("metrics.json")
        images, positions = metrics.pop("images"), metrics.pop("positions")
        base = {"layer": layer, **keys, "k": plan.dictionaries[layer].inputs["k"], "variant": "reconstruction"}
        for metric, value in metrics.items():
            accuracy = metric.endswith(("_clean", "_spliced"))
            count = images if accuracy else positions
            low, high = wilson(value, images) if accuracy else (None, None)
            units = "share of images" if accuracy else UNITS.get(metric, "count")
            tail = dict(zip(TAIL, (metric, value, count, low, high, units), strict=True))
            found.append({**base, "order": "none", **tail})
    return tidy(found, ["layer", "dictionary", "k", "code", "center", "mean_rule", "variant", "order", "budget"])
