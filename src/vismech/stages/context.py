"""One run: its configuration, its plan, and the jobs of which that is made."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from vismech.config.choices import DataSource, Images, Scope, Stage
from vismech.config.schema import Config
from vismech.costs.cost import Cost
from vismech.errors import UserError
from vismech.passes.site import Site
from vismech.sources.labels import class_index
from vismech.sources.own import Own
from vismech.sources.pictures import ImageData
from vismech.stages.work import Work
from vismech.store.artifacts import Spec, Store


@dataclass
class Context(Work):
    """A run and its configuration, which plans and tables read; what computes is given a :class:`Work`.

    Attributes:
        config: the configuration.
        planned: another configuration's run and its plan, for what compares the two.
    """

    config: Config
    planned: Callable[[Config], tuple[Context, Plan]]
    device = Work.device  # its own name for it, which a rehearsal on a make-believe device replaces for runs alone

    @classmethod
    def of(cls, config: Config, data: ImageData, planned: Callable[[Config], tuple[Context, Plan]]) -> Context:
        """The run of ``config`` over the images that it names."""
        prefix = config.extract.prefix_tokens
        if prefix is not None and prefix < 0:
            raise UserError(
                f"extract.prefix_tokens={prefix} must be 0 or more, or null for what the network's graph tells"
            )
        site = Site(config.model, config.runtime, config.data.unreadable, prefix)
        return cls(site, Store(config.store.root), data, config.data, config.evaluate.root, config, planned)

    @cached_property
    def layers(self) -> list[str]:
        """The layers of the run, in network order."""
        return self.outline.resolve(self.config.extract.layers)

    @cached_property
    def source(self) -> dict[str, Any]:
        """The part of every key that names the model and the images."""
        data = self.data.fingerprint(self.config.data.fingerprint)
        found = {"model": self.outline.identity, "data": data, **self.precision}
        if self.site.prefix_tokens is not None:
            found["prefix_tokens"] = self.site.prefix_tokens
        if self.origin.source is DataSource.custom:
            found["opened"] = Own.of(self.origin.target, self.origin.options, "data.target").inputs()
        return found

    @cached_property
    def measured_source(self) -> dict[str, Any]:
        """The part of an evaluation's key that names its images, where they are not those of its parents."""
        if self.config.evaluate.root is None:
            return {}
        return {"data": self.measured.fingerprint(self.config.data.fingerprint)}

    @cached_property
    def explained_classes(self) -> list[int]:
        """The indices of the classes that the graph explains.

        Raises:
            UserError: a name that is no one class of the model.
        """
        given = self.config.graph.classes
        names = self.class_names if any(isinstance(each, str) for each in given) else {}
        return [class_index("graph.classes", each, names) for each in given]

    @property
    def explained_inputs(self) -> dict[str, Any]:
        """The part of a graph's keys that says which class each folder is, where its images are chosen by that."""
        graph = self.config.graph
        labelled = graph.images is Images.labelled and graph.scope in (Scope["class"], Scope["pair"])
        labelled |= graph.scope is Scope["error"]
        return self.class_labels.inputs if labelled else {}


@dataclass(frozen=True)
class Job:
    """Artifacts that are computed together.

    Attributes:
        stage: the stage.
        specs: unit → spec.
        compute: fills the store with the specs it is given, whose locks are held.
        cost: what computing the specs that it is given takes, unit by unit; what they share is the first one's. None
            where that is not told.
        passes: whether that is one pass over images, which several runs can fill together.
        concurrent: whether portions of its batches are passed at once on a CPU; for the cost alone.
    """

    stage: Stage
    specs: Mapping[str, Spec[Any]]
    compute: Callable[[Work, Mapping[str, Spec[Any]]], None] = field(compare=False)
    cost: Callable[[Work, Mapping[str, Spec[Any]]], Mapping[str, Cost]] | None = field(default=None, compare=False)
    passes: bool = False
    concurrent: bool = False


@dataclass
class Plan:
    """The jobs of a run in the order of their needs, and their specs by role.

    Attributes:
        jobs: what to compute.
        vectors, dictionaries, descriptions, to_class: layer → spec.
        pairs: (lower, upper) → spec of the trace between adjacent layers.
        logits, graph: the predictions' and the graph's spec, where the run needs them.
        evaluations: what is measured → unit → spec.
        effects: "lower->upper" → spec of measured effects, where the graph has any.
        answers: the logits of the measured images, where only correctly classified ones are measured.
        pictures, report: the concept cards' and the page's spec, where the run draws them.
        given: "<layer>/<concept>" → the name that somebody gave it.
        columns: the columns of tables that say which dictionary and coding a number is of.
        rows: rows of tables, once they were read.
    """

    jobs: list[Job]
    vectors: dict[str, Spec[Any]]
    dictionaries: dict[str, Spec[Any]]
    descriptions: dict[str, Spec[Any]]
    to_class: dict[str, Spec[Any]]
    pairs: dict[tuple[str, str], Spec[Any]]
    logits: Spec[Any] | None
    graph: Spec[Any] | None
    evaluations: dict[str, dict[str, Spec[Any]]]
    effects: dict[str, Spec[Any]] = field(default_factory=dict)
    answers: Spec[Any] | None = None
    pictures: Spec[Any] | None = None
    report: Spec[Any] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    columns: Mapping[str, Any] = field(default_factory=dict)
    rows: dict[str, Any] = field(default_factory=dict, repr=False)

    def specs(self) -> Iterator[Spec[Any]]:
        """Every artifact of the run."""
        for job in self.jobs:
            yield from job.specs.values()
