"""A manifold for Manifold IG: a small convolutional variational autoencoder (Kingma & Welling 2014) of square images.

Each stage halves the sides by a convolution of 4 × 4 with stride 2, and the decoder doubles them again; SiLU between,
so that decoded paths are smooth. Encoded is to the posterior's mean. ``experiments/paths/vae.py`` trains one.

Legend: B images or latent vectors, W colours, H their side, P = H² pixels, L latent numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from vismech.errors import UserError

KEY = "attribute.options.decoder"


class Posterior(NamedTuple):
    """What is known of an image's latent vector: a Gaussian of independent numbers."""

    mean: Float[Tensor, "b l"]
    log_variance: Float[Tensor, "b l"]


class Autoencoder(nn.Module):
    """The two networks, as a decoder that Manifold IG takes.

    Args:
        side: H, which the stages must be able to halve.
        colours: W.
        widths: channels after each stage.
        latent: L.
    """

    def __init__(self, side: int, colours: int, widths: Sequence[int], latent: int) -> None:
        super().__init__()
        self.side, self.colours, self.least = side, colours, side >> len(widths)
        if self.least << len(widths) != side or not self.least:
            raise UserError(f"an autoencoder of {len(widths)} stages halves sides so often: {side} pixels cannot be")
        self.inner = widths[-1] * self.least**2
        down, up = [colours, *widths], [*reversed(widths), colours]
        self.down = nn.ModuleList(nn.Conv2d(*pair, 4, stride=2, padding=1) for pair in pairwise(down))
        self.up = nn.ModuleList(nn.ConvTranspose2d(*pair, 4, stride=2, padding=1) for pair in pairwise(up))
        self.to_latent = nn.Linear(self.inner, 2 * latent)
        self.from_latent = nn.Linear(latent, self.inner)

    def posterior(self, images: Float[Tensor, "b w h h"]) -> Posterior:
        """What the encoder says."""
        for stage in self.down:
            images = nn.functional.silu(stage(images))
        return Posterior(*self.to_latent(images.flatten(1)).chunk(2, 1))

    def rebuilt(self, latent: Float[Tensor, "b l"]) -> Float[Tensor, "b w h h"]:
        """What the decoder says."""
        images = self.from_latent(latent).unflatten(1, (-1, self.least, self.least))
        for stage in self.up:
            images = stage(nn.functional.silu(images))
        return images

    def check(self, positions: int, width: int) -> None:
        """Refuse a source of so many positions with so many numbers each.

        Raises:
            UserError: it has no images of the size that this is for.
        """
        if (positions, width) != (self.side**2, self.colours):
            raise UserError(
                f"{KEY} is for images of {self.side} × {self.side} pixels with {self.colours} numbers each, but the "
                f"source has {positions} positions with {width}: give a decoder of the source, or leave the source out "
                "(evaluate.sources)"
            )

    def encode(self, numbers: Float[Tensor, "b p w"]) -> Float[Tensor, "b l"]:
        """See :class:`~vismech.attribution.bent.Decoder`.

        Raises:
            UserError: numbers that are no images of the size that it is for.
        """
        self.check(*numbers.shape[1:])
        images = numbers.transpose(1, 2).unflatten(2, (self.side, self.side))
        return self.to(numbers).posterior(images).mean

    def decode(self, latent: Float[Tensor, "m l"]) -> Float[Tensor, "m p w"]:
        """See :class:`~vismech.attribution.bent.Decoder`."""
        return self.to(latent).rebuilt(latent).flatten(2).transpose(1, 2)


def of_state(state: Mapping[str, Tensor]) -> Autoencoder:
    """The autoencoder whose weights these are; its sizes are theirs.

    Raises:
        UserError: weights of something else.
    """
    try:
        stages = [
            state[f"down.{stage}.weight"] for stage in range(sum(name.startswith("down.") for name in state) // 2)
        ]
        inner, latent = state["from_latent.weight"].shape
        widths = [len(stage) for stage in stages]
        side = round((inner / widths[-1]) ** 0.5) << len(stages)
        found = Autoencoder(side, stages[0].shape[1], widths, latent)
        found.load_state_dict({name: value.float() for name, value in state.items()})
    except (KeyError, IndexError, ValueError, RuntimeError, AttributeError) as error:
        names = ", ".join(sorted(state)[:3])
        raise UserError(f"{KEY} holds no autoencoder of experiments/paths/vae.py, but {names}, …") from error
    return found.eval().requires_grad_(False)


def read(weights: str) -> Autoencoder:
    """The autoencoder in a safetensors file.

    Raises:
        UserError: no such file, or weights of something else.
    """
    from safetensors.torch import load_file  # not where no file is read

    path = Path(weights).expanduser()
    if not path.is_file():
        raise UserError(f"{KEY}={weights} is not a file: train one with experiments/paths/vae.py")
    try:
        state = load_file(path)
    except Exception as error:  # safetensors raises its own kind, which has no base of ours
        raise UserError(f"{KEY}={weights} is no safetensors file ({type(error).__name__})") from error
    return of_state(state)
