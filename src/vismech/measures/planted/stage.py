"""How well every method finds the edges of planted circuits, with planted concepts and with learned ones.

It needs neither model nor data: networks and images are made here. Planted concept vectors come first, under the
dictionary ``planted``; then the configured dictionary, learned from each network's vectors with as many concepts as are
planted and matched with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from vismech.attribution.engine import Settings as Integral
from vismech.config.choices import Evaluation, Method, Mode, Rule, Stage
from vismech.costs.coding import coding
from vismech.costs.cost import Amount, Cost
from vismech.costs.cost import Kind as CostKind
from vismech.costs.counts import Counts, count
from vismech.costs.fitting import fitting
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.coding import l0_of
from vismech.errors import UserError
from vismech.measures.base import Kind
from vismech.measures.planted import PlantedOptions
from vismech.measures.planted.circuits import GRID
from vismech.measures.planted.models import PlantedNetwork, plant
from vismech.measures.planted.networks import NETWORKS, circuit_of
from vismech.measures.planted.trial import DONORS, METHODS, Measured, measure, training_vectors
from vismech.measures.statistics import bootstrap
from vismech.passes.settings import PathSettings
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.dictionary import CodingSettings
from vismech.stages.tables import TAIL, tidy
from vismech.stages.work import Work
from vismech.store.artifacts import Spec, write_json
from vismech.store.settings import FLAT, UNUSED, used

VERSION = 1
PLANTED = "planted"
ALL, NO_METHOD = "all", "none"
SWAP, CHUNK, WIRE, SORTED = 37_000.0, 340_000.0, 670.0, 10.0
"""Numbers of a statistic that take as long as an edited forward pass of all images, as some path points with their
gradients, as a wire of the structural equations, and as a number of the vectors that a dictionary is learned from."""
KEYS = ["network", "dictionary", "noise", "method"]


@dataclass(frozen=True, kw_only=True)
class PlantedSettings(PlantedOptions):
    """Which planted networks, and with learned concepts how these are found; the groups document the fields.

    Planted networks are of ReLUs and as good as complete with midpoints, so that rule=auto has nothing to choose.
    """

    precision: Mapping[str, Any] = field(metadata=FLAT)
    network: str
    measure: Evaluation
    images: int
    path: PathSettings = field(metadata=FLAT)
    dictionary: str
    center: bool = UNUSED
    seed: int = UNUSED
    fit: Mapping[str, Any] = UNUSED
    coding: CodingSettings = UNUSED


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """Each network with its planted concepts, then with learned ones."""
    config, evaluate, attribute = ctx.config, ctx.config.evaluate, ctx.config.attribute
    if evaluate.images is None:
        raise UserError("evaluate.images=null: planted images are made, not found: give their number, such as 32")
    if config.dictionary.method is Method.transcoder:
        raise UserError(
            "evaluate.kinds=planted learns dictionaries of the vectors of its own networks, and dictionary=transcoder "
            "rebuilds one place from another: give dictionary=sae_topk or another method"
        )
    rule = Rule.midpoint if attribute.rule is Rule.auto else attribute.rule
    path = PathSettings.only(rule=rule, steps=attribute.steps, phi=attribute.phi, mode=Mode.auto)
    learned = {
        "dictionary": config.dictionary.method.value,
        "center": config.dictionary.center,
        "seed": config.seed,
        "fit": dictionary_stage.fit_inputs(config),
        "coding": dictionary_stage.coding_of(config),
    }
    found = []
    for name in evaluate.networks or NETWORKS:
        circuit_of(name, 0)  # refuses a name that there is not
        alone: dict[str, Any] = {"dictionary": PLANTED, "training_images": UNUSED}
        for how in (alone, learned):
            settings = PlantedSettings.from_group(
                evaluate,
                networks=UNUSED,
                precision=ctx.precision,
                network=name,
                measure=Evaluation.planted,
                path=path,
                **how,
            )
            unit = f"{name} {how['dictionary']}"
            found.append(
                Job(Stage.evaluate, {unit: Spec(Stage.evaluate.value, VERSION, unit, settings)}, compute, cost)
            )
    return found


def cost(work: Work, specs: Mapping[str, Spec[PlantedSettings]]) -> dict[str, Cost]:
    """Every method on every network of a name, which differ in nothing that takes time; dictionaries where learned.

    Most of it is the start of small operations, which no GPU would take over: networks stay on the CPU.
    """
    found = {}
    for unit, spec in specs.items():
        given, shape = spec.settings, _shape(spec.settings.network)
        learned = given.dictionary != PLANTED
        images, points, swaps = given.images, 2 * given.path.steps + 1, (1 + 2 * DONORS) * (shape.sources + 1)
        rows = images * (points + 7.0 + swaps) + (given.training_images if learned else 0)
        chunks = images + ceil(2 * images * given.path.steps / Integral().rows)
        began = SWAP * swaps + CHUNK * chunks + WIRE * shape.wires * (shape.sources + 1)
        done = Cost(
            images,
            forward=rows,
            backward=float(images * points * shape.targets),
            work={
                CostKind.forward: shape.counts.forward.times(rows, 0),
                CostKind.backward: shape.counts.backward.times(images * points * shape.targets, 0),
                CostKind.host: Amount(began),
            },
            about=True,
        )
        for k, c in shape.frames if learned else ():
            n = given.training_images * GRID**2
            done += Cost(vectors=n, work=fitting(Method(given.dictionary), n, k, c, given.fit))
            l0 = l0_of(used(given.coding.l0_per_channel, 0.5), c)
            done += Cost(work=coding(given.coding.code, images * GRID**2, k, c, l0, images))
            done += Cost(work={CostKind.host: Amount(SORTED * n * c)})
        cells = given.seeds * len(given.noise)
        found[unit] = Cost(
            given.seeds * len(given.noise) * images,
            done.vectors * cells,
            done.forward * cells,
            done.backward * cells,
            work={kind: amount.times(cells, cells) for kind, amount in done.work.items()},
            about=True,
        )
    return found


class _Shape(NamedTuple):
    """What a planted network costs by: numbers of concepts and wires, a row from end to end, K and C of both ends."""

    sources: int
    targets: int
    wires: int
    counts: Counts
    frames: tuple[tuple[int, int], tuple[int, int]]


@cache
def _shape(name: str) -> _Shape:
    network = plant(circuit_of(name, 0))
    lower, upper = ((len(frame), frame.shape[1]) for frame in (network.frames[0], network.frames[-1]))
    wires = sum(len(unit.wires) for layer in network.circuit.layers for concept in layer for unit in concept)
    counts = count(network.model[1:], (lower[1], GRID, GRID))
    return _Shape(lower[0], upper[0], wires, counts, (lower, upper))


def compute(work: Work, specs: Mapping[str, Spec[PlantedSettings]]) -> None:
    """``metrics.json``: the scores of every noise and seed."""
    for spec in specs.values():
        given, cells = spec.settings, []
        settings = Integral(given.path.rule, given.path.steps, phi=given.path.phi)
        with work.store.writer(spec) as folder:
            for noise in given.noise:
                for seed in range(given.seeds):
                    network = plant(circuit_of(given.network, seed))
                    learned = None if given.dictionary == PLANTED else _learned(work, given, network, noise)
                    found = measure(network, images=given.images, settings=settings, noise=noise, learned=learned)
                    cells.append({"noise": noise, "seed": seed, "scores": _plain(found)})
            write_json(folder / "metrics.json", {"images": given.images * len(cells), "cells": cells})


def _learned(
    work: Work, wanted: PlantedSettings, network: PlantedNetwork, noise: float
) -> tuple[Dictionary, Dictionary]:
    lower, upper = (
        build(
            wanted.dictionary,
            vectors,
            min(len(frame), vectors.shape[1]) if wanted.dictionary in dictionary_stage.BASES else len(frame),
            wanted.seed,
            center=wanted.center,
            device=work.device,
            **wanted.fit,
        )
        for vectors, frame in zip(
            training_vectors(network, wanted.training_images, noise),
            (network.frames[0], network.frames[-1]),
            strict=True,
        )
    )
    return dictionary_stage.coded(lower, wanted.coding), dictionary_stage.coded(upper, wanted.coding)


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


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Means over the networks of a name, which ``n`` counts and intervals resample; ``all``: means over the names."""
    values: dict[tuple, list[float]] = {}
    for spec in plan.evaluations[Evaluation.planted].values():
        for cell in work.store.open(spec).json("metrics.json")["cells"]:
            for method in sorted(cell["scores"], key=[*METHODS, NO_METHOD].index):
                for metric, value in cell["scores"][method].items():
                    key = (spec.settings.network, spec.settings.dictionary, cell["noise"], method, metric)
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


def figures(work: Work, plan: Plan, folder: Path) -> list[Path]:
    """Average precision of every network and method, one map for each dictionary and noise."""
    found = rows(work, plan).query("metric == 'average_precision' and network != @ALL")
    from vismech.measures.planted.figure import heat_map  # loads matplotlib

    return [heat_map(found, folder / "planted.png")]


KIND = Kind(
    jobs,
    "planted",
    "planted/{network}/{dictionary}/{noise:g}/{method}",
    rows,
    figures,
    alone=True,
    needs=(),
)
