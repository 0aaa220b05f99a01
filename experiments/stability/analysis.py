"""Expected and found, the shipped table and its figure: ``python experiments/stability/analysis.py RUN [RUN …]``.

Prints what comes back in every variant, and writes ``stability.csv`` (the runs' tables, with the run's name) and
``stability.png`` into the experiment's folder, or ``--out``.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import matplotlib

matplotlib.use("agg")
import pandas as pd
from matplotlib import pyplot as plt

from tables import main

METRICS = {"matched_cosine": "matched cosine", "matched_share": "share above 0.9", "graph_overlap": "graph overlap"}
CHANCE = {"matched_cosine": "chance_cosine", "graph_overlap": "chance_graph_overlap"}


def figure(table: pd.DataFrame, path: Path) -> None:
    """One column of panels per run, one row per metric: the layers, a line per variant, dotted its random matching."""
    runs, variants = list(dict.fromkeys(table.run)), list(dict.fromkeys(table.against))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    size = (2.2 + 3.6 * len(runs), 2.1 * len(METRICS) + 0.4)
    drawn, panels = plt.subplots(len(METRICS), len(runs), figsize=size, squeeze=False, layout="constrained")
    for column, run in enumerate(runs):
        part = table[table.run == run]
        layers = list(dict.fromkeys(part.layer))
        for row, (metric, label) in enumerate(METRICS.items()):
            panel = panels[row, column]
            for index, variant in enumerate(variants):
                of = part[part.against == variant].set_index(["metric", "layer"])
                if metric not in of.index:
                    continue
                here = of.loc[metric].reindex(layers)
                at = [place + 0.08 * (index - len(variants) / 2) for place in range(len(layers))]
                spread = [here.value - here.ci_low, here.ci_high - here.value]
                panel.errorbar(
                    at, here.value, spread, fmt="o-", color=f"C{index}", label=variant, ms=4, lw=1, capsize=2
                )
                if metric in CHANCE:
                    chance = of.loc[CHANCE[metric]].reindex(layers)
                    panel.plot(at, chance.value, ":", color=f"C{index}", lw=0.8)
            panel.set_xticks(range(len(layers)), layers)
            panel.set_ylim(0, 1.02)
            panel.set_ylabel(label if column == 0 else "")
        panels[0, column].set_title(run.removeprefix("stability_"), fontsize=9.5, loc="left")
    handles = {}
    for panel in panels[0]:
        handles |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
    drawn.legend(handles.values(), handles, loc="outside lower center", ncols=2 + len(runs) // 2, frameon=False)
    drawn.savefig(path, dpi=150)
    plt.close(drawn)


def show(table: pd.DataFrame) -> None:
    """Print every variant's numbers with their intervals, and chance."""
    for (run, against), part in table.groupby(["run", "against"], sort=False):
        wide = part.pivot(index="metric", columns="layer", values="value")[list(dict.fromkeys(part.layer))]
        print(f"\n{run}, against {against}\n{wide.round(3).to_string()}")


main(Path(__file__).parent, ["stability"], [], show, figure)
