"""Expected and found, and the tables of the README: ``python experiments/planted/analysis.py RUN``."""

import sys
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1]))
from summary import compare

FEW = ["gig", "u_x_gradient", "leave_one_out", "activation_patching"]


def show(title: str, wide: pd.DataFrame) -> None:
    """Print a table in Markdown, its index in the first column."""
    print(f"\n{title}\n")
    print(f"| | {' | '.join(str(name) for name in wide.columns)} |")
    print("|---|" + "---|" * len(wide.columns))
    for name, row in wide.iterrows():
        cells = [cell if isinstance(cell, str) else "" if pd.isna(cell) else f"{cell:.2f}" for cell in row]
        shown = ", ".join(map(str, name)) if isinstance(name, tuple) else name
        print(f"| {shown} | {' | '.join(cells)} |")


def main(run: Path) -> bool:
    """Average precision of every method, then the rest for a few; True when every expected bound holds."""
    fine = compare(run, Path(__file__).parent / "expected.json")
    table = pd.read_csv(run / "tables" / "planted.csv")

    def wide(metric: str) -> pd.DataFrame:
        part = table.query("metric == @metric")
        return part.pivot_table(index=["dictionary", "noise", "network"], columns="method", values="value", sort=False)

    precision = wide("average_precision")
    for dictionary, noise in dict.fromkeys(index[:2] for index in precision.index):
        show(f"Average precision: {dictionary}, noise {noise:g}", precision.loc[dictionary, noise])
    for metric in ("rank_correlation", "sign_agreement", "average_precision_absolute"):
        found = wide(metric)
        keys = dict.fromkeys(index[:2] for index in found.index)
        pooled = {f"{dictionary}, noise {noise:g}": found.loc[(dictionary, noise, "all")] for dictionary, noise in keys}
        show(f"Mean over networks: {metric}", pd.DataFrame(pooled).T)
    clean = table.query("metric == 'average_precision' and dictionary == 'planted' and noise == 0 and method in @FEW")
    texts: dict[str, dict[str, str]] = {}
    for row in clean.to_dict("records"):
        cell = f"{row['value']:.2f} [{row['ci_low']:.2f}, {row['ci_high']:.2f}]"
        texts.setdefault(row["network"], {})[row["method"]] = cell
    show("Average precision with 95 % intervals: planted, noise 0", pd.DataFrame(texts).T)
    recovery = table.query("method == 'none'")
    show(
        "Recovery of concepts",
        recovery.pivot_table(index=["dictionary", "noise", "network"], columns="metric", values="value", sort=False),
    )
    return fine


if __name__ == "__main__":
    sys.exit(0 if main(Path(sys.argv[1])) else 1)
