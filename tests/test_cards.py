"""Crops around receptive fields: the smallest square against trying each, and the edges of what can be shown."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vismech.errors import UserError
from vismech.report import cards as drawing
from vismech.report.cards import (
    CROP_SIDE,
    HEAD,
    MARGIN,
    PANEL_SIDE,
    TOP_SIDE,
    WIDTH,
    CardView,
    CropView,
    card_picture,
    localization_picture,
)
from vismech.report.crops import CELLS, Square, draw_crop, draw_light, field_crop, map_light, smallest_square


def field_patch(image: np.ndarray, field: np.ndarray, size: int = 96, **options) -> Image.Image:
    return draw_crop(image, field_crop(field, **options), size)


def _every_square(field: np.ndarray, mass: float) -> tuple[int, float]:
    """Side of the smallest square that holds enough, and the most that one of this side holds, by trying them all."""
    positive = field.clip(0)
    height, width = field.shape
    for side in range(1, min(height, width) + 1):
        held = [
            positive[top : top + side, left : left + side].sum()
            for top in range(height - side + 1)
            for left in range(width - side + 1)
        ]
        if max(held) >= mass * positive.sum() * (1 - 1e-9) or side == min(height, width):
            return side, max(held)
    raise AssertionError


@given(st.integers(0, 10_000), st.sampled_from([(9, 9), (6, 11), (12, 5)]), st.sampled_from([0.3, 0.8, 1.0]))
def test_the_smallest_square_is_that_of_trying_every_one(seed: int, shape: tuple[int, int], mass: float) -> None:
    field = np.random.default_rng(seed).normal(size=shape)
    found = smallest_square(field, mass)
    assert found is not None
    side, held = _every_square(field, mass)
    assert found.side == side
    inside = field.clip(0)[found.top : found.top + side, found.left : found.left + side]
    assert inside.shape == (side, side)
    assert inside.sum() == pytest.approx(held)


def test_one_pixel_is_its_own_square_and_negative_values_count_for_nothing() -> None:
    field = np.full((20, 30), -1.0)
    field[7, 23] = 1e-12
    assert smallest_square(field) == Square(23, 7, 1)
    field[7, 23] = -1.0
    assert smallest_square(field) is None


@pytest.mark.parametrize("corner", [(0, 0), (0, 63), (63, 0), (63, 63)])
def test_a_field_in_a_corner_is_shown_inside_the_image(corner: tuple[int, int]) -> None:
    """The crop is moved inward: nothing but the image is shown, and the corner is its brightest part."""
    image = np.full((64, 64, 3), 200, np.uint8)
    field = np.zeros((64, 64))
    field[corner] = 1
    shown = np.asarray(field_patch(image, field, size=96, least=24)).astype(int)
    light = shown.sum(2)
    row, column = (0 if place == 0 else 95 for place in corner)
    assert light[row, column] == light.max() == 600
    assert light.min() == pytest.approx(600 * 0.45, abs=3)


def test_the_region_is_bright_and_in_colour_and_its_context_grey_and_dimmed() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)
    field = np.zeros((64, 64))
    field[20:44, 20:44] = 1
    square = smallest_square(field, 1.0)
    assert square == Square(20, 20, 24)
    shown = np.asarray(field_patch(image, field, mass=1.0, context=0.5, size=96)).astype(int)
    plain = np.asarray(Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS, box=(8, 8, 56, 56))).astype(
        int
    )
    assert (shown[40:56, 40:56] == plain[40:56, 40:56]).all()
    assert np.ptp(shown[:8, :8], axis=2).max() == 0  # grey
    assert shown[:8].mean() == pytest.approx(0.45 * plain[:8].mean(), rel=0.05)


def test_a_perforated_field_is_one_region() -> None:
    """A strided convolution reads every fourth pixel more than its neighbours; light does not show the holes."""
    y, x = np.mgrid[0:64, 0:64]
    field = np.exp(-((y - 32) ** 2 + (x - 32) ** 2) / 200) * (0.05 + ((y % 4 == 0) & (x % 4 == 0)))
    shown = np.asarray(field_patch(np.full((64, 64, 3), 255, np.uint8), field)).astype(int).sum(2)
    middle = shown[96 // 2 - 96 // CELLS * 3 : 96 // 2 + 96 // CELLS * 3, 96 // 2]
    assert middle.min() > 0.9 * middle.max()


def test_a_map_without_a_positive_value_is_dimmed_wholly() -> None:
    image = np.full((32, 48, 3), 200, np.uint8)
    shown = np.asarray(field_patch(image, -np.ones((32, 48))))
    assert shown.shape == (96, 96, 3)
    assert np.unique(shown).tolist() == [90]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"field": np.zeros(9)}, "shape"),
        ({"field": np.full((8, 8), np.nan)}, "64 NaN"),
        ({"mass": 0.0}, r"describe\.mass=0"),
        ({"mass": 1.5}, r"describe\.mass=1\.5"),
        ({"context": -1.0}, r"describe\.context=-1"),
        ({"image": np.zeros((8, 8), np.uint8)}, "shape"),
    ],
)
def test_what_cannot_be_shown_is_refused(change: dict, words: str) -> None:
    given = {"image": np.zeros((8, 8, 3), np.uint8), "field": np.ones((8, 8))} | change
    with pytest.raises(UserError, match=words):
        field_patch(**given)


def test_a_localisation_is_bright_where_its_map_is() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)
    map = np.full((64, 64), -1.0)
    map[8:24, 40:56] = 1
    shown, nothing = (np.asarray(draw_light(image, map_light(each))).astype(int) for each in (map, -np.abs(map)))
    assert shown[10:22, 42:54].min() > 180  # the cells do not divide these pixels evenly
    assert (shown[40:] == 56).all()
    assert (shown[:, :30] == 56).all()
    assert (nothing == 56).all()
    assert draw_light(image, map_light(map), (100, 50)).size == (100, 50)
    with pytest.raises(UserError, match="1 NaN"):
        map_light(np.array([[np.nan, 1.0]]))


LONG = "a class name that is far too long for the room that a card has for it, and then some more words"


def _view(crops: int = 10, text: str = "goose", classes: int = 7) -> CardView:
    pictures = [CropView(Image.new("RGB", (96, 96), (10 * n, 0, 0)), "0.93", text) for n in range(crops)]
    top = Image.new("RGB", (32, 32), "red") if crops else None
    facts = {text: text for text in (text, "Tightness", "Entropy", "Tree")}
    counted = [(f"{text} {n}", 10 * (classes - n)) for n in range(classes)]
    return CardView(text, "blocks.4", text, top, (text, text), pictures, facts, counted, "nothing to show")


@pytest.mark.parametrize("crops", [0, 1, 4, 10, 23])
def test_a_card_shows_the_top_image_and_every_crop(crops: int) -> None:
    card = np.asarray(card_picture(_view(crops)))
    assert card.shape[1] == WIDTH
    top = card[HEAD : HEAD + TOP_SIDE, MARGIN : MARGIN + TOP_SIDE]
    assert (top == [255, 0, 0]).all() == (crops > 0)
    for n in range(crops):
        row, column = divmod(n, drawing.COLUMNS)
        left = 2 * MARGIN + TOP_SIDE + column * (CROP_SIDE + drawing.GAP)
        upper = HEAD + row * (CROP_SIDE + drawing.CAPTION)
        assert (card[upper : upper + CROP_SIDE, left : left + CROP_SIDE] == [10 * n, 0, 0]).all()


@pytest.mark.parametrize("crops", [0, 10, 23])
def test_whatever_the_words_nothing_overlaps_or_leaves_the_card(crops: int, monkeypatch) -> None:
    boxes = []
    write = drawing._Pen.text

    def note(pen, x, y, text, size, colour=drawing.INK, *, bold=False, room):
        end = write(pen, x, y, text, size, colour, bold=bold, room=room)
        assert end <= x + room + 1
        boxes.append((x, y, end, y + size))
        return end

    monkeypatch.setattr(drawing._Pen, "text", note)
    for view in (_view(crops, LONG), _view(crops)):
        boxes.clear()
        card = card_picture(view)
        assert len(boxes) > 15 and card.tobytes() == card_picture(view).tobytes()
        for left, top, right, bottom in boxes:
            assert left >= MARGIN and right <= card.width - MARGIN + 1 and top >= 0 and bottom <= card.height - 12
        words = sorted(set(boxes))
        for index, (left, top, right, bottom) in enumerate(words):
            for other in words[index + 1 :]:
                apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
                assert apart, ((left, top, right, bottom), other)


def test_a_concept_without_members_says_so() -> None:
    empty = _view(0)._replace(classes=[], facts={"Holds": "0 % of the vectors (0)"})
    assert np.asarray(card_picture(empty)).std() > 0
    assert card_picture(empty).size[0] == WIDTH


def test_panels_stand_side_by_side_each_in_full() -> None:
    panels = {LONG: Image.new("RGB", (64, 64), "red"), "wide": Image.new("RGB", (80, 40), "blue")}
    picture = np.asarray(localization_picture(panels, LONG, LONG))
    first = picture[136 : 136 + PANEL_SIDE, MARGIN : MARGIN + PANEL_SIDE]
    second = picture[136 : 136 + PANEL_SIDE, MARGIN + PANEL_SIDE + drawing.GAP :][:, :PANEL_SIDE]
    assert (first == [255, 0, 0]).all()
    assert (second[112:336] == [0, 0, 255]).all() and (second[:112] == 255).all() and (second[336:] == 255).all()


NAMES = st.text(st.sampled_from("ilW m…日\u0301-"), max_size=120)


@given(NAMES, st.integers(0, 400), st.sampled_from([16, 40]))
def test_text_is_cut_where_trying_every_length_would_cut_it(name, room, size) -> None:
    font = drawing._font(size, False)
    expected = name
    if font.getlength(name) > room:
        kept = len(name)
        while kept and font.getlength(name[:kept].rstrip() + "…") > room:
            kept -= 1
        expected = name[:kept].rstrip() + "…"
    assert drawing._fitting(name, room, font) == expected


@pytest.mark.parametrize("length", [1_000, 100_000])
def test_a_long_name_is_measured_in_few_short_pieces(length, monkeypatch) -> None:
    """Seconds for 1,000 characters, minutes for 3,000, when every length was measured."""
    font, measured = drawing._font(17, False), []

    class Counting:
        def getlength(self, text: str) -> float:
            measured.append(len(text))
            return font.getlength(text)

    cut = drawing._fitting("a name " * length, 300, Counting())  # type: ignore[arg-type]
    assert cut.endswith("…") and 290 < font.getlength(cut) <= 300
    assert sum(measured) < 1_000
