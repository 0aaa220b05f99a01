"""Concept cards and localisations as pictures of their own, whose pixels depend on their content only.

A card shows the image of the nearest vector with the concept lit on it, the crops of the nearest vectors, and in words
and bars what is known of the concept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from vismech.report.text import percent

INK, FAINT, BAR, GROUND = "#1d2430", "#5b6573", "#6f8fb5", "#ffffff"
WIDTH, MARGIN, GAP = 1600, 48, 14
TOP_SIDE, COLUMNS = 560, 5
CROP_SIDE = (WIDTH - 3 * MARGIN - TOP_SIDE - (COLUMNS - 1) * GAP) // COLUMNS
HEAD, CAPTION, BAR_LINE = 128, 58, 34
CLASSES_SHOWN = 5
PANEL_SIDE = 448


class CropView(NamedTuple):
    """One of the nearest vectors: its crop, and two lines under it."""

    picture: Image.Image
    first: str
    second: str


class CardView(NamedTuple):
    """Everything that a card's picture shows.

    Attributes:
        title: the concept.
        layer: its layer.
        traced: how its vectors were traced to pixels, in words.
        top: the image of the nearest vector, lit; None without one.
        top_caption: two lines under it.
        crops: the nearest vectors, best first.
        facts: name → value.
        classes: class names and members, most frequent first; their sum counts all members.
        empty: what stands where there is nothing to show.
    """

    title: str
    layer: str
    traced: str
    top: Image.Image | None
    top_caption: tuple[str, str]
    crops: Sequence[CropView]
    facts: Mapping[str, str]
    classes: Sequence[tuple[str, int]]
    empty: str


def card_picture(view: CardView) -> Image.Image:
    """The card, 1,600 pixels wide and as high as it needs."""
    rows = max(-(-len(view.crops) // COLUMNS), 1)
    right = 2 * MARGIN + TOP_SIDE
    below = HEAD + rows * (CROP_SIDE + CAPTION) + 14
    bottom = max(below + 40 + BAR_LINE * max(CLASSES_SHOWN, len(view.facts)), HEAD + TOP_SIDE + 74) + MARGIN - 14
    card = Image.new("RGB", (WIDTH, bottom), GROUND)
    pen = _Pen(card)
    title_end = pen.text(MARGIN, 34, view.title, 40, bold=True, room=900)
    pen.text(title_end + 18, 49, view.layer, 24, FAINT, room=WIDTH - MARGIN - title_end - 18)
    pen.text(MARGIN, 88, view.traced, 17, FAINT, room=WIDTH - 2 * MARGIN)
    if view.top is None:
        pen.draw.rectangle((MARGIN, HEAD, MARGIN + TOP_SIDE - 1, HEAD + TOP_SIDE - 1), fill="#f4f5f6")
        pen.text(MARGIN + 24, HEAD + 24, view.empty, 20, FAINT, room=TOP_SIDE - 48)
    else:
        card.paste(_square(view.top, TOP_SIDE), (MARGIN, HEAD))
    pen.text(MARGIN, HEAD + TOP_SIDE + 8, view.top_caption[0], 19, bold=True, room=TOP_SIDE)
    pen.text(MARGIN, HEAD + TOP_SIDE + 34, view.top_caption[1], 17, FAINT, room=TOP_SIDE)
    for index, crop in enumerate(view.crops):
        row, column = divmod(index, COLUMNS)
        left, top = right + column * (CROP_SIDE + GAP), HEAD + row * (CROP_SIDE + CAPTION)
        card.paste(_square(crop.picture, CROP_SIDE), (left, top))
        pen.text(left, top + CROP_SIDE + 4, crop.first, 17, bold=True, room=CROP_SIDE)
        pen.text(left, top + CROP_SIDE + 26, crop.second, 16, FAINT, room=CROP_SIDE)
    middle = right + (WIDTH - MARGIN - right) * 53 // 100
    _classes(pen, view.classes, right, below, middle - 40)
    _facts(pen, view.facts, middle, below)
    return card


def localization_picture(panels: Mapping[str, Image.Image], title: str, caption: str) -> Image.Image:
    """Pictures of one image side by side under a title, each under its name."""
    width = 2 * MARGIN + len(panels) * PANEL_SIDE + (len(panels) - 1) * GAP
    picture = Image.new("RGB", (width, 136 + PANEL_SIDE + MARGIN), GROUND)
    pen = _Pen(picture)
    pen.text(MARGIN, 26, title, 28, bold=True, room=width - 2 * MARGIN)
    pen.text(MARGIN, 64, caption, 17, FAINT, room=width - 2 * MARGIN)
    for index, (name, panel) in enumerate(panels.items()):
        left = MARGIN + index * (PANEL_SIDE + GAP)
        pen.text(left, 102, name, 18, room=PANEL_SIDE)
        picture.paste(_square(panel, PANEL_SIDE), (left, 136))
    return picture


def _classes(pen: _Pen, classes: Sequence[tuple[str, int]], left: int, top: int, end: int) -> None:
    pen.text(left, top, "Classes of its members", 19, bold=True, room=end - left)
    shown, total = classes[:CLASSES_SHOWN], sum(count for _, count in classes)
    name_room, number_room = (end - left) * 42 // 100, 70
    longest = end - left - name_room - number_room - 20
    for index, (name, count) in enumerate(shown):
        y = top + 36 + index * BAR_LINE
        pen.text(left, y, name, 17, room=name_room)
        length = max(2, longest * count // total)
        pen.draw.rectangle((left + name_room + 10, y + 3, left + name_room + 10 + length, y + 19), fill=BAR)
        pen.text(left + name_room + 20 + length, y, f"{percent(count / total)}", 16, FAINT, room=number_room)
    if not shown:
        pen.text(left, top + 36, "no members", 17, FAINT, room=end - left)


def _facts(pen: _Pen, facts: Mapping[str, str], left: int, top: int) -> None:
    pen.text(left, top, "In numbers", 19, bold=True, room=WIDTH - MARGIN - left)
    for index, (name, value) in enumerate(facts.items()):
        y = top + 36 + index * BAR_LINE
        pen.text(left, y, name, 17, FAINT, room=110)
        pen.text(left + 118, y, value, 17, room=WIDTH - MARGIN - left - 118)


class _Pen:
    """Writes text that never leaves its room: what is too long ends in an ellipsis."""

    def __init__(self, picture: Image.Image) -> None:
        self.draw = ImageDraw.Draw(picture)

    def text(self, x: int, y: int, text: str, size: int, colour: str = INK, *, bold: bool = False, room: int) -> int:
        """Write a line with its top left corner at (x, y); the x where it ends."""
        font = _font(size, bold)
        text = _fitting(text, room, font)
        self.draw.text((x, y), text, colour, font)
        return x + round(font.getlength(text))


def _fitting(text: str, room: int, font: ImageFont.FreeTypeFont) -> str:
    """``text``, or as much of its beginning as fits ``room`` with an ellipsis, in few measurements of short pieces."""

    def fits(kept: int) -> bool:
        return font.getlength(text[:kept].rstrip() + "…") <= room

    # A name may be longer than any room by far: what is measured is never more than twice what fits.
    above = 16
    while above < len(text) and fits(above):
        above *= 2
    if above >= len(text) and font.getlength(text) <= room:
        return text
    below, above = 0, min(above, len(text))
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if fits(middle) else (below, middle)
    return text[:below].rstrip() + "…"


@cache
def _font(size: int, bold: bool) -> ImageFont.FreeTypeFont:
    folder = Path(matplotlib.get_data_path()) / "fonts/ttf"
    layout = ImageFont.Layout.BASIC  # the other one is not built into every Pillow and sets text differently
    return ImageFont.truetype(str(folder / f"DejaVuSans{'-Bold' if bold else ''}.ttf"), size, layout_engine=layout)


def _square(picture: Image.Image, side: int) -> Image.Image:
    """The picture as large as fits a square, in its middle."""
    scale = side / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    whole = Image.new("RGB", (side, side), GROUND)
    part = picture if picture.size == size else picture.resize(size, Image.Resampling.LANCZOS)
    whole.paste(part, ((side - size[0]) // 2, (side - size[1]) // 2))
    return whole
