"""The same two questions by gradients, for networks with layers that sharing ratios have no rule for.

Which pixels a PFV came from: attribution of the unit <x_p, x_p/||x_p||> to the pixels, summed over their channels. How
much a position contributes to a class: gradient × activation of the logit, summed over channels.

Legend: B images, n positions asked for, P positions of a layer, C channels, h×w its grid, H×W pixels, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError
from vismech.network.cut import ExportedNetwork, Network
from vismech.network.layers import LOGITS
from vismech.network.pfv import Layout, layout_of
from vismech.receptive_field.measure import LayerRelevance, classes_of

_CHUNK = 8  # images in one backward pass


class AttributionMethod(StrEnum):
    """How a unit is attributed to the pixels."""

    gradient_x_input = "gradient_x_input"
    integrated_gradients = "integrated_gradients"


def attribution_maps(
    network: Network,
    image: Float[Tensor, "b c H W"],
    layer: str,
    positions: Int[Tensor, " n"] | Sequence[int],
    *,
    method: AttributionMethod | str = AttributionMethod.gradient_x_input,
    steps: int = 32,
    baseline: float | Float[Tensor, "1 c H W"] = 0.0,
) -> Float[Tensor, "n H W"]:
    """Attribution of the PFVs at ``positions`` of one image to its pixels, as signed maps.

        gradient_x_input      Σ_c a_c ∂g/∂a_c at the image a,  g = <x_p, u>,  u = x_p/||x_p|| held fixed
        integrated_gradients  Σ_c (a − b)_c (1/S) Σ_s ∂g/∂a_c at b + (s + ½)/S·(a − b)  (Sundararajan et al. 2017)

    IG sums to g(a) − g(b) up to quadrature. A zero vector has no direction: its map is zero.

    Args:
        positions: flat positions of the layer's grid (tokens: without prefix).
        steps: midpoint nodes of integrated gradients.
        baseline: b, in the units of the image.

    Raises:
        UserError: an unknown layer or method, a position out of range, a batch of images, too few steps.
    """
    method = _method(method)
    if len(image) != 1:
        raise UserError(f"attribution maps are made for one image at a time, not {len(image)}: give image[None]")
    if steps < 1:
        raise UserError(f"{steps} steps are too few: give at least 1")
    layout = layout_of(network.shape(layer), layer)
    chosen = torch.as_tensor(positions, dtype=torch.long, device=image.device)
    for position in chosen.tolist():
        if not 0 <= position < layout.positions:
            grid = "×".join(map(str, layout.grid))
            raise UserError(f"position {position} is out of range: layer {layer!r} has {grid} positions")
    image = image.detach()
    with torch.no_grad():
        vectors = layout.vectors(network.activations(image, [layer])[layer])[0][chosen]
    lengths = vectors.norm(dim=1, keepdim=True)
    directions = vectors / lengths.masked_fill(lengths == 0, 1)
    if method is AttributionMethod.gradient_x_input:
        start, nodes = torch.zeros_like(image), [1.0]
    else:
        start, nodes = torch.zeros_like(image) + baseline, [(step + 0.5) / steps for step in range(steps)]
    maps = image.new_zeros(len(chosen), *image.shape[2:])
    work = [(unit, node) for unit in range(len(chosen)) for node in nodes]
    for first in range(0, len(work), _CHUNK):
        units = torch.tensor([unit for unit, _ in work[first : first + _CHUNK]], device=image.device)
        alphas = image.new_tensor([node for _, node in work[first : first + _CHUNK]])[:, None, None, None]
        points = start + alphas * (image - start)
        gradient = _unit_gradient(network, layer, layout, points, chosen[units], directions[units])
        maps.index_add_(0, units, (gradient * (image - start)).sum(1) / len(nodes))
    return _finite(maps, layer)


def gradient_relevance(
    network: Network,
    images: Float[Tensor, "b c H W"],
    layers: Sequence[str],
    *,
    target: int | Int[Tensor, " b"] | None = None,
) -> LayerRelevance:
    """Gradient × activation of the predicted class's logit (or ``target``'s) at every position of ``layers``.

        R_p = Σ_c x_pc ∂logit/∂x_pc

    The alternative to :func:`~vismech.receptive_field.layer_relevance`, for every network, with the same result.

    Raises:
        UserError: an unknown layer, a class out of range.
    """
    layers = list(layers)
    layouts = {layer: layout_of(network.shape(layer), layer) for layer in layers}
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        if isinstance(network, ExportedNetwork):
            found = network.activations(images, [*layers, LOGITS])
            logits = found.pop(LOGITS)
            classes = classes_of(logits, target)
            chosen = logits.gather(1, classes[:, None]).sum()
            gradients = dict(zip(layers, torch.autograd.grad(chosen, [found[layer] for layer in layers]), strict=True))
        else:  # hooks hand out copies, so each layer is cut open on its own
            found, gradients = {}, {}
            logits = network.activations(images.detach(), [LOGITS])[LOGITS]
            classes = classes_of(logits, target)
            for layer in layers:
                found[layer] = network.activations(images, [layer])[layer].detach().requires_grad_()
                upper = network.segment(layer, LOGITS)(found[layer]).gather(1, classes[:, None]).sum()
                (gradients[layer],) = torch.autograd.grad(upper, [found[layer]])
    relevance = {}
    for layer, layout in layouts.items():
        product = (layout.vectors(found[layer]) * layout.vectors(gradients[layer])).sum(2).detach()
        relevance[layer] = _finite(product.unflatten(1, layout.grid), layer)
    return LayerRelevance({layer: found[layer].detach() for layer in layers}, relevance, logits.detach(), classes)


def _unit_gradient(
    network: Network, layer: str, layout: Layout, points: Tensor, positions: Tensor, directions: Tensor
) -> Float[Tensor, "n c H W"]:
    """∂<x_p, u>/∂pixels for one position p and direction u per image."""
    with torch.enable_grad():
        points = points.detach().requires_grad_()
        activation = network.activations(points, [layer])[layer]
        seeds = directions.new_zeros(len(points), layout.positions, layout.channels)
        seeds[torch.arange(len(points)), positions] = directions
        # Contiguous: from a transposed view torch's batch norm gets the gradient of a single image wrong on the CPU.
        seeds = layout.activation(seeds, torch.zeros_like(activation)).contiguous()
        return torch.autograd.grad(activation, points, seeds)[0]


def _method(method: AttributionMethod | str) -> AttributionMethod:
    try:
        return AttributionMethod(method)
    except ValueError:
        raise UserError(f"there is no attribution method {method!r}: choose {' or '.join(AttributionMethod)}") from None


def _finite(maps: Tensor, layer: str) -> Tensor:
    if not maps.isfinite().all():
        raise ValueError(f"the gradients below layer {layer!r} are NaN or infinite")
    return maps
