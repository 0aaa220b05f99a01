"""The page of two runs' graphs side by side: self-contained, without a script."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
from PIL import Image

from vismech.report.patches import NEAR, encode_png, encode_small
from vismech.report.text import number
from vismech.report.verdict import Fact

CARD, FIGURE = 480, 1600
"""Pixels that a card's and a figure's picture are wide at the most."""
DRAWN = {"both": "drawn in both", "first": "drawn in the first only", "second": "drawn in the second only"}


class Side(NamedTuple):
    """A run: what it is called, what its headline says, and its folder, where figures and cards are."""

    name: str
    facts: Sequence[Fact]
    folder: Path


def render_beside(sides: Sequence[Side], concepts: pd.DataFrame, layers: pd.DataFrame, groups: dict[str, str]) -> str:
    """The page as one HTML document; equal input gives equal text.

    Args:
        sides: the two runs.
        concepts, layers: as :class:`vismech.compare.graphs.Beside` has them.
        groups: key → name of what both graphs explain.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vismech.report"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.trim_blocks = environment.lstrip_blocks = True
    return environment.get_template("beside.html.j2").render(
        names=[side.name for side in sides],
        sides=[
            {"name": side.name, "facts": side.facts, "figure": _picture(side.folder / "figures/graph.png", FIGURE)}
            for side in sides
        ],
        layers=[[row[0], *(_number(value) for value in row[1:])] for row in layers.itertuples(index=False)],
        concepts=[
            (layer, [_pair(row, sides, groups) for row in concepts.to_dict("records") if row["layer"] == layer])
            for layer in reversed(layers.layer.tolist())
        ],
        near=NEAR,
    )


def _pair(row: dict[str, Any], sides: Sequence[Side], groups: dict[str, str]) -> dict[str, Any]:
    parts = [f"#{row['first']} and #{row['second']}, cosine {number(row['cosine'], 2)}, {DRAWN[row['drawn']]}"]
    for key, name in groups.items():
        values = [row[f"importance_{side}.{key}"] for side in ("first", "second")]
        told = " and ".join("–" if pd.isna(value) else number(value, 2) for value in values)
        parts.append(f"{name}: {told}")
    cards = [
        side.folder / "cards" / row["layer"] / f"{row[own]}.png"
        for side, own in zip(sides, ("first", "second"), strict=True)
    ]
    return {"told": "; ".join(parts), "pictures": [_picture(card, CARD) for card in cards]}


def _picture(file: Path, width: int) -> str | None:
    """A picture of a run's folder as a data address, or None where there is none."""
    if not file.is_file():
        return None
    with Image.open(io.BytesIO(file.read_bytes())) as image:
        small = image.convert("RGB")
        small.thumbnail((width, 10 * width), Image.Resampling.LANCZOS)
    kind, data = encode_small(encode_png(small))
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _number(value: float) -> str:
    if pd.isna(value):
        return "–"
    return str(value) if isinstance(value, int) else number(float(value), 2)
