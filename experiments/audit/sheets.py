"""Contact sheets of randomly chosen concepts, for naming them by eye.

    python experiments/audit/sheets.py RUN [--concepts 30] [--seed 0]

Of each layer's most important concepts (those with a card in RUN) a random choice is drawn, the same for every kind of
picture. Each sheet has a row per concept with its nearest vectors, once by what the vectors came from and once by plain
upsampling, with no other fact about the concept. Writes RUN/audit/<layer>_<kind>_<sheet>.png and names.csv, in which
the names are to be filled in; RUN is not otherwise changed.
"""

from __future__ import annotations

import argparse
import csv
import io
import random
from pathlib import Path

import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from vismech.config.choices import Patches
from vismech.finished.configuration import config_of, described
from vismech.stages.fields import fields_settings
from vismech.stages.gallery import Gallery
from vismech.stages.pipeline import make_plan, open_context

ROWS, SIDE, GAP, MARGIN = 10, 96, 6, 64
KINDS = (Patches.upsampling, Patches.receptive_field)


def choose(table: pd.DataFrame, count: int, seed: int) -> dict[str, list[int]]:
    """Layer → random concepts among those of the table, in the order of the draw."""
    generator = random.Random(seed)
    chosen = {}
    for layer, rows in table.groupby("layer", sort=False):
        concepts = sorted(rows["concept"])
        chosen[str(layer)] = generator.sample(concepts, min(count, len(concepts)))
    return chosen


def sheet(rows: list[tuple[int, list[bytes]]]) -> Image.Image:
    """One row of pictures per concept, its number before it."""
    columns = max(len(patches) for _, patches in rows)
    picture = Image.new("RGB", (MARGIN + columns * (SIDE + GAP), len(rows) * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=16)
    for index, (concept, patches) in enumerate(rows):
        draw.text((6, index * (SIDE + GAP) + SIDE // 2 - 8), f"#{concept}", "black", font)
        for column, png in enumerate(patches):
            place = MARGIN + column * (SIDE + GAP), index * (SIDE + GAP)
            picture.paste(Image.open(io.BytesIO(png)).resize((SIDE, SIDE)), place)
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--concepts", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chosen = choose(pd.read_csv(options.run / "tables" / "concepts.csv"), options.concepts, options.seed)
    folder = options.run / "audit"
    folder.mkdir(exist_ok=True)
    names = []
    for kind in KINDS:
        config = described(config_of(options.run))
        config.describe.patches = kind
        ctx = open_context(config)
        plan = make_plan(ctx)
        every = [(layer, each) for layer, concepts in chosen.items() for each in concepts]
        gallery = Gallery(ctx, plan, every, fields_settings(ctx))
        for layer, concepts in chosen.items():
            rows = [(each, [patch.png for patch in gallery.card(layer, each).patches]) for each in concepts]
            for number, first in enumerate(range(0, len(rows), ROWS)):
                file = folder / f"{layer}_{kind.value}_{number}.png"
                sheet(rows[first : first + ROWS]).save(file)
                print(file)
            names += [{"layer": layer, "concept": each, "kind": kind.value, "name": ""} for each in concepts]
    with (folder / "names.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["layer", "concept", "kind", "name"])
        writer.writeheader()
        writer.writerows(names)
    print(folder / "names.csv")


if __name__ == "__main__":
    main()
