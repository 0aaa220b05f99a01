"""Low frequencies of an attribution map (FORGrad, Muzellec et al. 2023).

    |IFFT(FFT(|φ|) · 1[radius ≤ σ])|

The radius is that of a frequency from the centre of the spectrum, in cycles per map; the authors' σ is 15 for maps of
224 pixels. The absolute value comes first, so that neighbours of opposite sign do not cancel. Frequencies are counted,
not places of a shifted array, so that sizes that are odd have their centre where it is.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SHARE = 15 / 224
"""The authors' σ, as a share of the side."""


def low_pass(maps: Float[Tensor, "*n h w"], sigma: float) -> Float[Tensor, "*n h w"]:
    """The filtered maps, which are not negative; with σ of at least the diagonal, |φ| itself."""
    rows, columns = maps.shape[-2:]
    down, across = (torch.fft.fftfreq(size, 1 / size, device=maps.device) for size in (rows, columns))
    inside = (down[:, None].square() + across.square()).sqrt() <= sigma
    return torch.fft.ifft2(torch.fft.fft2(maps.abs()) * inside).abs().to(maps)


def kept_share(maps: Float[Tensor, "*n h w"], sigma: float) -> Float[Tensor, " *n"]:
    """The share of the energy ``Σ φ²`` of |φ| that the filter keeps; 0 of a map that is zero."""
    left = low_pass(maps, sigma).square().sum((-2, -1))
    whole = maps.square().sum((-2, -1))
    return torch.where(whole > 0, left / torch.where(whole > 0, whole, 1), 0)
