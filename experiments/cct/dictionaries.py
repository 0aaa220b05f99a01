"""Fig. 5 and circuits of the trained transformer: ``python experiments/cct/dictionaries.py SWEEP [SWEEP …]``.

Of the sweeps of ``cct_fig5`` and ``cct_circuit`` it prints README's tables and writes ``interlayer.csv``,
``circuit.csv`` and ``dictionaries.png`` into ``--out``; exit status 1 when an expected bound does not hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
matplotlib.use("agg")
from matplotlib import pyplot as plt

from summary import name_of
from vismech.compare.run_tables import open_runs

HERE = Path(__file__).parent
TABLES = {"cct_fig5": "interlayer", "cct_circuit": "circuit"}
ORDERS = {
    "interlayer": ("gig", "u_x_gradient", "leave_one_out", "magnitude", "random"),
    "circuit": ("gig", "u_x_gradient", "effect", "random"),
}
COLOURS = ("#0b57a4", "#d1660c", "#1f8f86", "#7d4aa5", "#c2408c", "#8a8f98")


def chosen(run: Path) -> str:
    """The choice of the group ``dictionary``: a table's own column knows autoencoders as one method."""
    typed = yaml.safe_load((run / ".hydra/overrides.yaml").read_text())
    return next(each.partition("=")[2] for each in typed if each.startswith("dictionary="))


def read(runs: Sequence[Path], preset: str, table: str) -> pd.DataFrame:
    """A table of every run of a preset, one below the other."""
    parts = [
        pd.read_csv(run / f"tables/{table}.csv").assign(dictionary=chosen(run))
        for run in runs
        if name_of(run) == preset and (run / f"tables/{table}.csv").exists()
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def cell(rows: pd.DataFrame, interval: bool = True) -> str:
    """One value with its interval; empty where there is none."""
    if not len(rows):
        return ""
    value, low, high = rows[["value", "ci_low", "ci_high"]].iloc[0]
    return f"{value:.2f} [{low:.2f}, {high:.2f}]" if interval and pd.notna(low) else f"{value:.2f}"


def show(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table as README has it."""
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def show_interlayer(table: pd.DataFrame) -> None:
    """Each order's values, transition by transition; how far gig is ahead, and how often with zero outside."""
    gaps = table[table.metric == "completeness_gap"]
    table = table[(table.score == "ratio") & (table.readout == "max")]
    pairs = list(dict.fromkeys(zip(table.lower, table.upper, strict=True)))
    for metric in ("auc_difference", "auc_first_8", "gig_ahead"):
        part = table[table.metric == metric]
        orders = [order for order in ORDERS["interlayer"] if order in set(part.order)]
        places = part.set_index(["dictionary", "order", "lower", "upper"]).value
        rows = [
            [name, *(" / ".join(f"{places[name, order, *pair]:.2f}" for pair in pairs) for order in orders)]
            for name in dict.fromkeys(part.dictionary)
        ]
        wide = ((part.ci_high - part.ci_low) / 2).max()
        print(f"\n{metric} of {', '.join(' → '.join(pair) for pair in pairs)}; intervals within ± {wide:.2f}", end="")
        show(["dictionary", *orders], rows)
        if metric == "gig_ahead":
            for order, own in part.groupby("order", sort=False):
                ahead, behind = (own.ci_low > 0).sum(), (own.ci_high < 0).sum()
                print(f"  of {order}: ahead on {ahead}, behind on {behind} of {len(own)}")
    control = table[table.metric == "random_control"]
    held = int(((control.ci_low <= 0) & (control.ci_high >= 0)).sum())
    print(f"\nrandom orders hold zero in their 99.9 % interval on {held} of {len(control)}")
    print(f"median completeness gap {gaps.value.min():.2%} to {gaps.value.max():.2%}")


def show_circuit(table: pd.DataFrame) -> None:
    """CPR by order, and the smallest faithful circuit."""
    table = table[table.score == "logit"]
    for metric in ("cpr", "cmd", "cpr_minus_random", "smallest_concepts"):
        part, rows = table[table.metric == metric], []
        orders = [order for order in ORDERS["circuit"] if order in set(part.order)]
        for dictionary, own in part.groupby("dictionary", sort=False):
            rows.append([str(dictionary), *(cell(own[own.order == order]) for order in orders)])
        print(f"\n{metric}, score=logit", end="")
        show(["dictionary", *orders], rows)


def figure(interlayer: pd.DataFrame, curves: pd.DataFrame, path: Path) -> None:
    """AUC differences of every transition, and faithfulness over the number of concepts in a circuit."""
    plt.rcParams.update({"font.size": 8, "font.family": "DejaVu Sans"})
    drawn, panels = plt.subplots(1, 2, figsize=(9.2, 3.6), layout="constrained")
    part = interlayer[(interlayer.score == "ratio") & (interlayer.readout == "max")]
    part = part[part.metric == "auc_difference"]
    pairs = list(dict.fromkeys(part.lower + " → " + part.upper))
    names = list(dict.fromkeys(part.dictionary))
    for name, colour in zip(names, COLOURS, strict=False):
        for order, mark in (("gig", "o"), ("u_x_gradient", "s"), ("random", "x")):
            own = part[(part.dictionary == name) & (part.order == order)]
            places = [
                pairs.index(f"{row.lower} → {row.upper}") + 0.12 * (names.index(name) - 2.5) for row in own.itertuples()
            ]
            error = [own.value - own.ci_low, own.ci_high - own.value]
            label = name if order == "gig" else None
            panels[0].errorbar(places, own.value, error, fmt=mark, ms=4, color=colour, lw=1, label=label)
        own = curves[(curves.dictionary == name) & (curves.score == "logit") & (curves.order == "gig")]
        panels[1].plot(own["count"], own.insertion, color=colour, lw=1.6)
        panels[1].plot(own["count"], own.deletion, color=colour, lw=0.9, ls="dashed")
    panels[0].set_xticks(range(len(pairs)), pairs)
    panels[0].set_title("AUC difference: ● gig, ■ u × gradient, × random", fontsize=8.5)
    panels[1].set_xscale("log")
    panels[1].set_xlabel("concepts per layer in the circuit")
    panels[1].set_title("faithfulness by gig (dashed: all but the circuit)", fontsize=8.5)
    for panel in panels:
        panel.axhline(0, color="#c9d0d9", lw=0.8, zorder=0)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    drawn.legend(loc="outside lower center", ncols=6, frameon=False)
    drawn.savefig(path, dpi=130)
    plt.close(drawn)


def compare(tables: dict[str, pd.DataFrame]) -> bool:
    """Print the expected values with their bounds; True when all hold."""
    fine, bounds = True, json.loads((HERE / "expected.json").read_text())
    for key, (low, high) in bounds.items():
        preset, *rest = key.split("/")
        if preset not in TABLES:
            continue  # of fields.py
        found = tables[TABLES[preset]]
        if preset == "cct_fig5":
            dictionary, upper, order, metric = rest
            found = found[(found.upper == upper) & (found.score == "ratio") & (found.readout == "max")]
        else:
            dictionary, order, metric = rest
            found = found[found.score == "logit"]
        own = found[(found.dictionary == dictionary) & (found.order == order) & (found.metric == metric)]
        holds = len(own) == 1 and low <= own.value.item() <= high
        fine &= holds
        shown = f"{own.value.item():.3f}" if len(own) == 1 else "missing"
        print(f"{'ok  ' if holds else 'FAIL'}  {key:<70} {shown} [{low}, {high}]")
    return fine


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN_OR_SWEEP")
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    runs = [run.folder for run in open_runs(given.runs)]
    tables = {table: read(runs, preset, table) for preset, table in TABLES.items()}
    for name, table in tables.items():
        table.to_csv(given.out / f"{name}.csv", index=False, float_format="%.6g")
    show_interlayer(tables["interlayer"])
    show_circuit(tables["circuit"])
    figure(tables["interlayer"], read(runs, "cct_circuit", "curves"), given.out / "dictionaries.png")
    print()
    sys.exit(0 if compare(tables) else 1)


if __name__ == "__main__":
    main()
