"""What the analyses of runs and sweeps share: bounds compared, one shipped table, its figure."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import yaml

from summary import compare, name_of
from vismech.compare.run_tables import open_runs

Show = Callable[[pd.DataFrame], None]
Draw = Callable[[pd.DataFrame, Path], None]


def main(folder: Path, tables: list[str], settings: list[str], show: Show, figure: Draw) -> None:
    """Compare, print, and write ``<folder>.csv`` and ``.png``; exit status 1 when an expected bound does not hold.

    Args:
        folder: the experiment's, with its expected.json; bounds hold for every job of a sweep.
        tables: those that are shipped, one below the other.
        settings: keys of the configuration that become columns, as dotted paths.
        show: prints the table.
        figure: draws it.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP")
    parser.add_argument("--out", type=Path, default=folder)
    options = parser.parse_args()
    runs = [run.folder for run in open_runs(options.runs)]
    fine = all([compare(run, folder / "expected.json") for run in runs])
    parts = []
    for run in runs:
        config = yaml.safe_load((run / ".hydra/config.yaml").read_text())
        facts = {"run": name_of(run), **{key: _at(config, key) for key in settings}}
        parts += [pd.read_csv(run / "tables" / f"{table}.csv").assign(**facts) for table in tables]
    table = pd.concat(parts, ignore_index=True)
    table = table[["run", *settings, *(name for name in table if name not in ("run", *settings))]]
    show(table)
    options.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(options.out / f"{folder.name}.csv", index=False)
    figure(table, options.out / f"{folder.name}.png")
    sys.exit(0 if fine else 1)


def _at(config: dict, key: str) -> object:
    head, _, rest = key.partition(".")
    return _at(config[head], rest) if rest else config[head]
