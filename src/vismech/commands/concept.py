"""``vismech-concept``: one concept of a finished run as a card, and where it is in images.

Only the function that does the work loads torch, so that help and mistyped arguments answer at once.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from vismech.commands.shell import command
from vismech.config.choices import Patches
from vismech.errors import UserError


@command("vismech-concept")
def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pictures and print their paths; exit status 1 with a sentence on an error."""
    parser = argparse.ArgumentParser(prog="vismech-concept", description="One concept of a run, as pictures.")
    parser.add_argument("run", type=Path, help="the run's folder, outputs/runs/<name>/<time>")
    parser.add_argument("layer", help="a layer of the run")
    parser.add_argument("concept", help="the concept's number")
    parser.add_argument("--image", type=Path, nargs="+", default=[], help="images to find the concept in")
    parser.add_argument(
        "--patches",
        choices=[each.value for each in Patches],
        help="how vectors are traced to pixels; default: as in the run (describe.patches)",
    )
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="import code of this package, such as the run's own model; may be given again",
    )
    parser.add_argument(
        "--names",
        type=Path,
        metavar="FILE",
        help="names of concepts, as the page saves them; default: the run's own (report.names)",
    )
    parser.add_argument("--out", type=Path, help="where to write; default: concepts/ in the run's folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        patches = Patches(options.patches) if options.patches else None
        for path in write_concept(
            options.run,
            options.layer,
            options.concept,
            options.image,
            options.out,
            patches,
            options.trust,
            options.names,
        ):
            print(str(path).encode("utf-8", "backslashreplace").decode())  # a name need not be UTF-8
    except UserError as error:
        print(f"vismech-concept: {error}", file=sys.stderr)
        sys.exit(1)


def write_concept(
    run: Path,
    layer: str,
    concept: str,
    images: Sequence[Path] = (),
    out: Path | None = None,
    patches: Patches | None = None,
    trusted: Collection[str] = (),
    names: Path | None = None,
) -> list[Path]:
    """The concept's card, and for each image the image, the localisation and plain upsampling side by side.

    Raises:
        UserError: no run there, code that is not in the ``trusted`` packages, an unknown layer or concept, an
            unreadable image, a file that holds no ``names``, an artifact that is gone.
    """
    from vismech.finished.run import open_run

    found = open_run(run, trusted, names).concept(layer, concept, patches)
    panels = found.localize(images)
    folder = out or run / "concepts"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): give another folder with --out") from error
    written = [folder / f"{layer}_{found.number}.png"]
    found.picture().save(written[0])
    for index, (path, picture) in enumerate(zip(images, panels, strict=True)):
        written.append(folder / f"{layer}_{found.number}_{index}_{path.stem}.png")
        picture.save(written[-1])
    return written
