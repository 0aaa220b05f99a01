"""The configuration's group ``dictionary``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from vismech.config.choices import MeanRule, Method, SaeActivation
from vismech.config.group import group
from vismech.stages.settings import CodeOptions, CountOptions


@dataclass
class SaeConfig:
    """How a sparse autoencoder or a transcoder is trained (dictionary.method=sae, transcoder)."""

    activation: SaeActivation = SaeActivation.topk
    """relu (L1), topk, batchtopk, jumprelu (L0) or matryoshka (topk whose first latents must do alone, too)."""
    l0_per_channel: float = 0.25
    """Active latents per vector of topk, batchtopk and matryoshka, as a fraction of the channels."""
    sparsity: float = 0.01
    """Weight of the penalty of relu (L1 of the codes) and jumprelu (L0), vectors scaled to unit mean square."""
    steps: int = 6_000
    """Optimiser steps."""
    batch_size: int = 256
    """Vectors per step."""
    learning_rate: float = 4e-3
    """Largest learning rate of Adam."""
    warmup: float = 0.05
    """Share of the steps over which the learning rate rises from zero."""
    decay: float = 0.2
    """Share of the steps, at the end, over which it falls to zero."""


@group
class DictionaryConfig(CodeOptions, CountOptions):
    """How each layer's concepts are found and how vectors are written in them."""

    method: Method = Method.bisecting
    """bisecting or (flat) kmeans: spherical k-means; nmf, semi_nmf (of vectors with negative values),
    dictionary_learning: matrix factorisations; sae: sparse autoencoder; transcoder: a sparse code of what the layer's
    module takes in that rebuilds the layer, which is what it puts out; pca, channels, rotation (of the channels),
    random (unit vectors), random_pfv (vectors of the layer): controls; saved: those of `path`. pca,
    channels and rotation have at most as many concepts as channels."""
    k: int | str | None = None
    """Number of concepts per layer; null: k_per_channel times the channels; auto (also where both are null): as few as
    leave no more than `unexplained` of vectors that had no part in finding them, of ¼ to 8 per channel, as far as there
    are `vectors_per_concept`."""
    k_per_channel: int | None = None
    """Concepts per channel (used when k is null); the paper's are 8."""
    center: bool = False
    """Subtract the mean vector first and keep it as an explicit mean concept (sae: its learnt pre-bias)."""
    mean_rule: MeanRule = MeanRule.kept
    """What the mean concept is when concepts are inserted and deleted: ranked like any other, or always kept."""
    iterations: int = 200
    """Iterations of kmeans, nmf and semi_nmf; minibatches of dictionary_learning."""
    refine: int = 0
    """Rounds in which the atoms are fitted anew to codes of l0_per_channel, for omp and coarse_to_fine."""
    unit: bool = True
    """bisecting, kmeans: length-normalise vectors before clustering (cosine geometry); false: vectors as they are."""
    sae: SaeConfig = field(default_factory=SaeConfig)
    """How a sparse autoencoder or a transcoder is trained."""
    reads: str | None = None
    """method=transcoder: the layer that codes are read from; null: the one whose output the layer's module takes in."""
    min_size: int = 2
    """A cluster smaller than this is not split."""
    target: str | None = None
    """method=custom: package.module:fit, a function of your own, fit(vectors, k, *, seed, center, device, **options),
    that returns vismech.dictionaries.Fitted."""
    options: dict[str, Any] = field(default_factory=dict)
    """method=custom: its keyword arguments."""
    path: str | None = None
    """method=saved: a folder that vismech-store export wrote, or one with such a folder for each layer."""
    code_target: str | None = None
    """code=custom: package.module:encode, a function of your own: encode(vectors, atoms, **code_options)."""
    code_options: dict[str, Any] = field(default_factory=dict)
    """code=custom: its keyword arguments."""
