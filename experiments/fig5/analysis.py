"""Expected and found, the tables and the paper's figure: ``python experiments/fig5/analysis.py RUN [RUN …]``.

Prints AUC differences and gig's lead over every other order, and says on how many transitions it beats them. Writes
``interlayer.csv`` (the runs' tables, with the run's name), and ``curves_*.png`` and ``differences_*.png`` of each run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))

from summary import compare, name_of
from vismech.measures.interlayer.figure import COLOURS, curves_figure, differences_figure

HERE = Path(__file__).parent
WANTED = 0.5
"""Lead over random orders that the paper's figure shows."""


def show(part: pd.DataFrame, metric: str) -> None:
    """Print one metric with its intervals, orders against pairs of layers."""
    rows = part[part.metric == metric]
    cells = [f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]" for row in rows.itertuples()]
    wide = rows.assign(cell=cells, pair=rows.lower + " → " + rows.upper)
    table = wide.pivot(index="pair", columns="order", values="cell").loc[list(dict.fromkeys(wide.pair))]
    print(f"\n{metric}\n{table[[order for order in COLOURS if order in table]].to_string()}")


def verdict(part: pd.DataFrame, metric: str) -> None:
    """Say on how many pairs of layers gig is ahead of each order, and behind, with intervals that exclude zero."""
    leads = part[part.metric == metric]
    for order, rows in leads.groupby("order", sort=False):
        ahead, behind = int((rows.ci_low > 0).sum()), int((rows.ci_high < 0).sum())
        print(f"  {metric} of {order}: ahead on {ahead}, behind on {behind}, of {len(rows)} transitions", end="")
        enough = order == "random" and metric == "gig_ahead"
        print(f"; by {WANTED} or more on {int((rows.value >= WANTED).sum())}" if enough else "")


def main() -> None:
    """Exit status 1 when an expected bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write the table and the figures")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    tables = []
    for run in options.runs:
        name, table = name_of(run), pd.read_csv(run / "tables/interlayer.csv")
        tables.append(table.assign(run=name))
        short = name.removeprefix("fig5_")
        curves_figure(pd.read_csv(run / "tables/curves.csv"), options.out / f"curves_{short}.png")
        differences_figure(table, options.out / f"differences_{short}.png")
        for (score, readout), part in table[table.score != "none"].groupby(["score", "readout"], sort=False):
            print(f"\n{name}, score={score}, readout={readout}")
            for metric in ("auc_difference", "gig_ahead", "auc_first_8") if readout == "max" else ("auc_difference",):
                show(part, metric)
            verdict(part, "gig_ahead")
            verdict(part, "gig_ahead_first_8")
            control = part[part.metric == "random_control"]
            held = int(((control.ci_low <= 0) & (control.ci_high >= 0)).sum())
            print(f"  random orders hold zero in their 99.9 % interval on {held} of {len(control)}")
        gaps = table[table.metric == "completeness_gap"]
        print(f"\nmedian completeness gap: {gaps.value.min():.2%} to {gaps.value.max():.2%}")
        for kind in ("skipped", "absent"):
            counts = table[table.metric == kind]
            print(
                f"targets {kind}: {counts.value.sum():.0f} of {counts.n.sum():.0f}, all scores and read-outs together"
            )
    table = pd.concat(tables, ignore_index=True)
    table[["run", *table.columns.drop("run")]].to_csv(options.out / "interlayer.csv", index=False, float_format="%.6g")
    print()
    sys.exit(0 if all([compare(run, HERE / "expected.json") for run in options.runs]) else 1)


if __name__ == "__main__":
    main()
