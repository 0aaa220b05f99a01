"""Cost of a trace with folded batch norms, and in windows, against that through the same segments as they are.

    python experiments/benchmarks/folded_norms.py

Prints, per network and pair of layers, CPU seconds of one thread of Generalized Integrated Gradients (32 midpoints, 8
concepts as targets, or the class) divided by those of whole maps without folding: with batch norms folded alone, and as
a run does it, which also passes only the windows that a target's position depends on; the first ratio of a pass forward
alone; and the largest difference between the edges of a run and of whole maps, over the largest edge. Sides take turns;
the median ratio of the turns is printed. Weights and moments are random: what a pass costs does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.sources import UnitSource
from vismech.attribution.targets import ConceptTargets, LogitTargets, Targets
from vismech.config.choices import Mode, PathWeight, SourceKind
from vismech.network.cut import LOGITS, Network, open_network
from vismech.network.pfv import layout_of
from vismech.passes.memory import keep_freed_memory
from vismech.sources.models import open_model

STEPS, TARGETS = 32, 8


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, list[tuple[str, str]]]] = {
    "CIFAR ResNet-20": (
        lambda: open_model("cifar_resnet", "cifar_resnet20", weights=None).module,
        32,
        [
            ("layer1.1", "layer1.2"),
            ("layer1.2", "layer2.0"),
            ("layer2.1", "layer2.2"),
            ("layer3.0", "layer3.1"),
            ("layer1.2", LOGITS),
        ],
    ),
    "EfficientNet-Lite0": (
        lambda: timm.create_model("tf_efficientnet_lite0"),
        224,
        [("blocks.1", "blocks.2"), ("blocks.2", "blocks.4"), ("blocks.4", "blocks.6"), ("blocks.2", LOGITS)],
    ),
    "ResNet-50": (
        torchvision.models.resnet50,
        224,
        [
            ("layer1.2", "layer2.0"),
            ("layer2.2", "layer2.3"),
            ("layer3.2", "layer3.5"),
            ("layer4.1", "layer4.2"),
            ("layer3.3", LOGITS),
        ],
    ),
}


def opened(build: Callable[[], nn.Module], size: int) -> Network:
    """A network of random weights whose moments are not those that it begins with."""
    torch.manual_seed(0)
    model = build().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d) and part.running_mean is not None and part.running_var is not None:
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return open_network(model, torch.zeros(1, 3, size, size))


class Case:
    """One pair of layers of a network, with and without folded norms."""

    def __init__(self, network: Network, lower: str, upper: str, size: int, images: int, rows: int) -> None:
        generator = torch.Generator().manual_seed(0)
        batch = torch.randn(images, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
        found = network.activations(batch, [lower, upper])
        self.layout, self.clean, self.rows = layout_of(network.shape(lower), lower), found[lower], rows
        folded, plain = (network.segment(lower, upper, folded=fold) for fold in (True, False))
        # A function tells of no windows.
        self.segments: list[Callable[[Tensor], Tensor]] = [folded, lambda rows: folded(rows), lambda rows: plain(rows)]
        self.source = UnitSource(SourceKind.channels, self.layout.vectors(self.clean).contiguous())
        self.targets: Targets = LogitTargets(found[upper].argmax(1))
        if upper != LOGITS:
            above = layout_of(network.shape(upper), upper)
            atoms = F.normalize(torch.randn(TARGETS, above.channels, generator=generator), dim=1)
            self.targets = ConceptTargets(atoms, (above.vectors(found[upper]) @ atoms.T).argmax(1), above)
        self.batch = self.clean.repeat(-(-rows // images), 1, 1, 1)[:rows].contiguous(memory_format=torch.channels_last)

    def edges(self, segment: Callable[[Tensor], Tensor]) -> Tensor:
        asked = Settings(steps=STEPS, mode=Mode.reverse, rows=self.rows)
        found = attribute(segment, self.layout, self.source, self.clean, self.targets, asked)  # pyright: ignore
        return found.edges[PathWeight.ig].units

    def forward(self, segment: Callable[[Tensor], Tensor]) -> Tensor:
        return segment(self.batch)


def seconds(function: Callable[[], object]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def ratios_to_last(sides: Sequence[Callable[[], object]], repeats: int) -> list[float]:
    """Medians over turns of each side's time by the last one's; the first turn only warms up."""
    turns = [[seconds(side) for side in sides] for _ in range(repeats + 1)][1:]
    return [statistics.median(times[side] / times[-1] for times in turns) for side in range(len(sides) - 1)]


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--rows", type=int, default=64, help="path points per pass, runtime.path_batch_size")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()  # as every run does
    print(f"{'network':<19} {'pair':<22} {'a run':>6} {'folded':>7} {'forward':>8} {'difference':>11}")
    for name, (build, size, pairs) in NETWORKS.items():
        network, ratios = opened(build, size), []
        for lower, upper in pairs:
            case = Case(network, lower, upper, size, options.images, options.rows)
            near, whole = (case.edges(segment) for segment in (case.segments[0], case.segments[-1]))
            difference = float((near - whole).abs().max() / whole.abs().max())
            own, folded = ratios_to_last([partial(case.edges, segment) for segment in case.segments], options.repeats)
            ratios.append(own)
            sides = [partial(case.forward, segment) for segment in case.segments[1:]]
            (forward,) = ratios_to_last(sides, 2 * options.repeats)
            pair = f"{lower} → {upper}"
            print(f"{name:<19} {pair:<22} {own:>6.2f} {folded:>7.2f} {forward:>8.2f} {difference:>11.1e}", flush=True)
        print(f"{name:<19} {'median':<22} {statistics.median(ratios):>6.2f}", flush=True)


if __name__ == "__main__":
    main()
