"""Our TopK autoencoder against overcomplete's: R² at the same L0, K, steps and batch size, on the same vectors.

    pip install --no-deps overcomplete einops
    python experiments/benchmarks/sae.py --cifar-root CIFAR10_TEST --weights CIFAR_RESNET20_WEIGHTS

Pointwise feature vectors of CIFAR ResNet-20's layer2.2 (32 positions of each of 1,000 test images); K = 8 C and
L0 = C / 4. Both train on the first 500 images, and R² is that of the other 500
(`vismech.measures.reconstruction.scores`).
Both get centred vectors, ours scaled by itself and theirs to unit mean square, and the same rise and fall of the
learning rate. overcomplete leaves the optimiser and the loss to its user: it gets Adam, its own auxiliary loss of dead
latents, and every learning rate of `--rates`, the best of which counts. Ours has its default. Prints R² of both, seed
by seed, their difference, and the processor seconds of ours divided by theirs; with `--curve`, R² of ours by steps.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from bisecting import pfvs
from torch import Tensor

from vismech.config.choices import Code, DataSource, ModelSource
from vismech.config.schema import SaeConfig
from vismech.dictionaries import build
from vismech.measures.reconstruction.scores import Reconstruction
from vismech.sources.data import open_data
from vismech.sources.models import open_model

DEFAULT = SaeConfig()


class Score(NamedTuple):
    r2: float
    l0: float
    dead: int
    seconds: float


def overcomplete_sae() -> ModuleType:
    """overcomplete.sae without the library's drawing, which needs OpenCV and a matplotlib before 3.9."""

    class Drawing(ModuleType):
        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return None

    sys.modules.setdefault("overcomplete.visualization", Drawing("overcomplete.visualization"))
    import overcomplete.sae

    return overcomplete.sae


def score(vectors: Tensor, codes: Tensor, reconstruction: Tensor, seconds: float) -> Score:
    metrics = Reconstruction(vectors.shape[1])
    metrics.update(vectors, codes, reconstruction)
    found = metrics.result()
    return Score(found.r2, found.l0, found.dead, seconds)


def ours(train: Tensor, test: Tensor, k: int, l0: int, steps: int, batch_size: int, seed: int) -> Score:
    started = time.process_time()
    options = {"activation": "topk", "l0_per_channel": l0 / train.shape[1], "steps": steps, "batch_size": batch_size}
    options |= {name: getattr(DEFAULT, name) for name in ("learning_rate", "warmup", "decay")}
    dictionary = build("sae", train, k, seed, code=Code.encoder, center=True, **options)
    seconds = time.process_time() - started
    codes = dictionary.encode(test)
    return score(test, codes[:, :-1], dictionary.decode(codes), seconds)


def theirs(
    train: Tensor, test: Tensor, k: int, l0: int, steps: int, batch_size: int, seed: int, learning_rate: float
) -> Score:
    peer = overcomplete_sae()
    mean = train.mean(0)
    scale = (train - mean).square().mean().sqrt()
    data = (train - mean) / scale

    def batches() -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        order = torch.empty(0, dtype=torch.long)
        for _ in range(steps):
            while len(order) < batch_size:
                order = torch.cat([order, torch.randperm(len(data), generator=generator)])
            yield data[order[:batch_size]]
            order = order[batch_size:]

    def rate(step: int) -> float:
        rise, fall = (step + 1) / (DEFAULT.warmup * steps), (steps - step) / (DEFAULT.decay * steps)
        return min(1.0, rise, fall)

    torch.manual_seed(seed)
    started = time.process_time()
    model = peer.TopKSAE(train.shape[1], k, top_k=l0)
    adam = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, rate)
    peer.train_sae(model, batches(), peer.losses.top_k_auxiliary_loss, adam, schedule, nb_epochs=1, monitoring=0)
    seconds = time.process_time() - started
    model.eval()
    with torch.no_grad():
        codes = model.encode((test - mean) / scale)[1]
        return score(test, codes, model.decode(codes) * scale + mean, seconds)


def compare(train: Tensor, test: Tensor, steps: int, batch_size: int, seeds: int, rates: list[float]) -> list[float]:
    """Differences of R², ours − theirs, for each seed."""
    c = train.shape[1]
    differences, times = [], []
    for seed in range(seeds):
        budget = (train, test, 8 * c, c // 4, steps, batch_size, seed)
        own = ours(*budget)
        others = {rate: theirs(*budget, learning_rate=rate) for rate in rates}
        best = max(others, key=lambda rate: others[rate].r2)
        other = others[best]
        differences.append(own.r2 - other.r2)
        times.append(own.seconds / other.seconds)
        print(f"seed {seed}: ours {own}\n  overcomplete at its best rate of {rates}, {best}: {other}")
    print(
        f"R² ours - theirs: least {min(differences):+.4f}, median {statistics.median(differences):+.4f}; "
        f"time ours / theirs {statistics.median(times):.2f} ({steps} steps of {batch_size})"
    )
    return differences


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar-root", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="safetensors of CIFAR ResNet-20")
    parser.add_argument("--layer", default="layer2.2")
    parser.add_argument("--steps", type=int, default=DEFAULT.steps)
    parser.add_argument("--batch-size", type=int, default=DEFAULT.batch_size)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-3, 5e-3, 1e-2])
    parser.add_argument("--curve", type=int, nargs="*", default=[], metavar="STEPS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model(ModelSource.cifar_resnet, "cifar_resnet20", checkpoint=options.weights)
    data = open_data(DataSource.cifar10, options.cifar_root, limit=1000)
    vectors = torch.from_numpy(pfvs(model, data, options.layer, 32))
    train, test = vectors.chunk(2)
    c = train.shape[1]
    for steps in options.curve:
        print(f"ours, {steps} steps: {ours(train, test, 8 * c, c // 4, steps, options.batch_size, 0)}")
    compare(train, test, options.steps, options.batch_size, options.seeds, options.rates)


if __name__ == "__main__":
    main()
