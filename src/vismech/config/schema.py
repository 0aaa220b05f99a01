"""The configuration: one dataclass per group; the text below a field is its documentation everywhere.

What computes declares what it reads: fields of :func:`~vismech.config.group.group` stand in the classes that it names.
Plain data: importing this module loads neither Hydra nor torch. :func:`register` hands the schemas to Hydra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import (
    Around,
    EditValue,
    Evaluation,
    Gpu,
    LoggerKind,
    Stage,
    WandbMode,
)
from vismech.config.dictionary import DictionaryConfig
from vismech.config.group import group
from vismech.config.runtime import RuntimeConfig
from vismech.measures import MeasuredOptions
from vismech.measures.attribution import AttributionOptions
from vismech.measures.audit import AuditOptions
from vismech.measures.circuit import CircuitOptions
from vismech.measures.insertion import InsertionOptions
from vismech.measures.interlayer import InterlayerOptions
from vismech.measures.localization import LocalizationOptions
from vismech.measures.planted import PlantedOptions
from vismech.measures.saturation import UnitOptions
from vismech.measures.shortcut import ShortcutOptions
from vismech.measures.stability import StabilityOptions
from vismech.measures.transfer import TransferOptions
from vismech.sources.settings import DataConfig, ModelConfig
from vismech.stages.settings import DescribeSettings, DrawOptions, FieldOptions, KeptSettings, PathOptions


@group
class ExtractConfig(DrawOptions):
    """Which layers are cut and which of their vectors are kept."""

    layers: list[str] = field(default_factory=lambda: ["blocks.2", "blocks.4", "blocks.6"])
    """Layer names or shell patterns such as layer3.*; a name means that module's output."""
    prefix_tokens: int | None = None
    """Tokens that stand before the patch tokens (class token, registers, distillation token); null: as many as the
    network's graph tells. They are no vectors, and are held at their clean value along a path."""


@group
class DescribeConfig(DescribeSettings, FieldOptions):
    """How concepts are shown."""

    cards: int | None = None
    """Cards written to the run's folder for so many of each layer's most important concepts (largest before there is a
    trace to the class); 0: none; null: 50, and none in a sweep."""


@group
class AttributeConfig(PathOptions):
    """Generalized Integrated Gradients between layers."""

    weight: str | None = None
    """path=custom: package.module:weight, a function of your own: weight(alphas, progress), the path's nodes [S] and
    what share of its change each target has made there [N, S], to the weight of each [N, S]."""
    around: Around = Around.refuse
    """Where paths run around the lower of two layers, as the residual stream does around attention and MLP: refuse, or
    hold what comes on them at its clean value, so that edges are of what runs through the lower layer alone."""


@group
class GraphConfig(KeptSettings):
    """What the graph explains and which concepts it keeps."""

    measured: bool = False
    """Whether each kept concept is also edited in every explained image, and what happens to the class and to the
    concepts above is shown beside the edges, in tables/effects.csv and tables/links.csv."""
    edit: EditValue = EditValue.zero
    """measured: what an edited concept's code becomes: zero, mean (over the layer's vectors), or resample (the codes of
    an image of another class)."""


@group
class EvaluateConfig(
    MeasuredOptions,
    InsertionOptions,
    TransferOptions,
    LocalizationOptions,
    InterlayerOptions,
    UnitOptions,
    AttributionOptions,
    PlantedOptions,
    CircuitOptions,
    StabilityOptions,
):
    """What is measured beside the graph."""

    kinds: list[Evaluation] = field(default_factory=lambda: [Evaluation.reconstruction])
    """Any of: reconstruction (R², relative error, L0, accuracy with the reconstruction spliced into the network),
    localization (what survives of a concept in the pixels that its localisation maps point at), saturation (where
    along the path attributions come from), attribution (how well they tell what units do), insertion (the class's
    probability as concepts are inserted and deleted in the order of their attribution), transfer (the same in an order
    that other images of the class gave), interlayer (a concept's value in the next layer as concepts are inserted and
    deleted in the order of their effect on it), planted (edges of networks whose edges are known; alone and with
    until=evaluate it needs neither model nor data), stability (what comes back in the variants of `against`), circuit
    (what the class keeps when only the strongest concepts of every layer are left as they are, and when only these are
    edited), audit (what each class loses with its concepts removed, and who else uses them), shortcut (what a model
    does without the concepts of something that it should not use), repair (graph.scope=error: errors that become
    right, and right answers that become wrong, as concepts are removed)."""
    own: list[str] = field(default_factory=list)
    """Measures of your own: each package.module:NAME, a vismech.measures.base.Kind."""
    options: dict[str, Any] = field(default_factory=dict)
    """Measures of your own: whatever they read."""
    root: str | None = None
    """reconstruction, insertion, transfer, interlayer: another folder of images to measure, laid out as data.source
    says; null: the images of data."""


@group
class EditConfig(ShortcutOptions, AuditOptions):
    """Concepts that are edited: evaluate.kinds=shortcut and audit."""


@dataclass
class ReportConfig:
    """The page."""

    page: bool = True
    """Write report/index.html."""
    figure: bool = True
    """Write figures/graph.svg and graph.png."""
    names: str | None = None
    """A file of names that you gave to concepts, as the page saves it: they are shown on page, figure and cards and
    stand in tables and graph. Names are kept by dictionary, so that those of other dictionaries are not shown."""
    elements: list[str] = field(default_factory=list)
    """Sections of your own at the page's end: each package.module:section, a function of the page's data that returns
    a title and HTML, which the page shows as it is."""


@dataclass
class LoggerConfig:
    """W&B, CSV, TensorBoard or nothing, besides the run's folder."""

    kind: LoggerKind = LoggerKind.wandb
    """wandb, csv (in csv/), tensorboard (in tensorboard/: numbers, configuration, figures) or none."""
    project: str = "vismech"
    """W&B project."""
    group: str | None = None
    """W&B group; null: the sweep's folder, or none for a single run."""
    mode: WandbMode = WandbMode.offline
    """W&B mode: offline needs no account; online uploads; disabled."""
    artifacts: bool = False
    """Also log dictionaries and graph as W&B artifacts, with all that their keys are made of and how they were made."""


@dataclass
class StoreConfig:
    """Where artifacts live."""

    root: str = "outputs/artifacts"
    """The store's folder, shared by all runs that name it."""


@dataclass
class Config:
    """One run of vismech."""

    name: str = "default"
    """The run's name: outputs/runs/<name>/<time>; a preset sets its own."""
    seed: int = 0
    """Seed of every draw."""
    plan: bool = False
    """Print hit or miss for every artifact, and what the missing ones cost, and stop."""
    plan_device: Gpu | None = None
    """plan=true: also the time on this GPU, or on runtime.devices of them."""
    until: Stage | None = None
    """Stop after this stage; only what it needs is computed."""
    force: list[Stage] = field(default_factory=list)
    """Stages to compute again even where their artifacts exist."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    extract: ExtractConfig = field(default_factory=ExtractConfig)
    dictionary: DictionaryConfig = field(default_factory=DictionaryConfig)
    describe: DescribeConfig = field(default_factory=DescribeConfig)
    attribute: AttributeConfig = field(default_factory=AttributeConfig)
    graph: GraphConfig = field(default_factory=GraphConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    edit: EditConfig = field(default_factory=EditConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)


def register() -> None:
    """Hand the schemas to Hydra; ``conf/config.yaml`` composes them."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="base_config", node=Config)
