"""What runs of paths say: expected and found, which method is best by which test, and the files that are shipped.

    python experiments/paths/analysis.py RUN …

Writes ``attribution.csv`` (the runs' tables), ``verdict.csv`` (per source and metric the best method, and those that
the 95 % interval of the paired difference over images cannot tell from it), ``methods.png``; of runs of
``paths_distance_…`` ``distance.csv`` and ``distance.png``.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from summary import compare, name_of
from vismech.measures.attribution import LOWER
from vismech.measures.statistics import bootstrap
from vismech.report.figures import FAINT, INK, drawn, open_axes

FOLDER = Path(__file__).parent
TESTS = ("diffid", "abpc", "mas_insertion", "mas_deletion", "infidelity_relative", "sensitivity_n_0.1", "focus", "road")
SHOWN = {"abpc": "ABPC", "sensitivity_n_0.1": "sensitivity-n (a tenth)", "focus": "Focus"}
COLOURS = ("#1f6fb4", "#d1660c", "#3a8f5c", "#7d4fa3", "#8a8f98")


def verdict(cases: pd.DataFrame) -> pd.DataFrame:
    """Per source and metric the best method by its mean over images, and the others that may be as good."""
    rows = []
    for (source, metric), part in cases.groupby(["source", "metric"], sort=False):
        if metric not in TESTS:
            continue
        wide = part[part["path"] != "random"].pivot(index="image", columns="path", values="value")
        middle = wide.median() if metric == "infidelity_relative" else wide.mean()
        sign = -1 if metric in LOWER else 1
        order = (sign * middle).sort_values(ascending=False).index
        best, ties = order[0], []
        for other in order[1:]:
            both = wide[[best, other]].dropna()
            if both.empty:
                continue
            statistic = np.median if metric == "infidelity_relative" else np.mean
            low, high = bootstrap((both[best] - both[other]).to_numpy(), statistic=statistic)
            if low <= 0 <= high:
                ties.append(other)
        row = {"source": source, "metric": metric, "best": best, "value": middle[best], "n": int(wide[best].count())}
        rows.append({**row, "not_told_apart": " ".join(ties)})
    return pd.DataFrame(rows)


def methods_figure(table: pd.DataFrame, path: Path) -> None:
    """Every method's score with its interval, a panel for each test, a colour for each source."""
    sources = list(dict.fromkeys(table["source"]))
    paths = list(dict.fromkeys(table["path"]))
    with drawn((13.5, 0.4 * len(paths) + 2.2), path) as figure:
        shown = {metric: title for metric, title in SHOWN.items() if metric in set(table["metric"])}
        for axes, (metric, title) in zip(figure.subplots(1, len(shown), sharey=True), shown.items(), strict=True):
            for number, source in enumerate(sources):
                here = table[(table["source"] == source) & (table["metric"] == metric)]
                for row in here.to_dict("records"):
                    place = len(paths) - paths.index(row["path"]) + 0.16 * (len(sources) / 2 - number)
                    axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=COLOURS[number], linewidth=2)
                    axes.plot(row["value"], place, "o", color=COLOURS[number], markersize=4.5)
            axes.set_title(f"{title}, more is better", fontsize=12, color=INK)
            axes.axvline(0.5 if metric == "focus" else 0, color=FAINT, linewidth=0.8, linestyle=(0, (2, 3)))
            axes.set_yticks(range(1, len(paths) + 1), paths[::-1])
            open_axes(axes, 11)
        handles = [
            figure.axes[0].plot([], [], color=COLOURS[n], linewidth=3, label=s)[0] for n, s in enumerate(sources)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(sources), frameon=False, fontsize=12)


def distance_figure(table: pd.DataFrame, path: Path) -> None:
    """α* and what left-IG tells more than ig (ABPC), for every layer on the way to the class."""
    layers = list(dict.fromkeys(table["lower"]))
    panels = {
        "alpha_star": "α*: share of the path until 90 % of the change",
        "abpc_minus_ig": "ABPC of the left part − ABPC of ig",
    }
    with drawn((11.5, 4.6), path) as figure:
        for axes, (metric, title) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            here = table[(table["metric"] == metric) & (table["path"] == "left_ig")].set_index("lower")
            for place, layer in enumerate(layers):
                if layer in here.index:
                    row = here.loc[layer]
                    axes.plot([place] * 2, [row["ci_low"], row["ci_high"]], color=COLOURS[0], linewidth=3)
                    axes.plot(place, row["value"], "o", color=COLOURS[0], markersize=7)
            if metric == "abpc_minus_ig":
                axes.axhline(0, color=INK, linewidth=1)
            axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
            axes.set_title(title, fontsize=12, color=INK)
            open_axes(axes, 11)


def _joined(runs: list[Path], name: str) -> pd.DataFrame:
    """A table of all runs; where two of a preset have a source, the later's, which may be of more images."""
    found: dict[tuple[str, str], pd.DataFrame] = {}
    for run in runs:
        table = pd.read_csv(run / name).assign(run=name_of(run))
        for source, part in table.groupby("source", sort=False):
            found[name_of(run), str(source)] = part
    return pd.concat(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER)
    options = parser.parse_args()
    whole = [run for run in options.runs if "pixels->logits" in (run / "metrics.json").read_text()]
    fine = all([compare(run, FOLDER / "expected.json") for run in whole])
    distance = [run for run in options.runs if "distance" in name_of(run)]
    others = [run for run in options.runs if run not in distance]
    if others:
        table, cases = (_joined(others, name) for name in ("tables/attribution.csv", "cases/attribution.csv.gz"))
        table.round(5).to_csv(options.out / "attribution.csv", index=False)
        best = pd.concat([verdict(part).assign(run=run) for run, part in cases.groupby("run", sort=False)]).round(4)
        best.to_csv(options.out / "verdict.csv", index=False)
        print(best.to_string(index=False))
        for run, part in table.groupby("run", sort=False):
            methods_figure(part, options.out / f"methods_{str(run).removeprefix('paths_')}.png")
    if distance:
        table = pd.concat([pd.read_csv(run / "tables/saturation.csv") for run in distance]).drop_duplicates()
        network = ["pixels", *sorted(name for name in set(table["lower"]) if name != "pixels")]
        table = table.assign(place=table["lower"].map(network.index)).sort_values("place", kind="stable")
        table = table.drop(columns="place").round(5)
        table.to_csv(options.out / "distance.csv", index=False)
        distance_figure(table, options.out / "distance.png")
        told = table[table["metric"].isin(["alpha_star", "abpc_minus_ig"]) & (table["path"] == "left_ig")]
        print(told[["lower", "metric", "value", "ci_low", "ci_high", "n"]].to_string(index=False))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
