"""This machine's constants, measured in less than a minute with the code that runs use, on one thread as they do."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from vismech.costs import coding
from vismech.costs.cost import Amount, Kind
from vismech.costs.counts import count
from vismech.costs.fitting import fitting
from vismech.costs.machines import Machine
from vismech.costs.searching import search
from vismech.passes.memory import keep_freed_memory
from vismech.passes.threads import one_thread

UNITS = dict.fromkeys(Kind, "FLOPs") | {
    Kind.open: "operations",
    Kind.start: "passes",
    Kind.read: "pixels",
    Kind.splits: "splits",
    Kind.picture: "pixels",
    Kind.host: "numbers",
}
LEAST, LONG = 0.25, 1.5
"""Seconds that each thing is repeated for, and passes through a network."""
QUIET = 0.2
"""Of the times the quantile that counts: other programs take turns on most machines, and are no part of it."""


def seconds(work: Callable[[], object], least: float = LEAST) -> float:
    """Seconds of one call on a machine with nothing else to do, after one that warms up."""
    work()
    times: list[float] = []
    while not times or (sum(times) < least and len(times) < 1000):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return float(np.quantile(times, QUIET))


def measure(store: Path) -> Machine:
    """The constants of this machine, whose store is at ``store``."""
    from vismech.config.choices import Method
    from vismech.dictionaries.bisecting import bisecting_kmeans
    from vismech.dictionaries.kmeans import fit_kmeans
    from vismech.dictionaries.lasso import lasso
    from vismech.dictionaries.pursuit import orthogonal_matching_pursuit
    from vismech.dictionaries.search import nearest
    from vismech.measures.statistics import BOOTSTRAPPED, bootstrap

    keep_freed_memory()
    with one_thread():
        bandwidth, launch = _memory(), _launch()
        rates = _passes(bandwidth, launch)
        generator = torch.Generator().manual_seed(0)
        # As vectors of a layer are: not negative, half of them zero, of fewer directions than channels.
        vectors = (torch.randn(4096, 24, generator=generator) @ torch.randn(24, 64, generator=generator)).relu_()
        atoms, some = bisecting_kmeans(vectors, 512, seed=0).atoms, vectors[:1024]
        penalty = 0.02 * float(some.norm(dim=1).mean())
        n, (k, c) = len(some), atoms.shape

        def rate(amounts: dict[Kind, Amount], kind: Kind, work: Callable[[], object]) -> float:
            return (amounts[kind].flops + 2 * amounts[kind].doubles) / seconds(work)

        rates[Kind.lasso] = rate(coding.lasso(n, k, c), Kind.lasso, lambda: lasso(some, atoms, penalty))
        rates[Kind.pursuit] = rate(
            coding.pursuit(n, k, c, 16, False),
            Kind.pursuit,
            lambda: orthogonal_matching_pursuit(some, atoms, 16),
        )
        square = torch.randn(512, 512, generator=generator)
        rates[Kind.products] = 2 * 512**3 / seconds(lambda: square @ square)
        rates[Kind.kmeans] = rate(
            fitting(Method.kmeans, len(vectors), 64, c, {"iterations": 8}),
            Kind.kmeans,
            lambda: fit_kmeans(vectors, 64, seed=0, iterations=8),
        )
        few = vectors[:1024, :8].contiguous()
        rates[Kind.splits] = 255 / seconds(lambda: bisecting_kmeans(few, 256, seed=0))
        wide = vectors.repeat(4, 1) + 0.1 * torch.randn(4 * len(vectors), 64, generator=generator)
        amounts = fitting(Method.bisecting, len(wide), 64, c, {})
        spent, beside = seconds(lambda: bisecting_kmeans(wide, 64, seed=0)), 63 / rates[Kind.splits]
        rates[Kind.bisecting] = amounts[Kind.bisecting].flops / _rest(spent, beside)
        rows, values = wide.numpy(), wide[:, 0].numpy()
        some_rows = rows[:1024]
        told = search(len(rows), len(some_rows), c, 64, 1)
        rates[Kind.search] = told.flops / seconds(lambda: nearest(some_rows, [rows], 64))
        rates[Kind.host] = BOOTSTRAPPED * len(values) / seconds(lambda: bootstrap(values))
        rates[Kind.read], rates[Kind.picture] = _pictures()
        rates[Kind.start] = 1 / _start()
    return Machine({kind: rates[kind] for kind in Kind}, bandwidth, launch, _store(store))


def _rest(spent: float, beside: float) -> float:
    """What is left of a time for the products, half of it at least: the other constants are no more than estimates."""
    return max(spent - beside, 0.5 * spent)


def _memory() -> float:
    values = torch.ones(2_000_000)  # a batch's activation
    return 2 * 4 * len(values) / seconds(lambda: values + 1.0)


def _launch() -> float:
    one = torch.ones(16)

    def many() -> None:
        for _ in range(1000):
            one.add_(1.0)

    return seconds(many) / 1000


class _Parts(nn.Module):
    """Convolutions of the sizes that networks have, with what comes between them."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((3, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 128, 2), (128, 128, 1))
        each = []
        for before, after, stride in sizes:
            each += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        self.parts = nn.Sequential(*each)

    def forward(self, images: Tensor) -> Tensor:
        return self.parts(images).mean((2, 3))


def _passes(bandwidth: float, launch: float) -> dict[Kind, float]:
    from vismech.network.cut import open_network
    from vismech.network.layers import LOGITS, PIXELS

    rows, side = 64, 32
    module = _Parts().eval().requires_grad_(False).to(memory_format=torch.channels_last)
    example = torch.zeros(1, 3, side, side)
    network = open_network(module, example)
    opened = seconds(lambda: open_network(module, example))
    segment = network.segment(PIXELS, LOGITS)
    counts = count(segment, (3, side, side))
    images = torch.randn(rows, 3, side, side, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)

    def ahead() -> None:
        with torch.no_grad():
            segment(images)

    def both() -> None:
        with torch.enable_grad():
            given = images.detach().requires_grad_()
            torch.autograd.grad(segment(given).sum(), given)

    forward = seconds(ahead, LONG)
    backward = max(seconds(both, LONG) - forward, 0.5 * forward)  # on a machine that something else kept busy
    found = {Kind.open: counts.launches / opened}
    for kind, amount, spent in ((Kind.forward, counts.forward, forward), (Kind.backward, counts.backward, backward)):
        whole = amount.times(rows, 1)
        found[kind] = whole.flops / _rest(spent, whole.traffic / bandwidth + whole.launches * launch)
    return found


def _pictures() -> tuple[float, float]:
    from vismech.sources.pictures import Preprocess

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (47, 63, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize((500, 375)).save(file, "JPEG")
    preprocess = Preprocess()

    def read() -> None:
        file.seek(0)
        preprocess(Image.open(file).convert("RGB"))

    def draw() -> None:
        coarse.resize((500, 375), Image.Resampling.LANCZOS).save(io.BytesIO(), "PNG", compress_level=3)

    return (500 * 375 + 3 * preprocess.crop**2) / seconds(read), 500 * 375 / seconds(draw)


def _start() -> float:
    """Seconds that Lightning takes around a pass that does nothing."""
    import warnings

    import lightning
    from torch.utils.data import DataLoader, TensorDataset

    from vismech.passes.devices import quiet

    class Nothing(lightning.LightningModule):
        def predict_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return batch[0]

    def work() -> None:
        with warnings.catch_warnings():
            quiet()
            trainer = lightning.Trainer(
                accelerator="cpu",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=False,
            )
            trainer.predict(Nothing(), DataLoader(TensorDataset(torch.zeros(1, 1))), return_predictions=False)

    return seconds(work)


def _store(root: Path) -> float:
    """Bytes that the store's disk takes per second."""
    content, file = os.urandom(1 << 24), root / f"bench.{os.getpid()}.partial"

    def write() -> None:
        with file.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())

    try:
        return len(content) / seconds(write)
    finally:
        file.unlink(missing_ok=True)
