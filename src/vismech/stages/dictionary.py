"""Stage dictionary: the concepts of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from vismech.config.choices import Code, MeanRule, Method, SaeActivation, Stage
from vismech.config.schema import Config
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.coding import TWO_STAGES, l0_of
from vismech.dictionaries.refinement import Refinement
from vismech.errors import UserError
from vismech.passes.progress import Meter
from vismech.sources.own import Own
from vismech.stages.context import Context, Job
from vismech.stages.work import Work
from vismech.store.artifacts import Spec, plain
from vismech.store.settings import FLAT, UNUSED, Settings, used

VERSION = 1
TABLE_KEYS = ("dictionary", "code", "center", "mean_rule", "budget")
"""The columns of :func:`table_keys`."""
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
    Code.custom: None,
}


@dataclass(frozen=True)
class DictionarySettings(Settings):
    """How a layer's concepts are found; the configuration's group ``dictionary`` documents the fields.

    ``fit`` holds the options of the method by the names of its function's arguments; ``refinement`` is there where the
    atoms are fitted anew.
    """

    method: Method
    k: int
    center: bool
    seed: int
    fit: Mapping[str, Any] = field(metadata=FLAT)
    refinement: Refinement = UNUSED
    own: Own = UNUSED


@dataclass(frozen=True)
class CodingSettings(Settings):
    """How vectors are written in a dictionary's concepts; the group ``dictionary`` documents the fields."""

    code: Code
    penalty: float = UNUSED
    l0_per_channel: float = UNUSED
    concepts_per_image: int = UNUSED
    fine_concepts: int | None = UNUSED
    own: Own = UNUSED


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


def job(ctx: Context, layer: str, vectors: Spec[Any]) -> Job:
    """One layer's dictionary."""
    wanted = ctx.config.dictionary
    again = refinement(ctx, layer)
    settings = DictionarySettings(
        wanted.method,
        size(ctx, layer),
        wanted.center,
        ctx.config.seed,
        fit_inputs(ctx.config),
        UNUSED if again is None else again,
        own_method(ctx.config),
    )
    spec = Spec(Stage.dictionary.value, VERSION, layer, settings, {"vectors": vectors})
    return Job(Stage.dictionary, {layer: spec}, compute)


def compute(work: Work, specs: Mapping[str, Spec[DictionarySettings]]) -> None:
    """Fit the dictionaries of ``specs``."""
    for layer, spec in specs.items():
        wanted = spec.settings
        vectors = work.store.open(spec.parents["vectors"]).array("vectors.npy")
        flattened = torch.from_numpy(np.array(vectors.reshape(-1, vectors.shape[-1])))
        with work.store.writer(spec, resume=wanted.method is Method.sae) as folder, ExitStack() as stack:
            meter = stack.enter_context(closing(_meter(wanted, layer)))
            extra: dict[str, Any] = {"on_round": meter.advance}
            if wanted.method is Method.bisecting:
                extra["on_split"] = meter.advance
            if wanted.method is Method.sae:
                extra |= {"folder": folder, "title": f"dictionary {layer}"}
            own = wanted.own
            build(
                own.target if own else wanted.method.value,
                flattened,
                wanted.k,
                wanted.seed,
                center=wanted.center,
                device=work.device,
                refinement=used(wanted.refinement, None),
                **(own.options if own else wanted.fit),
                **extra,
            ).save(folder)


def _meter(wanted: DictionarySettings, layer: str) -> Meter:
    splits = wanted.k - 1 if wanted.method is Method.bisecting else 0
    return Meter(f"dictionary {layer}", splits + (wanted.refinement.rounds if wanted.refinement else 0))


def coding_of(config: Config) -> CodingSettings:
    """How vectors are coded, of the configuration what matters for the code."""
    wanted = config.dictionary
    names = [name] if (name := AMOUNT[wanted.code]) else []
    names += ["concepts_per_image", "fine_concepts"] if wanted.code in TWO_STAGES else []
    chosen = {name: getattr(wanted, name) for name in names}
    if wanted.code is Code.custom:
        chosen["own"] = Own.of(wanted.code_target, wanted.code_options, "dictionary.code_target")
    return CodingSettings(wanted.code, **chosen)


def own_method(config: Config) -> Own:
    """The method of one's own, where the configuration names one."""
    wanted = config.dictionary
    if wanted.method is not Method.custom:
        return UNUSED
    return Own.of(wanted.target, wanted.options, "dictionary.target")


def kept_mean(config: Config) -> MeanRule:
    """What the mean concept is when concepts are inserted and deleted, where there is one."""
    return config.dictionary.mean_rule if config.dictionary.center else UNUSED


def table_keys(config: Config) -> dict[str, Any]:
    """The columns of tables that say which dictionary and coding a number is of."""
    wanted = config.dictionary
    own = own_method(config)
    return {
        "dictionary": own.name if own else wanted.method.value,
        "code": (wanted.code_target or "").rpartition(":")[2] if wanted.code is Code.custom else wanted.code.value,
        "center": wanted.center,
        "mean_rule": wanted.mean_rule.value if wanted.center else "none",
        "budget": budget(config),
    }


def budget(config: Config) -> float | int | None:
    """How much a vector's code may hold, in the unit of its code: λ, L0 per channel, or concepts per image."""
    wanted = config.dictionary
    if wanted.code is Code.encoder:
        limited = (SaeActivation.topk, SaeActivation.batchtopk, SaeActivation.matryoshka)
        topk = wanted.method is Method.sae and wanted.sae.activation in limited
        return wanted.sae.l0_per_channel if topk else None
    name = AMOUNT[wanted.code]
    return getattr(wanted, name) if name else None


def load(work: Work, spec: Spec[Any]) -> Dictionary:
    """A layer's dictionary as it was fitted."""
    artifact = work.store.open(spec)
    for name in artifact.manifest["files"]:
        artifact.path(name)
    return Dictionary.load(artifact.folder)


def read(work: Work, spec: Spec[Any], coding: CodingSettings) -> Dictionary:
    """A layer's dictionary with a coding put on it."""
    return coded(load(work, spec), coding)


def coded(dictionary: Dictionary, coding: CodingSettings) -> Dictionary:
    """A dictionary under a coding; λ is a fraction of the mean norm of its training vectors."""
    l0 = l0_of(used(coding.l0_per_channel, 0.5), dictionary.c)
    images = used(coding.concepts_per_image, 16)
    if coding.code is Code.simultaneous_omp:
        l0 = images
    own = {"target": coding.own.target, "options": dict(coding.own.options)} if coding.own else None
    return dictionary.coded(coding.code, used(coding.penalty, 0.02), l0, images, used(coding.fine_concepts, 48), own)
