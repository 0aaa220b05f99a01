"""Train the manifold that Manifold IG runs on: a small convolutional variational autoencoder of CIFAR-10 images.

    python experiments/paths/vae.py --train CIFAR10_TRAIN --test CIFAR10_TEST --out OUT

Loss per image: ``½ ‖x − x̂‖² + β · KL(q(z | x) ‖ N(0, 1))`` with x normalised as the networks' input and the sum over
all numbers: an evidence lower bound whose likelihood is Gaussian with variance 1 for β = 1. Stopped and started again,
it goes on from ``OUT/state.pt``; seeded, so that epochs are the same whether it was stopped or not. At the end it
prints what is missed of the test images, beside the training images' mean and principal components; how much of the way
from the mean colour to an image the manifold leaves over, which Manifold IG adds evenly along its path; and how that
path differs from the straight one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor

from vismech.attribution.autoencoder import Autoencoder, read
from vismech.attribution.bent import geodesic
from vismech.sources.data import CIFAR10
from vismech.sources.pictures import IMAGENET_MEAN, IMAGENET_STD

SIDE = 32
STEPS, ITERATIONS = 32, 20
"""Of the paths that are told of, which are Manifold IG's defaults."""


def load(root: Path) -> Tensor:
    """Images of the class folders under ``root``, normalised as the networks' input [N, 3, 32, 32]."""
    files = [file for name in CIFAR10 for file in sorted((root / name).iterdir())]
    images = torch.stack([pil_to_tensor(Image.open(file).convert("RGB")) for file in files])
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


def loss_of(model: Autoencoder, images: Tensor, beta: float, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mean over images of reconstruction and of the divergence, whose sum with β is the loss."""
    mean, log_variance = model.posterior(images)
    latent = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=draw)
    missed = (model.rebuilt(latent) - images).square().flatten(1).sum(1) / 2
    divergence = (mean.square() + log_variance.exp() - 1 - log_variance).sum(1) / 2
    return missed.mean(), divergence.mean()


@torch.no_grad()
def told(model: Autoencoder, train: Tensor, test: Tensor) -> dict[str, float]:
    """What is missed: shares of the test images' squared distance to the training images' mean; lengths: shares of the
    images' own, which is the straight way's."""
    numbers, other = train.flatten(1), test.flatten(1)
    mean = numbers.mean(0)
    latent = model.from_latent.in_features
    centred = numbers - mean
    axes = torch.linalg.eigh((centred.T @ centred).double()).eigenvectors[:, -latent:].float()
    away = other - mean
    whole = away.square().sum()

    def rebuilt(images: Tensor) -> Tensor:
        return torch.cat([model.rebuilt(model.posterior(some).mean) for some in images.split(500)]).flatten(1)

    found = rebuilt(test)
    start = torch.zeros_like(test[:1])
    left = (other - found) + rebuilt(start)
    ways = []
    for image in test[:: max(1, len(test) // 20)][:20].flatten(2).transpose(1, 2):
        corners = geodesic(model, torch.zeros_like(image), image, STEPS, ITERATIONS)
        share = torch.arange(STEPS + 1)[:, None, None] / STEPS
        off = (corners - share * image).flatten(1).norm(dim=1).max()
        ways.append(torch.stack([corners.diff(dim=0).flatten(1).norm(dim=1).sum(), off]) / image.norm())
    length, off = torch.stack(ways).mean(0).tolist()
    spread = torch.cat([model.posterior(some).log_variance.exp() for some in test.split(500)]).mean(0)
    return {
        "missed": float((other - found).square().sum() / whole),
        "missed_by_the_mean_image": 1.0,
        "missed_by_principal_components": float((away - away @ axes @ axes.T).square().sum() / whole),
        "latent": float(latent),
        "latent_in_use": float((spread < 0.9).sum()),
        "remainder_of_the_way": float((left.norm(dim=1) / other.norm(dim=1)).mean()),
        "path_length": length,
        "path_off_the_straight_one": off,
        "start_missed": float(rebuilt(start).norm() / other.norm(dim=1).mean()),
    }


def main() -> None:
    """Train, and write ``vae.safetensors`` (half precision) and ``vae.jsonl``."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--train", type=Path, required=True, help="folder of class folders")
    p.add_argument("--test", type=Path, required=True, help="images that it is not trained on")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--epochs", type=int, default=25)
    p.add_argument("--batch", type=int, default=50)
    p.add_argument("--rate", type=float, default=2e-3)
    p.add_argument("--beta", type=float, default=1.0)
    p.add_argument("--latent", type=int, default=128)
    p.add_argument("--widths", type=int, nargs="+", default=[32, 64, 96])
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--threads", type=int, default=1)
    a = p.parse_args()
    for folder in (a.train, a.test):
        if not any(folder.glob("*/*")):
            p.error(f"{folder} has no images in folders of classes: give the folders of CIFAR-10's")
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    a.out.mkdir(parents=True, exist_ok=True)
    train, test = load(a.train), load(a.test)
    model = Autoencoder(SIDE, 3, a.widths, a.latent)
    optimizer = torch.optim.Adam(model.parameters(), lr=a.rate)
    epoch, spent, state = 0, 0.0, a.out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch, spent = saved["epoch"], saved["spent"]
    steps = len(train) // a.batch
    while epoch < a.epochs:
        started, sums = time.process_time(), torch.zeros(2)
        draw = torch.Generator().manual_seed(a.seed + 1 + epoch)
        order = torch.randperm(len(train), generator=draw)
        for step in range(steps):
            share = (epoch + step / steps) / a.epochs
            for group in optimizer.param_groups:
                group["lr"] = a.rate * min(1.0, (epoch * steps + step + 1) / 200) * (1 + math.cos(math.pi * share)) / 2
            images = train[order[step * a.batch : (step + 1) * a.batch]]
            flip = torch.rand(len(images), 1, 1, 1, generator=draw) < 0.5
            missed, divergence = loss_of(model, torch.where(flip, images.flip(3), images), a.beta, draw)
            optimizer.zero_grad()
            (missed + a.beta * divergence).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 200.0)
            optimizer.step()
            sums += torch.stack([missed, divergence]).detach() / steps
        epoch, spent = epoch + 1, spent + time.process_time() - started
        line = {"epoch": epoch, "reconstruction": round(float(sums[0]), 2), "divergence": round(float(sums[1]), 2)}
        with (a.out / "vae.jsonl").open("a") as log:
            log.write(
                json.dumps(
                    {**line, "loss": round(float(sums[0] + a.beta * sums[1]), 2), "minutes": round(spent / 60, 2)}
                )
                + "\n"
            )
        partial = state.with_suffix(".partial")
        saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "spent": spent}
        torch.save(saved, partial)
        partial.rename(state)
    save_file(
        {name: value.half().contiguous() for name, value in model.state_dict().items()}, a.out / "vae.safetensors"
    )
    for name, value in told(read(str(a.out / "vae.safetensors")), train, test).items():
        print(f"{name} {value:.3g}")


if __name__ == "__main__":
    main()
