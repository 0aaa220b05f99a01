"""What a layer's dictionary keeps, measured on the vectors and on the network's answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from vismech.config.choices import Evaluation, Stage
from vismech.measures.images import measured_indices, measured_inputs, measured_parents
from vismech.measures.insertion.stage import KEYS, base_of, case_frame, finish, read_layers
from vismech.measures.reconstruction.loop import ReconstructLoop, reconstruct_columns
from vismech.measures.reconstruction.scores import Moments, Reconstruction, loss_recovered
from vismech.measures.statistics import bootstrap, wilson
from vismech.passes.start import run_loop
from vismech.sources.labels import UNKNOWN
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan, read_images
from vismech.stages.tables import TAIL, tidy
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.rows import Rows

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


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job for all layers, so that images are read and passed once."""
    inputs = {
        "measure": Evaluation.reconstruction.value,
        **dictionary_stage.coding_inputs(ctx),
        **measured_inputs(ctx),
        **ctx.measured_labels.inputs,
        **({"mean_rule": ctx.config.dictionary.mean_rule.value} if ctx.config.dictionary.center else {}),
    }
    parents = measured_parents(plan)
    specs = {
        layer: Spec(Stage.evaluate.value, VERSION, layer, inputs, {"dictionary": spec, **parents})
        for layer, spec in plan.dictionaries.items()
    }
    return [Job(Stage.evaluate, specs, compute)] if specs else []


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """The arrays of ``reconstruct_columns``, ``metrics.json`` and ``images.json``."""
    indices = measured_indices(ctx, next(iter(specs.values())))
    own = np.array([ctx.measured.samples[index].label for index in indices])
    with ExitStack() as stack:
        folders = {layer: stack.enter_context(ctx.store.writer(spec, resume=True)) for layer, spec in specs.items()}
        dictionaries = {layer: spec.parents["dictionary"] for layer, spec in specs.items()}
        layers = read_layers(ctx, dictionaries)
        means = {layer: _mean(ctx, spec.parents["vectors"]) for layer, spec in dictionaries.items()}
        rows = {}
        for layer, folder in folders.items():
            dictionary = layers[layer].dictionary
            rows[layer] = Rows(folder, reconstruct_columns(dictionary.c, dictionary.k), len(indices))
        run_loop(
            ReconstructLoop(
                ctx.config,
                ctx.measured,
                indices,
                rows,
                "reconstruction",
                layers=layers,
                means=means,
                labels=ctx.measured_labels.classes(own),
            )
        )
        finish(ctx, folders, rows, indices)
        for layer, folder in folders.items():
            arrays = {name: np.load(folder / f"{name}.npy") for name in rows[layer].columns}
            write_json(folder / "metrics.json", _metrics(arrays, ctx.layout(layer).positions))


def _mean(ctx: Context, vectors: Spec) -> torch.Tensor:
    array = ctx.store.open(vectors).array("vectors.npy")
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


def _cases(ctx: Context, artifact: Artifact) -> Iterator[_Cases]:
    images = read_images(artifact)
    ids, classes = np.array(images.ids), ctx.measured_labels.classes(images.labels)
    clean, spliced = np.asarray(artifact.array("predicted.npy")).T
    known = classes != UNKNOWN
    if known.any():
        yield _Cases("accuracy_clean", ids[known], (clean == classes)[known], True)
        yield _Cases("accuracy_spliced", ids[known], (spliced == classes)[known], True)
    yield _Cases("agreement_spliced", ids, clean == spliced, True)
    yield _Cases("distinct_concepts", ids, np.asarray(artifact.array("distinct.npy")).astype(np.float64), False)
    losses = _losses(ctx, artifact)
    if len(losses):
        for name, values in zip(("clean", "spliced", "ablated"), losses.T, strict=True):
            yield _Cases(f"loss_{name}", ids[known], values, False)


def _losses(ctx: Context, artifact: Artifact) -> np.ndarray:
    """Cross-entropies [n, 3] of the images whose class is known."""
    known = ctx.measured_labels.classes(read_images(artifact).labels) != UNKNOWN
    return np.asarray(artifact.array("losses.npy"))[known].astype(np.float64)


def rows(ctx: Context, plan: Plan) -> pd.DataFrame:
    """Every layer, in the form of ``extraction.csv``; intervals resample images.

    Accuracy, losses and the loss recovered are over the images whose class is known, and missing where none is.
    """
    found = []
    for layer, spec in plan.evaluations[Evaluation.reconstruction].items():
        artifact = ctx.store.open(spec)
        metrics = artifact.json("metrics.json")
        positions = metrics.pop("positions")
        del metrics["images"]
        tails: list[tuple[Any, ...]] = [
            (metric, value, positions, None, None, UNITS[metric]) for metric, value in metrics.items()
        ]
        for metric, _, values, share in _cases(ctx, artifact):
            mean, count = float(values.mean()), len(values)
            interval = wilson(mean, count) if share else bootstrap(values)
            tails.append((metric, mean, count, *interval, "share of images" if share else UNITS.get(metric, "nats")))
        losses = _losses(ctx, artifact)
        if len(losses) and (recovered := loss_recovered(losses)) is not None:
            tails.append(("loss_recovered", *recovered, UNITS["loss_recovered"]))
        base = {**base_of(ctx, plan, layer), "variant": "reconstruction", "order": "none"}
        found += [{**base, **dict(zip(TAIL, tail, strict=True))} for tail in tails]
    return tidy(found, KEYS)


def cases(ctx: Context, plan: Plan) -> pd.DataFrame:
    """The numbers behind the means over images: the table's keys, then metric, image and value."""
    found = []
    for layer, spec in plan.evaluations[Evaluation.reconstruction].items():
        artifact = ctx.store.open(spec)
        base = {**base_of(ctx, plan, layer), "variant": "reconstruction", "order": "none"}
        found += [case_frame(base, one.metric, one.ids, one.values.astype(float)) for one in _cases(ctx, artifact)]
    return pd.concat(found, ignore_index=True)
