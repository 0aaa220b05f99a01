"""``vismech-store``: list, show, verify and clean up artifacts."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from vismech.commands.shell import command
from vismech.commands.sizes import size
from vismech.errors import UserError
from vismech.store.artifacts import Artifact, Store
from vismech.store.disk import remove, writing
from vismech.store.lineage import Lineages
from vismech.store.manifest import MANIFEST, PROVENANCE, read_manifest, read_provenance


@command("vismech-store")
def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; exit status 1 with a sentence on an error or a failed verification."""
    parser = argparse.ArgumentParser(prog="vismech-store", description="The artifacts of all runs.")
    parser.add_argument("--root", type=Path, default=Path("outputs/artifacts"), help="the store (store.root)")
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser(
        "ls", help="every artifact: stage, unit, key, size, when, how long, model, method, run"
    )
    listing.add_argument("stage", nargs="?", help="only this stage")
    exporting = commands.add_parser("export", help="a dictionary as a folder to share: safetensors and a model card")
    exporting.add_argument("key", help="its key, or the first digits")
    exporting.add_argument("folder", type=Path, help="where to; dictionary=saved dictionary.path=FOLDER reads it")
    show = commands.add_parser("show", help="manifest and provenance of one artifact")
    show.add_argument("key", help="its key, or the first digits")
    verify = commands.add_parser("verify", help="hash every payload file again")
    verify.add_argument("key", nargs="?", help="only this artifact")
    verify.add_argument(
        "--repair", action="store_true", help="move what is damaged to quarantine/; the next run computes it anew"
    )
    clean = commands.add_parser("gc", help="what could be removed; --delete removes it")
    clean.add_argument(
        "--runs", type=Path, default=Path("outputs"), help="folder whose plan.json files name what is in use"
    )
    clean.add_argument(
        "--unused", action="store_true", help="also artifacts that no run below --runs names and no run at work uses"
    )
    clean.add_argument("--corrupted", action="store_true", help="also artifacts whose content is not what was written")
    clean.add_argument("--delete", action="store_true", help="remove instead of listing")
    options = parser.parse_args(arguments)
    store = _open(options.root)
    sys.exit(_COMMANDS[options.command](store, options))


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
    total, lineages = 0, Lineages(store)
    for folder in store.artifacts():
        if options.stage and folder.parent.name != options.stage:
            continue
        problem, made = _damage(folder)
        if problem is not None:
            print(f"{_name(folder)}: damaged, {problem}")
            continue
        artifact = Artifact(folder)
        total += artifact.bytes
        manifest = artifact.manifest
        lineage = lineages.of(folder)
        print(
            f"{manifest['stage']:<10}  {manifest['unit']:<28}  {folder.name}  {size(artifact.bytes):>9}  "
            f"{made.get('time', ''):<24}  {made.get('seconds', 0):>8.1f} s  "
            f"{'  '.join(word or '-' for word in (lineage.model, lineage.method, lineage.run))}"
        )
    print(f"{size(total)} in all")
    return 0


def _export(store: Store, options: argparse.Namespace) -> int:
    from vismech.commands.export import export  # loads torch

    folder = _find(store, options.key)
    problem, _ = _damage(folder)
    if problem is not None:
        raise UserError(f"{_name(folder)} is damaged: {problem}; vismech-store verify --repair sets it aside")
    for path in export(Artifact(folder), Lineages(store).of(folder), options.folder):
        print(path)
    print(f"to share it: huggingface-cli upload OWNER/NAME {options.folder}")
    return 0


def _show(store: Store, options: argparse.Namespace) -> int:
    folder = _find(store, options.key)
    problem, made = _damage(folder)
    if problem is not None:
        raise UserError(f"{_name(folder)} is damaged: {problem}; vismech-store verify --repair sets it aside")
    print(json.dumps({"manifest": Artifact(folder).manifest, "provenance": made}, indent=2))
    return 0


def _verify(store: Store, options: argparse.Namespace) -> int:
    folders = [_find(store, options.key)] if options.key else list(store.artifacts())
    bad = left = 0
    for folder in folders:
        problems = _problems(folder)
        note = _provenance_problem(folder)
        for problem in [*problems, *([note] if note else [])]:
            bad += 1
            print(f"{_name(folder)}: {problem}")
        if (problems or note) and options.repair:
            # Provenance is no part of the promise: what was computed stays, and only the file is set aside.
            place = store.set_aside(folder, None if problems else PROVENANCE)
            left += place is None
            said = "is being written by a run and is left" if place is None else f"set aside to {place}"
            print(f"{_name(folder)}: {said}")
        elif problems or note:
            left += 1
    print(f"{len(folders)} artifacts, {bad} problems")
    return 1 if left else 0


def _damage(folder: Path) -> tuple[str | None, dict]:
    """What is wrong with manifest or provenance, and what the provenance says."""
    try:
        read_manifest(folder)
        return None, read_provenance(folder)
    except ValueError as error:
        return str(error), {}


def _problems(folder: Path) -> list[str]:
    try:
        read_manifest(folder)
    except ValueError as error:
        return [str(error)]
    return Artifact(folder).problems()


def _provenance_problem(folder: Path) -> str | None:
    try:
        read_provenance(folder)
    except ValueError as error:
        return str(error)
    return None


def _gc(store: Store, options: argparse.Namespace) -> int:
    used = _used(options.runs) if options.unused else set()
    count = 0

    def doom(folder: Path, why: str) -> None:
        nonlocal count
        count += 1
        print(f"{'removed' if options.delete else 'would remove'} {_name(folder)} ({why})")

    for folder in store.leftovers():  # each is locked while it is at hand
        doom(folder, "unfinished")
        if options.delete:
            _remove(store, folder)
    for folder in store.artifacts():
        unused = options.unused and folder.name not in used
        if not unused and not (options.corrupted and _problems(folder)):
            continue
        with store.unless_busy(folder) as free, store.uses.gated() as at_work:
            if not free or (unused and folder.name in at_work):
                continue
            doom(folder, "unused" if unused else "corrupted")
            if options.delete:  # a run that looks it up from now on computes it
                _remove(store, folder / MANIFEST)
        if options.delete:
            _remove(store, folder)
    print(f"{count} folders" + ("" if options.delete or not count else "; --delete removes them"))
    return 0


def _remove(store: Store, path: Path) -> None:
    with writing(store.root, "--root"):
        # The manifest goes first, so that a kill leaves nothing that looks complete.
        if path.name != MANIFEST and path.is_dir() and not path.is_symlink():
            remove(path / MANIFEST)
        remove(path)


def _used(runs: Path) -> set[str]:
    plans = sorted(runs.rglob("plan.json"))
    if not plans:
        raise UserError(f"no run below {runs} says what it uses: name the folder that holds the runs with --runs")
    used: set[str] = set()
    for plan in plans:
        try:
            used.update(row["key"] for row in json.loads(plan.read_bytes()))
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"{plan} cannot be read ({error}), so what it uses is unknown: remove it first") from error
    return used


def _name(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"


_COMMANDS = {"ls": _list, "show": _show, "export": _export, "verify": _verify, "gc": _gc}
