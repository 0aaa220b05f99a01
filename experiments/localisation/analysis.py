"""Expected and found, the shipped table and its figure: ``python experiments/localisation/analysis.py RUN [RUN …]``.

Prints the recovery of every layer and map, and writes ``localization.csv`` (the runs' tables, with the run's name) and
``localization.png`` (recovery at the same position with a fifth of the pixels kept) into ``--out``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
matplotlib.use("agg")
from matplotlib import pyplot as plt

from summary import compare, name_of

HERE = Path(__file__).parent
FRACTION = 0.2
STYLE = {
    "receptive_fields": ("#0b57a4", "o", "receptive fields"),
    "upsampling": ("#e07b00", "s", "upsampling"),
    "gradient_x_input": ("#2e8b57", "^", "gradient × input"),
    "random": ("#9a9a9a", "D", "random square"),
    "random_pixels": ("#9a9a9a", "x", "random pixels"),
    "centre": ("#4d4d4d", "P", "central square"),
}


def show(table: pd.DataFrame) -> None:
    """Print recovery with its interval, and how much more the receptive fields keep."""
    for (run, place, fraction), part in table.groupby(["run", "place", "fraction"], sort=False):
        print(f"\n{run}, read at {place} position, {fraction:.0%} of the pixels")
        for metric in ("recovery", "difference_to_receptive_fields"):
            rows = part[part.metric == metric]
            cells = [f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]" for row in rows.itertuples()]
            wide = rows.assign(cell=cells).pivot(index="map", columns="layer", values="cell")
            order = [name for name in STYLE if name in wide.index]
            print(f"{metric}\n{wide.loc[order, list(dict.fromkeys(rows.layer))].to_string()}")


def figure(table: pd.DataFrame, path: Path) -> None:
    """Recovery at the same position by layer and map, one panel per run."""
    chosen = table[(table.metric == "recovery") & (table.place == "same") & (table.fraction == FRACTION)]
    runs = list(dict.fromkeys(chosen.run))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    drawn, panels = plt.subplots(len(runs), 1, figsize=(5, 0.9 + 2.3 * len(runs)), squeeze=False, layout="constrained")
    for run, panel in zip(runs, panels[:, 0], strict=True):
        part = chosen[chosen.run == run]
        layers = list(dict.fromkeys(part.layer))
        for index, (kind, (colour, marker, label)) in enumerate(STYLE.items()):
            rows = part[part["map"] == kind].set_index("layer").reindex(layers)
            at = [place + 0.13 * (index - 2.5) for place in range(len(layers))]
            spread = [rows.value - rows.ci_low, rows.ci_high - rows.value]
            panel.errorbar(at, rows.value, spread, fmt=marker, color=colour, label=label, ms=5, lw=1.3, capsize=2)
        for edge in range(1, len(layers)):
            panel.axvline(edge - 0.5, color="#dddddd", lw=0.8)
        panel.axhline(0, color="black", lw=0.8)
        panel.axhline(1, color="black", lw=0.8, ls=":")
        panel.set_xticks(range(len(layers)), layers)
        panel.set_xlim(-0.5, len(layers) - 0.5)
        panel.set_ylabel("share recovered")
        panel.set_title(run.removeprefix("localisation_"), fontsize=9.5, loc="left")
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    drawn.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False)
    drawn.savefig(path, dpi=280)
    plt.close(drawn)


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write the table and the figure")
    options = parser.parse_args()
    tables = [pd.read_csv(run / "tables/localization.csv").assign(run=name_of(run)) for run in options.runs]
    table = pd.concat(tables, ignore_index=True)
    table = table[["run", *table.columns.drop("run")]]
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / "localization.csv", index=False, float_format="%.6g")
    show(table)
    figure(table, options.out / "localization.png")
    print()
    sys.exit(0 if all([compare(run, HERE / "expected.json") for run in options.runs]) else 1)


if __name__ == "__main__":
    main()
