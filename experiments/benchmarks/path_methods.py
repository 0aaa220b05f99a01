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
from vismech.attribution.methods import OPTIONS, Guided, Manifold, Options
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
MIDPOINT = (PathWeight.ig, PathWeight.spectral_ig, PathWeight.manifold_ig)
RULES = {**dict.fromkeys(MIDPOINT, Rule.midpoint), PathWeight.idgi: Rule.trapezoid}
METHODS = (
    PathWeight.ig,
    PathWeight.spectral_ig,
    PathWeight.idgi,
    PathWeight.smooth_grad,
    PathWeight.smooth_grad_variance,
    PathWeight.expected_gradients_variance,
    PathWeight.guided_ig,
    PathWeight.ig2,
    PathWeight.manifold_ig,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--decoder", help="of manifold_ig on pixels (experiments/paths/vae.py); without it is left out")
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
    own: dict[PathWeight, Options] = {PathWeight.guided_ig: Guided(max_dist=0.2)}
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
            rule = RULES.get(method, Rule.riemann_left)
            settings = Settings(rule, STEPS, (method,), rows=options.rows, options=own.get(method))
            started = time.process_time()
            attribute(*given, settings)
            return time.process_time() - started

        methods = [method for method in METHODS if method is not PathWeight.manifold_ig]
        if options.decoder and layer == PIXELS:
            methods, own[PathWeight.manifold_ig] = [*METHODS], Manifold(options.decoder)
        ratios: dict[PathWeight, list[float]] = {method: [] for method in methods[1:]}
        for turn in range(options.repeats + 1):
            seconds = {method: timed(method) for method in methods}
            for method, each in ratios.items():
                if turn:  # the first turn warms up
                    each.append(seconds[method] / seconds[PathWeight.ig])
        plain = Options().calls(STEPS, 1, 0)
        for method, each in ratios.items():
            how = own[method] if method in own else OPTIONS[method]()
            told = how.calls(STEPS, 1, source.count) / plain
            print(f"{layer:<10} {method.value:<28} {statistics.median(each):>6.2f} ({told:.2f})")


if __name__ == "__main__":
    main()
