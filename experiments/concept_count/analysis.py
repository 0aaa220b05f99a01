"""The shipped table and its figure: ``python experiments/concept_count/analysis.py SWEEP [SWEEP …]``.

Prints each layer's numbers by K, and writes ``concept_count.csv`` (the jobs' tables, with the run's name and K per
channel) and ``concept_count.png`` into the experiment's folder, or ``--out``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import matplotlib

matplotlib.use("agg")
import pandas as pd
from matplotlib import pyplot as plt

from tables import main

PER_CHANNEL = "dictionary.k_per_channel"
METRICS = {
    "r2": "R²",
    "agreement_spliced": "same answer with UV",
    "auc_difference": "C-Ins − C-Del, share",
    "auc_first_8": "C-Ins − C-Del, first 8",
    "matched_cosine": "matched cosine, seed 1",
    "graph_overlap": "graph overlap, seed 1",
}
WIDE = 3


def chosen(table: pd.DataFrame) -> pd.DataFrame:
    """The figure's rows: of insertion those on the concepts alone, in the order of their attribution."""
    plain = table.variant.isin(["plain", "reconstruction"]) | table.variant.isna()
    ordered = table.order.isin(["gig", "none"]) | table.order.isna()
    return table[table.metric.isin(METRICS) & plain & ordered]


def figure(table: pd.DataFrame, path: Path) -> None:
    """A block of panels per sweep, one panel per metric: concepts per channel, a line per layer."""
    rows = chosen(table)
    runs, metrics = list(dict.fromkeys(rows.run)), [metric for metric in METRICS if metric in {*rows.metric}]
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    high = -(-len(metrics) // WIDE)
    size = (3.1 * WIDE, 2.3 * high * len(runs) + 0.5)
    drawn, panels = plt.subplots(high * len(runs), WIDE, figsize=size, squeeze=False, layout="constrained")
    for block, run in enumerate(runs):
        for place in range(high * WIDE):
            panel = panels[block * high + place // WIDE, place % WIDE]
            if place >= len(metrics):
                panel.set_axis_off()
                continue
            part = rows[(rows.run == run) & (rows.metric == metrics[place])]
            for index, (layer, of) in enumerate(part.groupby("layer", sort=False)):
                of = of.sort_values(PER_CHANNEL)
                style = {"color": f"C{index}", "label": layer}
                panel.plot(of[PER_CHANNEL], of.value, "o-", ms=4, lw=1.2, **style)
                panel.fill_between(of[PER_CHANNEL], of.ci_low, of.ci_high, color=style["color"], alpha=0.15, lw=0)
            panel.set_xscale("log", base=2)
            counts = sorted({*part[PER_CHANNEL]})
            panel.set_xticks(counts, [f"{count:g}" for count in counts])
            panel.set_title(METRICS[metrics[place]], fontsize=9.5, loc="left")
            panel.set_xlabel("concepts per channel" if place + WIDE >= len(metrics) else "")
        first = panels[block * high, 0]
        first.set_ylabel(run.removeprefix("concept_count_"))
        first.legend(fontsize=7.5, frameon=False)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)


def show(table: pd.DataFrame) -> None:
    """Print each metric by K and layer."""
    for (run, metric), part in chosen(table).groupby(["run", "metric"], sort=False):
        wide = part.pivot(index=PER_CHANNEL, columns="layer", values="value")[list(dict.fromkeys(part.layer))]
        print(f"\n{run}, {metric}\n{wide.round(3).to_string()}")


main(Path(__file__).parent, ["extraction", "stability"], [PER_CHANNEL], show, figure)
