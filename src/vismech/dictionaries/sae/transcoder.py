"""Transcoders: sparse codes of what one place holds that rebuild what another holds, such as an MLP's input and output.

Legend: n vectors, k latents (concepts), c channels of what is rebuilt, r of what is read;
m vectors are read, and have to be as many.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vismech.dictionaries.base import Fitted
from vismech.dictionaries.sae.training import fit_sae
from vismech.errors import UserError


def fit_transcoder(
    vectors: Float[Tensor, "n c"], k: int, *, reads: Float[Tensor, "m r"] | None = None, place: str = "", **options: Any
) -> Fitted:
    """Train a transcoder: a sparse code of what is read at one place rebuilds the vectors at another (`Transcoder`).

    What is read is centred and brought to the vectors' scale for the training, all of which goes into the encoder.

    Args:
        vectors: what is rebuilt, such as an MLP's outputs.
        k: concepts.
        reads: what it is rebuilt from, at the same positions, such as the MLP's inputs.
        place: the layer that `reads` are of.
        options: of `fit_sae`.

    Raises:
        UserError: for other numbers of vectors at the two places, or vectors that are all the same at one of them, and
            as `fit_sae`.
    """
    if reads is None or len(reads) != len(vectors):
        count = "no" if reads is None else len(reads)
        raise UserError(
            f"transcoder: {count} vectors to read and {len(vectors)} to rebuild: give reads=, one for each."
        )
    exact = reads.detach().cpu().double()
    mean = exact.mean(0)
    ratio = (vectors.detach().cpu().double().square().sum(1).mean() / (exact - mean).square().sum(1).mean()).sqrt()
    if not (ratio.isfinite() and ratio > 0):
        raise UserError(
            f"transcoder: the vectors to read ({place or 'reads'}) or those to rebuild are all the same or not finite: "
            "choose another layer or another place to read."
        )
    rows = torch.cat([(ratio * (exact - mean)).float(), vectors.detach().cpu().float()], 1)
    found = fit_sae(rows, k, width=reads.shape[1], **options)
    assert found.encoder is not None
    weight = ratio * found.encoder["weight"].double()
    encoder = {"weight": weight.float(), "bias": (found.encoder["bias"].double() - weight @ mean).float()}
    return found._replace(encoder={**found.encoder, **encoder}, info={**found.info, "reads": place})
