"""``vismech-compare``: the tables of runs and sweeps as one, the best in bold and what ties with it marked.

Only the function that does the work loads pandas, and only logging to W&B loads Lightning.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from vismech.commands.shell import command
from vismech.errors import UserError
from vismech.store.disk import writing

LOGGED = Path("outputs/comparisons")


@command("vismech-compare")
def main(arguments: Sequence[str] | None = None) -> None:
    """Print the comparison as Markdown and write its files; exit status 1 with a sentence on an error."""
    parser = argparse.ArgumentParser(
        prog="vismech-compare",
        description="One table from runs and sweeps. The best of each column is bold; what ties with it within the "
        "interval has a †: by the paired difference over common images where runs kept values of images, else by "
        "overlapping intervals, as the captions say.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN_OR_SWEEP", help="outputs/runs/… or outputs/sweeps/…")
    parser.add_argument("--table", help="which table; default: the first that all have (extraction, interlayer, …)")
    parser.add_argument("--metric", nargs="+", default=[], metavar="NAME", help="only these metrics, in this order")
    parser.add_argument("--rows", type=_names, metavar="KEY,…", help="default: the keys that differ among the runs")
    parser.add_argument("--columns", type=_names, metavar="KEY,…", help="default: layer, or lower,upper")
    parser.add_argument(
        "--where", nargs="+", default=[], metavar="KEY=VALUE,…", help="only rows in which a key has one of the values"
    )
    parser.add_argument("--lower", nargs="+", default=[], metavar="METRIC", help="less of these is better")
    parser.add_argument("--higher", nargs="+", default=[], metavar="METRIC", help="more of these is better")
    parser.add_argument("--intervals", action="store_true", help="write intervals beside the numbers")
    parser.add_argument(
        "--out", type=Path, help="folder for <table>.csv (long, all intervals), <table>.md, <table>.tex"
    )
    parser.add_argument("--wandb", metavar="PROJECT", help=f"log the table to W&B; files below --out or {LOGGED}")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline", help="of W&B; default: offline")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(compare(options), end="")


def compare(options: argparse.Namespace) -> str:
    """The comparison as Markdown; its files are written and logged as ``options`` say.

    Raises:
        UserError: no run there, an unknown table, metric, key or value, or rows and columns that leave several numbers
            to one cell.
    """
    import pandas as pd

    from vismech.compare import comparison
    from vismech.compare.figure import blocks, latex, markdown
    from vismech.compare.run_tables import choose_table, open_runs

    runs = open_runs(options.runs)
    table = choose_table(runs, options.table)
    numbers = comparison.collect_runs(runs, table)
    numbers = comparison.select(numbers, options.metric, _where(options.where))
    columns = comparison.default_columns(numbers) if options.columns is None else options.columns
    comparison.known_keys(numbers, [*columns, *(options.rows or [])])
    rows = comparison.default_rows(numbers, columns) if options.rows is None else options.rows
    comparison.one_to_a_cell(numbers, rows, columns)
    directions = {**dict.fromkeys(options.lower, -1), **dict.fromkeys(options.higher, 1)}
    for metric in directions:
        comparison.known(metric, numbers.values("metric"), "metric")
    judged = comparison.judge(numbers, runs, table, columns, directions)
    found = blocks(judged, rows, columns, directions, options.intervals)
    text = markdown(", ".join([table, *options.where]), found)
    frame = pd.DataFrame(judged).drop(columns="place")
    if options.out is not None:
        _folder(options.out)
        with writing(options.out, "--out"):
            frame.to_csv(options.out / f"{table}.csv", index=False)
            (options.out / f"{table}.md").write_text(text, encoding="utf-8")
            (options.out / f"{table}.tex").write_text(latex(found), encoding="utf-8")
    if options.wandb:
        from vismech.config.choices import WandbMode
        from vismech.config.schema import Config
        from vismech.passes.loggers import log_run

        config = Config(name="compare")
        config.logger.project, config.logger.mode = options.wandb, WandbMode(options.mode)
        folder = options.out or LOGGED
        _folder(folder)
        values = {"runs": [run.label for run in runs], "table": table, "rows": rows, "columns": columns}
        log_run(config, values, {"runs": len(runs)}, {f"comparison/{table}": frame}, [], folder)
    return text


def _folder(folder: Path) -> None:
    with writing(folder, "--out", making=True):
        folder.mkdir(parents=True, exist_ok=True)


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _where(pairs: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in pairs:
        key, equals, values = pair.partition("=")
        if not equals:
            raise UserError(f"--where {pair}: write key=value, or key=value,value for rows with either")
        found.setdefault(key, []).extend(values.split(","))
    return found
