"""The configuration: one dataclass per group; the text below a field is its documentation everywhere.

Plain data: importing this module loads neither Hydra nor torch. :func:`register` hands the schemas to Hydra.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import (
    Along,
    Around,
    AttributionMethod,
    Baseline,
    CircuitErrors,
    CircuitOrder,
    EditValue,
    Evaluation,
    Gpu,
    Half,
    Images,
    LoggerKind,
    Mode,
    Order,
    Output,
    Patches,
    PathWeight,
    Positions,
    ReadOut,
    Rule,
    Scope,
    SourceKind,
    Stage,
    WandbMode,
)
from vismech.config.dictionary import DictionaryConfig
from vismech.config.edit import EditConfig
from vismech.config.runtime import RuntimeConfig
from vismech.sources.settings import DataConfig, ModelConfig


@dataclass
class ExtractConfig:
    """Which layers are cut and which of their vectors are kept."""

    layers: list[str] = field(default_factory=lambda: ["blocks.2", "blocks.4", "blocks.6"])
    """Layer names or shell patterns such as layer3.*; a name means that module's output."""
    positions: Positions = Positions.all
    """all, or a draw of `per_image`: uniform, or in proportion to what a position adds to the predicted class's logit,
    by relevance (sharing ratio decomposition), contrastive (relevance above the mean position's) or gradient (gradient
    × activation, for any network)."""
    per_image: int = 8
    """Positions drawn per image (not used by positions=all)."""
    prefix_tokens: int | None = None
    """Tokens that stand before the patch tokens (class token, registers, distillation token); null: as many as the
    network's graph tells. They are no vectors, and are held at their clean value along a path."""


@dataclass
class DescribeConfig:
    """How concepts are shown."""

    nearest: int = 10
    """Nearest vectors per concept, by cosine over all extracted vectors, one per image at the most."""
    patches: Patches = Patches.receptive_field
    """receptive_field: the pixels that a vector came from, by sharing ratios (gradient_x_input where these have no rule
    for the network); gradient_x_input or integrated_gradients of its unit, for every network; ig, attnlrp or rollout:
    the tokens that the first block with attention reads, by integrated gradients from the mean token, AttnLRP, or
    attention rollout; upsampling: the square of its position; auto: sharing ratios, else attnlrp, else ig of tokens,
    the first that has rules for the network."""
    mass: float = 0.8
    """Share of a receptive field's positive part that the shown square holds, without its margin."""
    context: float | None = None
    """Margin around the square, in its sides; null: 0.25 around receptive fields, 1 around positions."""
    cards: int | None = None
    """Cards written to the run's folder for so many of each layer's most important concepts (largest before there is a
    trace to the class); 0: none; null: 50, and none in a sweep."""


@dataclass
class AttributeConfig:
    """Generalized Integrated Gradients between layers."""

    path: PathWeight = PathWeight.ig
    """Weight under the path integral: ig; left_ig and right_ig (before and after the target has made `phi` of its
    change); idg (the target's own slope). Or another path, in codes of concepts: guided_ig (each target's own: what has
    the smallest slope moves first; steps · 2 · targets model calls), ig2 (down to the baseline's representation),
    spectral_ig (the difference's largest components first), manifold_ig (the shortest on your decoder's manifold). Or
    none: idgi, smooth_grad, smooth_grad_variance (VarGrad), expected_gradients_variance, occlusion."""
    options: dict[str, Any] = field(default_factory=dict)
    """What these read: guided_ig fraction=0.25, max_dist=0.02; ig2 step (null: twice the straight way's), clip=true;
    spectral_ig window=0.4; manifold_ig decoder (a file of experiments/paths/vae.py, or `_target_` of a class with
    encode and decode, and its arguments), iterations=20; smooth_grad and its variance noise=0.15, seed=0;
    expected_gradients_variance seed=0; occlusion patch=1."""
    weight: str | None = None
    """path=custom: package.module:weight, a function of your own: weight(alphas, progress), the path's nodes [S] and
    what share of its change each target has made there [N, S], to the weight of each [N, S]."""
    phi: float = 0.9
    """Share of the target's change at which left_ig ends and right_ig begins."""
    baseline: Baseline = Baseline.zero
    """Start of the path: zero (the paper's), mean (mean vector of the layer, the same at all positions), mean_position
    (each position's own mean over images: of tokens the mean token with its position's embedding), blank (activation of
    an image of the mean colour), mean_image (of the data's mean image), blur (of the photograph, blurred), image (of
    `baseline_image`), images (of `baselines` images of the data: expected gradients)."""
    baseline_image: str | None = None
    """Sample id for baseline=image."""
    baselines: int = 8
    """Number of images drawn for baseline=images, the same for all images, but never the image itself."""
    blur: float = 0.1
    """Standard deviation of baseline=blur, as a share of the image's shorter side."""
    around: Around = Around.refuse
    """Where paths run around the lower of two layers, as the residual stream does around attention and MLP: refuse, or
    hold what comes on them at its clean value, so that edges are of what runs through the lower layer alone."""
    along: Along = Along.activation
    """activation: the path leads to the activation itself, and what the concepts miss is an error node; reconstruction:
    to what the concepts rebuild, as in the paper."""
    curve: dict[str, Any] = field(default_factory=dict)
    """A path of your own: `_target_`, package.module.Class, and its arguments; its code is in the key; empty:
    straight."""
    rule: Rule = Rule.auto
    """Quadrature rule. auto: for each pair of layers midpoint where its median completeness gap on the first images is
    at most 1 %, else Gauss–Legendre nodes crowded towards the start (α = s^p), or more nodes, up to 4 · steps path
    points an image (saturation, attribution: what their traces chose, of pixels midpoint; planted: midpoint)."""
    steps: int = 32
    """Nodes of the quadrature, with which rule=auto begins."""
    tolerance: float | None = None
    """Double the steps of an image as long as that changes its edges by more than this share; null: never."""
    max_steps: int = 512
    """The most steps that `tolerance` may lead to."""
    mode: Mode = Mode.auto
    """reverse: one backward pass per target; forward: one forward derivative per source concept; auto: the cheaper for
    a pair of layers' first image. Changes last bits only, so it is in no key."""
    check_images: int = 1
    """Images per pair of layers on which the steps are doubled too, to report how far the integral has converged."""
    readout: ReadOut = ReadOut.max
    """A target concept's value: its projection at its strongest position (max), summed over positions (sum), or its
    code at that position (code)."""
    output: Output = Output.logit
    """What of a class is explained: its logit or its probability."""


@dataclass
class GraphConfig:
    """What the graph explains and which concepts it keeps."""

    scope: Scope = Scope.dataset
    """class, pair (with shared concepts), dataset, image, or error: why images of the first class are answered as the
    second, by the difference of the two."""
    classes: list[int | str] = field(default_factory=list)
    """Classes of the model, indices or names (without case): one for scope=class, two for scope=pair, for scope=error
    what images are and what they are taken for."""
    image: str | None = None
    """Sample id for scope=image; for scope=error one such image instead of all."""
    images: Images = Images.predicted
    """Whether a class's images are those predicted as it or those labelled so (scope=class, pair)."""
    images_per_class: int | None = 64
    """At most so many images per class, spread evenly over the sample ids (scope=dataset: predicted); null: all."""
    limit: int | None = None
    """scope=dataset: at most so many of these in all, spread evenly; null: all."""
    important: int = 5
    """Concepts kept per layer and class, by absolute importance."""
    shared: int = 3
    """Shared concepts kept per layer of a pair."""
    prune: float | None = None
    """Keep of these only the fewest that carry this share of their layer's influence on the class; null: all. Scores
    are those of the whole graph."""
    measured: bool = False
    """Whether each kept concept is also edited in every explained image, and what happens to the class and to the
    concepts above is shown beside the edges, in tables/effects.csv and tables/links.csv."""
    edit: EditValue = EditValue.zero
    """measured: what an edited concept's code becomes: zero, mean (over the layer's vectors), or resample (the codes of
    an image of another class)."""


@dataclass
class EvaluateConfig:
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
    images: int | None = 500
    """At most so many images, spread evenly over the sample ids (repair: right ones of each class); null: all."""
    root: str | None = None
    """reconstruction, insertion, transfer, interlayer: another folder of images to measure, laid out as data.source
    says; null: the images of data."""
    correct_only: bool = False
    """reconstruction, insertion, transfer, interlayer: only images that the network classifies as they are labelled."""
    half: Half = Half.all
    """reconstruction, insertion, transfer, interlayer: all images, or the half for choosing between methods, or the
    half for confirming the choice; a hash of its sample id tells an image's half, whatever the seed."""
    budgets: list[int] = field(default_factory=lambda: [8, 16, 32, 64])
    """insertion: also with so many concepts per image, those of the most energy, on which the image is coded anew."""
    budget_l0_per_channel: float | None = None
    """insertion: with each budget also the code of so many of its concepts per channel in a vector (orthogonal
    matching pursuit), where the other is of all of them (least squares): both budgets at once; null: without."""
    residual: bool = True
    """insertion: also with what the concepts miss of the layer always there."""
    random_images: int | None = 200
    """insertion: images of these on which concepts are also taken in a random order, the negative control; null: all;
    0: none."""
    greedy_images: int = 0
    """insertion: images of these on which concepts are also chosen one by one, each by what it does to the output."""
    groups: dict[str, list[list[int]]] = field(default_factory=dict)
    """transfer, circuit: name → ranges [first, last] of the predicted classes whose images share an order; empty: each
    class."""
    concepts_per_image: int = 2
    """localization: the concepts of each image with the most energy in positive codes."""
    fractions: list[float] = field(default_factory=lambda: [0.2])
    """localization: shares of the pixels that are kept, the rest being set to the mean colour."""
    targets_per_image: int = 5
    """interlayer: the concepts of each layer whose strongest positive projections in an image are the largest."""
    orders: list[Order] = field(default_factory=lambda: list(Order))
    """interlayer: random (the negative control), magnitude (of codes), u_x_gradient (at the end of the path), gig,
    left_ig, idg, leave_one_out (what is lost without the concept), activation_patching (what the concept restores in
    the run of another image)."""
    sources: list[SourceKind] = field(default_factory=lambda: [SourceKind.concepts])
    """saturation, attribution: concepts of each layer (to the next; the last to the class), pixels (to the class)."""
    sensitivity_images: int = 20
    """saturation, attribution: images of these whose max-sensitivity is measured: ten attributions each."""
    to_class: bool = False
    """saturation, attribution: concepts of every layer to the class, whatever lies between, not to the next layer's."""
    methods: list[AttributionMethod] = field(default_factory=list)
    """attribution: measured beside ig, left_ig, right_ig and idg, with as many steps: paths of attribute.path, and
    covariance (of codes or pixels with the class, over `neighbours` images; to the class only)."""
    method_options: dict[str, Any] = field(default_factory=dict)
    """attribution: method → its attribute.options, such as {guided_ig: {max_dist: 0.1}}."""
    filter: float | None = None
    """attribution of pixels: measure every method's map also with its low frequencies alone, up to this share of the
    side (FORGrad's is 15/224 = 0.067); null: as it is."""
    neighbours: int = 50
    """attribution: images whose covariance is taken, the nearest to each."""
    mosaics: bool = False
    """attribution: also Focus, on a mosaic of each image, one more of its class and two others (to the class only)."""
    networks: list[str] = field(default_factory=list)
    """planted: names of vismech.measures.planted.networks; empty: all."""
    seeds: int = 5
    """planted: so many networks of each name."""
    noise: list[float] = field(default_factory=lambda: [0.0, 0.1])
    """planted: standard deviations of what is added to the pixels; concepts have a strength of about 1."""
    training_images: int = 128
    """planted: images that dictionaries are learned from."""
    circuit_orders: list[CircuitOrder] = field(default_factory=lambda: list(CircuitOrder))
    """circuit: gig, u_x_gradient, magnitude (of codes), effect (what the class loses when the concept is edited),
    random."""
    edit: EditValue = EditValue.mean
    """circuit: what the codes outside of a circuit become: mean (over the layer's vectors), zero, or resample (those of
    an image of another class)."""
    errors: CircuitErrors = CircuitErrors.keep
    """circuit: what a dictionary leaves out goes on as it is then (keep), as it is in the clean network (node), or not
    at all (remove)."""
    against: list[str] = field(default_factory=lambda: ["seed=1"])
    """stability: variants of the run, each one or several key=value with spaces between, of seed, data, extract,
    dictionary, attribute and graph: "data.half=confirming", "dictionary.k_per_channel=4 seed=1"."""


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
