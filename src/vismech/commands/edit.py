"""``vismech-edit``: a model with concepts of a finished run edited, as a file to keep and on photographs.

Only the function that does the work loads torch, so that help and mistyped arguments answer at once.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from vismech.commands.shell import command
from vismech.commands.sizes import size
from vismech.config.choices import EditValue
from vismech.errors import UserError


@command("vismech-edit")
def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was tried and written; exit status 1 with a sentence on an error."""
    parser = argparse.ArgumentParser(
        prog="vismech-edit",
        description="A run's model with some of its concepts edited: a file of data that vismech.edit.load reads, and "
        "what the model says of photographs before and after.",
    )
    parser.add_argument("run", type=Path, help="the run's folder, outputs/runs/<name>/<time>")
    parser.add_argument("concepts", nargs="+", metavar="LAYER/CONCEPT", help="concepts to edit, such as blocks.4/70")
    parser.add_argument(
        "--value",
        default="zero",
        metavar="zero|mean|scale=S",
        help="what their codes become at all positions: zero (the default), the mean over the run's extracted vectors, "
        "or S times what they are",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the edit, edit.safetensors say; a new file")
    parser.add_argument(
        "--try",
        type=Path,
        nargs="+",
        default=[],
        dest="photos",
        metavar="PHOTO",
        help="print the five most probable classes of photographs before and after",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import code of this package, such as the run's own model; may be given again",
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    concepts, (value, scale) = concepts_of(options.concepts), value_of(options.value)
    if options.out is None and not options.photos:
        raise UserError("there is nothing to do: give --out FILE to write the edit, --try PHOTO to see it, or both")
    print(write_edit(options.run, concepts, value, scale, options.out, options.photos, options.trust))


def concepts_of(names: Sequence[str]) -> dict[str, list[int]]:
    """Layer name → concepts, of names such as ``blocks.4/70``.

    Raises:
        UserError: a name of another form, or one that is given twice.
    """
    found: dict[str, list[int]] = {}
    for name in names:
        layer, _, number = name.rpartition("/")
        if not layer or not re.fullmatch("[0-9]{1,18}", number):
            raise UserError(f"{name!r} names no concept: write layer/number, such as blocks.4/70")
        if int(number) in found.setdefault(layer, []):
            raise UserError(f"{layer}/{int(number)} is given twice: give it once")
        found[layer].append(int(number))
    return found


def value_of(text: str) -> tuple[EditValue, float]:
    """What concepts are set to, and the scale of ``scale=S``.

    Raises:
        UserError: none of these.
    """
    name, equals, number = text.partition("=")
    try:
        scale = float(number) if equals else 0.0
    except ValueError:
        scale = math.nan
    if text not in (EditValue.zero, EditValue.mean) and (
        name != EditValue.scale or not equals or not math.isfinite(scale)
    ):
        raise UserError(f"--value {text} is none of zero, mean and scale=S with a number S, such as scale=0.5")
    return EditValue(name), scale


def write_edit(
    run: Path,
    concepts: dict[str, list[int]],
    value: EditValue = EditValue.zero,
    scale: float = 0.0,
    out: Path | None = None,
    photos: Sequence[Path] = (),
    trusted: Collection[str] = (),
) -> str:
    """Try the edit on ``photos``, write it to ``out``, and tell both.

    Raises:
        UserError: no run there, code that is not in the ``trusted`` packages, an unknown layer or concept, an
            unreadable photograph, an artifact that is gone, a file that is there already or cannot be written.
    """
    from vismech.edit.finished import edit_of
    from vismech.edit.saved import check_new
    from vismech.edit.trial import inputs, table, trials
    from vismech.finished.opened import Opened
    from vismech.finished.run import open_run

    if out is not None:
        check_new(out)
    opened = Opened(open_run(run, trusted).config)
    images = inputs(opened, photos)
    edit = edit_of(opened, concepts, value, scale)
    said = [table(trials(opened, edit, images))] if photos else []
    if out is not None:
        written = size(edit.save(out))
        count, into = sum(map(len, concepts.values())), _words(value, scale)
        lines = [f"{out}: {written}, {count} concept{'s' * (count > 1)} {into} in {edit.model} ({edit.weights})"]
        lines += [f"  {name}: {', '.join(map(str, edits[0].concepts))}" for name, (_, edits) in edit.layers.items()]
        said.append("\n".join(lines))
    return "\n\n".join(said)


def _words(value: EditValue, scale: float) -> str:
    match value:
        case EditValue.scale:
            return f"scaled by {scale:g}"
        case EditValue.mean:
            return "set to their means"
        case _:
            return "set to zero"
