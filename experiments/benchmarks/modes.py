"""Reverse against forward mode over numbers of targets and units, and how often the engine's choice is the faster one.

    python experiments/benchmarks/modes.py --checkpoint CIFAR_RESNET20_WEIGHTS

Prints a table per segment (two of CIFAR ResNet-20, one of a ResNet-18 of 224 pixels with random weights): seconds of
either mode for T targets and Q source concepts of one image, the mode that ``cheaper_mode`` chooses, and whether it is
the faster one; then the share of cells in which it is, where modes within 5 % of one another count as right. The
constants of ``cheaper_mode`` were set from this. Times are of the process's CPU on one thread, the best of several.
"""

from __future__ import annotations

import argparse
import time

import torch
import torchvision
from torch.nn import functional as F

from vismech.attribution.engine import FORWARD, REVERSE, Settings, attribute, cheaper_mode
from vismech.attribution.sources import ConceptSource
from vismech.attribution.targets import ConceptTargets
from vismech.config.choices import Mode
from vismech.network.cut import Network, open_network
from vismech.network.pfv import layout_of
from vismech.sources.models import open_model

# One target and many, one concept and many, in even steps of a factor.
COUNTS = (1, 4, 16, 64)
MODES = (Mode.reverse, Mode.forward)


def seconds(
    network: Network, image: torch.Tensor, lower: str, upper: str, options: argparse.Namespace
) -> dict[tuple[int, int], dict[Mode, float]]:
    """Seconds of both modes in each cell (T, Q) of the grid."""
    generator = torch.Generator().manual_seed(0)
    found = network.activations(image, [lower, upper])
    below, above = (layout_of(network.shape(layer), layer) for layer in (lower, upper))
    vectors, outputs = below.vectors(found[lower]).contiguous(), above.vectors(found[upper])
    segment, cells = network.segment(lower, upper), {}
    for count in COUNTS:
        wanted = F.normalize(torch.randn(count, above.channels, generator=generator), dim=1)
        targets = ConceptTargets(wanted, (outputs @ wanted.T).argmax(1), above)
        for units in COUNTS:
            atoms = F.normalize(torch.randn(units, below.channels, generator=generator), dim=1)
            source = ConceptSource(atoms, vectors @ atoms.T / units, vectors)
            best = dict.fromkeys(MODES, float("inf"))
            for _ in range(options.repeats):
                for mode in MODES:
                    asked = Settings(steps=options.steps, rows=options.rows, mode=mode)
                    started = time.process_time()
                    attribute(segment, below, source, found[lower], targets, asked)
                    best[mode] = min(best[mode], time.process_time() - started)
            cells[count, units] = best
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cifar = open_model("cifar_resnet", "cifar_resnet20", checkpoint=options.checkpoint)
    cifar.module.to(memory_format=torch.channels_last)
    small = open_network(cifar.module, cifar.example)
    torch.manual_seed(0)  # torchvision draws its weights from the global generator
    residual = torchvision.models.resnet18().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, 224, 224).to(memory_format=torch.channels_last)
    large = open_network(residual, image)
    right = cells = 0
    print(f"REVERSE = {REVERSE}, FORWARD = {FORWARD}, {options.steps} steps")
    for network, batch, lower, upper in (
        (small, image[..., :32, :32], "layer1.1", "layer1.2"),
        (small, image[..., :32, :32], "layer3.0", "layer3.1"),
        (large, image, "layer3.0", "layer3.1"),
    ):
        print(f"\n{lower} → {upper}, {tuple(batch.shape[2:])} pixels")
        print(f"{'T':>4} {'Q':>4} {'reverse':>9} {'forward':>9}  chosen")
        for (targets, units), best in seconds(network, batch, lower, upper, options).items():
            chosen = cheaper_mode(targets, units)
            good = best[chosen] <= 1.05 * min(best.values())
            right, cells = right + good, cells + 1
            times = " ".join(f"{best[mode]:>9.3f}" for mode in MODES)
            print(f"{targets:>4} {units:>4} {times}  {chosen}{'' if good else '  slower'}", flush=True)
    print(f"\nthe faster mode was chosen in {right} of {cells} cells: {right / cells:.0%}")


if __name__ == "__main__":
    main()
