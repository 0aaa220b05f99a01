"""Cost of the attribution engine: more weights, more steps, and captum at the same task.

    python experiments/benchmarks/engine.py --checkpoint CIFAR_RESNET20_WEIGHTS

Prints (a) the time of all four weights in one pass divided by that of plain ig, per pair of blocks of CIFAR ResNet-20;
(b) peak memory with 256 steps divided by that with 32, each in a process of its own; (c) on a ResNet-18 of 224 pixels
with random weights, layer3.0 → layer3.1, the time of captum's LayerIntegratedGradients, called once per target, divided
by that of the engine, for 64 targets and 200 source concepts, with the largest difference between their edges.

Times are of the process's CPU, one thread, so that a busy machine disturbs them less; sides take turns. In (c) both
sides start at the activation of a zero image, which is captum's own baseline, and take 32 midpoint steps with as many
path points per pass; captum is given a model that ends at layer3.1, and its mean gradients are contracted with the same
codes by the same function. Ours includes the activations of both images, and the codes, as captum's side does.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torchvision
from captum.attr import LayerIntegratedGradients
from torch import Tensor, nn
from torch.nn import functional as F

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import ConceptSource, UnitSource, concept_edges
from vismech.attribution.targets import ConceptTargets
from vismech.config.choices import Along, Mode, PathWeight, SourceKind
from vismech.measures.saturation.scores import WEIGHTS
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of
from vismech.passes.memory import keep_freed_memory
from vismech.sources.models import open_model

STEPS, ROWS = 32, 64


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


class Compared(NamedTuple):
    """Medians over the turns: of either side's seconds, and of slow / fast within a turn."""

    fast: float
    slow: float
    ratio: float


def compared(fast: Callable[[], object], slow: Callable[[], object], repeats: int) -> Compared:
    """Both sides' times; they take turns, and the first turn only warms up."""
    turns = [(seconds(fast), seconds(slow)) for _ in range(repeats + 1)][1:]
    ratios = [second / first for first, second in turns]
    return Compared(*(statistics.median(times) for times in zip(*turns, strict=True)), statistics.median(ratios))


class Problem:
    """Random images and targets between two layers of CIFAR ResNet-20."""

    def __init__(self, checkpoint: str, lower: str, upper: str, images: int, targets: int) -> None:
        model = open_model("cifar_resnet", "cifar_resnet20", checkpoint=checkpoint)
        model.module.to(memory_format=torch.channels_last)
        network = open_network(model.module, model.example)
        generator = torch.Generator().manual_seed(0)
        found = network.activations(torch.randn(images, 3, 32, 32, generator=generator), [lower, upper])
        self.layout, above = (layout_of(network.shape(layer), layer) for layer in (lower, upper))
        self.segment, self.clean = network.segment(lower, upper), found[lower]
        atoms = F.normalize(torch.randn(targets, above.channels, generator=generator), dim=1)
        self.targets = ConceptTargets(atoms, (above.vectors(found[upper]) @ atoms.T).argmax(1), above)
        self.source = UnitSource(SourceKind.channels, self.layout.vectors(self.clean).contiguous())

    def __call__(self, weights: tuple[PathWeight, ...], steps: int) -> object:
        asked = Settings(steps=steps, weights=weights, mode=Mode.reverse, rows=ROWS)
        return attribute(self.segment, self.layout, self.source, self.clean, self.targets, asked)


def weights(options: argparse.Namespace) -> None:
    for pair in (("layer1.1", "layer1.2"), ("layer2.1", "layer2.2"), ("layer3.0", "layer3.1")):
        problem = Problem(options.checkpoint, *pair, images=16, targets=8)
        one, four = (partial(problem, wanted, STEPS) for wanted in ((PathWeight.ig,), WEIGHTS))
        print(f"four weights / ig, {' → '.join(pair)}: {compared(one, four, options.repeats).ratio:.3f}")


def memory() -> None:
    peaks = {}
    for steps in (32, 256):
        command = [sys.executable, __file__, *sys.argv[1:], "--only-steps", str(steps)]
        peaks[steps] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    print(f"peak memory 256 / 32 steps: {peaks[256] / peaks[32]:.3f} ({peaks[256] >> 10} MiB, {peaks[32] >> 10} MiB)")


class UpTo(nn.Module):
    """A ResNet up to its layer3.1, read out as targets."""

    def __init__(self, model: nn.Module, targets: ConceptTargets) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(getattr(model, name) for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3"))
        )
        self.targets = targets

    def forward(self, images: Tensor) -> Tensor:
        return self.targets(self.body(images), torch.zeros(len(images), dtype=torch.long))


def against_captum(options: argparse.Namespace) -> None:
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)  # torchvision draws its weights from the global generator
    model = torchvision.models.resnet18().eval().requires_grad_(False)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.copy_(0.1 * torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
    model.to(memory_format=torch.channels_last)
    image = torch.randn(1, 3, 224, 224, generator=generator).to(memory_format=torch.channels_last)
    lower, upper = "layer3.0", "layer3.1"
    network = open_network(model, image)
    below, above = (layout_of(network.shape(layer), layer) for layer in (lower, upper))
    atoms = F.normalize(torch.randn(200, below.channels, generator=generator), dim=1)
    wanted = F.normalize(torch.randn(options.targets, above.channels, generator=generator), dim=1)
    places = (above.vectors(network.activations(image, [upper])[upper]) @ wanted.T).argmax(1)
    targets = ConceptTargets(wanted, places, above)
    segment, wrapped = network.segment(lower, upper), UpTo(model, targets)
    captum = LayerIntegratedGradients(wrapped, model.layer3[0], multiply_by_inputs=False)

    def coded() -> ConceptSource:
        clean, start = (network.activations(batch, [lower])[lower] for batch in (image, torch.zeros_like(image)))
        vectors, first = below.vectors(clean).contiguous(), below.vectors(start).contiguous()
        codes, first_codes = ((some @ atoms.T).relu() for some in (vectors, first))
        return ConceptSource(atoms, codes, vectors, Along.activation, first_codes, first)

    def ours() -> Tensor:
        source = coded()
        clean = below.activation(source.vectors, source.vectors)
        asked = Settings(steps=STEPS, rows=STEPS)
        return attribute(segment, below, source, clean, targets, asked).edges[PathWeight.ig].units

    def theirs() -> Tensor:
        gradients = [
            captum.attribute(image, target=target, n_steps=STEPS, method="riemann_middle")
            for target in range(options.targets)
        ]
        mean = torch.stack([below.vectors(gradient) for gradient in gradients], 1)
        return concept_edges(coded().code_directions[0], mean, atoms)

    fast, slow, ratio = compared(ours, theirs, options.captum_repeats)
    mine, other = ours(), theirs()
    difference = float((mine - other).abs().max() / other.abs().max())
    print(
        f"captum / engine, {options.targets} targets × 200 concepts: {ratio:.1f} ({slow:.2f} s, {fast:.2f} s); "
        f"largest difference of edges: {difference:.1e} of the largest edge"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--targets", type=int, default=64, help="targets of (c)")
    parser.add_argument("--captum-repeats", type=int, default=2)
    parser.add_argument("--only-steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every run does
    if options.only_steps:
        Problem(options.checkpoint, "layer1.1", "layer1.2", images=4, targets=8)(WEIGHTS, options.only_steps)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return
    weights(options)
    memory()
    against_captum(options)


if __name__ == "__main__":
    main()
