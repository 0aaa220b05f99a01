"""What stages read, one class for what is in a key together; the text below a field documents it everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import (
    Along,
    Baseline,
    Code,
    Images,
    Mode,
    Output,
    Patches,
    PathWeight,
    Positions,
    ReadOut,
    Rule,
    Scope,
)
from vismech.store.settings import UNHASHED, Settings


@dataclass(frozen=True)
class DrawOptions(Settings):
    """Which vectors of a layer are kept."""

    positions: Positions = Positions.all
    """all, or a draw of `per_image`: uniform, or in proportion to what a position adds to the predicted class's logit,
    by relevance (sharing ratio decomposition), contrastive (relevance above the mean position's) or gradient (gradient
    × activation, for any network)."""
    per_image: int = 8
    """Positions drawn per image (not used by positions=all)."""


@dataclass(frozen=True)
class CodeOptions(Settings):
    """How vectors are written in a dictionary's concepts."""

    code: Code = Code.lasso
    """lasso (signed), lasso_nonnegative, omp (orthogonal matching pursuit), omp_nonnegative, simultaneous_omp (one set
    of concepts per image), coarse_to_fine (half of a vector's concepts from a few for the whole image, half for what
    these miss), coarse_to_fine_nonnegative, or encoder (the method's own: sae, nmf, semi_nmf, and the bases)."""
    penalty: float = 0.02
    """The lasso's λ as a fraction of the mean norm of the training vectors."""
    l0_per_channel: float = 0.5
    """Concepts per vector for omp and coarse_to_fine, as a fraction of the channels."""
    concepts_per_image: int = 16
    """Concepts per image for simultaneous_omp; for coarse_to_fine those of its first stage."""
    fine_concepts: int | None = 48
    """Concepts per image for the second stage of coarse_to_fine; null: any number."""


@dataclass(frozen=True)
class CountOptions(Settings):
    """How the number of concepts is chosen, by what the code rebuilds."""

    unexplained: float = 0.1
    """k=auto: the share of held-out vectors, as squared error of their code, that may stay unexplained."""
    vectors_per_concept: int = 10
    """k=auto: at least so many vectors for each concept."""


@dataclass(frozen=True)
class DescribeSettings(Settings):
    """What is told of a concept."""

    nearest: int = 10
    """Nearest vectors per concept, by cosine over all extracted vectors, one per image at the most."""


@dataclass(frozen=True)
class FieldOptions(Settings):
    """How vectors are traced to pixels."""

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


@dataclass(frozen=True)
class KeptSettings(Settings):
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


@dataclass(frozen=True)
class PathOptions(Settings):
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
    mode: Mode = field(default=Mode.auto, metadata=UNHASHED)
    """reverse: one backward pass per target; forward: one forward derivative per source concept; auto: the cheaper for
    a pair of layers' first image. Changes last bits only, so it is in no key."""
    check_images: int = 1
    """Images per pair of layers on which the steps are doubled too, to report how far the integral has converged."""
    readout: ReadOut = ReadOut.max
    """A target concept's value: its projection at its strongest position (max), summed over positions (sum), or its
    code at that position (code)."""
    output: Output = Output.logit
    """What of a class is explained: its logit or its probability."""
