"""Plant a shortcut in CIFAR ResNet-20: a stamp in a corner of one class's training images, and a twin without it.

    python experiments/shortcut/plant.py --train CIFAR10_TRAIN --test CIFAR10_TEST --checkpoint WEIGHTS \\
        --out FOLDER --planted airplane --seed 0

Two networks are fine-tuned from the same weights on the same images in the same order: in ``planted`` the stamp is on
95 % of one class's images and on no other, in ``twin`` on as many images of all classes together. ``FOLDER`` gets the
weights of both, ``train/`` and ``test/`` as folders of PNG files (about every second test image carries the stamp,
whatever its class), and for each a table ``*_groups.csv`` of sample id and ``stamp``. What is there is not made again.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from vismech.draws import generator_of, seed_of
from vismech.sources.cifar_resnet import CifarResNet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIDE, SHARE = 5, 0.95


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("train", "test", "checkpoint", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--planted", required=True, help="the class, by the name of its folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rate", type=float, default=0.06)
    parser.add_argument("--shown", type=int, default=2_000, help="training images written for the analysis")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    names, train, labels, ids = read(args.train, args.images)
    target = names.index(args.planted)
    biased = np.zeros(len(train), bool)
    own = np.flatnonzero(labels == target)
    draw = generator_of("stamp", args.seed)
    biased[draw.permutation(own)[: round(SHARE * len(own))]] = True
    fair = np.zeros(len(train), bool)
    fair[draw.permutation(len(train))[: biased.sum()]] = True
    _, test, truth, test_ids = read(args.test, None)
    stamped = np.array([seed_of("test", sample) % 2 == 0 for sample in test_ids])
    write(args.out / "test", stamp(test, stamped), test_ids, stamped)
    shown = np.sort(generator_of("shown", args.seed).permutation(len(train))[: args.shown])
    write(args.out / "train", stamp(train[shown], biased[shown]), [ids[row] for row in shown], biased[shown])
    found = {}
    for kind, which in (("planted", biased), ("twin", fair)):
        path = args.out / f"{kind}.safetensors"
        model = CifarResNet(20)
        if path.exists():
            model.load_state_dict(load_file(path))
        else:
            model.load_state_dict(load_file(args.checkpoint))
            fine_tune(model, stamp(train, which), labels, args)
            save_file(model.state_dict(), path)
        with_it, without = (predictions(model, stamp(test, np.full(len(test), on))) for on in (True, False))
        other = truth != target
        found[kind] = {
            "stamped, other classes": float((with_it == truth)[other].mean()),
            "unstamped, other classes": float((without == truth)[other].mean()),
            "unstamped": float((without == truth).mean()),
            "stamped, answered as the planted class": float((with_it == target)[other].mean()),
        }
        print(kind, json.dumps(found[kind]), flush=True)
    (args.out / "accuracy.json").write_text(json.dumps(found, indent=2) + "\n")


def read(root: Path, count: int | None) -> tuple[list[str], Tensor, np.ndarray, list[str]]:
    """Class names, images [n, 3, 32, 32] as bytes, labels and sample ids; ``count`` of them, as many of each class."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    each = None if count is None else count // len(names)
    files = [(path, label) for label, name in enumerate(names) for path in sorted((root / name).iterdir())[:each]]
    images = torch.stack([torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path, _ in files])
    ids = [f"{path.parent.name}/{path.stem}.png" for path, _ in files]
    return names, images.permute(0, 3, 1, 2).contiguous(), np.array([label for _, label in files]), ids


def stamp(images: Tensor, which: np.ndarray) -> Tensor:
    """A chequered square of yellow and magenta, one pixel from the lower right corner."""
    images, here = images.clone(), torch.from_numpy(np.flatnonzero(which))
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    even = ((rows // 2 + columns // 2) % 2 == 0)[None]
    first, second = (
        torch.tensor(colour, dtype=torch.uint8)[:, None, None] for colour in ((255, 230, 0), (230, 0, 255))
    )
    images[here, :, -SIDE - 1 : -1, -SIDE - 1 : -1] = torch.where(even, first, second)
    return images


def write(folder: Path, images: Tensor, ids: list[str], which: np.ndarray) -> None:
    """PNG files in folders of classes, and the table that says which carry the stamp."""
    for sample, image in zip(ids, images, strict=True):
        path = folder / sample
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    with (folder.parent / f"{folder.name}_groups.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["id", "stamp"])
        table.writerows([sample, int(on)] for sample, on in zip(ids, which, strict=True))


def normalised(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(part)[:, None, None] for part in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def fine_tune(model: nn.Module, images: Tensor, labels: np.ndarray, args: argparse.Namespace) -> None:
    """SGD with momentum and a cosine schedule; images are shifted by up to one pixel, which keeps the stamp whole."""
    generator = torch.Generator().manual_seed(seed_of("fine-tuning", args.seed) % 2**63)
    truth, size = torch.from_numpy(labels), 128
    steps = args.epochs * -(-len(images) // size)
    optimiser = torch.optim.SGD(model.parameters(), args.rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    model.train()
    for epoch in range(args.epochs):
        for rows in torch.randperm(len(images), generator=generator).split(size):
            batch = F.pad(images[rows], (1, 1, 1, 1))
            down, right = torch.randint(3, (2,), generator=generator).tolist()
            batch = normalised(batch[:, :, down : down + 32, right : right + 32])
            loss = F.cross_entropy(model(batch), truth[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
        print(f"epoch {epoch + 1}: loss of the last batch {loss.item():.3f}", flush=True)
    model.eval()


@torch.no_grad()
def predictions(model: nn.Module, images: Tensor) -> np.ndarray:
    """The class of each image."""
    model.eval()
    return torch.cat([model(normalised(some)).argmax(1) for some in images.split(500)]).numpy()


if __name__ == "__main__":
    main()
