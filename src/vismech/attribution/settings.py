"""How edges are attributed along a path; the text below a field documents it everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import Along, Baseline, Mode, Output, PathWeight, ReadOut, Rule
from vismech.store.settings import UNHASHED, Settings


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
