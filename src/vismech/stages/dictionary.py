"""Stage dictionary: the concepts of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

import numpy as np
import torch

from vismech.choices import Code, Stage
from vismech.dictionaries import Dictionary, build
from vismech.lit.progress import Meter
from vismech.stages.context import Context, Job
from vismech.store import Artifact, Spec

VERSION = 1


def size(ctx: Context, layer: str) -> int:
    """Number of concepts of a layer."""
    wanted = ctx.config.dictionary
    return wanted.k if wanted.k is not None else wanted.k_per_channel * ctx.layout(layer).channels


def job(ctx: Context, layer: str, vectors: Spec) -> Job:
    """One layer's dictionary."""
    wanted = ctx.config.dictionary
    inputs = {
        "method": wanted.method.value,
        "k": size(ctx, layer),
        "center": wanted.center,
        "min_size": wanted.min_size,
        "seed": ctx.config.seed,
    }
    spec = Spec(Stage.dictionary.value, VERSION, layer, inputs, {"vectors": vectors})
    return Job(Stage.dictionary, {layer: spec}, compute)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Fit the dictionaries of ``specs``."""
    wanted = ctx.config.dictionary
    for layer, spec in specs.items():
        vectors = ctx.store.open(spec.parents["vectors"]).array("vectors.npy")
        flat = torch.from_numpy(np.array(vectors.reshape(-1, vectors.shape[-1])))
        meter = Meter(f"dictionary {layer}", size(ctx, layer) - 1)
        with ctx.store.writer(spec) as folder, closing(meter):
            build(
                wanted.method.value,
                flat,
                size(ctx, layer),
                ctx.config.seed,
                center=wanted.center,
                device=ctx.device,
                min_size=wanted.min_size,
                on_split=meter.advance,
            ).save(folder)


def coding_inputs(ctx: Context) -> dict:
    """The part of a key that says how vectors are coded."""
    wanted = ctx.config.dictionary
    amount = {"l0_per_channel": wanted.l0_per_channel} if wanted.code is Code.omp else {"penalty": wanted.penalty}
    return {"code": wanted.code.value, **amount}


def table_keys(ctx: Context) -> dict:
    """The columns of tables that say which dictionary and coding a number is of."""
    wanted = ctx.config.dictionary
    return {
        "dictionary": wanted.method.value,
        "code": wanted.code.value,
        "center": wanted.center,
        "mean_rule": "kept" if wanted.center else "none",
        "budget": wanted.l0_per_channel if wanted.code is Code.omp else wanted.penalty,
    }


def read(ctx: Context, artifact: Artifact) -> Dictionary:
    """A layer's dictionary with the coding of the configuration put on it.

    λ is the configured fraction of the mean norm of the dictionary's training vectors.
    """
    wanted = ctx.config.dictionary
    for name in artifact.manifest["files"]:
        artifact.path(name)
    dictionary = Dictionary.load(artifact.folder)
    return dictionary.coded(wanted.code, wanted.penalty, max(1, round(wanted.l0_per_channel * dictionary.c)))
