"""Cost of the measured effects of a graph against that of its trace, in the same run.

    python experiments/benchmarks/effects.py --data-root CIFAR10_TEST --checkpoint CIFAR_RESNET20_WEIGHTS

Runs ``vismech`` on CIFAR ResNet-20 (cat against dog, 64 images each, four layers, the preset's 32 midpoints) with
``graph.measured=true`` into a fresh store, and prints seconds of both stages from its ``tables/timings.csv``, and their
ratio. u × gradient of the same concepts is part of the effects' time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", required=True)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--important", type=int, nargs="+", default=[5, 20], help="concepts per layer and class")
    options = parser.parse_args()
    for important in options.important:
        with tempfile.TemporaryDirectory() as folder:
            base = Path(folder)
            overrides = [
                *("experiment=cifar_resnet20", "until=graph", "graph.measured=true", f"graph.important={important}"),
                *("extract.layers=[layer1.2,layer2.2,layer3.1,layer3.2]", "dictionary.k_per_channel=4"),
                *("describe.cards=0", "report=none", "logger=none", "data.limit=1000", "runtime.accelerator=cpu"),
                *(f"data.root={Path(options.data_root).resolve()}", f"store.root={base}/store"),
                *(f"model.checkpoint={Path(options.checkpoint).resolve()}", f"hydra.run.dir={base}/run"),
            ]
            subprocess.run([sys.executable, "-m", "vismech", *overrides], check=True, capture_output=True)
            spent = pd.read_csv(base / "run/tables/timings.csv").groupby("stage").seconds.sum()
            print(
                f"{important} concepts per layer and class: trace {spent['trace']:.1f} s, effects "
                f"{spent['effects']:.1f} s, ratio {spent['effects'] / spent['trace']:.2f}"
            )


if __name__ == "__main__":
    main()
