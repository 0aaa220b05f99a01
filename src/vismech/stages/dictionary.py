"""Stage dictionary: the concepts of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from vismech.config.choices import Code, Method, SaeActivation, Stage
from vismech.config.schema import Config
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.coding import TWO_STAGES, l0_of
from vismech.dictionaries.refinement import Refinement
from vismech.errors import UserError
from vismech.passes.progress import Meter
from vismech.stages.context import Context, Job
from vismech.store.artifacts import Artifact, Spec, plain

VERSION = 1
# At most one concept for each channel.
BASES = (Method.pca, Method.channels, Method.rotation)
CLUSTERINGS = (Method.bisecting, Method.kmeans)
ITERATIVE = (Method.kmeans, Method.nmf, Method.semi_nmf, Method.dictionary_learning)
# The field that says how much a code may hold.
AMOUNT = {
    Code.lasso: "penalty",
    Code.lasso_nonnegative: "penalty",
    Code.omp: "l0_per_channel",
    Code.omp_nonnegative: "l0_per_channel",
    Code.coarse_to_fine: "l0_per_channel",
    Code.coarse_to_fine_nonnegative: "l0_per_channel",
    Code.simultaneous_omp: "concepts_per_image",
    Code.encoder: None,
}


def size(ctx: Context, layer: str) -> int:
    """Number of concepts of a layer."""
    wanted, channels = ctx.config.dictionary, ctx.layout(layer).channels
    k = wanted.k if wanted.k is not None else wanted.k_per_channel * channels
    return min(k, channels) if wanted.method in BASES else k


def fit_inputs(config: Config) -> dict[str, Any]:
    """The options that matter to the configured method, by the names of its function's arguments."""
    wanted = config.dictionary
    # Only where it is not the default, so that it changes no older key.
    raw = {} if wanted.unit or wanted.method not in CLUSTERINGS else {"unit": False}
    if wanted.method is Method.bisecting:
        return {"min_size": wanted.min_size, **raw}
    if wanted.method in ITERATIVE:
        return {"iterations": wanted.iterations, **raw}
    return plain(asdict(wanted.sae)) if wanted.method is Method.sae else {}


def refinement(ctx: Context, layer: str) -> Refinement | None:
    """How a layer's atoms are fitted anew, under the L0 and the sign of the configured code.

    Raises:
        UserError: for fewer rounds than none, or a code whose vectors have no L0 of their own.
    """
    wanted = ctx.config.dictionary
    if wanted.refine == 0:
        return None
    if wanted.refine < 0 or AMOUNT[wanted.code] != "l0_per_channel":
        raise UserError(
            f"dictionary.refine is {wanted.refine} with dictionary.code={wanted.code}: use 0 or more rounds, and a "
            "code whose L0 atoms can be fitted to: omp or coarse_to_fine, with a sign or nonnegative."
        )
    l0 = l0_of(wanted.l0_per_channel, ctx.layout(layer).channels)
    return Refinement(wanted.refine, l0, wanted.code in (Code.omp_nonnegative, Code.coarse_to_fine_nonnegative))


def job(ctx: Context, layer: str, vectors: Spec) -> Job:
    """One layer's dictionary."""
    wanted = ctx.config.dictionary
    inputs = {
        "method": wanted.method.value,
        "k": size(ctx, layer),
        "center": wanted.center,
        "seed": ctx.config.seed,
        **fit_inputs(ctx.config),
    }
    if (again := refinement(ctx, layer)) is not None:
        inputs["refinement"] = again._asdict()
    spec = Spec(Stage.dictionary.value, VERSION, layer, inputs, {"vectors": vectors})
    return Job(Stage.dictionary, {layer: spec}, compute)


def compute(ctx: Context, specs: Mapping[str, Spec]) -> None:
    """Fit the dictionaries of ``specs``."""
    wanted = ctx.config.dictionary
    for layer, spec in specs.items():
        vectors = ctx.store.open(spec.parents["vectors"]).array("vectors.npy")
        flat = torch.from_numpy(np.array(vectors.reshape(-1, vectors.shape[-1])))
        with ctx.store.writer(spec, resume=wanted.method is Method.sae) as folder, ExitStack() as stack:
            meter = stack.enter_context(closing(_meter(ctx, layer)))
            extra: dict[str, Any] = {"on_round": meter.advance}
            if wanted.method is Method.bisecting:
                extra["on_split"] = meter.advance
            if wanted.method is Method.sae:
                extra |= {"folder": folder, "title": f"dictionary {layer}"}
            build(
                wanted.method.value,
                flat,
                size(ctx, layer),
                ctx.config.seed,
                center=wanted.center,
                device=ctx.device,
                refinement=refinement(ctx, layer),
                **fit_inputs(ctx.config),
                **extra,
            ).save(folder)


def _meter(ctx: Context, layer: str) -> Meter:
    wanted = ctx.config.dictionary
    splits = size(ctx, layer) - 1 if wanted.method is Method.bisecting else 0
    return Meter(f"dictionary {layer}", splits + wanted.refine)


def coding_inputs(ctx: Context) -> dict:
    """The part of a key that says how vectors are coded."""
    wanted = ctx.config.dictionary
    names = [name] if (name := AMOUNT[wanted.code]) else []
    names += ["concepts_per_image", "fine_concepts"] if wanted.code in TWO_STAGES else []
    return {"code": wanted.code.value, **{name: getattr(wanted, name) for name in names}}


def table_keys(ctx: Context) -> dict:
    """The columns of tables that say which dictionary and coding a number is of."""
    wanted = ctx.config.dictionary
    return {
        "dictionary": wanted.method.value,
        "code": wanted.code.value,
        "center": wanted.center,
        "mean_rule": wanted.mean_rule.value if wanted.center else "none",
        "budget": budget(ctx),
    }


def budget(ctx: Context) -> float | int | None:
    """How much a vector's code may hold, in the unit of its code: λ, L0 per channel, or concepts per image."""
    wanted = ctx.config.dictionary
    if wanted.code is Code.encoder:
        topk = wanted.method is Method.sae and wanted.sae.activation in (SaeActivation.topk, SaeActivation.batchtopk)
        return wanted.sae.l0_per_channel if topk else None
    return getattr(wanted, AMOUNT[wanted.code])


def read(ctx: Context, artifact: Artifact) -> Dictionary:
    """A layer's dictionary with the coding of the configuration put on it."""
    for name in artifact.manifest["files"]:
        artifact.path(name)
    return coded(ctx, Dictionary.load(artifact.folder))


def coded(ctx: Context, dictionary: Dictionary) -> Dictionary:
    """A dictionary under the configured coding; λ is a fraction of the mean norm of its training vectors."""
    wanted = ctx.config.dictionary
    l0 = l0_of(wanted.l0_per_channel, dictionary.c)
    if wanted.code is Code.simultaneous_omp:
        l0 = wanted.concepts_per_image
    return dictionary.coded(wanted.code, wanted.penalty, l0, wanted.concepts_per_image, wanted.fine_concepts)
