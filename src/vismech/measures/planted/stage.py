"""How well every method finds the edges of planted circuits, with planted concepts and with learned ones.

It needs neither model nor data: networks and images are made here. Planted concept vectors come first, under the
dictionary ``planted``; then the configured dictionary, learned from each network's vectors with as many concepts as are
planted and matched with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from vismech.attribution.engine import Settings
from vismech.config.choices import Evaluation, Rule, Stage
from vismech.dictionaries import Dictionary, build
from vismech.errors import UserError
from vismech.measures.planted.models import PlantedNetwork, plant
from vismech.measures.planted.networks import NETWORKS, circuit_of
from vismech.measures.planted.trial import METHODS, Measured, measure, training_vectors
from vismech.measures.statistics import bootstrap
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.tables import TAIL, tidy
from vismech.store.artifacts import Spec, write_json

VERSION = 1
PLANTED = "planted"
ALL, NO_METHOD = "all", "none"
KEYS = ["network", "dictionary", "noise", "method"]


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """Each network with its planted concepts, then with learned ones."""
    config, evaluate, attribute = ctx.config, ctx.config.evaluate, ctx.config.attribute
    if evaluate.images is None:
        raise UserError("evaluate.images=null: planted images are made, not found: give their number, such as 32")
    shared = {
        **ctx.precision,
        "measure": Evaluation.planted.value,
        "seeds": evaluate.seeds,
        "images": evaluate.images,
        "noise": evaluate.noise,
        "rule": _rule(ctx).value,
        "steps": attribute.steps,
        "phi": attribute.phi,
    }
    learned = {
        "dictionary": config.dictionary.method.value,
        "center": config.dictionary.center,
        "seed": config.seed,
        "training_images": evaluate.training_images,
        "fit": dictionary_stage.fit_inputs(config),
        "coding": dictionary_stage.coding_inputs(ctx),
    }
    found = []
    for name in evaluate.networks or NETWORKS:
        circuit_of(name, 0)  # refuses a name that there is not
        for inputs in ({"dictionary": PLANTED}, learned):
            unit = f"{name} {inputs['dictionary']}"
            spec = Spec(Stage.evaluate.value, VERSION, unit, {**shared, "network": name, **inputs})
            found.append(Job(Stage.evaluate, {unit: spec}, compute))
    return found


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """``metrics.json``: the scores of every noise and seed."""
    attribute = ctx.config.attribute
    settings = Settings(_rule(ctx), attribute.steps, phi=attribute.phi)
    for spec in specs.values():
        given, cells = spec.inputs, []
        with ctx.store.writer(spec) as folder:
            for noise in given["noise"]:
                for seed in range(given["seeds"]):
                    network = plant(circuit_of(given["network"], seed))
                    learned = None if given["dictionary"] == PLANTED else _learned(ctx, network, noise)
                    found = measure(network, images=given["images"], settings=settings, noise=noise, learned=learned)
                    cells.append({"noise": noise, "seed": seed, "scores": _plain(found)})
            write_json(folder / "metrics.json", {"images": given["images"] * len(cells), "cells": cells})


def _rule(ctx: Context) -> Rule:
    """Planted networks are of ReLUs and as good as complete with midpoints, so auto has nothing to choose."""
    rule = ctx.config.attribute.rule
    return Rule.midpoint if rule is Rule.auto else rule


def _learned(ctx: Context, network: PlantedNetwork, noise: float) -> tuple[Dictionary, Dictionary]:
    wanted = ctx.config.dictionary
    lower, upper = (
        build(
            wanted.method.value,
            vectors,
            min(len(frame), vectors.shape[1]) if wanted.method in dictionary_stage.BASES else len(frame),
            ctx.config.seed,
            center=wanted.center,
            device=ctx.device,
            **dictionary_stage.fit_inputs(ctx.config),
        )
        for vectors, frame in zip(
            training_vectors(network, ctx.config.evaluate.training_images, noise),
            (network.frames[0], network.frames[-1]),
            strict=True,
        )
    )
    return dictionary_stage.coded(ctx, lower), dictionary_stage.coded(ctx, upper)


def _plain(found: Measured) -> dict[str, dict[str, float | None]]:
    """Method → metric → value; the recovery of concepts belongs to no method."""
    rows: dict[str, dict[str, float | None]] = {name: one._asdict() for name, one in found.methods.items()}
    if found.concepts:
        rows[NO_METHOD] = {
            f"{metric}_{layer}": value
            for layer, one in found.concepts.items()
            for metric, value in one._asdict().items()
        }
    return rows


def rows(ctx: Context, plan: Plan) -> pd.DataFrame:
    """Means over the networks of a name, which ``n`` counts and intervals resample; ``all``: means over the names."""
    values: dict[tuple, list[float]] = {}
    for spec in plan.evaluations[Evaluation.planted].values():
        for cell in ctx.store.open(spec).json("metrics.json")["cells"]:
            for method in sorted(cell["scores"], key=[*METHODS, NO_METHOD].index):
                for metric, value in cell["scores"][method].items():
                    key = (spec.inputs["network"], spec.inputs["dictionary"], cell["noise"], method, metric)
                    values.setdefault(key, []).extend([] if value is None else [value])
    whole: dict[tuple, list[float]] = {}
    for key, cases in values.items():
        if cases:
            whole.setdefault((ALL, *key[1:]), []).append(float(np.mean(cases)))
    return tidy(list(_rows(values)) + list(_rows(whole)), KEYS)


def _rows(values: Mapping[tuple, list[float]]) -> Iterator[dict[str, Any]]:
    for (*keys, metric), cases in values.items():
        if cases:
            units = "share" if metric != "rank_correlation" else "correlation"
            tail = (metric, float(np.mean(cases)), len(cases), *bootstrap(np.array(cases)), units)
            yield dict(zip([*KEYS, *TAIL], [*keys, *tail], strict=True))


def figures(ctx: Context, plan: Plan, folder: Path) -> list[Path]:
    """Average precision of every network and method, one map for each dictionary and noise."""
    found = rows(ctx, plan).query("metric == 'average_precision' and network != @ALL")
    from vismech.measures.planted.figure import heat_map  # loads matplotlib

    return [heat_map(found, folder / "planted.png")]
