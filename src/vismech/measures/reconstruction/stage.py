"""What a layer's dictionary keeps, measured on the vectors and on the network's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from vismech.config.choices import Evaluation, MeanRule, Stage
from vismech.costs.cost import Cost
from vismech.measures.base import Kind
from vismech.measures.images import MeasuredSettings, measured_count, measured_indices, measured_of, measured_parents
from vismech.measures.insertion.stage import KEYS, base_of, case_frame, finish, held_layers, read_layers
from vismech.measures.reconstruction.loop import ReconstructLoop, reconstruct_columns
from vismech.measures.reconstruction.scores import Moments, Reconstruction, loss_recovered
from vismech.measures.statistics import bootstrap, wilson
from vismech.network.layers import LOGITS
from vismech.passes.start import run_loop
from vismech.sources.labels import UNKNOWN
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import activations, coded, concepts_of, passing, reading, written
from vismech.stages.dictionary import CodingSettings
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import held_pairs
from vismech.stages.work import Work, read_images
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Rows
from vismech.store.settings import FLAT, UNUSED, Settings

VERSION = 2
UNITS = {
    "l0": "concepts per vector",
    "distinct_concepts": "concepts per image",
    "dead": "concepts",
    "dense": "concepts",
    "r2": "share",
    "relative_error": "share",
    "loss_recovered": "share",
}


@dataclass(frozen=True)
class ReconstructionSettings(Settings):
    """How vectors are coded and which images are measured; ``joined`` says which class each of their folders is."""

    measure: Evaluation
    coding: CodingSettings = field(metadata=FLAT)
    measured: MeasuredSettings = field(metadata=FLAT)
    joined: Mapping[str, Any] = field(metadata=FLAT)
    mean_rule: MeanRule = UNUSED


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job for all layers, so that images are read and passed once."""
    settings = ReconstructionSettings(
        Evaluation.reconstruction,
        dictionary_stage.coding_of(ctx.config),
        measured_of(ctx),
        ctx.measured_labels.inputs,
        dictionary_stage.kept_mean(ctx.config),
    )
    parents = measured_parents(plan)
    held_pairs(ctx, [(layer, LOGITS) for layer in plan.dictionaries])
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, settings, {"dictionary": spec, **parents})
        for layer, spec in plan.dictionaries.items()
    }
    return [Job(Stage.evaluate, specs, compute, cost, passes=True, concurrent=True)] if specs else []


def cost(work: Work, specs: Mapping[str, Spec[ReconstructionSettings]]) -> dict[str, Cost]:
    """Of each layer codes of every position, and three ways from there to the class."""
    wanted, found = next(iter(specs.values())).settings, {}
    images = measured_count(work, wanted.measured)
    shared = reading(work, images) + activations(work, list(specs)[-1], images)
    for layer, spec in specs.items():
        dictionary = spec.parents["dictionary"]
        k = concepts_of(work, layer, dictionary)
        own = coded(work, layer, dictionary, wanted.coding, images)
        own += passing(work, layer, LOGITS, 3.0 * images)
        own += Cost(images, written=written(reconstruct_columns(work.layout(layer).channels, k), images))
        found[layer] = (shared if not found else Cost()) + own
    return found


def compute(work: Work, specs: Mapping[str, Spec[ReconstructionSettings]]) -> None:
    """The arrays of ``reconstruct_columns``, ``metrics.json`` and ``images.json``."""
    first = next(iter(specs.values()))
    wanted = first.settings
    indices = measured_indices(work, wanted.measured, first)
    own = np.array([work.measured.samples[index].label for index in indices])
    with ExitStack() as stack:
        folders = {layer: stack.enter_context(work.store.writer(spec, resume=True)) for layer, spec in specs.items()}
        dictionaries = {layer: spec.parents["dictionary"] for layer, spec in specs.items()}
        layers = read_layers(work, dictionaries, wanted.coding)
        means = {layer: _mean(work, spec.parents["vectors"]) for layer, spec in dictionaries.items()}
        rows = {}
        for layer, folder in folders.items():
            dictionary = layers[layer].dictionary
            rows[layer] = Rows(folder, reconstruct_columns(dictionary.c, dictionary.k), len(indices))
        run_loop(
            ReconstructLoop(
                work.site,
                work.measured,
                indices,
                rows,
                "reconstruction",
                layers=layers,
                held=held_layers(work, layers),
                mean_kept=wanted.mean_rule is MeanRule.kept,
                means=means,
                labels=work.measured_labels.classes(own),
            )
        )
        finish(work, folders, rows, indices)
        for layer, folder in folders.items():
            arrays = {name: np.load(folder / f"{name}.npy") for name in rows[layer].columns}
            write_json(folder / "metrics.json", _metrics(arrays, work.layout(layer).positions))


def _mean(work: Work, vectors: Spec[Any]) -> torch.Tensor:
    array = work.store.open(vectors).array("vectors.npy")
    return torch.from_numpy(array.mean((0, 1), dtype=np.float64).astype(np.float32))


def _metrics(arrays: Mapping[str, np.ndarray], positions: int) -> dict[str, Any]:
    """What is no mean over images, over all vectors together."""
    total, images = Reconstruction(arrays["mean"].shape[1]), len(arrays["mean"])
    for row in range(images):
        sums = {name: torch.from_numpy(arrays[name][row]) for name in Moments._fields if name in arrays}
        total.add(Moments(**sums, count=positions))
    return {**total.result()._asdict(), "images": images, "positions": positions * images}


class _Cases(NamedTuple):
    """One metric image by image; a share is counted, so that it has Wilson's interval.

    Attributes:
        metric: its name.
        ids: the images that it is defined for: of accuracy and loss those whose class is known.
        values: one number per such image.
        share: whether values are true or false.
    """

    metric: str
    ids: np.ndarray
    values: np.ndarray
    share: bool


def _cases(work: Work, artifact: Artifact) -> Iterator[_Cases]:
    images = read_images(artifact)
    ids, classes = np.array(images.ids), work.measured_labels.classes(images.labels)
    clean, spliced = np.asarray(artifact.array("predicted.npy")).T
    known = classes != UNKNOWN
    if known.any():
        yield _Cases("accuracy_clean", ids[known], (clean == classes)[known], True)
        yield _Cases("accuracy_spliced", ids[known], (spliced == classes)[known], True)
    yield _Cases("agreement_spliced", ids, clean == spliced, True)
    yield _Cases("distinct_concepts", ids, np.asarray(artifact.array("distinct.npy")).astype(np.float64), False)
    losses = _losses(work, artifact)
    if len(losses):
        for name, values in zip(("clean", "spliced", "ablated"), losses.T, strict=True):
            yield _Cases(f"loss_{name}", ids[known], values, False)


def _losses(work: Work, artifact: Artifact) -> np.ndarray:
    """Cross-entropies [n, 3] of the images whose class is known."""
    known = work.measured_labels.classes(read_images(artifact).labels) != UNKNOWN
    return np.asarray(artifact.array("losses.npy"))[known].astype(np.float64)


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer, in the form of ``extraction.csv``; intervals resample images.

    Accuracy, losses and the loss recovered are over the images whose class is known, and missing where none is.
    """
    found = []
    for layer, spec in plan.evaluations[Evaluation.reconstruction].items():
        artifact = work.store.open(spec)
        metrics = artifact.json("metrics.json")
        positions = metrics.pop("positions")
        del metrics["images"]
        tails: list[tuple[Any, ...]] = [
            (metric, value, positions, None, None, UNITS[metric]) for metric, value in metrics.items()
        ]
        for metric, _, values, share in _cases(work, artifact):
            mean, count = float(values.mean()), len(values)
            interval = wilson(mean, count) if share else bootstrap(values)
            tails.append((metric, mean, count, *interval, "share of images" if share else UNITS.get(metric, "nats")))
        losses = _losses(work, artifact)
        if len(losses) and (recovered := loss_recovered(losses)) is not None:
            tails.append(("loss_recovered", *recovered, UNITS["loss_recovered"]))
        base = {**base_of(work, plan, layer), "variant": "reconstruction", "order": "none"}
        found += [{**base, **dict(zip(TAIL, tail, strict=True))} for tail in tails]
    return tidy(found, KEYS)


def cases(work: Work, plan: Plan) -> pd.DataFrame:
    """The numbers behind the means over images: the table's keys, then metric, image and value."""
    found = []
    for layer, spec in plan.evaluations[Evaluation.reconstruction].items():
        artifact = work.store.open(spec)
        base = {**base_of(work, plan, layer), "variant": "reconstruction", "order": "none"}
        found += [case_frame(base, one.metric, one.ids, one.values.astype(float)) for one in _cases(work, artifact)]
    return pd.concat(found, ignore_index=True)


KIND = Kind(jobs, "extraction", "extraction/{layer}", rows, cases=cases, elsewhere=True)
