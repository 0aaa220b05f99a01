"""What stages read, one class for what is in a key together; the text below a field documents it everywhere."""

from __future__ import annotations

from dataclasses import dataclass, field

from vismech.config.choices import Code, Images, Patches, Positions, Scope
from vismech.store.settings import Settings


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
