"""What a network that is cut into layers can do, however it is cut.

Legend: B images.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vismech.network.held import HeldCut
from vismech.network.layers import Layers


class Network(Layers):
    """A model cut into layers; built by :func:`open_network`."""

    concurrent = False
    """Whether several threads may pass it at once."""

    def activations(self, images: Tensor, layers: Sequence[str]) -> dict[str, Tensor]:
        """Activations of ``images`` [B, 3, H, W] at ``layers``, computed no further than needed.

        ``logits`` is allowed, and so is ``pixels``: the images themselves.
        """
        raise NotImplementedError

    def segment(self, lower: str, upper: str, folded: bool = False) -> nn.Module:
        """The function from ``lower``'s output [B, …] to ``upper``'s output [B, …] and nothing else.

        ``lower`` may be ``pixels`` and ``upper`` may be ``logits``. ``folded`` is for paths, of which many points pass:
        batch norms are part of the convolutions before them where the network is an exported graph. Values then differ
        from the model's in the last digits, and parameters are constants.

        Raises:
            UserError: an unknown layer, ``upper`` not after ``lower``, or a path to ``upper`` around ``lower``.
        """
        raise NotImplementedError

    def around(self, lower: str, upper: str) -> HeldCut:
        """As :meth:`segment`, where paths lead to ``upper`` around ``lower``: what comes on them is held.

        Raises:
            UserError: an unknown layer, ``upper`` not after ``lower``, no path from one to the other, or a value on a
                path around that has no row per image.
        """
        raise NotImplementedError
