"""The command ``vismech-bench``: measures how fast this machine is, so that plans tell seconds of it."""

from __future__ import annotations

import argparse
from pathlib import Path

from vismech.commands.shell import command
from vismech.store.disk import writing


@command("vismech-bench")
def main(arguments: list[str] | None = None) -> None:
    """``vismech-bench [--root STORE]``."""
    parser = argparse.ArgumentParser(
        prog="vismech-bench",
        description="Measure this machine, in less than a minute, for the seconds that vismech … plan=true tells.",
    )
    parser.add_argument(
        "--root", type=Path, default=Path("outputs/artifacts"), help="the store (store.root) beside which it is kept"
    )
    options = parser.parse_args(arguments)
    with writing(options.root, "--root", making=True):
        options.root.mkdir(parents=True, exist_ok=True)
        from vismech.costs.machines import keep  # loads torch
        from vismech.costs.measure import UNITS, measure

        machine = measure(options.root)
        for kind, rate in machine.rates.items():
            print(f"{kind.value:<10} {rate:>10.3g} {UNITS[kind]} per second")
        print(f"{'memory':<10} {machine.bandwidth:>10.3g} bytes per second")
        print(f"{'store':<10} {machine.store:>10.3g} bytes per second")
        print(f"{'operation':<10} {machine.launch * 1e6:>10.3g} microseconds")
        print(keep(options.root, machine))
