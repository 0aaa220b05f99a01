"""Expected and found, the shipped table and its figure: ``python experiments/errors/analysis.py RUN [RUN …]``.

Prints repair and damage of every layer and order, pooled over the runs' errors, and the repair of each error; writes
``repair.csv`` (the runs' tables, with the error's name) and ``errors.png`` (the pooled rates) into ``--out``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib
import pandas as pd
from scipy.stats import binomtest

sys.path.insert(0, str(Path(__file__).parents[1]))
matplotlib.use("agg")
from matplotlib import pyplot as plt

from summary import finish, options


class Selection(NamedTuple):
    """How a selection of concepts is drawn and called."""

    line: str
    label: str


HERE = Path(__file__).parent
METRICS = {
    "repair_rate": "errors that become right",
    "damage_rate_t": "right answers of the true class that break",
    "damage_rate_w": "right answers of the answered class that break",
}
ORDERS = {"gig": "#0b57a4", "u_x_gradient": "#d1660c", "random": "#8a8f98"}
SELECTIONS = {
    "image": Selection("solid", "chosen by the image itself"),
    "group": Selection("dashed", "chosen by other images"),
}
KEYS = ["metric", "selection", "layer", "order", "count"]


def error_of(run: Path) -> str:
    """What a run explains, such as "cat → dog"."""
    (group,) = json.loads((run / "graph.json").read_text())["groups"]
    return f"{group['labelled']} → {group['answered']}"


def pooled(table: pd.DataFrame) -> pd.DataFrame:
    """Rates over the images of all errors, with Wilson's intervals."""
    rates = table[table.metric.isin([*METRICS])]
    rates = rates.assign(happened=(rates.value * rates.n).round().astype(int))
    found = rates.groupby(KEYS, sort=False)[["happened", "n"]].sum().reset_index()
    ends = [binomtest(row.happened, row.n).proportion_ci(0.95, "wilson") for row in found.itertuples()]
    low, high = zip(*((end.low, end.high) for end in ends), strict=True)
    return found.assign(value=found.happened / found.n, ci_low=low, ci_high=high)


def show(table: pd.DataFrame, rates: pd.DataFrame) -> None:
    """Print the pooled rates, then each error's repair, with intervals."""
    for (metric, selection), part in rates.groupby(["metric", "selection"], sort=False):
        cells = [f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]" for row in part.itertuples()]
        wide = part.assign(cell=cells).pivot(index=["layer", "order"], columns="count", values="cell")
        index = [(layer, order) for layer in dict.fromkeys(part.layer) for order in ORDERS]
        print(f"\n{METRICS[str(metric)]}, by {selection}, n = {part.n.iloc[0]}\n{wide.loc[index].to_string()}")
    for metric in ("repair_rate", "gig_ahead"):
        part = table[(table.metric == metric) & (table["count"] == 10)]
        cells = [f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]" for row in part.itertuples()]
        wide = part.assign(cell=cells).pivot(index=["error", "selection", "order"], columns="layer", values="cell")
        print(f"\n{metric} of each error, 10 concepts removed\n{wide.to_string()}")


def figure(rates: pd.DataFrame, path: Path) -> None:
    """The pooled rates: a row for each metric, a column for each layer."""
    layers = list(dict.fromkeys(rates.layer))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    size = (2.1 * len(layers) + 0.6, 6.6)
    drawn, panels = plt.subplots(
        len(METRICS), len(layers), figsize=size, layout="constrained", sharex=True, sharey=True
    )
    for metric, row in zip(METRICS, panels, strict=True):
        for layer, panel in zip(layers, row, strict=True):
            here = rates[(rates.metric == metric) & (rates.layer == layer)]
            for index, (selection, order) in enumerate((one, two) for one in SELECTIONS for two in ORDERS):
                part = here[(here.selection == selection) & (here.order == order)]
                at = [place + 0.05 * (index - 2.5) for place in range(len(part))]
                spread = [part.value - part.ci_low, part.ci_high - part.value]
                label = f"{order.replace('_x_', ' × ')}, {SELECTIONS[selection].label}"
                style = {"color": ORDERS[order], "ls": SELECTIONS[selection].line, "label": label}
                panel.errorbar(at, part.value, spread, fmt="o", ms=3, lw=1.3, elinewidth=0.8, **style)
            panel.set_xticks(range(3), sorted(set(here["count"])))
            panel.set_ylim(-0.02, 1.02)
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
        row[0].set_ylabel(METRICS[metric].replace(" that", "\nthat").replace(" of", "\nof", 1))
    for layer, panel in zip(layers, panels[0], strict=True):
        panel.set_title(layer, fontsize=9.5)
    drawn.supxlabel("concepts removed", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=2, frameon=False)
    drawn.savefig(path, dpi=200)
    plt.close(drawn)


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    given = options(__doc__)
    tables = [pd.read_csv(run / "tables/repair.csv").assign(error=error_of(run)) for run in given.runs]
    table = pd.concat(tables, ignore_index=True)
    table = table[["error", *table.columns.drop("error")]]
    table.to_csv(given.out / "repair.csv", index=False, float_format="%.6g")
    rates = pooled(table)
    show(table, rates)
    figure(rates, given.out / "errors.png")
    finish(given.runs, HERE / "expected.json")


if __name__ == "__main__":
    main()
