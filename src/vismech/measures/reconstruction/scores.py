"""How well codes reconstruct vectors: the one place where R², relative error and L0 are defined.

Legend: n vectors, c channels, k atoms; X the vectors, X̃ = U V their reconstruction, U the codes.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vismech.errors import UserError


class ReconstructionMetrics(NamedTuple):
    """Reconstruction over a whole set of vectors, in float64.

    r2: mean over channels of `1 − Σ (x − x̃)² / Σ (x − mean x)²`, sums over all vectors; channels that are the same in
        every vector have no variance to explain and are left out.
    relative_error: `‖X − X̃‖_F / ‖X‖_F`.
    l0: mean number of non-zero codes of a vector, the mean concept's constant code included.
    dead: number of atoms that are zero in every vector.
    dense: number of atoms that are not zero in more than half of the vectors.
    """

    r2: float
    relative_error: float
    l0: float
    dead: int
    dense: int


class Moments(NamedTuple):
    """What the metrics need of one set of vectors, in float64; sets combine, so results do not depend on batches.

    mean, low, high: per channel; total: `Σ (x − mean)²`; residual: `Σ (x − x̃)²`; square: `Σ x²`; active: how many
    vectors have each atom; count: number of vectors.
    """

    mean: Float[Tensor, " c"]
    low: Float[Tensor, " c"]
    high: Float[Tensor, " c"]
    total: Float[Tensor, " c"]
    residual: Float[Tensor, " c"]
    square: Float[Tensor, " c"]
    active: Int[Tensor, " k"]
    count: int


def moments(
    vectors: Float[Tensor, "n c"], codes: Float[Tensor, "n k"], reconstruction: Float[Tensor, "n c"]
) -> Moments:
    """Moments of one non-empty set of vectors, on their device.

    Raises:
        UserError: for shapes that disagree, or values that are not finite.
    """
    if reconstruction.shape != vectors.shape or len(codes) != len(vectors):
        raise UserError(
            f"reconstruction: got vectors {tuple(vectors.shape)}, codes {tuple(codes.shape)} and reconstruction "
            f"{tuple(reconstruction.shape)}: pass the same n vectors."
        )
    x = vectors.detach().double()
    residual = (x - reconstruction.detach().double()).square().sum(0)
    if not bool(residual.isfinite().all() & x.isfinite().all() & codes.isfinite().all()):
        raise UserError(
            "reconstruction: vectors, codes or their reconstruction are not finite: mend what produced them."
        )
    mean = x.mean(0)
    total, square = (x - mean).square().sum(0), x.square().sum(0)
    return Moments(mean, x.amin(0), x.amax(0), total, residual, square, (codes != 0).sum(0), len(x))


class Reconstruction:
    """Accumulates the metrics set by set; how vectors are cut into sets shows only in rounding."""

    def __init__(self, c: int):
        self._count = 0
        self._mean, self._total, self._residual, self._square = torch.zeros(4, c, dtype=torch.float64)
        self._low, self._high = torch.full((c,), float("inf")).double(), torch.full((c,), -float("inf")).double()
        self._active: Tensor | None = None

    def update(
        self, vectors: Float[Tensor, "n c"], codes: Float[Tensor, "n k"], reconstruction: Float[Tensor, "n c"]
    ) -> None:
        """Add vectors; see `moments` for what is refused."""
        if self._active is None:
            self._active = torch.zeros(codes.shape[1], dtype=torch.int64)
        if len(vectors):
            self.add(moments(vectors, codes, reconstruction))

    def add(self, part: Moments) -> None:
        """Add a set by its moments.

        Raises:
            UserError: for other numbers of channels or atoms than before.
        """
        if self._active is None:
            self._active = torch.zeros(len(part.active), dtype=torch.int64)
        if len(part.mean) != len(self._mean) or len(part.active) != len(self._active):
            raise UserError(
                f"reconstruction of {len(self._mean)} channels and {len(self._active)} atoms: got {len(part.mean)} "
                f"channels and {len(part.active)} atoms: use one dictionary and one layer."
            )
        # Means and sums of squares of two sets combine (Chan et al. 1983) without the cancellation of Σx² − (Σx)²/n.
        shift, count = part.mean.cpu() - self._mean, self._count + part.count
        self._total += part.total.cpu() + shift.square() * (self._count * part.count / count)
        self._mean += shift * (part.count / count)
        self._count = count
        self._residual += part.residual.cpu()
        self._square += part.square.cpu()
        self._low, self._high = torch.minimum(self._low, part.low.cpu()), torch.maximum(self._high, part.high.cpu())
        self._active += part.active.cpu()

    def result(self) -> ReconstructionMetrics:
        """Return the metrics of everything added so far.

        Raises:
            UserError: when nothing was added, every channel is constant, or every vector is zero.
        """
        # By the extremes, since the rounding of a mean leaves a constant channel a tiny variance.
        varying = self._high > self._low
        if self._active is None or not bool(varying.any()):
            raise UserError(f"R² of {self._count} vectors is undefined: no channel varies; add vectors that differ.")
        r2 = 1 - self._residual[varying] / self._total[varying]
        return ReconstructionMetrics(
            r2=r2.mean().item(),
            relative_error=(self._residual.sum() / self._square.sum()).sqrt().item(),
            l0=self._active.sum().item() / self._count,
            dead=int((self._active == 0).sum()),
            dense=int((2 * self._active > self._count).sum()),
        )


class Recovered(NamedTuple):
    """A share of the loss, the number of images behind it and its interval over images."""

    value: float
    n: int
    low: float
    high: float


def loss_recovered(losses: Float[np.ndarray, "n 3"], draws: int = 2000, seed: int = 0) -> Recovered | None:
    """``(ablated − spliced) / (ablated − clean)`` of mean cross-entropies over images, resampled for the interval.

    The cross-entropy is against the image's label. Ablated is the layer set to the mean vector of the dictionary's
    training vectors at every position: from zero, which is no activation of the network's, anything recovers much.
    None where ablation does not raise the loss, so that there is nothing to recover.

    Args:
        losses: clean, spliced and ablated, per image.
        draws: resamples; those in which ablation does not raise the loss are left out.
        seed: of the resampling.
    """

    count, generator = len(losses), np.random.default_rng(seed)
    resampled = [losses[generator.integers(count, size=count)].mean(0) for _ in range(draws)]
    means = np.stack([losses.mean(0), *resampled]).astype(np.float64)
    raised = means[:, 2] > means[:, 0]
    if not raised[0]:
        return None
    clean, spliced, ablated = means[raised].T
    shares = (ablated - spliced) / (ablated - clean)
    low, high = np.quantile(shares[1:], [0.025, 0.975])
    return Recovered(float(shares[0]), count, float(low), float(high))
