"""Cost of sharing ratios, receptive fields and relevance, in plain forward passes of one image; and their memory.

    python experiments/benchmarks/receptive_field.py [--runs 15] [--weights CIFAR_RESNET20_WEIGHTS]

One thread, initial weights (the cost does not depend on them; `--weights` takes trained ones for the CIFAR ResNet), all
parts alternating in one process, medians. Per network:
(a) set-up: `sharing_ratios`, forward pass included, per image;
(b) then per receptive field, at 1, 8 and 32 positions asked for at once;
(c) the extraction step (`ExtractLoop.step`: batch of 16, one position per image, channels last as runs are by default)
with `positions=relevance`, divided by the same with `uniform`: at the last block alone, and at earlier ones too;
(d) in a process of its own (on Linux), peak memory of the first set-up over that held after plain passes, and bytes
kept per image.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vismech.config.choices import ModelSource, Positions
from vismech.config.schema import Config, ModelConfig
from vismech.network.cut import Network, open_network
from vismech.network.pfv import layout_of
from vismech.passes.extract import ExtractLoop, ExtractSettings, extract_columns
from vismech.passes.resources import resources_of
from vismech.passes.site import Site
from vismech.receptive_field import SharingRatios, sharing_ratios
from vismech.sources.models import Model, open_model
from vismech.sources.pictures import ImageData, Sample
from vismech.store.rows import Rows


class Case(NamedTuple):
    """A network, the batch of its set-up, the layer of its receptive fields, and blocks to extract."""

    source: ModelSource
    batch: int = 1
    layer: str | None = None
    blocks: tuple[str, ...] = ()


CASES = {
    "resnet50": Case(ModelSource.torchvision, 1, "layer3.5", ("layer1.2", "layer2.3", "layer3.5", "layer4.2")),
    "efficientnet_lite0": Case(ModelSource.efficientnet_lite, 1, "blocks.4", ("blocks.2", "blocks.4", "blocks.6")),
    "vgg16": Case(ModelSource.torchvision),
    "cifar_resnet20": Case(ModelSource.cifar_resnet, 64),
    "densenet121": Case(ModelSource.torchvision),
    "mobilenet_v2": Case(ModelSource.torchvision),
}
COUNTS = (1, 8, 32)
STEP = 16  # images in a step of the extraction


def opened(name: str, checkpoint: str | None) -> tuple[Model, Network, Tensor]:
    case = CASES[name]
    trained = checkpoint if name.startswith("cifar") else None
    model = open_model(case.source, name, weights=None, checkpoint=trained)
    side = model.preprocess.crop
    images = torch.randn(max(case.batch, STEP), 3, side, side, generator=torch.Generator().manual_seed(0))
    return model, open_network(model.module, model.example), images


def extraction_step(name: str, layers: Sequence[str], positions: Positions, images: Tensor) -> Callable[[], object]:
    """The stage's own step on one batch, without the reading of images and the writing of vectors."""
    config = Config(model=ModelConfig(source=CASES[name].source, name=name, weights=None))
    network = resources_of(config.model, config.runtime.channels_last).network
    layouts = {layer: layout_of(network.shape(layer), layer) for layer in layers}
    how = {layer: ExtractSettings({}, layer, positions, 1, config.seed) for layer in layers}
    data = ImageData(Path(), [Sample(str(number), 0) for number in range(len(images))], {})
    with tempfile.TemporaryDirectory() as folder:
        rows = {}
        for layer, layout in layouts.items():
            (Path(folder) / layer).mkdir()
            rows[layer] = Rows(Path(folder) / layer, extract_columns(layout, how[layer]), len(data))
        site = Site(config.model, config.runtime, config.data.unreadable)
        loop = ExtractLoop(site, data, range(len(data)), rows, "extract", layouts=layouts, how=how)
    loop.setup()
    if config.runtime.channels_last:
        images = images.to(memory_format=torch.channels_last)
    return lambda: loop.step(images, list(range(len(images))))


def kept_bytes(ratios: SharingRatios) -> int:
    tensors = [share.ratios for one in ratios.maps for share in one.shares]
    tensors += [ratios.head, ratios.logits, ratios.target]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def compare(name: str, runs: int, checkpoint: str | None) -> None:
    case = CASES[name]
    model, network, images = opened(name, checkpoint)
    batch = images[: case.batch]
    ratios = sharing_ratios(network, images[:1])
    parts: dict[str, tuple[Callable[[], object], int]] = {
        "forward": (lambda: model.module(images[:1]), 1),
        "set-up": (lambda: sharing_ratios(network, batch), case.batch),
    }
    if case.batch > 1:
        parts["forward of the batch"] = (lambda: model.module(batch), case.batch)
    if case.layer is not None:
        layer = case.layer
        for count in COUNTS:
            positions = list(range(40, 40 + count))
            parts[f"field of {count}"] = (lambda chosen=positions: ratios.receptive_fields(layer, chosen), count)
    extracted = {"last": case.blocks[-1:], "all": case.blocks} if case.blocks else {}
    for some, layers in extracted.items():
        for positions in (Positions.relevance, Positions.uniform):
            parts[f"{positions} {some}"] = (extraction_step(name, layers, positions, images[:STEP]), STEP)
    seconds: dict[str, list[float]] = {part: [] for part in parts}
    for run in range(-1, runs):  # the first turn warms up
        for part, (call, share) in parts.items():
            started = time.perf_counter()
            call()
            if run >= 0:
                seconds[part].append((time.perf_counter() - started) / share)
    median = {part: statistics.median(values) for part, values in seconds.items()}
    unit = median["forward"]
    print(f"{name}: plain forward pass of one image {unit * 1e3:.1f} ms")
    print(f"  set-up per image, batches of {case.batch}: {median['set-up'] / unit:.2f} forward passes")
    if case.batch > 1:
        print(f"  (a forward pass in such a batch: {median['forward of the batch'] / unit:.2f})")
    if case.layer is not None:
        fields = " / ".join(f"{median[f'field of {count}'] / unit:.4f}" for count in COUNTS)
        print(f"  per receptive field at {case.layer}, {' / '.join(map(str, COUNTS))} at once: {fields} forward passes")
    for some, layers in extracted.items():
        pairs = zip(seconds[f"relevance {some}"], seconds[f"uniform {some}"], strict=True)
        ratio = statistics.median(slow / fast for slow, fast in pairs)
        print(f"  extraction at {', '.join(layers)}, relevance over uniform, batches of {STEP}: {ratio:.2f}")


def memory(name: str, checkpoint: str | None) -> None:
    """Printed by a process of its own: growth of peak memory, and bytes kept, in MB."""
    model, network, images = opened(name, checkpoint)
    batch = images[: CASES[name].batch].clone()
    for _ in range(3):
        model.module(batch)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of opening the network
    before = status("VmRSS")
    ratios = sharing_ratios(network, batch)
    print(f"{(status('VmHWM') - before) / 1024:.0f} {kept_bytes(ratios) / len(batch) / 1e6:.2f}")


def status(field: str) -> int:
    """A number of kB that Linux tells of this process."""
    return int(re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--weights", help="safetensors file of the CIFAR ResNet-20")
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    for name in options.networks:
        if options.memory_only:
            memory(name, options.weights)
            continue
        compare(name, options.runs, options.weights)
        command = [sys.executable, __file__, "--memory-only", "--networks", name]
        command += ["--weights", options.weights] if options.weights else []
        growth, kept = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-2:]
        print(f"  memory: the first set-up adds {growth} MB; {kept} MB kept per image", flush=True)


if __name__ == "__main__":
    main()
