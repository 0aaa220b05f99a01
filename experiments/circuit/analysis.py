"""Expected and found, the shipped table and its figure: ``python experiments/circuit/analysis.py RUN [RUN …]``.

Prints CPR, CMD and the smallest faithful circuit of every dictionary and order; writes ``circuit.csv`` (the runs'
tables, with the run's name) and ``circuit.png`` (faithfulness over the number of concepts) into ``--out``.
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
ORDERS = ("gig", "u_x_gradient", "effect", "random")
COLOURS = ("#0b57a4", "#6aaee0", "#d1660c", "#1f8f86", "#7d4aa5", "#c2408c", "#8a8f98")


def read(run: Path, table: str) -> pd.DataFrame:
    """A run's table with network and dictionary in one word each."""
    found = pd.read_csv(run / f"tables/{table}.csv")
    wanted = yaml.safe_load((run / ".hydra/config.yaml").read_text())["dictionary"]
    own = f" {wanted['sae']['activation']}" if wanted["method"] == "sae" else ""
    name = found.dictionary + own + found.code.map(lambda code: "" if code == "encoder" else f" {code}")
    return found.assign(network=name_of(run).removeprefix("circuit_"), dictionary=name)


def show(table: pd.DataFrame) -> None:
    """Print every network's dictionaries × orders."""
    chosen = table[table.score == "logit"]
    for network, part in chosen.groupby("network", sort=False):
        for metric in ("cpr", "cmd", "cpr_log", "cpr_minus_random", "smallest_concepts", "smallest_complement"):
            rows = part[(part.metric == metric) & part.order.isin(ORDERS)]
            if not len(rows):
                continue
            cells = [
                f"{row.value:.2f}" + ("" if pd.isna(row.ci_low) else f" [{row.ci_low:.2f}, {row.ci_high:.2f}]")
                for row in rows.itertuples()
            ]
            wide = rows.assign(cell=cells).pivot(index="dictionary", columns="order", values="cell")
            order = [name for name in ORDERS if name in wide.columns]
            print(f"\n{network}: {metric}\n{wide.loc[list(dict.fromkeys(rows.dictionary)), order].to_string()}")
        rest = part[part.order == "none"].pivot(index="dictionary", columns="metric", values="value")
        print(f"\n{network}: the drawn circuit and concepts in use\n{rest.round(4).to_string()}")


def figure(curves: pd.DataFrame, path: Path, order: str = "gig") -> None:
    """Faithfulness over concepts per layer of one order, a panel for each network, a line for each dictionary."""
    chosen = curves[(curves.score == "logit") & (curves.order == order)]
    networks = list(dict.fromkeys(chosen.network))
    plt.rcParams.update({"font.size": 9, "font.family": "DejaVu Sans"})
    size = (4.6 * len(networks) + 0.4, 4.0)
    drawn, panels = plt.subplots(1, len(networks), figsize=size, squeeze=False, layout="constrained", sharey=True)
    names = list(dict.fromkeys(chosen.dictionary))
    for network, panel in zip(networks, panels[0], strict=True):
        for name, colour in zip(names, COLOURS, strict=False):
            part = chosen[(chosen.network == network) & (chosen.dictionary == name)]
            panel.plot(part["count"], part.insertion, color=colour, lw=1.8, label=name)
            panel.plot(part["count"], part.deletion, color=colour, lw=1.0, ls="dashed")
        for height in (0, 1):
            panel.axhline(height, color="#c9d0d9", lw=0.8)
        panel.set_xscale("log")
        panel.set_xlabel("concepts per layer in the circuit")
        panel.set_title(network, fontsize=9.5)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    panels[0, 0].set_ylabel("faithfulness (dashed: all but the circuit)")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    drawn.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False)
    drawn.savefig(path, dpi=200)
    plt.close(drawn)


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    given = options(__doc__)
    table = pd.concat([read(run, "circuit") for run in given.runs], ignore_index=True)
    curves = pd.concat([read(run, "curves") for run in given.runs], ignore_index=True)
    table[["network", *table.columns.drop("network")]].to_csv(
        given.out / "circuit.csv", index=False, float_format="%.6g"
    )
    show(table)
    figure(curves, given.out / "circuit.png")
    finish(given.runs, HERE / "expected.json")


if __name__ == "__main__":
    main()
