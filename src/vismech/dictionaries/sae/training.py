"""Training of sparse autoencoders over vectors in memory, on one device.

Legend: n vectors, k latents (concepts), c channels.

Everything random is drawn by generators seeded with (seed, purpose, number), so a step depends on nothing but the
model, the optimiser and the step's number: these are what a checkpoint holds, and training continues from it exactly.
"""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vismech.config.choices import SaeActivation
from vismech.dictionaries.base import Fitted
from vismech.dictionaries.canonical import canonical, require_distinct
from vismech.dictionaries.coding import l0_of
from vismech.dictionaries.sae.model import SparseAutoencoder, Transcoder, initial_directions
from vismech.errors import UserError
from vismech.passes.progress import Meter
from vismech.passes.threads import one_thread

log = logging.getLogger(__name__)
CHECKPOINT = ".training.pt"
# Steps between checkpoints; a NaN is found there, too.
CHECKPOINT_STEPS = 500
# A latent that was silent for this share of the steps is dead and revived; not while the learning rate falls.
PATIENCE = 0.05
# Vectors among which dead latents find their new directions, and batches over which batchtopk's threshold is averaged.
REVIVAL_VECTORS, THRESHOLD_BATCHES = 8192, 100


@dataclass(frozen=True)
class Schedule:
    """How to train; see `SaeConfig` for the fields.

    Raises:
        UserError: for values that no training can have.
    """

    seed: int
    sparsity: float
    steps: int
    batch_size: int
    learning_rate: float
    warmup: float
    decay: float

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"dictionary.sae.{name} is {getattr(self, name)}: set it to at least 1.")
        if not self.learning_rate > 0:
            raise UserError(f"dictionary.sae.learning_rate is {self.learning_rate}: set it above 0, such as 0.01.")
        if not self.sparsity >= 0:
            raise UserError(f"dictionary.sae.sparsity is {self.sparsity}: set it to at least 0.")
        if not (self.warmup >= 0 and self.decay >= 0 and self.warmup + self.decay <= 1):
            raise UserError(
                f"dictionary.sae.warmup={self.warmup} and decay={self.decay} are shares of the steps: set both to at "
                "least 0, with a sum of at most 1."
            )

    @property
    def patience(self) -> int:
        """Silent steps after which a latent is dead."""
        return max(1, round(PATIENCE * self.steps))

    def rise(self, step: int) -> float:
        """What the learning rate and the sparsity are multiplied by while they rise."""
        return min(1.0, (step + 1) / max(1.0, self.warmup * self.steps))

    def fall(self, step: int) -> float:
        """What the learning rate is multiplied by while it falls."""
        return min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))

    def generator(self, purpose: str, number: int) -> torch.Generator:
        """A generator on the CPU of its own for each purpose and number."""
        digest = hashlib.blake2b(f"{self.seed} {purpose} {number}".encode(), digest_size=7).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest, "big"))


class Batches:
    """Batches `first` … `last - 1` of an endless sequence: the vectors in random order, then in another, and so on."""

    def __init__(self, vectors: Float[Tensor, "n c"], plan: Schedule, first: int, last: int) -> None:
        self.vectors, self.plan, self.first, self.last = vectors, plan, first, last

    def __len__(self) -> int:
        return self.last - self.first

    def __iter__(self) -> Iterator[Float[Tensor, "batch c"]]:
        n, size = len(self.vectors), self.plan.batch_size
        epoch, order = -1, torch.empty(0, dtype=torch.long)
        for batch in range(self.first, self.last):
            parts, at, end = [], batch * size, (batch + 1) * size
            while at < end:
                if at // n != epoch:
                    epoch = at // n
                    order = torch.randperm(n, generator=self.plan.generator("epoch", epoch)).to(self.vectors.device)
                stop = min(end, (epoch + 1) * n)
                parts.append(order[at - epoch * n : stop - epoch * n])
                at = stop
            yield self.vectors[torch.cat(parts)]


class SaeTraining(nn.Module):
    """Trains an autoencoder on scaled vectors: Adam, unit-norm decoder, revival of dead latents, checkpoints."""

    idle: Tensor

    def __init__(
        self, model: SparseAutoencoder, vectors: Float[Tensor, "n c"], plan: Schedule, folder: Path | None, meter: Meter
    ) -> None:
        super().__init__()
        self.model, self.vectors, self.plan, self.meter = model, vectors, plan, meter
        self.path = None if folder is None else folder / CHECKPOINT
        self.done, self.revived = 0, 0
        self.register_buffer("idle", torch.zeros(len(model.bias), dtype=torch.long))
        self.adam = torch.optim.Adam(model.parameters(), lr=plan.learning_rate, fused=True)
        if self.path is not None and self.path.is_file():
            untrained = copy.deepcopy((self.state_dict(), self.adam.state_dict()))
            try:
                self.restore(self.path)
            except Exception as error:  # whatever a damaged file makes of torch's reader
                log.warning("%s cannot be read (%s): training starts anew", self.path, type(error).__name__)
                self.load_state_dict(untrained[0])
                self.adam.load_state_dict(untrained[1])
                self.done, self.revived = 0, 0

    def run(self) -> None:
        """Take the steps that are left: revive, and write a checkpoint, when it is time."""
        for batch in Batches(self.vectors, self.plan, self.done, self.plan.steps):
            for group in self.adam.param_groups:
                group["lr"] = self.plan.learning_rate * self.plan.rise(self.done) * self.plan.fall(self.done)
            self.adam.zero_grad()
            self.loss(batch).backward()
            self.model.constrain_gradient()
            self.adam.step()
            self.model.normalize()
            self.done += 1
            if self.done % self.plan.patience == 0 and self.plan.fall(self.done) == 1:
                self.revive()
            if self.done % CHECKPOINT_STEPS == 0 or self.done == self.plan.steps:
                self.require_finite()
                self.checkpoint()
            self.meter.advance()

    def loss(self, batch: Float[Tensor, "batch c"]) -> Tensor:
        """`mean ‖x − x̃‖² + sparsity × penalty` of vectors with mean ‖x‖² = 1; notes which latents are idle."""
        centred = self.model.centre(batch)
        latents = self.model.latents(centred)
        codes = self.model.activate(latents)
        loss = self.model.unexplained(centred, codes)
        penalty = self.model.penalty(latents, codes)
        if penalty is not None:
            loss = loss + self.plan.sparsity * self.plan.rise(self.done) * penalty
        self.idle.add_(1).masked_fill_(codes.detach().amax(0) > 0, 0)
        return loss

    def require_finite(self) -> None:
        """Refuse to go on with parameters that are not finite."""
        if not bool(torch.stack([parameter.isfinite().all() for parameter in self.model.parameters()]).all()):
            raise UserError(
                f"sae: training diverged before step {self.done} with learning_rate={self.plan.learning_rate}: "
                "lower dictionary.sae.learning_rate or raise warmup."
            )

    def revive(self) -> None:
        """Give dead latents new directions, and Adam no memory of the old ones."""
        self.require_finite()
        dead = self.idle >= self.plan.patience
        if not bool(dead.any()):
            return
        generator = self.plan.generator("revival", self.done)
        drawn = torch.randint(len(self.vectors), (REVIVAL_VECTORS,), generator=generator)
        self.model.revive(dead, self.vectors[drawn.to(dead.device)], generator)
        for parameter, state in self.adam.state.items():
            for moment in (state["exp_avg"], state["exp_avg_sq"]):
                if parameter is not self.model.pre_bias:
                    moment[dead] = 0
        self.idle[dead] = 0
        self.revived += int(dead.sum())

    def checkpoint(self) -> None:
        """Write everything that the remaining steps depend on, whole or not at all."""
        if self.path is None:
            return
        numbers = {"done": self.done, "revived": self.revived}
        state = {"module": self.state_dict(), "adam": self.adam.state_dict(), "numbers": numbers}
        partial = self.path.with_name(self.path.name + ".partial")
        torch.save(state, partial)
        os.replace(partial, self.path)

    def restore(self, path: Path) -> None:
        """Continue where a checkpoint was written."""
        state = torch.load(path, map_location=self.vectors.device, weights_only=True)
        self.load_state_dict(state["module"])
        self.adam.load_state_dict(state["adam"])
        self.done, self.revived = state["numbers"]["done"], state["numbers"]["revived"]


def fit_sae(
    vectors: Float[Tensor, "n c"],
    k: int,
    *,
    seed: int,
    center: bool = False,
    device: str | torch.device = "cpu",
    activation: str = "topk",
    l0_per_channel: float = 0.25,
    sparsity: float = 0.01,
    steps: int = 6_000,
    batch_size: int = 256,
    learning_rate: float = 4e-3,
    warmup: float = 0.05,
    decay: float = 0.2,
    folder: Path | None = None,
    title: str = "sae",
    width: int = 0,
) -> Fitted:
    """Train a sparse autoencoder; its decoder's rows are the concepts. See `SparseAutoencoder` and `SaeConfig`.

    With `center` the vectors come centred, and what the learnt pre-bias adds to their mean is returned as `shift`.
    Training sees the vectors in a canonical order and scaled to mean ‖x‖² = 1, the scale going into the codes. In
    `folder`, a checkpoint is kept in a dot file, from which the same call continues; the result is the same bytes.
    The first `width` numbers of a vector are read and not rebuilt: a `Transcoder`, see `fit_transcoder`.

    Raises:
        UserError: for fewer distinct vectors than k, more active latents than k, options out of their range, values
            that are not finite, or training that diverges.
    """
    plan = Schedule(seed, sparsity, steps, batch_size, learning_rate, warmup, decay)
    channels = vectors.shape[1] - width
    l0 = l0_of(l0_per_channel, channels)
    if not (l0_per_channel > 0 and l0 <= k):
        raise UserError(
            f"sae: l0_per_channel={l0_per_channel} asks for {l0} active latents of {k} with {channels} channels: set "
            f"dictionary.sae.l0_per_channel above 0 and at most {k / channels:g}, or raise k."
        )
    chosen, device = SaeActivation(activation), torch.device(device)
    with one_thread(), closing(Meter(title, steps)) as meter:
        found = canonical(vectors, "sae", unit=False)
        require_distinct("sae", k, found, len(vectors), "values")
        scale = found.vectors[:, width:].square().sum(1, dtype=torch.float64).mean().sqrt().item()
        data = found.vectors / scale
        directions = initial_directions(data, k, plan.generator("directions", 0))
        how = chosen, l0, center
        model = Transcoder(directions, *how, width) if width else SparseAutoencoder(directions, *how)
        model = model.to(device)
        training = SaeTraining(model, data.to(device), plan, folder, meter).to(device)
        meter.count = training.done
        with torch.enable_grad():
            training.run()
        model.requires_grad_(False)
        encoder = {"weight": model.encoder, "bias": scale * model.bias}
        if model.log_threshold is not None:
            encoder["threshold"] = scale * model.log_threshold.exp()
        if chosen is SaeActivation.batchtopk:
            batches = Batches(training.vectors, plan, 0, THRESHOLD_BATCHES)
            encoder["threshold"] = scale * model.global_threshold(batches)[None]
    info: dict[str, Any] = {"activation": chosen.value, "revived": training.revived}
    if chosen in (SaeActivation.topk, SaeActivation.batchtopk, SaeActivation.matryoshka):
        info["l0"] = l0
    encoder = {name: array.cpu() for name, array in encoder.items()}
    shift = None if model.pre_bias is None else scale * model.pre_bias.cpu()
    return Fitted(model.decoder.cpu(), {}, info, encoder, shift)
