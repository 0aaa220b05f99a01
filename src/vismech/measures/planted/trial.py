"""Planted circuits: how well each method finds the edges of a network whose edges are known.

Edges run from the concepts of layer 1 to those of the last layer, one number per image; a method's edge is their
**mean over images**, zero where the target is absent, and edges are ranked by its size. Ranked by the mean
of |edge| instead is the second aggregation, which keeps edges whose sign depends on the image.

Legend: N images, T targets (concepts of the last layer), Q sources (concepts of layer 1), P positions, C channels.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.gig import Segment
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import ConceptTargets, anchors
from vismech.config.choices import Code, PathWeight, ReadOut, Rule
from vismech.dictionaries import Dictionary
from vismech.dictionaries.coding import Coding
from vismech.measures.planted.circuits import draw_codes, true_effects
from vismech.measures.planted.models import PlantedNetwork
from vismech.measures.planted.scores import Recovery, Scores, match, matched_edges, recovery, score
from vismech.network.pfv import Axes, Layout

WEIGHTS = {
    "gig": PathWeight.ig,
    "left_ig": PathWeight.left_ig,
    "right_ig": PathWeight.right_ig,
    "idg": PathWeight.idg,
}
METHODS = (
    *WEIGHTS,
    "gig_code",
    "u_x_gradient",
    "leave_one_out",
    "activation_patching",
    "resampling",
    "magnitude",
    "random",
)
DONORS = 4
VANISHING = 1e-5
"""Codes and vectors smaller than this share of the largest are zero: they are rounding."""


class Cut(NamedTuple):
    """Images at the two ends of a network, in activations and in concepts.

    Attributes:
        segment: from layer 1 to the last.
        lower, upper: the dictionaries of the two layers.
        clean: activation of layer 1.
        layouts: of the two layers.
        vectors, codes: layer 1's PFVs and their codes.
        targets: the upper concepts, each read at its strongest position.
    """

    segment: Segment
    lower: Dictionary
    upper: Dictionary
    clean: Float[Tensor, "n c h w"]
    layouts: tuple[Layout, Layout]
    vectors: Float[Tensor, "n p c"]
    codes: Float[Tensor, "n p q"]
    targets: ConceptTargets


def activations(network: PlantedNetwork, images: Float[Tensor, "n 3 y x"]) -> list[Float[Tensor, "n c h w"]]:
    """Every layer's activation."""
    found = [images]
    with torch.no_grad():
        for layer in network.model:
            found.append(layer(found[-1]))
    return found[1:]


def layout_of_map(activation: Float[Tensor, "n c h w"]) -> Layout:
    """Channels first, whatever the sides."""
    _, channels, rows, columns = activation.shape
    return Layout(Axes.channels_first, (rows, columns), channels)


def true_dictionary(network: PlantedNetwork, layer: int) -> Dictionary:
    """The planted concept vectors, coded by least squares on all of them, or on one where they are in superposition."""
    frame = network.frames[layer]
    l0 = 1 if len(frame) > frame.shape[1] else len(frame)
    return Dictionary(frame, Coding(Code.omp, l0=l0))


def cut(network: PlantedNetwork, images: Float[Tensor, "n 3 y x"], lower: Dictionary, upper: Dictionary) -> Cut:
    """Images between layer 1 and the last layer."""
    found = activations(network, images)
    layouts = layout_of_map(found[0]), layout_of_map(found[-1])
    vectors, above = (layout.vectors(part) for layout, part in zip(layouts, (found[0], found[-1]), strict=True))
    places = anchors(above, _codes(upper, above), upper.atoms)
    targets = ConceptTargets(upper.atoms, places, layouts[1], dictionary=upper, concepts=tuple(range(upper.k)))
    return Cut(network.model[1:], lower, upper, found[0], layouts, vectors, _codes(lower, vectors), targets)


def _codes(dictionary: Dictionary, vectors: Float[Tensor, "n p c"]) -> Float[Tensor, "n p k"]:
    """Codes, without those that are the rounding of least squares: one of these must not make a target present."""
    codes = dictionary.encode(vectors)
    return codes * (codes.abs() > VANISHING * codes.abs().max())


def image_edges(given: Cut, settings: Settings, seed: int) -> dict[str, Float[Tensor, "n t q"]]:
    """Edges of every image by every method, zero where the target is absent.

    ``gig``, ``left_ig``, ``right_ig``, ``idg``: path integrals from zero; ``gig_code``: the target read as its code
    instead of its projection, where codes have a slope; ``u_x_gradient``: the slope at α = 1 alone; ``leave_one_out``:
    what the target loses without the source; ``activation_patching``: what the source restores in the run of another
    image; ``resampling``: what the target loses when the source's codes are those of another image (both the mean over
    :data:`DONORS` images); ``magnitude``: ``Σ_p |u_pq|`` where the target is present; ``random``: normal numbers.

    Args:
        given: images between the two layers.
        settings: rule, steps and φ of the path integrals.
        seed: of ``random``.
    """
    source: Any = ConceptSource(given.lower.atoms, given.codes, given.vectors)
    present, codes = given.targets.present, given.codes

    def integral(how: Settings, readout: ReadOut = ReadOut.max) -> dict[PathWeight, Tensor]:
        targets = replace(given.targets, readout=readout)
        found = attribute(given.segment, given.layouts[0], source, given.clean, targets, how)
        return {weight: edges.units for weight, edges in found.edges.items()}

    paths = integral(replace(settings, weights=tuple(WEIGHTS.values())))
    edges = {method: paths[weight] for method, weight in WEIGHTS.items()}
    if given.upper.coding.code not in (Code.encoder, Code.simultaneous_omp):
        edges["gig_code"] = integral(settings, ReadOut.code)[PathWeight.ig]
    edges["u_x_gradient"] = integral(Settings(Rule.riemann_right, 1))[PathWeight.ig]
    edges["leave_one_out"] = -_swapped(given, codes, torch.zeros_like(codes))
    donors = [codes.roll(shift, 0) for shift in range(1, DONORS + 1)]
    edges["activation_patching"] = torch.stack([_swapped(given, donor, codes) for donor in donors]).mean(0)
    edges["resampling"] = -torch.stack([_swapped(given, codes, donor) for donor in donors]).mean(0)
    edges["magnitude"] = codes.abs().sum(1)[:, None].expand(*present.shape, -1)
    edges["random"] = torch.randn(edges["gig"].shape, generator=torch.Generator().manual_seed(seed))
    return {method: edges[method] * present[..., None] for method in METHODS if method in edges}


@torch.no_grad()
def _swapped(given: Cut, codes: Float[Tensor, "n p q"], instead: Float[Tensor, "n p q"]) -> Float[Tensor, "n t q"]:
    """``g_j(U with source q's codes from instead) − g_j(U)``, one source at a time, on what the concepts rebuild."""
    owner, rebuilt, effects = torch.arange(len(codes)), given.lower.decode(codes), []

    def value(vectors: Tensor) -> Tensor:
        return given.targets(given.segment(given.layouts[0].activation(vectors, given.clean)), owner)

    whole = value(rebuilt)
    for source, atom in enumerate(given.lower.atoms):
        change = instead[..., source] - codes[..., source]
        effects.append(value(rebuilt + change[..., None] * atom) - whole)
    return torch.stack(effects, 2)


class Measured(NamedTuple):
    """One network under one pair of dictionaries.

    Attributes:
        methods: method → its scores.
        concepts: layer → recovery; of learned dictionaries only.
    """

    methods: dict[str, Scores]
    concepts: dict[str, Recovery]


def measure(
    network: PlantedNetwork,
    *,
    images: int,
    settings: Settings,
    noise: float = 0.0,
    learned: tuple[Dictionary, Dictionary] | None = None,
) -> Measured:
    """Every method on one network, with the planted concept vectors or learned ones matched with them.

    Known edges and true effects are those of the clean images, by the structural equations.

    Args:
        network: the network.
        images: how many.
        settings: rule, steps and φ of the path integrals.
        noise: standard deviation of what is added to each pixel.
        learned: dictionaries of layer 1 and of the last layer in the place of the planted concept vectors.
    """
    circuit = network.circuit
    codes = draw_codes(circuit, images)
    effects = true_effects(circuit, codes).double().mean(0).numpy()
    lower, upper = learned or (true_dictionary(network, 0), true_dictionary(network, -1))
    found = image_edges(cut(network, network.images(codes, noise), lower, upper), settings, circuit.seed)
    concepts: dict[str, Recovery] = {}
    if learned is not None:
        sources, targets = match(network.frames[0], lower.concepts), match(network.frames[-1], upper.concepts)
        concepts = {"lower": recovery(sources), "upper": recovery(targets)}
        found = {method: matched_edges(edges, sources, targets) for method, edges in found.items()}
    return Measured({method: score(edges, circuit.edges(), effects) for method, edges in found.items()}, concepts)


class TrainingVectors(NamedTuple):
    """What dictionaries are learned from, without vectors that are zero."""

    lower: Float[Tensor, "m c"]
    upper: Float[Tensor, "l d"]


def training_vectors(network: PlantedNetwork, images: int, noise: float = 0.0) -> TrainingVectors:
    """PFVs of layer 1 and of the last layer from the same images, none of which is measured."""
    codes = draw_codes(network.circuit, images, "training")
    found = activations(network, network.images(codes, noise, "training noise"))
    lower, upper = (layout_of_map(part).vectors(part).flatten(0, 1) for part in (found[0], found[-1]))
    return TrainingVectors(lower[_alive(lower)], upper[_alive(upper)])


def _alive(vectors: Float[Tensor, "m c"]) -> Bool[Tensor, " m"]:
    norm = vectors.norm(dim=1)
    return norm > VANISHING * norm.max()
