"""How much of the concepts and of the graph comes back when the run is varied: another seed, other images, another K.

Each entry of ``evaluate.against`` is a variant of the run. Its extraction, dictionaries and traces join the plan, where
what it has in common with the run is one artifact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from vismech.attribution.aggregation import group_means
from vismech.config.choices import Evaluation, Stage
from vismech.config.composition import varied
from vismech.config.schema import Config, EvaluateConfig
from vismech.costs.cost import Amount, Cost
from vismech.costs.cost import Kind as CostKind
from vismech.dictionaries import Dictionary
from vismech.errors import UserError
from vismech.measures.base import TRACED, Kind
from vismech.measures.planted.scores import match
from vismech.measures.stability.scores import DRAWS, SAME, Pairing, graph_overlap, pairing, traced
from vismech.measures.statistics import BOOTSTRAPPED, bootstrap
from vismech.network.layers import LOGITS
from vismech.stages import dictionary as dictionary_stage
from vismech.stages.context import Context, Job, Plan
from vismech.stages.counted import concepts_of
from vismech.stages.tables import TAIL, tidy
from vismech.stages.trace import TraceSettings, images_of, targets_of
from vismech.stages.work import Work
from vismech.store.artifacts import Artifact, Spec, write_json
from vismech.store.settings import Settings

VERSION = 1
MATCHED, COMPARED = 0.005, 3.0
"""Numbers that are looked at for each step of a matching, k³ in all, and for each edge of a random one, as measured."""
VARIED = {"seed", "data", "extract", "dictionary", "attribute", "graph"}
"""What a variant may change."""


@dataclass(frozen=True)
class StabilitySettings(Settings):
    """Between which layers two runs are compared, and the seed of the random matching; the runs are parents."""

    measure: Evaluation
    lower: str
    upper: str
    seed: int


def jobs(ctx: Context, plan: Plan) -> list[Job]:
    """One job per variant; what the variants themselves need joins the plan before it.

    Raises:
        UserError: a variant that is none, or whose concepts have nothing to be compared with.
    """
    known = {spec.key for spec in plan.specs()}
    found = []
    for against in dict.fromkeys(ctx.config.evaluate.against):
        other, theirs = _variant(ctx, against)
        for job in theirs.jobs:
            if new := {unit: spec for unit, spec in job.specs.items() if spec.key not in known}:
                plan.jobs.append(_within(replace(job, specs=new), other))
                known |= {spec.key for spec in new.values()}
        uppers = dict(zip(ctx.layers, [*ctx.layers[1:], LOGITS], strict=True))
        specs = {f"{layer} {against}": _spec(ctx, plan, theirs, layer, uppers[layer], against) for layer in ctx.layers}
        found.append(Job(Stage.evaluate, specs, compute, cost))
    return found


def cost(work: Work, specs: Mapping[str, Spec[StabilitySettings]]) -> dict[str, Cost]:
    """Concepts are matched, and edges read and compared, in as many random matchings as there are draws."""
    found = {}
    for unit, spec in specs.items():
        lower, upper = spec.settings.lower, spec.settings.upper
        told = _matching(work, lower, spec.parents["dictionary"], spec.parents["other dictionary"])
        traces = [("class", "other class")] * (1 if upper != LOGITS else 2)
        if upper != LOGITS:
            told += _matching(work, upper, spec.parents["upper"], spec.parents["other upper"])
            traces.append(("pair", "other pair"))
        for names in traces:
            told += _comparing(work, *(spec.parents[name] for name in names))
        found[unit] = told
    return found


def _matching(work: Work, layer: str, first: Spec[Any], second: Spec[Any]) -> Cost:
    """Cosines, twice; the matching, and intervals of two means."""
    k, other = (concepts_of(work, layer, dictionary) for dictionary in (first, second))
    products = Amount(doubles=4.0 * k * other * work.layout(layer).channels)
    told = MATCHED * k * other * min(k, other) + 4.0 * k * other + 2.0 * BOOTSTRAPPED * min(k, other)
    return Cost(work={CostKind.products: products, CostKind.host: Amount(told)}, about=True)


def _comparing(work: Work, first: Spec[TraceSettings], second: Spec[TraceSettings]) -> Cost:
    """Edges of both runs: their means, their overlap under each matching, and its interval."""
    images, edges, sources = 0, 0.0, 0
    for trace in (first, second):
        wanted = trace.settings
        images, _ = images_of(work, trace.parents["logits"], wanted.explained)
        targets = 1 if wanted.upper == LOGITS else targets_of(wanted)
        sources = max(sources, concepts_of(work, wanted.lower, trace.parents["dictionary"]))
        edges += float(targets * sources)
    groups = max(1, len(first.settings.explained.classes))
    told = images * edges + COMPARED * DRAWS * groups * edges / 2 + 2.0 * BOOTSTRAPPED * sources
    return Cost(images, work={CostKind.host: Amount(told)}, about=True)


def _variant(ctx: Context, against: str) -> tuple[Context, Plan]:
    config: Config = varied(ctx.config, against.split())
    changed = {each.name for each in fields(Config) if getattr(config, each.name) != getattr(ctx.config, each.name)}
    if changed - VARIED or not changed:
        what = f"changes {', '.join(sorted(changed - VARIED))}" if changed else "changes nothing"
        raise UserError(f"evaluate.against={against!r} {what}: a variant changes {', '.join(sorted(VARIED))}")
    config = replace(config, until=Stage.evaluate)
    # Traces, and nothing measured.
    config.evaluate = replace(EvaluateConfig(), kinds=[Evaluation.stability], against=[])
    other, plan = ctx.planned(config)
    if other.layers != ctx.layers or config.graph.scope != ctx.config.graph.scope:
        raise UserError(f"evaluate.against={against!r}: a variant has the same layers and the same graph.scope")
    return other, plan


def _within(job: Job, variant: Context) -> Job:
    """A job of the variant, computed with the variant's images."""
    told = job.cost
    return replace(
        job,
        compute=lambda _, specs: job.compute(variant, specs),
        cost=None if told is None else lambda _, specs: told(variant, specs),
    )


def _spec(ctx: Context, plan: Plan, theirs: Plan, layer: str, upper: str, against: str) -> Spec[StabilitySettings]:
    settings = StabilitySettings(Evaluation.stability, layer, upper, ctx.config.seed)
    parents: dict[str, Spec[Any]] = {}
    for whose, each in (("", plan), ("other ", theirs)):
        parents[f"{whose}dictionary"], parents[f"{whose}class"] = each.dictionaries[layer], each.to_class[layer]
        if upper != LOGITS:
            parents[f"{whose}upper"], parents[f"{whose}pair"] = each.dictionaries[upper], each.pairs[layer, upper]
    return Spec(Stage.evaluate.value, VERSION, f"{layer} {against}", settings, parents)


@dataclass(frozen=True)
class _Edges:
    """A trace's mean edges [G, T, K] of each group, by the groups' names, and its targets."""

    groups: list[str]
    mean: np.ndarray
    targets: list[int]
    images: int

    @classmethod
    def read(cls, trace: Artifact) -> _Edges:
        facts = trace.json("trace.json")
        groups, group = facts["groups"], np.array(facts["group"])
        mean = group_means(np.asarray(trace.array("edges.npy")), group, len(groups))
        return cls(groups, mean, facts["targets"], len(group))


def compute(work: Work, specs: Mapping[str, Spec[StabilitySettings]]) -> None:
    """``metrics.json``: the rows of each layer without their keys."""
    for spec in specs.values():
        opened = {name: work.store.open(parent) for name, parent in spec.parents.items()}

        def matched(name: str, parents: Mapping[str, Spec[Any]] = spec.parents) -> tuple[np.ndarray, Pairing]:
            return _matched(*(dictionary_stage.load(work, parents[f"{whose}{name}"]) for whose in ("", "other ")))

        cosines, sources = matched("dictionary")
        to_class, other_class = _Edges.read(opened["class"]), _Edges.read(opened["other class"])
        one = np.zeros(1, dtype=np.int64)
        rows = _concept_rows(cosines, sources)
        rows += _overlap_rows("importance_overlap", to_class, other_class, Pairing(one, one), sources, spec)
        if "pair" in opened:
            pair, other_pair = _Edges.read(opened["pair"]), _Edges.read(opened["other pair"])
            targets = traced(matched("upper")[1], pair.targets, other_pair.targets)
            rows += _overlap_rows("graph_overlap", pair, other_pair, targets, sources, spec)
        else:
            rows += _overlap_rows("graph_overlap", to_class, other_class, Pairing(one, one), sources, spec)
        with work.store.writer(spec) as folder:
            write_json(folder / "metrics.json", {"images": to_class.images, "rows": rows})


def _matched(first: Dictionary, second: Dictionary) -> tuple[np.ndarray, Pairing]:
    """Cosines [k, l] of all concepts, and who is matched with whom; a mean concept with the other mean concept."""
    cosines = (first.concepts.double() @ second.concepts.double().T).numpy()
    partners = match(first.concepts, second.concepts).learned
    if first.mean_index is not None:
        partners = np.append(partners, -1 if second.mean_index is None else second.mean_index)
    return cosines, pairing(partners, second.k)


def _concept_rows(cosines: np.ndarray, pairs: Pairing) -> list[dict[str, Any]]:
    both = (pairs.first >= 0) & (pairs.second >= 0) & (pairs.first < len(cosines))
    found = cosines[pairs.first[both], pairs.second[both]]
    same = (found > SAME).astype(np.float64)
    return [
        _row("matched_cosine", float(found.mean()), len(found), bootstrap(found), "cosine"),
        _row("matched_share", float(same.mean()), len(found), bootstrap(same), f"share above {SAME}"),
        # Every pair is as likely as any other in a random matching.
        _row("chance_cosine", float(cosines.mean()), len(found), None, "cosine"),
    ]


def _overlap_rows(
    metric: str, one: _Edges, two: _Edges, targets: Pairing, sources: Pairing, spec: Spec
) -> list[dict[str, Any]]:
    groups = [name for name in one.groups if name in two.groups]
    edges, others = (each.mean[[each.groups.index(name) for name in groups]] for each in (one, two))
    found = graph_overlap(edges, others, targets, sources, spec.settings.seed)
    if found is None:
        return []
    return [
        _row(metric, found.value, found.n, found.interval, "share"),
        _row(f"chance_{metric}", found.chance, found.n, None, "share"),
    ]


def _row(metric: str, value: float, count: int, interval: Any, units: str) -> dict[str, Any]:
    return dict(zip(TAIL, (metric, value, count, *(interval or (None, None)), units), strict=True))


def rows(work: Work, plan: Plan) -> pd.DataFrame:
    """Every layer and variant, in the form of ``stability.csv``; ``n`` counts concepts, which intervals resample.

    ``matched_cosine``: mean cosine of the concepts of both runs, matched one to one for the largest total (Kuhn 1955),
    of the smaller dictionary all; ``matched_share``: of these above 0.9. ``graph_overlap``: of the edges into the
    concepts that the graphs keep in the next layer, or the class (``scores.graph_overlap``); ``importance_overlap``: of
    the edges of all concepts straight to the class. ``chance_…``: with a random matching. A variant
    ``dictionary.method=random_pfv`` tells what the cosine of any vectors of the layer is once they are matched.
    """
    base, found = {"dictionary": plan.columns["dictionary"]}, []
    for unit, spec in plan.evaluations[Evaluation.stability].items():
        layer = spec.settings.lower
        keys = {"layer": layer, **base, "against": unit.removeprefix(f"{layer} ")}
        found += [{**keys, **row} for row in work.store.open(spec).json("metrics.json")["rows"]]
    return tidy(found, ["layer", "dictionary", "against"])


KIND = Kind(jobs, "stability", "stability/{layer}/{against}", rows, needs=TRACED, elsewhere=True)
