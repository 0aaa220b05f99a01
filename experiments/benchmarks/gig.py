"""Cost of the trace against a bare forward and backward pass of the same segment, and against more concepts.

    python experiments/benchmarks/gig.py --data-root CIFAR10_TEST --checkpoint CIFAR_RESNET20_WEIGHTS

Prints, per pair of adjacent blocks of CIFAR ResNet-20, (a) seconds per (image, target, step) of the trace divided by
those of one bare forward + backward of the segment at the same batch size, and (b) the time with K = 64·C source
concepts divided by that with K = 8·C. Runs alternate; medians are printed. Codes are given, C/2 concepts per
vector: coding is the dictionary's cost, not the path's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch

from vismech.attribution.gig import integrate
from vismech.attribution.paths import Curve
from vismech.attribution.quadrature import quadrature
from vismech.attribution.sources import concept_edges
from vismech.attribution.targets import ConceptTargets
from vismech.config.choices import PathWeight, Rule
from vismech.network.cut import open_network
from vismech.network.pfv import layout_of
from vismech.sources.data import open_data
from vismech.sources.models import open_model

STEPS, TARGETS = 32, 8


def seconds(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def medians(functions: list[Callable[[], object]], repeats: int) -> list[float]:
    """Median time of each function; they take turns, so that a noisy machine is noisy for all."""
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + 1):
        for function, found in zip(functions, times, strict=True):
            taken = seconds(function)
            if turn:  # the first turn warms up
                found.append(taken)
    return [statistics.median(found) for found in times]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rows", type=int, default=64, help="path points per pass: the batch size of both sides")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = open_model("cifar_resnet", "cifar_resnet20", checkpoint=options.checkpoint)
    model.module.to(memory_format=torch.channels_last)
    data = open_data("cifar10", options.data_root, options.images)
    images = torch.stack([model.preprocess(data.load(index)) for index in range(len(data))])
    network = open_network(model.module, model.example)
    rule = quadrature(Rule.midpoint, STEPS)
    generator = torch.Generator().manual_seed(0)
    print(f"{'pair':<22} {'trace / bare':>12} {'K 8C→64C':>9}")
    for lower, upper in (
        ("layer1.1", "layer1.2"),
        ("layer1.2", "layer2.0"),
        ("layer2.1", "layer2.2"),
        ("layer3.0", "layer3.1"),
    ):
        found = network.activations(images, [lower, upper])
        below, above = layout_of(network.shape(lower), lower), layout_of(network.shape(upper), upper)
        vectors, clean = below.vectors(found[lower]).contiguous(), found[lower]
        segment = network.segment(lower, upper)
        targets = torch.nn.functional.normalize(torch.randn(TARGETS, above.channels, generator=generator), dim=1)
        places = (above.vectors(found[upper]) @ targets.T).argmax(1)
        wanted = ConceptTargets(targets, places, above)

        def source(k: int, vectors: torch.Tensor = vectors) -> tuple[torch.Tensor, torch.Tensor]:
            atoms = torch.nn.functional.normalize(torch.randn(k, vectors.shape[-1], generator=generator), dim=1)
            codes = vectors @ atoms.T
            kept = codes.abs().topk(vectors.shape[-1] // 2, dim=-1)  # L0 = C/2
            return torch.zeros_like(codes).scatter(-1, kept.indices, codes.gather(-1, kept.indices)), atoms

        few, many = source(8 * below.channels), source(64 * below.channels)

        def trace(
            concepts: tuple[torch.Tensor, torch.Tensor],
            context: tuple = (segment, below, Curve(None, vectors), clean, wanted),
        ) -> None:
            result = integrate(*context, rule, rows=options.rows)
            concept_edges(concepts[0], result.gradients[PathWeight.ig][:, :, 0], concepts[1])

        rows = clean.repeat_interleave(options.rows // len(clean) + 1, 0)[: options.rows].contiguous(
            memory_format=torch.channels_last
        )

        def bare(
            segment: torch.nn.Module = segment, rows: torch.Tensor = rows, above=above, direction=targets[0]
        ) -> None:
            point = rows.detach().requires_grad_()
            value = (above.vectors(segment(point))[:, 0] @ direction).sum()
            torch.autograd.grad(value, point)

        with_few, with_many, once = medians([partial(trace, few), partial(trace, many), bare], options.repeats)
        each, unit = with_few / (len(clean) * TARGETS * STEPS), once / options.rows
        print(f"{lower + ' → ' + upper:<22} {each / unit:>12.2f} {with_many / with_few:>9.2f}")


if __name__ == "__main__":
    main()
