"""The configuration: one dataclass per group; the text below a field is its documentation everywhere.

Plain data: importing this module loads neither Hydra nor torch. :func:`register` hands the schemas to Hydra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ModelSource(StrEnum):
    """Where an architecture and its weights come from."""

    torchvision = "torchvision"
    timm = "timm"
    efficientnet_lite = "efficientnet_lite"
    cifar_resnet = "cifar_resnet"
    custom = "custom"


class DataSource(StrEnum):
    """How the folder below ``data.root`` is laid out."""

    imagefolder = "imagefolder"
    imagenet = "imagenet"
    cifar10 = "cifar10"
    samples = "samples"


class Fingerprint(StrEnum):
    """What the data's fingerprint is made of: ids, labels and sizes, or every byte too."""

    listing = "listing"
    content = "content"


class Unreadable(StrEnum):
    """What an unreadable image does."""

    fail = "fail"
    skip = "skip"


class Positions(StrEnum):
    """Which positions of a layer become pointwise feature vectors."""

    all = "all"
    uniform = "uniform"
    relevance = "relevance"
    gradient = "gradient"


class Patches(StrEnum):
    """What stands for a vector on a card: the pixels that it came from, or its position's own square."""

    receptive_field = "receptive_field"
    upsampling = "upsampling"


class Method(StrEnum):
    """How concept vectors are found."""

    bisecting = "bisecting"


class Code(StrEnum):
    """How vectors are written in concepts."""

    lasso = "lasso"
    lasso_nonnegative = "lasso_nonnegative"
    omp = "omp"


class PathWeight(StrEnum):
    """The weight along the attribution path."""

    ig = "ig"


class Rule(StrEnum):
    """The quadrature rule of the path integral."""

    riemann_left = "riemann_left"
    riemann_right = "riemann_right"
    midpoint = "midpoint"
    trapezoid = "trapezoid"
    simpson = "simpson"
    gauss_legendre = "gauss_legendre"


class ReadOut(StrEnum):
    """How a concept's value in an image is read: at its strongest position, or summed over positions."""

    max = "max"
    sum = "sum"


Scope = StrEnum("Scope", ["class", "pair", "dataset", "image"])
"""What a graph explains."""


class Images(StrEnum):
    """Which images stand for a class: those predicted as it, or those labelled so."""

    predicted = "predicted"
    labelled = "labelled"


class Evaluation(StrEnum):
    """What is measured; each fills its own rows of the run's tables."""

    reconstruction = "reconstruction"


class Stage(StrEnum):
    """The steps of a run, in order."""

    extract = "extract"
    dictionary = "dictionary"
    describe = "describe"
    trace = "trace"
    graph = "graph"
    evaluate = "evaluate"
    report = "report"


class LoggerKind(StrEnum):
    """Where metrics, tables and figures go besides the run's folder."""

    wandb = "wandb"
    csv = "csv"
    none = "none"


class WandbMode(StrEnum):
    """Whether W&B uploads (`online`), keeps its files for later (`offline`, needs no account), or does nothing."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class ModelConfig:
    """The network that is explained."""

    source: ModelSource = ModelSource.efficientnet_lite
    """Where the architecture comes from."""
    name: str = "efficientnet_lite0"
    """The architecture's name there."""
    weights: str | None = "default"
    """`default`, a torchvision weights enum's member, a timm tag, or null for initial values."""
    checkpoint: str | None = None
    """A .safetensors or torch file (read without executing code) that replaces `weights`."""
    target: str | None = None
    """With source=custom: package.module:factory, called with `kwargs`, returning a torch.nn.Module."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the architecture or factory."""
    resize: int | None = None
    """Short side in pixels before the crop; null: the model's own."""
    crop: int | None = None
    """Side of the square input in pixels; null: the model's own."""
    interpolation: str | None = None
    """nearest, bilinear, bicubic or lanczos; null: the model's own."""
    mean: list[float] | None = None
    """Mean per channel after scaling to [0, 1]; null: the model's own."""
    std: list[float] | None = None
    """Standard deviation per channel; null: the model's own."""
    classes: list[str] | None = None
    """Class names in index order; null: ImageNet's or CIFAR-10's where they fit."""


@dataclass
class DataConfig:
    """The images."""

    source: DataSource = DataSource.samples
    """imagefolder (class = rank of the folder), imagenet (class by its wnid), cifar10, or samples (20 of foolbox)."""
    root: str | None = None
    """The folder that holds one folder per class."""
    limit: int | None = None
    """At most so many images, taken round robin over the classes."""
    classes: list[int] = field(default_factory=list)
    """Class indices to keep; empty keeps all."""
    fingerprint: Fingerprint = Fingerprint.listing
    """What identifies the data in keys."""
    unreadable: Unreadable = Unreadable.fail
    """Whether an unreadable image ends the run or is skipped and counted; named either way."""


@dataclass
class ExtractConfig:
    """Which layers are cut and which of their vectors are kept."""

    layers: list[str] = field(default_factory=lambda: ["blocks.2", "blocks.4", "blocks.6"])
    """Layer names or shell patterns such as layer3.*; a name means that module's output."""
    positions: Positions = Positions.all
    """all, or a draw of `per_image`: uniform, or in proportion to what a position adds to the predicted class's logit,
    by relevance (sharing ratio decomposition, as in the paper) or gradient (gradient × activation, for any network)."""
    per_image: int = 8
    """Positions drawn per image (not used by positions=all)."""


@dataclass
class DictionaryConfig:
    """How each layer's concepts are found and how vectors are written in them."""

    method: Method = Method.bisecting
    """bisecting: bisecting spherical k-means."""
    k: int | None = None
    """Number of concepts per layer; null: k_per_channel times the channels."""
    k_per_channel: int = 8
    """Concepts per channel, the paper's 8 (used when k is null)."""
    center: bool = False
    """Subtract the mean vector first and keep it as an explicit mean concept."""
    code: Code = Code.lasso
    """lasso (signed), lasso_nonnegative, or omp (orthogonal matching pursuit)."""
    penalty: float = 0.02
    """The lasso's λ as a fraction of the mean norm of the training vectors."""
    l0_per_channel: float = 0.5
    """Concepts per vector for omp, as a fraction of the channels."""
    min_size: int = 2
    """A cluster smaller than this is not split."""


@dataclass
class DescribeConfig:
    """How concepts are shown."""

    nearest: int = 10
    """Nearest vectors per concept, by cosine over all extracted vectors, one per image at the most."""
    patches: Patches = Patches.receptive_field
    """receptive_field: the pixels that a vector came from (upsampling where sharing ratios have no rule for the
    network); upsampling: the square of its position."""
    mass: float = 0.8
    """Share of a receptive field's positive part that the shown square holds, without its margin."""
    context: float | None = None
    """Margin around the square, in its sides; null: 0.25 around receptive fields, 1 around positions."""


@dataclass
class AttributeConfig:
    """Generalized Integrated Gradients between layers."""

    path: PathWeight = PathWeight.ig
    """Weight along the path."""
    rule: Rule = Rule.midpoint
    """Quadrature rule."""
    steps: int = 32
    """Nodes of the quadrature."""
    check_images: int = 1
    """Images per pair of layers on which the steps are doubled too, to report how far the integral has converged."""
    readout: ReadOut = ReadOut.max
    """A target concept's value: its projection at its strongest position, or summed over positions."""


@dataclass
class GraphConfig:
    """What the graph explains and which concepts it keeps."""

    scope: Scope = Scope.dataset
    """class, pair (with shared concepts), dataset, or image."""
    classes: list[int] = field(default_factory=list)
    """Class indices: one for scope=class, two for scope=pair."""
    image: str | None = None
    """Sample id for scope=image."""
    images: Images = Images.predicted
    """Whether a class's images are those predicted as it or those labelled so."""
    images_per_class: int | None = 64
    """At most so many images per class (spread evenly over the sample ids); null: all."""
    important: int = 5
    """Concepts kept per layer and class, by absolute importance."""
    shared: int = 3
    """Shared concepts kept per layer of a pair."""


@dataclass
class EvaluateConfig:
    """What is measured beside the graph."""

    kinds: list[Evaluation] = field(default_factory=lambda: [Evaluation.reconstruction])
    """Any of: reconstruction (R², relative error, L0, accuracy with the reconstruction spliced into the network)."""
    images: int | None = 500
    """At most so many images (spread evenly over the sample ids); null: all."""


@dataclass
class ReportConfig:
    """The page."""

    page: bool = True
    """Write report/index.html."""
    figure: bool = True
    """Write figures/graph.svg and graph.png."""


@dataclass
class RuntimeConfig:
    """How the work is carried out; it changes no key. On a CPU each process uses one thread: use more processes."""

    accelerator: str = "auto"
    """Lightning's accelerator: auto, cpu, gpu, mps …"""
    devices: Any = 1
    """Number of devices (or processes on CPU), a list of them, or auto."""
    strategy: str = "auto"
    """Lightning's strategy; ddp_spawn for several devices."""
    batch_size: int = 32
    """Images per forward pass; the last batch is padded to it."""
    path_batch_size: int = 64
    """Path points (images × steps) per forward and backward pass of a segment."""
    workers: int = 0
    """Processes that read images."""
    channels_last: bool = True
    """Use the channels-last memory format, faster on most devices at these batch sizes."""


@dataclass
class LoggerConfig:
    """W&B, CSV or nothing, besides the run's folder."""

    kind: LoggerKind = LoggerKind.wandb
    """wandb, csv or none."""
    project: str = "vismech"
    """W&B project."""
    group: str | None = None
    """W&B group; null: the sweep's folder, or none for a single run."""
    mode: WandbMode = WandbMode.offline
    """W&B mode: offline needs no account; online uploads; disabled."""


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
    """Print hit or miss for every artifact and stop."""
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
    report: ReportConfig = field(default_factory=ReportConfig)
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    store: StoreConfig = field(default_factory=StoreConfig)


def register() -> None:
    """Hand the schemas to Hydra; ``conf/config.yaml`` composes them."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="base_config", node=Config)
