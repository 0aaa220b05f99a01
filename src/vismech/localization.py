"""Where a concept is in an image: its codes at a layer's positions carried down to the pixels (METHOD §6).

Legend: B images, h×w positions of a layer, H×W pixels.
"""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vismech.receptive_field import SharingRatios


def localization_maps(
    ratios: SharingRatios, layer: str, codes: Float[Tensor, "b h w"]
) -> Float[Tensor, "b height width"]:
    """``max(Σ_p u_p · ERF_p, 0)``: a concept's codes u on the pixels, in one sweep because fields add up linearly.

    Raises:
        UserError: a layer without a map, codes of another shape than the layer's positions.
    """
    return ratios.saliency(seeds={layer: codes}).clamp(min=0)


def upsampled_maps(codes: Float[Tensor, "b h w"], size: tuple[int, int]) -> Float[Tensor, "b height width"]:
    """The ablation: ``max(u_p, 0)`` upsampled bilinearly to ``size`` (H, W), blind to what each position saw."""
    return F.interpolate(codes.clamp(min=0)[:, None], size, mode="bilinear", align_corners=False)[:, 0]
