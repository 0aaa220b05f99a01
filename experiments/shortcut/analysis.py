"""Expected and found, the shipped table and its figure: ``python experiments/shortcut/analysis.py RUN [RUN …]``.

Prints, for every planted network and dictionary, what the edit that the choosing half chooses does on the confirming
half, and where the stamp's concept stands in the orders that know nothing of the stamp; writes ``shortcut.csv`` and
``shortcut.png`` into ``--out``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib
import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
matplotlib.use("agg")
from matplotlib import pyplot as plt

from summary import finish, options

HERE = Path(__file__).parent
WIDE = 3
ORDERS = {"attribute": "#1f8f86", "gig": "#0b57a4", "effect": "#7d4aa5", "random": "#8a8f98"}


def read(run: Path) -> pd.DataFrame:
    """A run's table with the folder of its planted network."""
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    return pd.read_csv(run / "tables/shortcut.csv").assign(network=Path(config["model"]["checkpoint"]).parent.name)


def show(table: pd.DataFrame) -> None:
    """Print what is chosen, layer by layer, and the places of the stamp's concept."""
    told = table[table.half.str.contains("chosen")]
    for dictionary, part in told.groupby("dictionary", sort=False):
        rows = part[part.metric.isin(["scr", "collateral", "concepts_removed"])]
        cells = [
            f"{row.value:.3f}" + ("" if pd.isna(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]")
            for row in rows.itertuples()
        ]
        wide = rows.assign(cell=cells).pivot(index=["network", "layer", "order"], columns="metric", values="cell")
        print(f"\n{dictionary}: chosen on one half, scored on the other\n{wide.to_string()}")
        means = rows[rows.metric != "concepts_removed"].groupby(["layer", "order", "metric"], sort=False).value.mean()
        print(f"means over networks\n{means.unstack().round(3).to_string()}")
        for metric, said in (
            ("rank_of_attribute", "place of the concept that differs most by the stamp"),
            ("auc_of_first", "how well the first concept tells stamped images (area under the ROC curve)"),
        ):
            ranks = table[(table.metric == metric) & (table.dictionary == dictionary)]
            places = ranks.pivot(index=["network", "layer"], columns="order", values="value")
            print(f"{said}\n{places.round(2).to_string()}")


def figure(table: pd.DataFrame, path: Path) -> None:
    """SCR over the number of removed concepts on the confirming half, the mean over networks; a panel for each
    dictionary and layer."""
    chosen = table[(table.half == "confirming") & (table.edit == "zero") & table.metric.isin(["scr", "collateral"])]
    means = chosen.groupby(["dictionary", "layer", "order", "metric", "count"], sort=False).value.mean().reset_index()
    pairs = list(dict.fromkeys(zip(means.dictionary, means.layer, strict=True)))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    rows = -(-len(pairs) // WIDE)
    size = (2.9 * WIDE + 0.6, 2.2 * rows + 0.8)
    drawn, panels = plt.subplots(rows, WIDE, figsize=size, squeeze=False, layout="constrained", sharey=True)
    for panel in panels.flat[len(pairs) :]:
        panel.set_visible(False)
    for (dictionary, layer), panel in zip(pairs, panels.flat, strict=False):
        here = means[(means.dictionary == dictionary) & (means.layer == layer)]
        for order, colour in ORDERS.items():
            for metric, line in (("collateral", "dashed"), ("scr", "solid")):
                part = here[(here.order == order) & (here.metric == metric)]
                panel.plot(part["count"], part.value, color=colour, ls=line, lw=1.6, label=order)
        panel.set_xscale("log")
        panel.set_xticks([1, 2, 5, 10, 20, 50], ["1", "2", "5", "10", "20", "50"])
        panel.minorticks_off()
        panel.set_ylim(-0.4, 1.3)
        for height in (0, 1):
            panel.axhline(height, color="#c9d0d9", lw=0.8)
        panel.set_title(f"{dictionary}, {layer}", fontsize=9)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    drawn.supxlabel("concepts removed", fontsize=9)
    drawn.supylabel("SCR; dashed: accuracy lost", fontsize=9)
    handles, labels = panels[0, 0].get_legend_handles_labels()
    distinct = dict(zip(labels, handles, strict=True))
    drawn.legend([*distinct.values()], [*distinct], loc="outside upper center", ncols=4, frameon=False)
    drawn.savefig(path, dpi=200)
    plt.close(drawn)


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    given = options(__doc__)
    table = pd.concat([read(run) for run in given.runs], ignore_index=True)
    table = table[["network", *table.columns.drop("network")]]
    table[table.half != "choosing"].to_csv(given.out / "shortcut.csv", index=False, float_format="%.4g")
    show(table)
    figure(table, given.out / "shortcut.png")
    finish(
        (run for run in given.runs if set(pd.read_csv(run / "tables/shortcut.csv").dictionary) == {"bisecting"}),
        HERE / "expected.json",
    )


if __name__ == "__main__":
    main()
