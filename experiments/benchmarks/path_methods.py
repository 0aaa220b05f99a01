"""Cost of other paths relative to integrated gradients, in the same run.

    python experiments/benchmarks/path_methods.py --data-root CIFAR10_TEST --checkpoint CIFAR_RESNET20_WEIGHTS

Prints, for pixels and for concepts of two blocks of CIFAR ResNet-20 towards the class, the time of each method divided
by that of ig with as many steps, and in brackets the same of model calls, forward and backward passes alike. Runs
alternate; medians of the ratios within a turn are printed, of processor time, since a machine that others use is as
slow for both. What time is above calls is the method's own work.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from vismech.attribution.engine import Settings, attribute
from vismech.attribution.methods import OPTIONS, Guided, Options
from vismech.attribution.sources import ConceptSource, UnitSource
from vismech.attribution.targets import LogitTargets
from vismech.config.choices import PathWeight, Rule, SourceKind
from vismech.dictionaries import build
from vismech.network.cut import open_network
from vismech.network.layers import LOGITS, PIXELS
from vismech.network.pfv import layout_of
from vismech.sources.data import open_data
from vismech.sources.models import open_model

STEPS = 32
RULES = {PathWeight.ig: Rule.midpoint, PathWeight.spectral_ig: Rule.midpoint, PathWeight.idgi: Rule.trapezoid}
METHODS = (
    PathWeight.ig,
    PathWeight.spectral_ig,
    PathWeight.idgi,
    PathWeight.smooth_grad,
    PathWeight.guided_ig,
    PathWeight.ig2,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--rows", type=int, default=64, help="path points per pass")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model("cifar_resnet", "cifar_resnet20", checkpoint=options.checkpoint)
    model.module.to(memory_format=torch.channels_last)
    data = open_data("cifar10", options.data_root, options.images)
    images = torch.stack([model.preprocess(data.load(index)) for index in range(len(data))])
    network = open_network(model.module, model.example)
    print(f"{'source':<10} " + " ".join(f"{method.value:>16}" for method in METHODS[1:]))
    for layer in (PIXELS, "layer2.2", "layer3.1"):
        found = network.activations(images, [LOGITS] if layer == PIXELS else [layer, LOGITS])
        clean = images if layer == PIXELS else found[layer]
        layout = layout_of(network.shape(layer), layer)
        vectors = layout.vectors(clean).contiguous()
        if layer == PIXELS:
            source = UnitSource(SourceKind.pixels, vectors)
        else:
            concepts = build("bisecting", vectors.flatten(0, 1), k=2 * layout.channels, seed=0)
            source = ConceptSource(concepts.atoms, concepts.encode(vectors), vectors)
        segment, targets = network.segment(layer, LOGITS), LogitTargets(found[LOGITS].argmax(1))

        def timed(method: PathWeight, given: tuple = (segment, layout, source, clean, targets)) -> float:
            own = Guided(max_dist=0.2) if method is PathWeight.guided_ig else None
            settings = Settings(RULES.get(method, Rule.riemann_left), STEPS, (method,), rows=options.rows, options=own)
            started = time.process_time()
            attribute(*given, settings)
            return time.process_time() - started

        ratios: dict[PathWeight, list[float]] = {method: [] for method in METHODS[1:]}
        for turn in range(options.repeats + 1):
            seconds = {method: timed(method) for method in METHODS}
            for method, each in ratios.items():
                if turn:  # the first turn warms up
                    each.append(seconds[method] / seconds[PathWeight.ig])
        plain = Options().calls(STEPS, 1, 0)
        calls = {method: OPTIONS[method]().calls(STEPS, 1, source.count) / plain for method in METHODS[1:]}
        told = [f"{statistics.median(ratios[method]):>8.2f} ({calls[method]:.2f})" for method in METHODS[1:]]
        print(f"{layer:<10} " + " ".join(f"{one:>16}" for one in told))


if __name__ == "__main__":
    main()
