"""Expected and found, the shipped table and its figure: ``python experiments/effects/analysis.py RUN [RUN …]``.

Prints for every pair of layers how the orders agree with measured effects, writes ``effects.csv`` (the runs' tables,
with network, path and edit) and ``effects.png`` (rank correlation within images) into ``--out``.
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

from summary import finish, name_of, options

HERE = Path(__file__).parent
ORDERS = {"gig": "#0b57a4", "u_x_gradient": "#d1660c", "magnitude": "#8a8f98"}
METRICS = ("rank_correlation", "sign_agreement", "link_rank_correlation", "link_sign_agreement", "slope")


def read(run: Path) -> pd.DataFrame:
    """A run's table with what tells it from the others."""
    config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
    told = {"network": name_of(run).removeprefix("effects_"), "along": config["attribute"]["along"]}
    return pd.read_csv(run / "tables/effects.csv").assign(**told)


def show(table: pd.DataFrame) -> None:
    """Print every metric of every pair, and the means over pairs."""
    for (network, along, edit), part in table.groupby(["network", "along", "edit"], sort=False):
        between = part[(part.upper != "logits") & (part.order != "none")]
        for metric in METRICS:
            rows = between[between.metric == metric]
            cells = [f"{row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}]" for row in rows.itertuples()]
            pairs = [f"{row.lower} → {row.upper}" for row in rows.itertuples()]
            wide = rows.assign(cell=cells, pair=pairs).pivot(index="pair", columns="order", values="cell")
            order = [name for name in ORDERS if name in wide.columns]
            means = rows.groupby("order").value.mean()
            told = ", ".join(f"{name} {means[name]:.3f}" for name in order)
            print(f"\n{network}, along {along}, edit={edit}: {metric}, mean over pairs {told}")
            print(wide.loc[list(dict.fromkeys(pairs)), order].to_string())
        arrived = part[part.metric == "achieved"]
        told = ", ".join(f"{row.lower} {row.value:.2f}" for row in arrived.itertuples())
        print(f"share of the edits that arrives when encoded again: {told}")


def figure(table: pd.DataFrame, path: Path) -> None:
    """Rank correlation within images by pair of layers, a row for each network and a column for each edit."""
    rows = table[(table.metric == "rank_correlation") & (table.upper != "logits")]
    networks, edits = list(dict.fromkeys(rows.network)), list(dict.fromkeys(rows.edit))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    size = (4.6 * len(edits) + 0.6, 3.0 * len(networks) + 0.7)
    drawn, panels = plt.subplots(len(networks), len(edits), figsize=size, squeeze=False, layout="constrained")
    for network, row in zip(networks, panels, strict=True):
        for edit, panel in zip(edits, row, strict=True):
            here = rows[(rows.network == network) & (rows.edit == edit)]
            for order, colour in ORDERS.items():
                for along, mark in (("reconstruction", "o"), ("activation", "^")):
                    part = here[(here.order == order) & (here.along == along)]
                    if not len(part) or (order != "gig" and along == "activation"):
                        continue
                    name = f"gig along the {along}" if order == "gig" else order.replace("_x_", " × ")
                    at = range(len(part))
                    spread = [part.value - part.ci_low, part.ci_high - part.value]
                    style = {"color": colour, "fmt": mark, "ms": 4, "lw": 1.2, "capsize": 2, "label": name}
                    panel.errorbar(at, part.value, spread, **style)
                    panel.set_xticks(at, [f"{one.lower}\n→ {one.upper}" for one in part.itertuples()], fontsize=6.5)
            panel.set_ylim(-0.15, 1.02)
            panel.axhline(0, color="#c9d0d9", lw=0.8)
            panel.set_title(f"{network}, codes set to {edit}", fontsize=9)
            for side in ("top", "right"):
                panel.spines[side].set_visible(False)
        row[0].set_ylabel("rank correlation with\nmeasured effects")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    drawn.savefig(path, dpi=200)
    plt.close(drawn)


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    given = options(__doc__)
    table = pd.concat([read(run) for run in given.runs], ignore_index=True)
    table = table[["network", "along", *table.columns.drop(["network", "along"])]]
    table.to_csv(given.out / "effects.csv", index=False, float_format="%.6g")
    show(table)
    figure(table, given.out / "effects.png")
    finish(given.runs, HERE / "expected.json")


if __name__ == "__main__":
    main()
