"""``vismech-store``: list, show, verify and clean up artifacts."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from vismech.errors import UserError
from vismech.store import MANIFEST, PROVENANCE, Artifact, Store


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit status 1 with a sentence on an error or a failed verification."""
    parser = argparse.ArgumentParser(prog="vismech-store", description="The artifacts of all runs.")
    parser.add_argument("--root", type=Path, default=Path("outputs/artifacts"), help="the store (store.root)")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("ls", help="every artifact: stage, unit, key, size, when and how long")
    listing.add_argument("stage", nargs="?", help="only this stage")
    show = commands.add_parser("show", help="manifest and provenance of one artifact")
    show.add_argument("key", help="its key, or the first digits")
    verify = commands.add_parser("verify", help="hash every payload file again")
    verify.add_argument("key", nargs="?", help="only this artifact")
    clean = commands.add_parser("gc", help="what could be removed; --delete removes it")
    clean.add_argument(
        "--runs", type=Path, default=Path("outputs"), help="folder whose plan.json files name what is in use"
    )
    clean.add_argument("--unused", action="store_true", help="also artifacts that no run below --runs names")
    clean.add_argument("--corrupted", action="store_true", help="also artifacts whose content is not what was written")
    clean.add_argument("--delete", action="store_true", help="remove instead of listing")
    options = parser.parse_args(arguments)
    try:
        store = _open(options.root)
        status = {"ls": _list, "show": _show, "verify": _verify, "gc": _gc}[options.command](store, options)
    except UserError as error:
        print(f"vismech-store: {error}", file=sys.stderr)
        status = 1
    except BrokenPipeError:  # whoever reads, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 0
    sys.exit(status)


def _open(root: Path) -> Store:
    if not root.is_dir():
        raise UserError(f"there is no store at {root}: name it with --root")
    return Store(root)


def _find(store: Store, key: str) -> Path:
    fits = [folder for folder in store.artifacts() if folder.name.startswith(key)]
    if len(fits) != 1:
        raise UserError(f"{len(fits)} artifacts have a key that starts with {key!r}: see vismech-store ls")
    return fits[0]


def _list(store: Store, options: argparse.Namespace) -> int:
    total = 0
    for folder in store.artifacts():
        if options.stage and folder.parent.name != options.stage:
            continue
        artifact = Artifact(folder)
        total += artifact.bytes
        made = _provenance(folder)
        manifest = artifact.manifest
        print(
            f"{manifest['stage']:<10}  {manifest['unit']:<28}  {folder.name}  {_size(artifact.bytes):>9}  "
            f"{made.get('time', ''):<24}  {made.get('seconds', 0):>8.1f} s"
        )
    print(f"{_size(total)} in all")
    return 0


def _show(store: Store, options: argparse.Namespace) -> int:
    folder = _find(store, options.key)
    print(json.dumps({"manifest": Artifact(folder).manifest, "provenance": _provenance(folder)}, indent=2))
    return 0


def _verify(store: Store, options: argparse.Namespace) -> int:
    folders = [_find(store, options.key)] if options.key else list(store.artifacts())
    bad = 0
    for folder in folders:
        for problem in _problems(folder):
            bad += 1
            print(f"{folder.parent.name}/{folder.name}: {problem}")
    print(f"{len(folders)} artifacts, {bad} problems")
    return 1 if bad else 0


def _problems(folder: Path) -> list[str]:
    try:
        return Artifact(folder).problems()
    except UserError:
        return [f"{MANIFEST} cannot be read"]


def _gc(store: Store, options: argparse.Namespace) -> int:
    used = _used(options.runs) if options.unused else set()
    count = 0

    def doom(folder: Path, why: str) -> None:
        nonlocal count
        count += 1
        print(f"{'removed' if options.delete else 'would remove'} {folder.parent.name}/{folder.name} ({why})")
        if options.delete:
            # The manifest goes first, so that a kill leaves nothing that looks complete.
            (folder / MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder)

    for folder in store.leftovers():  # each is locked while it is at hand
        doom(folder, "unfinished")
    for folder in store.artifacts():
        if options.unused and folder.name not in used:
            doom(folder, "unused")
        elif options.corrupted and _problems(folder):
            doom(folder, "corrupted")
    print(f"{count} folders" + ("" if options.delete or not count else "; --delete removes them"))
    return 0


def _used(runs: Path) -> set[str]:
    plans = sorted(runs.rglob("plan.json"))
    if not plans:
        raise UserError(f"no run below {runs} says what it uses: name the folder that holds the runs with --runs")
    used: set[str] = set()
    for plan in plans:
        try:
            used.update(row["key"] for row in json.loads(plan.read_bytes()))
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{plan} cannot be read ({error}), so what it uses is unknown: remove it first") from error
    return used


def _provenance(folder: Path) -> dict:
    file = folder / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {}


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
