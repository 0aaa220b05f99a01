"""Sparse autoencoders: linear encoders of concepts with sparse latents, and the loss that trains them.

Legend: n vectors, k latents (concepts), c channels; where they differ, r of what is read and g of what is rebuilt.

Training is in `vismech.dictionaries.sae.training`; nothing here knows of steps or devices.
"""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from vismech.config.choices import SaeActivation

# JumpReLU: where its thresholds start and the width of the kernel of its straight-through estimator, as fractions of
# the vectors' root mean square norm.
THRESHOLD = 0.05
BANDWIDTH = 0.05
# Draws are made distinct by so much noise, relative to their norm: equal latents would stay equal for ever.
JITTER = 0.01


class _Jump(torch.autograd.Function):
    """`x H(x − θ)`, with the straight-through gradient of θ (Rajamanoharan et al. 2024)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(x, theta)
        return x * (x > theta)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, theta = ctx.saved_tensors
        near = (x - theta).abs() < BANDWIDTH / 2
        return gradients[0] * (x > theta), (gradients[0] * near).sum(0) * (-theta / BANDWIDTH)


class _Step(torch.autograd.Function):
    """`H(x − θ)`, with the straight-through gradient of θ only (ibid.)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, theta: Tensor) -> Tensor:
        ctx.save_for_backward(x, theta)
        return (x > theta).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor]:
        x, theta = ctx.saved_tensors
        near = (x - theta).abs() < BANDWIDTH / 2
        return None, (gradients[0] * near).sum(0) / -BANDWIDTH


class SparseAutoencoder(nn.Module):
    """`u = a(W (x − b) + e)`, `x̃ = u D + b`, with unit rows of D (Bricken et al. 2023).

    The activation a is one of

    - `relu`: `max(·, 0)`, trained with an L1 penalty;
    - `topk`: the l0 largest of each vector, and of these the positive (Gao et al. 2024);
    - `matryoshka`: as topk, trained so that the first k/16, k/8, k/4 and k/2 latents rebuild the vector, too, each
      without the rest (Bussmann et al. 2025, arXiv 2503.17547; the mean over the nests, their sizes and topk in the
      place of batchtopk are ours): general concepts come first, special ones later;
    - `batchtopk`: the n·l0 largest of each batch; a global threshold afterwards (Bussmann et al. 2024);
    - `jumprelu`: those above a learnt threshold of each latent, trained with an L0 penalty (Rajamanoharan et al. 2024).

    Without `centred` there is no pre-bias b.
    """

    def __init__(self, directions: Float[Tensor, "k c"], activation: SaeActivation, l0: int, centred: bool):
        super().__init__()
        self.activation, self.l0 = activation, l0
        k, c = directions.shape
        # The encoder starts as the decoder's transpose (Gao et al. 2024): nearly no latent is dead at first.
        self.decoder = nn.Parameter(directions.clone())
        self.encoder = nn.Parameter(directions.clone())
        self.bias = nn.Parameter(directions.new_zeros(k))
        self.pre_bias = nn.Parameter(directions.new_zeros(c)) if centred else None
        jump = activation is SaeActivation.jumprelu
        # As a logarithm, so that it stays positive.
        self.log_threshold = nn.Parameter(directions.new_full((k,), math.log(THRESHOLD))) if jump else None

    def centre(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The vectors without the pre-bias."""
        return vectors if self.pre_bias is None else vectors - self.pre_bias

    def read(self, centred: Float[Tensor, "n c"]) -> Float[Tensor, "n r"]:
        """What codes are read from: the vectors; of a transcoder those of another place."""
        return centred

    def goal(self, centred: Float[Tensor, "n c"]) -> Float[Tensor, "n g"]:
        """What codes rebuild: the vectors."""
        return centred

    def latents(self, centred: Float[Tensor, "n c"]) -> Float[Tensor, "n k"]:
        """What the activation is applied to."""
        return F.linear(self.read(centred), self.encoder, self.bias)

    def activate(self, latents: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
        """Codes of one batch in training."""
        match self.activation:
            case SaeActivation.relu:
                return latents.relu()
            case SaeActivation.jumprelu:
                assert self.log_threshold is not None
                return _Jump.apply(latents, self.log_threshold.exp())  # pyright: ignore[reportReturnType]
            case SaeActivation.topk | SaeActivation.matryoshka:
                least = largest(latents.detach(), self.l0)
            case SaeActivation.batchtopk:
                least = largest(latents.detach().view(1, -1), self.l0 * len(latents))
        return latents * (latents >= least.clamp(min=0))

    def penalty(self, latents: Float[Tensor, "n k"], codes: Float[Tensor, "n k"]) -> Float[Tensor, ""] | None:
        """Mean L1 (relu; decoder rows have norm 1) or L0 (jumprelu) of the codes; the others need none."""
        if self.activation is SaeActivation.relu:
            return codes.sum(1).mean()
        if self.log_threshold is None:
            return None
        return _Step.apply(latents, self.log_threshold.exp()).sum(1).mean()  # pyright: ignore

    def unexplained(self, centred: Float[Tensor, "n c"], codes: Float[Tensor, "n k"]) -> Float[Tensor, ""]:
        """Mean of `‖x − x̃‖²`; of matryoshka the mean over its nests, too."""
        goal = self.goal(centred)
        if self.activation is not SaeActivation.matryoshka:
            return (goal - codes @ self.decoder).square().sum(1).mean()
        residual, total, edges = goal, goal.new_zeros(()), nests(len(self.decoder))
        for start, stop in itertools.pairwise([0, *edges]):
            residual = residual - codes[:, start:stop] @ self.decoder[start:stop]
            total = total + residual.square().sum(1).mean()
        return total / len(edges)

    @torch.no_grad()
    def constrain_gradient(self) -> None:
        """Take from the decoder's gradient what would change its rows' norms (Bricken et al. 2023)."""
        gradient = self.decoder.grad
        assert gradient is not None
        gradient.addcmul_(self.decoder, (gradient * self.decoder).sum(1, keepdim=True), value=-1)

    @torch.no_grad()
    def normalize(self) -> None:
        """Give the decoder's rows unit norm again."""
        self.decoder.div_(self.decoder.norm(dim=1, keepdim=True))

    @torch.no_grad()
    def revive(self, dead: Bool[Tensor, " k"], vectors: Float[Tensor, "n c"], generator: torch.Generator) -> None:
        """Point dead latents at what is badly reconstructed (Bricken et al. 2023, "neuron resampling").

        Their new directions are residuals of vectors drawn with probability `∝ ‖x − x̃‖²`; their encoders are these
        times the mean norm of the living latents' encoders, their biases 0.
        """
        centred = self.centre(vectors)
        residual = self.goal(centred) - self.activate(self.latents(centred)) @ self.decoder
        count = int(dead.sum())
        # Drawn on the CPU, so that the draw is the same on every device.
        chance = residual.square().sum(1).cpu()
        drawn = torch.multinomial(chance, count, replacement=True, generator=generator).to(dead.device)
        directions = F.normalize(residual[drawn], dim=1)
        facing = self.facing(directions, centred[drawn])
        self.encoder[dead] = facing * self.encoder[~dead].norm(dim=1).mean().nan_to_num(1)
        self.decoder[dead] = directions
        self.bias[dead] = 0
        if self.log_threshold is not None:
            self.log_threshold[dead] = math.log(THRESHOLD)

    def facing(self, directions: Float[Tensor, "d g"], centred: Float[Tensor, "d c"]) -> Float[Tensor, "d r"]:
        """Unit encoders of latents that write ``directions``, what is missed of the vectors ``centred``."""
        return directions

    @torch.no_grad()
    def global_threshold(self, batches: Iterable[Float[Tensor, "n c"]]) -> Float[Tensor, ""]:
        """Mean over batches of the least positive code that batchtopk keeps (Bussmann et al. 2024); 0 where none is."""
        codes = (self.activate(self.latents(self.centre(batch))) for batch in batches)
        least = torch.stack([torch.where(code > 0, code, torch.inf).amin() for code in codes])
        least = least[least.isfinite()]
        return least.mean() if len(least) else self.bias.new_zeros(())


class Transcoder(SparseAutoencoder):
    """`u = a(W x + e)`, `ỹ = u D + b`: x is of another place than y, such as an MLP's input and its output.

    Rows are x and y of one position, the first ``width`` numbers being x. The loss is `‖y − ỹ‖²` in the place of
    `‖x − x̃‖²`, with the autoencoder's sparsity (Dunefsky, Chlenski & Nanda 2024, arXiv 2406.11944).
    """

    def __init__(
        self, directions: Float[Tensor, "k c"], activation: SaeActivation, l0: int, centred: bool, width: int
    ) -> None:
        super().__init__(F.normalize(directions[:, width:], dim=1), activation, l0, centred)
        self.width = width
        # A latent starts as one vector: it reads its x and writes its y.
        self.encoder = nn.Parameter(F.normalize(directions[:, :width], dim=1))

    def centre(self, vectors: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The rows with y less its bias b."""
        if self.pre_bias is None:
            return vectors
        return torch.cat([vectors[:, : self.width], vectors[:, self.width :] - self.pre_bias], 1)

    def read(self, centred: Float[Tensor, "n c"]) -> Float[Tensor, "n r"]:
        """X of the rows."""
        return centred[:, : self.width]

    def goal(self, centred: Float[Tensor, "n c"]) -> Float[Tensor, "n g"]:
        """Y of the rows."""
        return centred[:, self.width :]

    def facing(self, directions: Float[Tensor, "d g"], centred: Float[Tensor, "d c"]) -> Float[Tensor, "d r"]:
        """The x at which each was missed."""
        return F.normalize(self.read(centred), dim=1)


def nests(k: int) -> list[int]:
    """How many of k latents each nest of a matryoshka holds, the smallest first."""
    return sorted({max(1, k // part) for part in (16, 8, 4, 2, 1)})


def initial_directions(vectors: Float[Tensor, "n c"], k: int, generator: torch.Generator) -> Float[Tensor, "k c"]:
    """Unit vectors drawn from the data, all different: sooner good than random directions."""
    drawn = F.normalize(vectors[torch.randperm(len(vectors), generator=generator)[:k]], dim=1)
    noise = F.normalize(torch.randn(drawn.shape, generator=generator), dim=1)
    return F.normalize(drawn + JITTER * noise, dim=1)


@torch.no_grad()
def encode_sae(
    vectors: Float[Tensor, "*b n r"],
    concepts: Float[Tensor, "k c"],
    encoder: dict[str, Tensor],
    info: dict[str, Any],
) -> Float[Tensor, "*b n k"]:
    """Return the codes of vectors that come without mean and pre-bias, in the contract of `Dictionary.encode`.

    Those that a transcoder reads come as they are.

    batchtopk has a global threshold here, so that a vector's code is its own.
    """
    latents = F.linear(vectors, encoder["weight"], encoder["bias"])
    match SaeActivation(info["activation"]):
        case SaeActivation.relu:
            return latents.relu()
        case SaeActivation.topk | SaeActivation.matryoshka:
            kept = latents.topk(info["l0"])
            return torch.zeros_like(latents).scatter_(-1, kept.indices, kept.values.relu())
        case _:
            return torch.where(latents > encoder["threshold"], latents, 0.0)


def largest(values: Float[Tensor, "n m"], count: int) -> Float[Tensor, "n 1"]:
    """The `count`-th largest value of each row."""
    if values.device.type != "cpu":
        return values.topk(count).values[:, -1:]
    # Six times as fast as torch's on a CPU, where it would take most of a step.
    at = values.shape[1] - count
    return torch.from_numpy(np.partition(values.numpy(), at, axis=1)[:, at : at + 1])
