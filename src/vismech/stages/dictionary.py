"""Stage dictionary: the concepts of each layer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vismech.config.choices import Code, MeanRule, Method, SaeActivation, Stage
from vismech.config.schema import Config
from vismech.costs.coding import coding, pursuit
from vismech.costs.cost import Amount, Cost, Kind
from vismech.costs.fitting import fitting, holding
from vismech.dictionaries import Dictionary, build
from vismech.dictionaries.coding import PURSUITS, TWO_STAGES, l0_of
from vismech.dictionaries.count import CHOOSING, HELD_OUT, PER_CHANNEL, Count, choose, ladder
from vismech.dictionaries.refinement import Refinement
from vismech.dictionaries.saved import content_of, read_saved, saved_folder
from vismech.errors import UserError
from vismech.passes.progress import Meter
from vismech.sources.own import Own
from vismech.stages.context import Context, Job
from vismech.stages.counted import concepts_of, vectors_of
from vismech.stages.reads import read_from
from vismech.stages.settings import CodeOptions, CountOptions
from vismech.stages.work import Work
from vismech.store.artifacts import Spec, plain
from vismech.store.settings import FLAT, UNHASHED, UNUSED, Settings, used

log = logging.getLogger(__name__)
VERSION = 1
AUTO = "auto"
"""The number of concepts is chosen by what they rebuild."""
TABLE_KEYS = ("dictionary", "code", "center", "mean_rule", "budget")
"""The columns of :func:`table_keys`."""
# At most one concept for each channel.
BASES = (Method.pca, Method.channels, Method.rotation)
CLUSTERINGS = (Method.bisecting, Method.kmeans)
TRAINED = (Method.sae, Method.transcoder)
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
class CodingSettings(CodeOptions):
    """How vectors are written in a dictionary's concepts."""

    own: Own = UNUSED


@dataclass(frozen=True, kw_only=True)
class Counting(CountOptions):
    """How the number of concepts is chosen, by what the code rebuilds."""

    coding: CodingSettings


@dataclass(frozen=True)
class DictionarySettings(Settings):
    """How a layer's concepts are found; the configuration's group ``dictionary`` documents the fields.

    ``fit`` holds the options of the method by the names of its function's arguments; ``refinement`` is there where the
    atoms are fitted anew, and ``counting`` where ``k`` is the largest number that may be chosen. Of a saved dictionary
    ``fit`` is its content alone, and ``folder`` where that is.
    """

    method: Method
    k: int
    center: bool
    seed: int
    fit: Mapping[str, Any] = field(metadata=FLAT)
    refinement: Refinement = UNUSED
    own: Own = UNUSED
    counting: Counting = UNUSED
    folder: str = field(default="", metadata=UNHASHED)


def size(ctx: Context, layer: str) -> int:
    """Number of concepts of a layer; where it is chosen by what they rebuild, the largest that it may be."""
    wanted, channels = ctx.config.dictionary, ctx.layout(layer).channels
    if wanted.method is Method.saved:
        return len(read_saved(saved_folder(wanted.path, layer)).concepts)
    k = wanted.k if isinstance(wanted.k, int) else (wanted.k_per_channel or PER_CHANNEL[-1]) * channels
    return min(k, channels) if wanted.method in BASES else k


def counting(config: Config) -> Counting:
    """How the number of concepts is chosen, where it is."""
    wanted = config.dictionary
    if wanted.k != AUTO and (wanted.k is not None or wanted.k_per_channel is not None):
        return UNUSED
    return Counting.from_group(wanted, coding=coding_of(config))


def check_count(config: Config) -> None:
    """Refuse numbers of concepts that are none, or that the method cannot be asked for.

    Raises:
        UserError: a word other than auto, a share outside of 0 … 1, or what a transcoder alone has or has not.
    """
    wanted = config.dictionary
    if isinstance(wanted.k, str) and wanted.k != AUTO:
        raise UserError(f"dictionary.k={wanted.k} is no number of concepts: give a number, {AUTO} or null")
    if wanted.method is Method.transcoder and counting(config):
        raise UserError(
            "dictionary.k=auto counts by vectors that are rebuilt from themselves, and a transcoder's are not: give "
            "dictionary.k or dictionary.k_per_channel"
        )
    if wanted.reads is not None and wanted.method is not Method.transcoder:
        raise UserError(f"dictionary.reads={wanted.reads} is for dictionary=transcoder, not {wanted.method.value}")
    if not 0 <= wanted.unexplained < 1:
        raise UserError(f"dictionary.unexplained={wanted.unexplained} must be at least 0 and below 1: it is a share")


def fit_inputs(config: Config) -> dict[str, Any]:
    """The options that matter to the configured method, by the names of its function's arguments."""
    wanted = config.dictionary
    # Only where it is not the default, so that it changes no older key.
    raw = {} if wanted.unit or wanted.method not in CLUSTERINGS else {"unit": False}
    if wanted.method is Method.bisecting:
        return {"min_size": wanted.min_size, **raw}
    if wanted.method in ITERATIVE:
        return {"iterations": wanted.iterations, **raw}
    return plain(asdict(wanted.sae)) if wanted.method in TRAINED else {}


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


def job(ctx: Context, layer: str, extracted: Mapping[str, Spec[Any]]) -> Job:
    """One layer's dictionary; of a transcoder what it reads is a parent, too."""
    wanted, place = ctx.config.dictionary, read_from(ctx, layer)
    parents = {"vectors": extracted[layer], **({} if place is None else {"reads": extracted[place]})}
    if wanted.method is Method.saved:
        spec = Spec(Stage.dictionary.value, VERSION, layer, _saved(ctx, layer), parents)
        return Job(Stage.dictionary, {layer: spec}, compute, cost)
    again = refinement(ctx, layer)
    settings = DictionarySettings(
        wanted.method,
        size(ctx, layer),
        wanted.center,
        ctx.config.seed,
        fit_inputs(ctx.config),
        UNUSED if again is None else again,
        own_method(ctx.config),
        counting(ctx.config),
    )
    spec = Spec(Stage.dictionary.value, VERSION, layer, settings, parents)
    return Job(Stage.dictionary, {layer: spec}, compute, cost)


def cost(work: Work, specs: Mapping[str, Spec[DictionarySettings]]) -> dict[str, Cost]:
    """The method on all vectors; before it, where k is chosen, on some for each number that is tried; refinement."""
    found = {}
    for layer, spec in specs.items():
        wanted, c = spec.settings, work.layout(layer).channels
        n, k = vectors_of(work, spec), concepts_of(work, layer, spec)
        held = 20.0 * n * c if wanted.refinement else holding(wanted.method, n, k, c, wanted.center)
        own = Cost(len(work.data), n, written=4.0 * 3 * k * c, held=held, about=bool(wanted.counting))
        if wanted.method is not Method.saved:
            own += Cost(work=fitting(wanted.method, n, k, c, wanted.fit))
        if wanted.counting:
            how, positions = wanted.counting, work.layout(layer).positions
            own += Cost(held=20.0 * min(n, CHOOSING) * c)
            for tried in ladder(c, n, Count(how.unexplained, how.vectors_per_concept), 1, wanted.k):
                own += Cost(work=fitting(wanted.method, min(n, CHOOSING), tried, c, wanted.fit))
                l0 = l0_of(used(how.coding.l0_per_channel, 0.5), c)
                own += Cost(work=coding(how.coding.code, HELD_OUT, tried, c, l0, HELD_OUT / positions))
        if wanted.refinement:
            again = wanted.refinement
            codes = pursuit(float(again.rounds * n), k, c, again.l0, again.nonnegative)
            own += Cost(work=codes) + Cost(work={Kind.products: Amount(launches=10.0 * k * again.rounds)})
        found[layer] = own
    return found


def _saved(ctx: Context, layer: str) -> DictionarySettings:
    """A dictionary from outside of the store, told by its content.

    Raises:
        UserError: none that fits the layer, or a mean concept that the configuration does not know of.
    """
    wanted = ctx.config.dictionary
    folder = saved_folder(wanted.path, layer)
    if len(ctx.layers) > 1 and folder == Path(wanted.path or "").expanduser():
        raise UserError(
            f"dictionary.path={wanted.path} is one dictionary, but the run has {len(ctx.layers)} layers: give a folder "
            "of such folders, called as the layers"
        )
    found = read_saved(folder, ctx.layout(layer).channels)
    centred = found.mean_index is not None
    if centred != wanted.center:
        what = "a" if centred else "no"
        raise UserError(f"{folder} has {what} mean concept: give dictionary.center={str(centred).lower()}")
    if wanted.refine:
        raise UserError(
            f"dictionary.refine={wanted.refine}: a saved dictionary stays as it is; give dictionary.refine=0"
        )
    fit = {"content": content_of(folder)}
    return DictionarySettings(Method.saved, len(found.concepts), centred, UNUSED, fit, folder=str(folder))


def compute(work: Work, specs: Mapping[str, Spec[DictionarySettings]]) -> None:
    """Fit the dictionaries of ``specs``."""
    for layer, spec in specs.items():
        wanted = spec.settings
        if wanted.method is Method.saved:
            folder = Path(wanted.folder)
            if content_of(folder) != wanted.fit["content"]:
                raise UserError(f"{folder} was changed since the run began: run the same command again")
            with work.store.writer(spec) as partial:
                read_saved(folder).save(partial)
            continue
        images = _mapped(work, spec.parents["vectors"])
        with work.store.writer(spec, resume=wanted.method in TRAINED) as folder, ExitStack() as stack:
            k, chosen = wanted.k, None
            if wanted.counting:
                chosen = _chosen(work, wanted, images, layer)
                k = chosen["k"]
            meter = stack.enter_context(closing(_meter(wanted, k, layer)))
            extra: dict[str, Any] = {"on_round": meter.advance}
            if wanted.method is Method.bisecting:
                extra |= {"on_split": meter.advance, "scratch": folder}
            if wanted.method in TRAINED:
                extra |= {"folder": folder, "title": f"dictionary {layer}"}
            if "reads" in spec.parents:
                extra |= _read(work, spec)
            fitted = _fit(work, wanted, images.flatten(0, 1), k, **extra)
            if chosen is not None:
                fitted = replace(fitted, info={**fitted.info, "chosen": chosen})
            fitted.save(folder)


def _mapped(work: Work, vectors: Spec[Any]) -> torch.Tensor:
    """The vectors [images, positions, c] where they are: pages are read when they are looked at."""
    return torch.from_numpy(np.asarray(work.store.open(vectors).array("vectors.npy", copy_on_write=True)))


def _read(work: Work, spec: Spec[DictionarySettings]) -> dict[str, Any]:
    """What a transcoder reads, and where that is; the positions of both places are the same."""
    here, there = (work.store.open(spec.parents[name]) for name in ("vectors", "reads"))
    assert np.array_equal(here.array("positions.npy"), there.array("positions.npy"))
    reads = _mapped(work, spec.parents["reads"]).flatten(0, 1)
    return {"reads": reads, "place": spec.parents["reads"].settings.layer}


def _fit(work: Work, wanted: DictionarySettings, vectors: torch.Tensor, k: int, **extra: Any) -> Dictionary:
    own = wanted.own
    return build(
        own.target if own else wanted.method.value,
        vectors,
        k,
        wanted.seed,
        center=wanted.center,
        device=work.device,
        refinement=used(wanted.refinement, None),
        **(own.options if own else wanted.fit),
        **extra,
    )


def _chosen(work: Work, wanted: DictionarySettings, images: torch.Tensor, layer: str) -> dict[str, Any]:
    """How many concepts, and how that was found."""
    how = wanted.counting
    coding, least = how.coding, 1
    if coding.code in PURSUITS:
        least = max(l0_of(used(coding.l0_per_channel, 0.0), images.shape[-1]), used(coding.concepts_per_image, 1))

    def fit(vectors: torch.Tensor, k: int) -> Dictionary:
        return coded(_fit(work, wanted, vectors, k), coding).to(work.device)

    chosen = choose(images, Count(how.unexplained, how.vectors_per_concept), least, wanted.k, fit)
    left = ", ".join(f"{k}: {share:.3f}" for k, share in zip(chosen["tried"], chosen["unexplained"], strict=True))
    log.info(
        "dictionary %s: %d concepts%s; unexplained of %d held-out vectors by number of concepts: %s",
        layer,
        chosen["k"],
        "" if chosen["reached"] else f", the most that the vectors allow, which leave more than {how.unexplained:g}",
        chosen["held_out"],
        left,
    )
    return chosen


def _meter(wanted: DictionarySettings, k: int, layer: str) -> Meter:
    splits = k - 1 if wanted.method is Method.bisecting else 0
    return Meter(f"dictionary {layer}", splits + (wanted.refinement.rounds if wanted.refinement else 0))


def coding_of(config: Config) -> CodingSettings:
    """How vectors are coded, of the configuration what matters for the code."""
    wanted = config.dictionary
    names = [name] if (name := AMOUNT[wanted.code]) else []
    names += ["concepts_per_image", "fine_concepts"] if wanted.code in TWO_STAGES else []
    chosen = {name: getattr(wanted, name) for name in names}
    if wanted.code is Code.custom:
        chosen["own"] = Own.of(wanted.code_target, wanted.code_options, "dictionary.code_target")
    return CodingSettings.only(code=wanted.code, **chosen)


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
        topk = wanted.method in TRAINED and wanted.sae.activation in limited
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
