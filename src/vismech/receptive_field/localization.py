"""Where a concept is in an image: its codes at a layer's positions carried down to the pixels.

Legend: B images, h×w positions of a layer, H×W pixels, C channels, S steps.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vismech.errors import UserError
from vismech.network.cut import Network
from vismech.receptive_field import AttributionMethod, SharingRatios
from vismech.receptive_field.gradient import finite, midpoints, pixel_gradient


def localization_maps(
    ratios: SharingRatios, layer: str, codes: Float[Tensor, "b h w"]
) -> Float[Tensor, "b height width"]:
    """``max(Σ_p u_p · ERF_p, 0)``: a concept's codes u on the pixels, in one sweep because fields add up linearly.

    Raises:
        UserError: a layer without a map, codes of another shape than the layer's positions.
    """
    return ratios.saliency(seeds={layer: codes}).clamp(min=0)


def attributed_maps(
    network: Network,
    images: Float[Tensor, "b c height width"],
    layer: str,
    codes: Float[Tensor, "b h w"],
    method: AttributionMethod | str = AttributionMethod.gradient_x_input,
    steps: int = 32,
) -> Float[Tensor, "b height width"]:
    """``max(Σ_p u_p A_p / ‖x_p‖, 0)``: the same for networks without sharing ratios, by the gradient of the unit.

    A_p is the map that :func:`vismech.receptive_field.attribution_maps` gives position p; divided by the length of its
    vector it sums to about 1, as a receptive field does [ours]. All positions share one backward pass, or S of them for
    integrated gradients, because attributions of a sum add up.

    Args:
        network: any network.
        images: as it takes them.
        layer: the layer that was coded.
        codes: the concept's code at each position.
        method: gradient_x_input or integrated_gradients (baseline zero).
        steps: midpoint nodes of integrated gradients.

    Raises:
        UserError: an unknown layer, codes of another shape than the layer's positions.
    """
    layout = network.layout(layer)
    if tuple(codes.shape) != (len(images), *layout.grid):
        raise UserError(f"the codes have shape {tuple(codes.shape)}: give {(len(images), *layout.grid)}")
    nodes = midpoints(steps) if AttributionMethod(method) is AttributionMethod.integrated_gradients else [1.0]
    images = images.detach()
    with torch.no_grad():
        vectors = layout.vectors(network.activations(images, [layer])[layer])
    squares = vectors.square().sum(2, keepdim=True)
    seeds = vectors * codes.flatten(1)[..., None] / squares.masked_fill(squares == 0, 1)
    total = torch.zeros_like(images)
    for node in nodes:
        total += pixel_gradient(network, layer, layout, node * images, seeds) / len(nodes)
    return finite((total * images).sum(1), layer).clamp(min=0)


def upsampled_maps(codes: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b height width"]:
    """The ablation: ``max(u_p, 0)`` upsampled bilinearly to ``size`` (H, W), blind to what each position saw."""
    return F.interpolate(codes.clamp(min=0)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
