"""Throughput of extraction against a bare loop over the same loader, and growth of memory with the number of images.

    python experiments/benchmarks/extraction.py --data-root CIFAR10_TEST --checkpoint CIFAR_RESNET20_WEIGHTS \\
        --photographs IMAGENET_SAMPLE

Prints (a) images per second of the extraction stage divided by those of a bare loop that reads the same images and runs
the same truncated network, alternating, and (b) peak memory with 10,000 images divided by that with 2,500, each in a
process of its own. Layers: all nine blocks, 8 uniform positions per image. With `--photographs` also (a) of the paper's
six layers of a ResNet-50 (random weights) on 100 photographs, one position per image.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from vismech.config.choices import DataSource, LoggerKind, ModelSource, Positions
from vismech.config.schema import Config, DataConfig, ExtractConfig, ModelConfig
from vismech.passes.loop import ImageFiles, PaddedBatches, loader
from vismech.stages import extract
from vismech.stages.context import Context
from vismech.stages.pipeline import open_context

PAPER = ("layer1.2", "layer2.3", "layer3.2", "layer3.5", "layer4.1", "layer4.2")
PHOTOGRAPHS = 100


def context(options: argparse.Namespace, images: int, store: str) -> Context:
    return opened(
        store,
        Config(
            model=ModelConfig(source=ModelSource.cifar_resnet, name="cifar_resnet20", checkpoint=options.checkpoint),
            data=DataConfig(source=DataSource.cifar10, root=options.data_root, limit=images),
            extract=ExtractConfig(
                layers=["layer1.*", "layer2.*", "layer3.*"], positions=Positions.uniform, per_image=8
            ),
        ),
    )


def of_photographs(options: argparse.Namespace, images: int, store: str) -> Context:
    return opened(
        store,
        Config(
            model=ModelConfig(source=ModelSource.torchvision, name="resnet50", weights=None),
            data=DataConfig(source=DataSource.imagenet, root=options.photographs, limit=images),
            extract=ExtractConfig(layers=list(PAPER), positions=Positions.uniform, per_image=1),
        ),
    )


def opened(store: str, config: Config) -> Context:
    config.logger.kind = LoggerKind.none
    config.runtime.accelerator, config.runtime.batch_size = "cpu", 64
    config.store.root = store
    return open_context(config)


def stage(ctx: Context) -> float:
    job = extract.job(ctx, logits=False)
    started = time.perf_counter()
    job.compute(ctx, job.specs)
    return time.perf_counter() - started


def bare(ctx: Context) -> float:
    batches = PaddedBatches(len(ctx.data), ctx.config.runtime.batch_size)
    images = ImageFiles(ctx.data, range(len(ctx.data)), ctx.model.preprocess)
    started = time.perf_counter()
    with torch.no_grad():
        for batch in loader(images, batches, 0, pinned=False):
            ctx.network.activations(batch.images.to(memory_format=torch.channels_last), ctx.layers)
    return time.perf_counter() - started


def throughput(of: Callable[[str], Context], repeats: int) -> str:
    ours, plain = [], []
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            ctx = of(str(Path(folder) / str(turn)))
            times = (stage(ctx), bare(ctx))
            if turn:  # the first turn warms up
                ours.append(times[0])
                plain.append(times[1])
    ratio = statistics.median(slow / fast for fast, slow in zip(ours, plain, strict=True))
    return f"{ratio:.3f} (median of {repeats})"


def peak(images: int) -> int:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", str(images)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--photographs", help="ImageNet photographs in class folders")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.only:
        with tempfile.TemporaryDirectory() as folder:
            stage(context(options, options.only, folder))
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
            return
    of = partial(context, options, options.images)
    print(f"throughput of extraction / bare loop: {throughput(of, options.repeats)}, {options.images} images")
    if options.photographs:
        of = partial(of_photographs, options, PHOTOGRAPHS)
        print(f"the same, ResNet-50: {throughput(of, options.repeats)}, {PHOTOGRAPHS} photographs")
    few, many = peak(2_500), peak(10_000)
    print(f"peak memory 10,000 / 2,500 images: {many / few:.3f} ({many / 1024:.0f} MiB, {few / 1024:.0f} MiB)")


if __name__ == "__main__":
    main()
