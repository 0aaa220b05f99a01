"""Train a compact convolutional transformer on CIFAR-10 JPEGs, taught by the CIFAR ResNet-20 (README.md here).

Loss: T²·KL(teacher ‖ student) at temperature T on the augmented images (Hinton et al. 2015). Stopped and started again,
it goes on from ``OUT/state.pt``. The cosine falls with the share of the epochs or of the time, whichever is further.
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
from torch.nn import functional as F
from torchvision.transforms.v2.functional import pil_to_tensor

from vismech.sources.cct import cct_3_3x2
from vismech.sources.cifar_resnet import CifarResNet
from vismech.sources.data import CIFAR10
from vismech.sources.pictures import IMAGENET_MEAN, IMAGENET_STD
from vismech.sources.weights import load_state, read_state

TEMPERATURE = 3.0


def load(root: Path) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, 3, 32, 32] of the class folders under ``root`` and their classes [N]."""
    files = [(file, label) for label, name in enumerate(CIFAR10) for file in sorted((root / name).iterdir())]
    images = torch.stack([pil_to_tensor(Image.open(file).convert("RGB")) for file, _ in files])
    return images, torch.tensor([label for _, label in files])


def normalise(images: Tensor) -> Tensor:
    """uint8 [B, 3, 32, 32] → the networks' input."""
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    return (images / 255 - mean) / std


def augment(images: Tensor, draw: torch.Generator) -> Tensor:
    """Each image shifted by up to 4 pixels (mirrored at the border) and flipped with probability ½."""
    n = len(images)
    padded = F.pad(images.float(), (4,) * 4, mode="reflect")
    rows, columns = (torch.randint(9, (n, 1), generator=draw) + torch.arange(32) for _ in range(2))
    flip = torch.rand(n, 1, generator=draw) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    return padded[torch.arange(n)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: Tensor, labels: Tensor) -> float:
    """Top-1 share over ``images`` (uint8)."""
    network.eval()
    right = sum(
        int((network(normalise(x)).argmax(1) == y).sum())
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    network.train()
    return right / len(images)


def main() -> None:
    """Train, and write ``weights.safetensors`` and ``log.jsonl``."""
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--train", type=Path, required=True, help="folder of class folders")
    p.add_argument("--test", type=Path, required=True)
    p.add_argument("--teacher", type=Path, required=True, help="CIFAR ResNet-20, safetensors")
    p.add_argument("--out", type=Path, required=True)
    p.add_argument("--epochs", type=int, default=40)
    p.add_argument("--minutes", type=float, default=70)
    p.add_argument("--batch", type=int, default=100)
    p.add_argument("--rate", type=float, default=1e-3)
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--bfloat16", action="store_true")
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    a.out.mkdir(parents=True, exist_ok=True)
    images, _ = load(a.train)
    test, test_labels = load(a.test)
    teacher = CifarResNet(20).eval().requires_grad_(False)
    load_state(teacher, read_state(a.teacher), str(a.teacher), "cifar_resnet20")
    teacher = teacher.to(memory_format=torch.channels_last)
    student = cct_3_3x2().to(memory_format=torch.channels_last)
    decayed = [q for q in student.parameters() if q.ndim == 2 or q.ndim == 4]
    other = [q for q in student.parameters() if q.ndim not in (2, 4)]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.03}, {"params": other, "weight_decay": 0.0}])
    steps = len(images) // a.batch
    epoch, spent, state = 0, 0.0, a.out / "state.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        student.load_state_dict(saved["student"])
        optimizer.load_state_dict(saved["optimizer"])
        epoch, spent = saved["epoch"], saved["spent"]
    share = 0.0
    while epoch < a.epochs and spent < 60 * a.minutes:
        start, total = time.monotonic(), 0.0
        draw = torch.Generator().manual_seed(1 + epoch)
        order = torch.randperm(len(images), generator=draw)
        for step in range(steps):
            seconds = spent + time.monotonic() - start
            share = min(1.0, max((epoch + step / steps) / a.epochs, seconds / (60 * a.minutes)))
            warm = min(1.0, (epoch * steps + step + 1) / (2 * steps))
            for group in optimizer.param_groups:
                group["lr"] = a.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))
            x = normalise(augment(images[order[step * a.batch : (step + 1) * a.batch]], draw))
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=a.bfloat16):
                with torch.no_grad():
                    target = teacher(x).float()
                logits = student(x).float()
            loss = TEMPERATURE**2 * F.kl_div(
                (logits / TEMPERATURE).log_softmax(1), (target / TEMPERATURE).softmax(1), reduction="batchmean"
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            total += float(loss.detach())
            if share >= 1:
                break
        epoch, spent = epoch + 1, spent + time.monotonic() - start
        told = {
            "epoch": epoch,
            "loss": round(total / steps, 4),
            "accuracy": round(accuracy(student, test, test_labels), 4),
            "share": round(share, 3),
            "images_per_second": round(len(images) / (time.monotonic() - start)),
            "minutes": round(spent / 60, 1),
        }
        with (a.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(told) + "\n")
        partial = state.with_suffix(".partial")
        saved = {"student": student.state_dict(), "optimizer": optimizer.state_dict(), "epoch": epoch, "spent": spent}
        torch.save(saved, partial)
        partial.rename(state)
        save_file(
            {key: value.contiguous() for key, value in student.state_dict().items()}, a.out / "weights.safetensors"
        )


if __name__ == "__main__":
    main()
