"""The same question by gradients, for networks with layers that sharing ratios have no rule for.

Which pixels a PFV came from: attribution of the unit <x_p, x_p/||x_p||> to the pixels, summed over their channels.

Legend: B images, n positions asked for, P positions of a layer, C channels, h×w its grid, H×W pixels, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError
from vismech.network.cut import Network
from vismech.network.layers import LOGITS
from vismech.network.pfv import Layout
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
    layout = network.layout(layer)
    chosen = one_images(image, positions, layout, layer, steps)
    image = image.detach()
    with torch.no_grad():
        vectors = layout.vectors(network.activations(image, [layer])[layer])[0][chosen]
    lengths = vectors.norm(dim=1, keepdim=True)
    directions = vectors / lengths.masked_fill(lengths == 0, 1)
    if method is AttributionMethod.gradient_x_input:
        start, nodes = torch.zeros_like(image), [1.0]
    else:
        start, nodes = torch.zeros_like(image) + baseline, midpoints(steps)
    maps = image.new_zeros(len(chosen), *image.shape[2:])
    work = [(unit, node) for unit in range(len(chosen)) for node in nodes]
    for first in range(0, len(work), _CHUNK):
        units = torch.tensor([unit for unit, _ in work[first : first + _CHUNK]], device=image.device)
        alphas = image.new_tensor([node for _, node in work[first : first + _CHUNK]])[:, None, None, None]
        points = start + alphas * (image - start)
        seeds = directions.new_zeros(len(points), layout.positions, layout.channels)
        seeds[torch.arange(len(points)), chosen[units]] = directions[units]
        gradient = pixel_gradient(network, layer, layout, points, seeds)
        maps.index_add_(0, units, (gradient * (image - start)).sum(1) / len(nodes))
    return finite(maps, layer)


def gradient_relevance(
    network: Network,
    images: Float[Tensor, "b c H W"],
    layers: Sequence[str],
    *,
    target: int | Int[Tensor, " b"] | None = None,
) -> LayerRelevance:
    """``Σ_c x_pc · ∂logit/∂x_pc`` of the predicted class (or ``target``) at every position of ``layers``.

    The alternative to :func:`~vismech.receptive_field.layer_relevance`, for a network of any kind; a position's field
    is not followed any further.

    Raises:
        UserError: an unknown layer, a class out of range.
    """
    with torch.enable_grad():
        # Parameters are frozen: the image asks for the gradient, so that every layer after it has one.
        found = network.activations(images.detach().requires_grad_(), [*layers, LOGITS])
        logits = found.pop(LOGITS)
        classes = classes_of(logits, target)
        chosen = logits.gather(1, classes[:, None]).sum()
        gradients = torch.autograd.grad(chosen, [found[layer] for layer in layers])
    relevance = {}
    for layer, gradient in zip(layers, gradients, strict=True):
        layout, found[layer] = network.layout(layer), found[layer].detach()
        relevance[layer] = layout.vectors(found[layer] * gradient).sum(2).unflatten(1, layout.grid)
    return LayerRelevance(found, relevance, logits.detach(), classes)


def one_images(
    image: Float[Tensor, "b c height width"],
    positions: Int[Tensor, " n"] | Sequence[int],
    layout: Layout,
    layer: str,
    steps: int,
) -> Int[Tensor, " n"]:
    """The positions of a layer whose fields are wanted, on the image's device.

    Raises:
        UserError: several images, too few steps, a position out of range.
    """
    if len(image) != 1:
        raise UserError(f"fields are made for one image at a time, not {len(image)}: give image[None]")
    if steps < 1:
        raise UserError(f"{steps} steps are too few: give at least 1")
    chosen = torch.as_tensor(positions, dtype=torch.long, device=image.device)
    for position in chosen.tolist():
        if not 0 <= position < layout.positions:
            grid = "×".join(map(str, layout.grid))
            raise UserError(f"position {position} is out of range: layer {layer!r} has {grid} positions")
    return chosen


def pixel_gradient(
    network: Network, layer: str, layout: Layout, images: Float[Tensor, "b c H W"], seeds: Float[Tensor, "b p d"]
) -> Float[Tensor, "b c H W"]:
    """``∂(Σ_p <x_p, s_p>)/∂pixels`` of seeds s that are held fixed: one backward pass."""
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        activation = network.activations(images, [layer])[layer]
        # Contiguous: from a transposed view torch's batch norm gets the gradient of a single image wrong on the CPU.
        seeds = layout.activation(seeds, torch.zeros_like(activation)).contiguous()
        return torch.autograd.grad(activation, images, seeds)[0]


def midpoints(steps: int) -> list[float]:
    """The nodes of integrated gradients."""
    return [(step + 0.5) / steps for step in range(steps)]


def finite(maps: Tensor, layer: str) -> Tensor:
    """The maps.

    Raises:
        ValueError: one of them is NaN or infinite.
    """
    if not maps.isfinite().all():
        raise ValueError(f"the gradients below layer {layer!r} are NaN or infinite")
    return maps


def _method(method: AttributionMethod | str) -> AttributionMethod:
    try:
        return AttributionMethod(method)
    except ValueError:
        raise UserError(f"there is no attribution method {method!r}: choose {' or '.join(AttributionMethod)}") from None
