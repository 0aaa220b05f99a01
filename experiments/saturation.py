"""What saturation runs say: expected and found, the table of Miglani et al., and the files that an experiment ships.

Writes ``saturation.csv`` (the runs' tables, with the run's name), ``differences.png`` (left, right and idg against ig)
and each run's curves along the path into the experiment's folder, or ``--out``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd

from summary import compare, name_of
from vismech.measures.saturation.figure import paths_figure

SHORT = {
    "saturation_pixels": "Lite0",
    "saturation_concepts_cifar_resnet20": "ResNet-20",
    "saturation_concepts_efficientnet_lite0": "Lite0",
}
COLUMNS = {
    "alpha_star": "left_ig",
    "norm_ratio": "right_ig",
    "sum_ratio": "right_ig",
    "cosine_left_right": "right_ig",
    "cosine_left_full": "left_ig",
    "cosine_right_full": "right_ig",
    "completeness": "ig",
}
PATHS = ("left_ig", "ig", "right_ig", "idg")


def show(table: pd.DataFrame) -> None:
    """Print the table of the paper for every source, then what left, right and idg are worth against ig."""
    sources: dict[str, dict] = {}
    for row in table.to_dict("records"):
        source = f"{row['run']}: {row['lower']} → {row['upper']}"
        sources.setdefault(source, {})[row["path"], row["metric"]] = row
    for source, part in sources.items():
        print(f"\n{source}")
        print("  " + ", ".join(f"{name} {part[path, name]['value']:.3f}" for name, path in COLUMNS.items()))
        for metric in ("abpc", "sensitivity"):
            there = [path for path in PATHS if (path, metric) in part]
            print(f"  {metric}: " + ", ".join(f"{path} {part[path, metric]['value']:.3f}" for path in there))
            for path in there:
                if row := part.get((path, f"{metric}_minus_ig")):
                    interval = f"[{row['ci_low']:+.4f}, {row['ci_high']:+.4f}]"
                    print(f"    {path} − ig: {row['value']:+.4f} {interval}, n = {row['n']:.0f}")


def main(folder: Path) -> None:
    """Compare, print and draw; exit status 1 when an expected bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=folder)
    options = parser.parse_args()
    fine = all([compare(run, folder / "expected.json") for run in options.runs])
    tables = [pd.read_csv(run / "tables/saturation.csv").assign(run=name_of(run)) for run in options.runs]
    table = pd.concat(tables).reindex(columns=["run", *tables[0].columns[:-1]])
    show(table)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "saturation.csv", index=False)
    paths_figure(table.assign(lower=table.run.map(SHORT) + " " + table.lower), options.out / "differences.png")
    for run in options.runs:
        name = name_of(run).removeprefix("saturation_")
        shutil.copyfile(run / "figures/saturation_curves.png", options.out / f"curves_{name}.png")
    sys.exit(0 if fine else 1)
