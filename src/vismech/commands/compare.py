"""``vismech-compare``: the tables of runs and sweeps as one, the best in bold and what ties with it marked.

Only the function that does the work loads pandas, and only logging to W&B loads Lightning.
"""

from __future__ import annotations

import argparse
import logging
import os
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
    parser.add_argument(
        "--graphs",
        action="store_true",
        help="two runs' graphs instead: concepts matched by cosine where the layer is the same; --out has the page",
    )
    parser.add_argument("--wandb", metavar="PROJECT", help=f"log the table to W&B; files below --out or {LOGGED}")
    parser.add_argument("--mode", choices=["offline", "online"], default="offline", help="of W&B; default: offline")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    print(compare_graphs(options) if options.graphs else compare(options), end="")


def compare_graphs(options: argparse.Namespace) -> str:
    """Two runs' graphs layer by layer as a table; ``graphs.html`` and two CSV files are written below ``--out``.

    Raises:
        UserError: not two runs, one without a graph or whose dictionaries are gone, or layers that do not fit.
    """
    from vismech.compare.graphs import Drawn, beside, common_layers
    from vismech.finished.run import open_run
    from vismech.report.beside import Side, render_beside
    from vismech.report.verdict import verdict

    if len(options.runs) != 2:
        raise UserError(f"--graphs with {len(options.runs)} runs: give two")
    runs = [open_run(folder) for folder in options.runs]
    graphs = [run.graph for run in runs]
    layers = common_layers(*graphs)
    drawn = [
        Drawn(graph, {layer: run.dictionary(layer).atoms.numpy() for layer in layers})
        for run, graph in zip(runs, graphs, strict=True)
    ]
    found = beside(*drawn)
    folder = options.out or LOGGED
    _folder(folder)
    names = [run.folder.resolve().as_posix() for run in runs]
    common = len(os.path.commonpath(names)) + 1 if names[0] != names[1] else 0
    sides = [
        Side(name[common:], verdict(graph).facts, run.folder)
        for name, graph, run in zip(names, graphs, runs, strict=True)
    ]
    kept = {column.partition(".")[2] for column in found.concepts.columns if column.startswith("importance_first.")}
    groups = {group["key"]: group["name"] for group in graphs[0]["groups"] if group["key"] in kept}
    with writing(folder, "--out"):
        found.concepts.to_csv(folder / "concepts.csv", index=False)
        found.links.to_csv(folder / "links.csv", index=False)
        page = folder / "graphs.html"
        page.write_text(render_beside(sides, found.concepts, found.layers, groups), encoding="utf-8")
    return f"{found.layers.round(2).to_string(index=False)}\n\n{page}\n"


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
