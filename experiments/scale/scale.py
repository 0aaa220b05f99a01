"""How time and memory grow, and what the paper's setting would take: ``python experiments/scale/scale.py …``.

Each point of an axis is a run of CIFAR ResNet-20 in a store of its own, each stage of it a process of its own, forked
from one that has the imports: processor seconds less those of the same run with nothing left to do, the largest
resident memory, and of that what no file holds (Linux: sampled), which the system cannot take back. Exponents are
slopes of log seconds over the log of the size. The projection is that of ``plan=true`` on as many images as the paper
has, which are links to those of a sample.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
SHORT = 0.3
"""Processor seconds below which a point tells nothing: starting a run varies by a tenth."""
STAGES = ("extract", "dictionary", "describe", "trace", "evaluate")
LAYERS = ("layer1.1", "layer1.2", "layer2.0", "layer2.1", "layer2.2", "layer3.0", "layer3.1", "layer3.2")


class Axis(NamedTuple):
    """One size that grows while the others stay.

    Attributes:
        sizes: its values.
        typed: what each value is on the command line.
        stages: those that are measured.
        fixed: the rest of the command line.
    """

    sizes: Sequence[int]
    typed: Any
    stages: Sequence[str]
    fixed: Sequence[str]


ONE = "extract.layers=[layer3.1]"
AXES = {
    "images": Axis(
        (500, 2000, 5000, 20000),
        lambda n: [f"data.limit={n}", "evaluate.images=null"],
        ("extract", "dictionary", "describe", "evaluate"),
        (ONE, "dictionary.k=64"),
    ),
    "explained": Axis(
        (20, 80, 320),
        lambda n: [f"graph.limit={n}"],
        ("trace",),
        (ONE, "data.limit=1000", "dictionary.k=64"),
    ),
    "k": Axis(
        (64, 256, 1024, 4096, 8192),
        lambda n: [f"dictionary.k={n}"],
        ("dictionary", "describe", "evaluate"),
        (ONE, "data.limit=5000", "evaluate.images=20"),
    ),
    "layers": Axis(
        (1, 2, 4, 8),
        lambda n: [f"extract.layers=[{','.join(LAYERS[-n:])}]"],
        ("extract", "dictionary", "trace", "evaluate"),
        ("data.limit=1000", "dictionary.k=64", "graph.limit=20", "evaluate.images=200"),
    ),
    "steps": Axis(
        (8, 32, 128),
        lambda n: [f"attribute.steps={n}"],
        ("trace",),
        (ONE, "data.limit=1000", "dictionary.k=64", "graph.limit=40"),
    ),
    "processes": Axis(
        (1, 2),
        lambda n: [f"runtime.devices={n}", "runtime.strategy=ddp_spawn"],
        ("extract", "trace"),
        (ONE, "data.limit=5000", "dictionary.k=64", "graph.limit=80"),
    ),
}
PAPER = {
    "paper": ("experiment=paper", "graph.classes=[11]"),
    "fig4": ("experiment=fig4_resnet50_imagenet", "evaluate.root=null"),
    "fig5": ("experiment=fig5_resnet50_imagenet",),
}


def composed(typed: Sequence[str]) -> Any:
    """The configuration that a command line stands for."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from vismech.config.composition import conf_folder
    from vismech.config.schema import register

    register()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        return OmegaConf.to_object(compose("config", overrides=list(typed)))


class Used(NamedTuple):
    """Processor seconds of a run, and megabytes at its peak: resident ones, and those of them that no file holds."""

    seconds: float
    megabytes: float
    anonymous: float


class Sampled(threading.Thread):
    """The largest anonymous memory of this process in megabytes, looked at every few milliseconds; 0 if not told."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ended, self.peak = threading.Event(), 0.0

    def run(self) -> None:
        status = Path("/proc/self/status")
        while status.exists() and not self.ended.wait(0.003):
            told = next((line for line in status.read_text().splitlines() if line.startswith("RssAnon")), "RssAnon: 0")
            self.peak = max(self.peak, int(told.split()[1]) / 1024)


def measured(typed: Sequence[str], folder: Path, results: Any) -> None:
    """What one run used, in this process and its children."""
    import torch

    from vismech.stages.run import run

    torch.set_num_threads(1)
    config, sampled = composed(typed), Sampled()
    sampled.start()
    run(config, folder)
    sampled.ended.set()
    sampled.join()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = sum(each.ru_utime + each.ru_stime for each in used)
    results.put(Used(seconds, max(each.ru_maxrss for each in used) / 1024, sampled.peak))


def apart(typed: Sequence[str], folder: Path) -> Used:
    """:func:`measured` in a process of its own."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(["vismech.stages.run", "faiss", "lightning", "pandas"])
    results = server.Queue()
    process = server.Process(target=measured, args=(typed, folder, results))
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{' '.join(typed)} ended with {process.exitcode}")
    return results.get()


def point(axis: str, size: int, common: Sequence[str], base: Path) -> list[dict[str, Any]]:
    """The stages of one run, each after the ones before it."""
    wanted, folder = AXES[axis], base / f"{axis}-{size}"
    typed = [*common, *wanted.fixed, *wanted.typed(size), f"store.root={folder / 'store'}"]
    rows = []
    for stage in STAGES[: 1 + STAGES.index(wanted.stages[-1])]:
        until = [*typed, f"until={stage}"]
        used = apart(until, folder / stage)
        if stage in wanted.stages:
            idle = apart(until, folder / f"{stage}-again")
            told = used._replace(seconds=used.seconds - idle.seconds)._asdict()
            rows.append({"axis": axis, "size": size, "stage": stage, **told})
            print(json.dumps(rows[-1]), flush=True)
    shutil.rmtree(folder)
    return rows


def exponents(points: pd.DataFrame) -> pd.DataFrame:
    """Slopes of log seconds over all points that are long enough to tell, and over the last two; growth of memory."""
    rows = []
    for (axis, stage), part in points.groupby(["axis", "stage"], sort=False):
        part = part.sort_values("size")
        told = part[part.seconds > SHORT]
        size, seconds = np.log(told["size"].to_numpy(float)), np.log(told.seconds.to_numpy())
        whole = float(np.polyfit(size, seconds, 1)[0]) if len(told) > 1 else np.nan
        last = float((seconds[-1] - seconds[-2]) / (size[-1] - size[-2])) if len(told) > 1 else np.nan
        memory, anonymous = part.megabytes.to_numpy(), part.anonymous.to_numpy()
        rows.append(
            {
                "axis": axis,
                "stage": stage,
                "sizes": f"{part['size'].iloc[0]} … {part['size'].iloc[-1]}",
                "seconds": part.seconds.iloc[-1],
                "exponent": whole,
                "exponent_last": last,
                "memory_last": memory[-1] / memory[-2],
                "megabytes": memory[-1],
                "anonymous_last": anonymous[-1] / anonymous[-2],
            }
        )
    return pd.DataFrame(rows)


def projected(images: int, sample: Path, base: Path) -> pd.DataFrame:
    """Hours of the paper's setting on one H100 and on eight, stage by stage, by the plan."""
    from vismech.config.choices import Gpu
    from vismech.stages.pipeline import describe_plan, make_plan, open_context
    from vismech.stages.planned import prices

    root, photographs = base / "photographs", sorted(path for path in sample.glob("n*/*") if path.is_file())
    for number in range(images):
        photograph = photographs[number % len(photographs)]
        place = root / photograph.parent.name / f"{number:06}{photograph.suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(photograph.absolute())
    rows = []
    for name, typed in PAPER.items():
        for devices in (1, 8):
            own = [f"data.root={root}", f"store.root={base / name}", "plan=true", "logger=none", "model.weights=null"]
            config = composed([*typed, *own, f"runtime.devices={devices}"])
            config.plan_device = Gpu.h100
            ctx = open_context(config)
            plan = make_plan(ctx)
            missing = [row["key"] for row in describe_plan(ctx, plan) if not row["hit"]]
            for row in prices(ctx, plan, missing).rows:
                cost = {} if row.cost is None else {"launches": row.cost.launches, "flops": row.cost.flops}
                held = {} if row.cost is None else {"held_gigabytes": row.cost.held / 1e9}
                told = {"preset": name, "devices": devices, "stage": row.stage, "hours": (row.gpu or 0.0) / 3600}
                rows.append({**told, **cost, **held})
    found = pd.DataFrame(rows).groupby(["preset", "devices", "stage"], sort=False)
    return found.agg({"hours": "sum", "launches": "sum", "flops": "sum", "held_gigabytes": "max"}).reset_index()


def main() -> None:
    """Measure, fit and project."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="CIFAR-10 training images, class folders")
    parser.add_argument("--weights", type=Path, required=True, help="of CIFAR ResNet-20")
    parser.add_argument("--sample", type=Path, help="ImageNet photographs; then the paper's setting is projected")
    parser.add_argument("--axes", nargs="*", default=list(AXES), choices=list(AXES))
    parser.add_argument("--out", type=Path, default=HERE)
    options = parser.parse_args()
    common = [
        *("model=cifar_resnet20", f"model.checkpoint={options.weights.absolute()}", "data=cifar10"),
        *(f"data.root={options.images.absolute()}", "extract=uniform", "extract.per_image=8", "attribute=gig"),
        *("graph=dataset", "graph.images_per_class=null", "graph.limit=20", "describe.cards=0"),
        *("evaluate=reconstruction", "report=none", "logger=none", "runtime=cpu", "runtime.batch_size=50"),
    ]
    sys.argv = sys.argv[:1]  # processes read it again
    with tempfile.TemporaryDirectory() as base:
        if options.axes:
            rows: list[dict[str, Any]] = []
            for axis, size in [(name, size) for name in options.axes for size in AXES[name].sizes]:
                rows += point(axis, size, common, Path(base))
                points = pd.DataFrame(rows)
                points.to_csv(options.out / "points.csv", index=False, float_format="%.4g")
            fits = exponents(points)
            fits.to_csv(options.out / "exponents.csv", index=False, float_format="%.3g")
            print(fits.to_string(index=False, float_format="%.3g"))
        if options.sample is not None:
            found = projected(50_000, options.sample, Path(base))
            found.to_csv(options.out / "projection.csv", index=False, float_format="%.4g")
            print(found.to_string(index=False, float_format="%.3g"))


if __name__ == "__main__":
    main()
