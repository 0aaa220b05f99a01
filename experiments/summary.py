"""What a run says: its metrics beside the experiment's expected.json, then the graph's strongest concepts and edges."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import yaml


def name_of(run: Path) -> str:
    """The preset of a run."""
    return yaml.safe_load((run / ".hydra/config.yaml").read_text())["name"]


def compare(run: Path, expected: Path) -> bool:
    """Print every expected metric with its bounds and the value found; True when all hold.

    ``expected`` maps metrics to [low, high], or presets to such maps where one folder serves several presets.
    """
    found = json.loads((run / "metrics.json").read_text())
    bounds = json.loads(expected.read_text())
    if any(isinstance(own, dict) for own in bounds.values()):
        bounds = bounds.get(name_of(run), {})
    if not bounds:
        print(f"{expected} expects nothing of {name_of(run)}: nothing to compare.")
    fine = True
    for name, (low, high) in bounds.items():
        value = found.get(name)
        holds = value is not None and low <= value <= high
        fine &= holds
        shown = "missing" if value is None else f"{value:.4g}"
        print(f"{'ok  ' if holds else 'FAIL'}  {name:<80} {shown:>10}  [{low:g}, {high:g}]")
    return fine


def options(description: str) -> argparse.Namespace:
    """``RUN [RUN …] --out FOLDER`` as typed; the folder is made."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--out", type=Path, default=Path(), help="where to write the table and the figure")
    found = parser.parse_args()
    found.out.mkdir(parents=True, exist_ok=True)
    return found


def finish(runs: Iterable[Path], expected: Path) -> None:
    """Compare every run; exit status 1 when an expected bound does not hold."""
    fine = True
    for run in runs:
        print(f"\n{run.name}")
        fine &= compare(run, expected)
    sys.exit(0 if fine else 1)


def strongest(run: Path, count: int = 5) -> None:
    """Print, per group, each layer's most important concepts and the strongest edges into them."""
    graph = json.loads((run / "graph.json").read_text())
    for group in graph["groups"]:
        key = group["key"]
        print(f"\n{group['name']} ({group['images']} images)")
        for layer in reversed(graph["layers"]):
            nodes = [node for node in graph["nodes"] if node["kind"] == "concept" and node["layer"] == layer]
            nodes.sort(key=lambda node: -abs(node["importance"][key]))
            shown = ", ".join(
                f"#{node['concept']}{' (shared)' if node['shared'] else ''} {node['importance'][key]:+.2f}"
                for node in nodes[:count]
            )
            print(f"  {layer}: {shown}")
        links = [link for link in graph["links"] if abs(link["weights"].get(key, 0)) > 0]
        for lower in reversed(graph["layers"]):
            into = sorted(
                (link for link in links if link["lower"] == lower), key=lambda link: -abs(link["weights"][key])
            )
            for link in into[:count]:
                print(f"    {link['source']:>16} → {link['target']:<16} {link['weights'][key]:+.3f}")


def main(folder: Path) -> None:
    """Summarise the run named on the command line; exit status 1 when an expected bound does not hold."""
    run = Path(sys.argv[1])
    fine = compare(run, folder / "expected.json")
    strongest(run)
    sys.exit(0 if fine else 1)
