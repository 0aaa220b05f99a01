"""The report: patches, layout, the static figure and the page, on sample data."""

from __future__ import annotations

import base64
import io
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

sys.path.insert(0, str(Path(__file__).parent))
from report_sample import LONG_NAME, PAIR, Elements, sample_graph, sample_report
from vismech.attribution.account import is_absence
from vismech.attribution.graph import named
from vismech.config.choices import Patches
from vismech.errors import UserError
from vismech.report import layout as plan
from vismech.report.bar import truth_bars
from vismech.report.crops import draw_crop, position_crop
from vismech.report.evidence import Measured, shown
from vismech.report.figures import ALARM, graph_figure
from vismech.report.page import ReportData, heading, render_page
from vismech.report.patches import Patch, encode_png, portrait
from vismech.report.text import COMPLETENESS, TRACED, number, percent, shorten, tabulate, wide
from vismech.report.verdict import ALONG, DRAW, MORE, WARNING, verdict

NINE = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror='alert(\"2\")'>&amp;"


@pytest.fixture(scope="module")
def small() -> ReportData:
    return sample_report(sample_graph(per_layer=11, specials=("offset", "error")), patches=4)


@pytest.fixture(scope="module")
def page(small: ReportData) -> Elements:
    return Elements(render_page(small))


def embedded(elements: Elements) -> dict:
    return json.loads(next(text for text in elements.scripts if text.lstrip().startswith("{")))


def chequered(grid: tuple[int, int], cell: int) -> np.ndarray:
    """An image whose cell (row, col) has the colour (20·row, 20·col, 100)."""
    rows, cols = np.mgrid[0 : grid[0], 0 : grid[1]]
    colours = np.stack([20 * rows, 20 * cols, np.full(grid, 100)], axis=-1).astype(np.uint8)
    return colours.repeat(cell, axis=0).repeat(cell, axis=1)


def patch(image: np.ndarray, position: tuple[int, int], grid: tuple[int, int], **options) -> Image.Image:
    return draw_crop(image, position_crop(position, grid, image.shape[1::-1], **options), 96)


@pytest.mark.parametrize("position", [(0, 0), (3, 5), (6, 6), (6, 0)])
def test_a_patch_without_context_shows_its_cell_only(position):
    cell = np.asarray(patch(chequered((7, 7), 32), position, (7, 7), context=0.0))
    assert cell.shape == (96, 96, 3)
    # The filter reaches three pixels of the image, here nine of the thumbnail, over the edge.
    assert (cell[9:-9, 9:-9] == [20 * position[0], 20 * position[1], 100]).all()


def test_context_adds_a_margin_and_stays_inside_the_image():
    image = chequered((7, 7), 32)
    # One cell of margin around the middle: three cells across, the cell itself in the middle third.
    middle = np.asarray(patch(image, (3, 3), (7, 7), context=1.0))
    assert middle[16, 16].tolist() == [40, 40, 100] and middle[48, 48].tolist() == [60, 60, 100]
    # In the corner the square is moved inside: the cell is in its first third.
    corner = np.asarray(patch(image, (0, 0), (7, 7), context=1.0))
    assert corner[16, 16].tolist() == [0, 0, 100] and corner[80, 80].tolist() == [40, 40, 100]


def test_a_patch_is_at_least_so_many_pixels_and_never_more_than_the_image():
    image = chequered((8, 8), 4)
    wide = np.asarray(patch(image, (4, 4), (8, 8), context=0.0, least=12))
    assert len(np.unique(wide[..., 0])) > 1
    whole = patch(image, (4, 4), (8, 8), context=50.0)
    assert whole.tobytes() == Image.fromarray(image).resize((96, 96), Image.Resampling.LANCZOS).tobytes()


def test_patches_refuse_what_they_cannot_show():
    image = chequered((7, 7), 4)
    with pytest.raises(UserError, match="outside the grid"):
        patch(image, (7, 0), (7, 7))
    with pytest.raises(UserError, match="context"):
        patch(image, (0, 0), (7, 7), context=-1.0)
    with pytest.raises((UserError, TypeError), match=r"uint8|patch"):
        patch(image.astype(np.float32), (0, 0), (7, 7))


def test_png_bytes_depend_on_the_pixels_only():
    image = Image.fromarray(chequered((4, 4), 8))
    buffer, comment = io.BytesIO(), PngImagePlugin.PngInfo()
    comment.add_text("Comment", "made on some day")
    image.save(buffer, format="PNG", pnginfo=comment, dpi=(72, 72))
    assert encode_png(Image.open(buffer)) == encode_png(image)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(image)))), np.asarray(image))


@given(st.floats(-1e9, 1e9).filter(lambda value: value == 0 or abs(value) > 1e-9), st.integers(2, 4))
def test_a_number_is_read_back_to_its_digits(value, digits):
    text = number(value, digits)
    assert "-" not in text
    assert float(text.replace("−", "-")) == pytest.approx(value, rel=0.51 * 10 ** (1 - digits))
    with pytest.raises(UserError, match="nan"):
        number(value * float("nan"))


def test_a_share_that_is_there_is_never_nothing():
    shares = (0.0, 1e-9, 0.0099, 0.01, 0.126, 1.0)
    assert [percent(share) for share in shares] == ["0 %", "<1 %", "<1 %", "1 %", "13 %", "100 %"]


@given(st.text(max_size=60), st.integers(1, 40))
def test_a_shortened_name_fits(text, units):
    short = shorten(text, units * 0.56 * 10 + 1e-6, 10)
    assert len(short) <= max(units, 1)
    assert short == text or (short.endswith("…") and text.startswith(short[:-1]))


def test_tables_say_what_was_not_measured():
    frame = pd.DataFrame(
        {"lower": ["a"], "gap_median": [0.00412], "images": [1200], "targets": [np.nan], "more": [2.5]}
    )
    table = tabulate(frame, COMPLETENESS)
    assert table.headings == ["From", "Gap, median", "Images", "Targets", "more"]
    assert table.rows == [["a", "0.412 %", "1,200", "—", "2.50"]]


def test_strength_is_relative_to_the_strongest_link_into_the_same_layer():
    graph = sample_graph()
    for mode in plan.modes(graph):
        values = plan.strengths(graph, mode)
        for upper in {link["upper"] for link in graph["links"]}:
            into = [(link, s) for link, s in zip(graph["links"], values, strict=True) if link["upper"] == upper]
            largest = max(abs(plan.weight(link, mode)) for link, _ in into)
            assert max(abs(s) for _, s in into) == 1
            assert all(s * largest == pytest.approx(plan.weight(link, mode)) for link, s in into)
    for link in graph["links"]:
        link["weight"], link["weights"] = 0.0, {}
    assert set(plan.strengths(graph)) == {0.0} == set(plan.strengths(graph, "129"))


def test_links_are_drawn_layer_by_layer_in_turn():
    graph = sample_graph()
    order, size = plan.ranking(graph), [abs(s) for s in plan.strengths(graph)]
    assert sorted(order) == list(range(len(size)))
    for upper in {link["upper"] for link in graph["links"]}:
        own = [index for index in order if graph["links"][index]["upper"] == upper]
        assert own == sorted(own, key=lambda index: -size[index])
    first = [graph["links"][index]["upper"] for index in order[:9]]
    assert sorted(first) == sorted(["blocks.4", "blocks.6", "logits"] * 3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_weights_and_importances_are_refused(bad):
    graph = sample_graph(per_layer=2)
    graph["links"][0]["weight"] = bad
    with pytest.raises(UserError, match="weight"):
        plan.layout(graph)
    graph = sample_graph(per_layer=2)
    graph["nodes"][2]["importance"]["129"] = bad
    with pytest.raises(UserError, match="importance"):
        plan.layout(graph)


def test_unknown_scopes_layers_and_nodes_are_refused(small):
    with pytest.raises(UserError, match="galaxy"):
        render_page(small._replace(graph={**small.graph, "scope": "galaxy"}))
    graph = sample_graph(per_layer=2)
    graph["links"][0]["source"] = "blocks.2/99999"
    with pytest.raises(UserError, match=r"blocks\.2/99999"):
        plan.layout(graph)
    graph = sample_graph(per_layer=2)
    graph["nodes"][-1]["layer"] = "blocks.9"
    with pytest.raises(UserError, match=r"blocks\.9"):
        plan.layout(graph)


def test_a_pair_stands_left_shared_right_under_its_classes():
    graph = sample_graph()
    rows = plan.arrange(graph)
    assert [layer for layer, _ in rows] == ["logits", "blocks.6", "blocks.4", "blocks.2"]
    assert [node["id"] for node in rows[0][1]] == ["class/129", "class/130"]
    for _, nodes in rows[1:]:
        side = [{("129",): 0, ("129", "130"): 1, ("130",): 2}[tuple(n["selected_for"])] for n in nodes if "share" in n]
        assert side == [0] * 5 + [1] * 3 + [2] * 5
        assert nodes[-1]["kind"] == "offset"
    # A concept that is shared but was kept for one class stands in the middle too.
    graph = sample_graph(layers=["only"], per_layer=10, specials=())
    node = graph["nodes"][2]
    node["shared"], node["selected_for"] = True, ["129"]
    order = [n["id"] for n in plan.arrange(graph)[1][1]]
    assert order.index(node["id"]) == 4


@pytest.mark.parametrize(
    ("layers", "per_layer", "groups", "specials"),
    [
        (NINE, 13, PAIR, ("offset", "error")),
        (NINE, 16, PAIR, ("offset", "error")),
        (NINE, 16, [(str(index), f"class {index}") for index in range(40)], ("offset",)),
        (["one"], 1, PAIR[:1], ()),
        (["one", "two"], 60, PAIR, ("error",)),
    ],
)
def test_no_two_nodes_overlap_and_all_lie_inside(layers, per_layer, groups, specials):
    graph = sample_graph(layers=layers, per_layer=per_layer, groups=groups, specials=specials)
    drawing = plan.layout(graph)
    boxes = list(drawing.boxes.values())
    assert len(boxes) == len(graph["nodes"])
    for box in boxes:
        assert box.x >= 0 and box.y >= 0
        assert box.x + box.width <= drawing.width + 1e-6 and box.y + box.height <= drawing.height + 1e-6
    for a, b in itertools.combinations(boxes, 2):
        apart = a.x + a.width < b.x or b.x + b.width < a.x or a.y + a.height < b.y or b.y + b.height < a.y
        assert apart
    if per_layer <= 16 and len(groups) <= 10:
        assert drawing.width == plan.WIDTH


def test_links_run_from_the_top_of_the_lower_to_the_bottom_of_the_upper_node():
    lower, upper = plan.Box(0, 300, 80, 100), plan.Box(900, 10, 80, 100)
    (x0, y0), _, _, (x1, y1) = plan.curve(lower, upper)
    assert (y0, y1) == (300, 110)
    assert lower.centre < x0 < 80 and 900 < x1 < upper.centre


def test_the_page_holds_every_node_link_control_and_table(small, page):
    graph = small.graph
    assert len(page.of_class("node")) == len(graph["nodes"])
    drawn = [attributes for attributes in page.of_class("link") if "data-link" in attributes]
    assert len(drawn) == len(graph["links"])
    assert sum("out" not in attributes["class"].split() for attributes in drawn) == plan.default_links(graph)
    radios = [attributes["value"] for _, attributes in page.tags if attributes.get("name") == "mode"]
    assert radios == ["mean", "129", "130"]
    assert len(page.of_class("measures")) == 4 and len(page.of_class("details")) == len(graph["nodes"])
    text = " ".join(page.words)
    for words in [*small.notes, *small.facts.values(), heading(graph), "spoonbill", "How to read it"]:
        assert words in text


def test_negative_links_are_marked_and_carry_their_size(small, page):
    strengths = plan.strengths(small.graph)
    for attributes in page.of_class("link"):
        if "data-link" in attributes:
            strength = strengths[int(attributes["data-link"])]
            assert ("negative" in attributes["class"].split()) == (strength < 0)
            assert attributes["style"] == f"--s:{round(abs(strength), 4)}"
    assert min(strengths) < 0 < max(strengths)


def test_the_script_gets_every_weight_in_every_mode(small, page):
    data = embedded(page)
    assert [node["short"] for node in data["nodes"][:2]] == ["spoonbill", "flamingo"]
    for link, sent in zip(small.graph["links"], data["links"], strict=True):
        assert sent["weight"]["mean"] == pytest.approx(link["weight"], rel=1e-4)
        assert sent["weight"]["130"] == pytest.approx(link["weights"]["130"], rel=1e-4)


def test_names_of_ones_own_belong_to_dictionaries(small, page):
    assert embedded(page)["dictionaries"] == small.dictionaries
    assert list(small.dictionaries) == list(small.graph["layers"])


def test_names_that_a_run_was_given_stand_on_tiles_cards_and_for_screen_readers(small):
    concepts = [node["id"] for node in small.graph["nodes"] if node["kind"] == "concept"]
    names = {"129": "spoonbill", "130": "flamingo"}
    graph = named(small.graph, names, {concepts[0]: HOSTILE, concepts[1]: "a beak that is far too long for its tile"})
    text = render_page(small._replace(graph=graph))
    told, plain = Elements(text), Elements(render_page(small))
    assert sum(attributes.get("class") == "given" for _, attributes in told.tags) == 2
    found = {node["id"]: node.get("name") for node in embedded(told)["nodes"]}
    assert found[concepts[0]] == HOSTILE and [name for name in found.values() if name] == [
        HOSTILE,
        graph_name(graph, 1),
    ]
    shorts = [[node["short"] for node in embedded(each)["nodes"]] for each in (told, plain)]
    assert shorts[0] == shorts[1]  # the number, which comes back when a name is taken away
    spoken = [attributes["aria-label"] for tag, attributes in told.tags if attributes.get("data-node")]
    assert sum(HOSTILE in str(each) for each in spoken) == 1
    assert re.search(r">[^<>]*a[^<>]*…<title>[^<>]* · a beak that is far too long for its tile<", text)
    assert not any(attributes.get("src") == "x" for _, attributes in told.tags)


def graph_name(graph: dict, place: int) -> str:
    return [node["name"] for node in graph["nodes"] if node["kind"] == "concept" and node.get("name")][place]


def test_a_concepts_size_is_its_share_of_the_largest_of_its_layer(small, page):
    data = {node["id"]: node for node in embedded(page)["nodes"]}
    for layer in small.graph["layers"]:
        concepts = [n for n in small.graph["nodes"] if n["layer"] == layer and n["kind"] == "concept"]
        for mode, keys in (("mean", ("129", "130")), ("130", ("130",))):
            size = {n["id"]: sum(abs(n["importance"][key]) for key in keys) for n in concepts}
            for name, value in size.items():
                assert data[name]["size"][mode] == pytest.approx(value / max(size.values()), abs=1e-4)
    assert all(data[n["id"]]["size"] == {} for n in small.graph["nodes"] if n["kind"] != "concept")


def test_each_picture_is_stored_once(small, page):
    stored = [attributes["href"] for tag, attributes in page.tags if tag == "image"]
    assert len(stored) == len(set(stored)) == 5 * 33 + 2
    used = {attributes["href"] for tag, attributes in page.tags if tag == "use"}
    assert used == {f"#picture-{index}" for index in range(len(stored))}


def test_the_page_reaches_for_nothing_outside(small, page):
    for _, attributes in page.tags:
        for name in ("src", "href", "srcset", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:", "#"))
    bare = re.sub(r"data:image/webp;base64,[A-Za-z0-9+/=]+", "", render_page(small))
    assert not re.search(r"https?://|@import|url\(|\bfetch\(|XMLHttpRequest|\bimport\b", bare)


def test_names_cannot_become_markup():
    graph = sample_graph(layers=["a<b>\"'"], per_layer=3, groups=((HOSTILE, HOSTILE), ("130", "flamingo")))
    report = sample_report(graph, patches=1)
    cards = {
        key: card._replace(
            note=HOSTILE,
            patches=[card.patches[0]._replace(caption=HOSTILE)],
            top=card.patches[0]._replace(caption=HOSTILE),
            facts={HOSTILE: HOSTILE},
            classes=[(HOSTILE, 1)],
        )
        for key, card in report.cards.items()
    }
    report = report._replace(
        cards=cards,
        notes=[HOSTILE],
        facts={HOSTILE: HOSTILE},
        completeness=pd.DataFrame({HOSTILE: [HOSTILE]}),
        reconstruction=pd.DataFrame({"layer": [HOSTILE]}),
    )
    hostile = Elements(render_page(report))
    assert sum(tag == "script" for tag, _ in hostile.tags) == 2
    assert all("onerror" not in attributes for _, attributes in hostile.tags)
    assert not any(attributes.get("src") == "x" for _, attributes in hostile.tags)
    assert embedded(hostile)["nodes"][0]["label"] == HOSTILE
    assert not set("<>&") & set(next(text for text in hostile.scripts if text.lstrip().startswith("{")))
    assert sum(HOSTILE in words for words in hostile.words) >= 6


def test_a_long_name_is_cut_in_the_graph_and_whole_in_its_title():
    name = "great white heron of the northern lagoons and of the southern ones too"
    text = render_page(sample_report(sample_graph(scope="class", per_layer=1, groups=(("1", name),)), patches=1))
    assert re.search(rf"great white[^<]*…<title>{name}</title>", text)


@pytest.mark.parametrize(
    ("scope", "groups", "words"),
    [
        ("pair", PAIR, ["“spoonbill” and “flamingo”", "share"]),
        ("class", PAIR[:1], ["lead the network to “spoonbill”"]),
        ("dataset", (("all", "all"),), ["whole data set"]),
        ("image", PAIR[:1], ["“spoonbill”", "in one photograph"]),
    ],
)
def test_every_scope_is_named_in_the_heading(scope, groups, words):
    graph = sample_graph(scope=scope, per_layer=2, groups=groups)
    assert all(word in heading(graph) for word in words)
    assert heading(graph) in " ".join(Elements(render_page(sample_report(graph, patches=1))).words)


@pytest.mark.parametrize("kind", list(TRACED))
def test_the_page_says_how_its_pictures_were_traced(kind):
    assert TRACED.keys() == set(Patches) - {Patches.auto}  # which becomes one of the others
    report = sample_report(sample_graph(per_layer=1), patches=1)._replace(traced=kind)
    words = " ".join(Elements(render_page(report)).words)
    assert [other for other in TRACED if TRACED[other].page in words] == [kind]


def test_a_card_of_the_page_holds_what_is_known_of_its_concept(small, page):
    words = " ".join(page.words)
    first = next(iter(small.cards.values()))
    for text in (*first.facts, *first.facts.values(), LONG_NAME, "66 %", "26 %", "6 %"):
        assert text in words
    assert "drum" not in words  # the fourth class


def test_a_concept_without_members_has_a_card(small):
    cards = {
        key: card._replace(patches=[], top=None, facts={}, classes=[], share=0.0, note="Nothing lies near.")
        for key, card in small.cards.items()
    }
    elements = Elements(render_page(small._replace(cards=cards)))
    assert " ".join(elements.words).count("Nothing lies near.") == 33
    assert not elements.of_class("seen") and not elements.of_class("patches")


def test_an_empty_report_is_still_a_page():
    graph = {"schema": 1, "scope": "class", "layers": [], "groups": [], "nodes": [], "links": []}
    text = render_page(ReportData(graph, {}, {}, pd.DataFrame(), pd.DataFrame(), {}, [], {}))
    assert "no nodes" in text and text.count("Not measured in this run.") == 3


def test_missing_cards_photographs_and_importances_are_left_out():
    graph = sample_graph(per_layer=2)
    for node in graph["nodes"]:
        node.pop("share", None)
        node["importance"] = {}
    graph["links"] = []
    report = sample_report(graph)._replace(cards={}, images={})
    elements = Elements(render_page(report))
    assert not [tag for tag, _ in elements.tags if tag in ("image", "img", "use")]
    assert len(elements.of_class("empty")) == 6
    assert " ".join(elements.words).count("No patches were drawn") == 6


def test_equal_reports_give_equal_pages(small):
    assert render_page(small) == render_page(
        sample_report(sample_graph(per_layer=11, specials=("offset", "error")), patches=4)
    )


def test_the_figure_is_deterministic_and_complete(small, tmp_path):
    first = graph_figure(small.graph, small.cards, tmp_path / "one" / "graph", small.images, dpi=50)
    again = graph_figure(small.graph, small.cards, tmp_path / "two" / "graph", small.images, dpi=50)
    assert first.svg.read_bytes() == again.svg.read_bytes()
    assert first.png.read_bytes() == again.png.read_bytes()
    svg = first.svg.read_text()
    assert "dc:date" not in svg and "Matplotlib v" not in svg
    # One picture in each of the 33 tiles and in both class nodes.
    assert svg.count("<image ") == 35
    assert "stroke-dasharray: 6.48" in svg
    drawing = plan.layout(small.graph)
    with Image.open(first.png) as picture:
        assert picture.info.get("Software") is None
        assert abs(picture.width - (drawing.width + 104) / 2) <= 1


def test_the_figure_draws_graphs_without_cards_or_links(tmp_path):
    graph = sample_graph(scope="class", per_layer=2, groups=PAIR[:1])
    graph["links"] = []
    written = graph_figure(graph, {}, tmp_path / "graph.v2", dpi=50)
    assert written.svg.name == "graph.v2.svg" and "<image " not in written.svg.read_text()


def test_the_report_loads_neither_torch_nor_hydra():
    code = "import vismech.report.page, vismech.report.figures; print({'torch', 'hydra', 'lightning'} & {*sys.modules})"
    path = str(Path(sys.modules["vismech.report"].__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {path!r}); {code}"], capture_output=True
    )
    assert done.stdout.decode().strip() == "set()", done.stderr.decode()


def test_error_nodes_have_a_line_of_the_legend_and_a_style_of_their_own(tmp_path):
    def drawn(*specials: str) -> str:
        graph = sample_graph(layers=("one",), per_layer=2, specials=specials)
        return graph_figure(graph, {}, tmp_path / "-".join(specials)).svg.read_text()

    plain, both = drawn("offset"), drawn("offset", "error")
    told = "what the concepts miss of the layer"
    assert told not in plain and told in both
    styles = [set(re.findall(r"stroke-dasharray: [^;\"]+", text)) for text in (plain, both)]
    assert len(styles[1] - styles[0]) == 1


def test_the_truth_stands_first_on_page_and_figure_and_is_red_where_little_is_carried(tmp_path):
    for drawn, misleading in ((9.0, False), (0.7, True)):
        report = sample_report(sample_graph(drawn=drawn), patches=1)
        elements = Elements(render_page(report))
        (box,) = elements.of_class("verdict")
        assert ("misleads" in (box["class"] or "").split()) is misleading
        words = " ".join(elements.words)
        sentence = verdict(report.graph).facts[0].text
        assert sentence in words and words.index(sentence) < words.index(report.notes[0])
        assert (WARNING in words) is misleading
        figure = graph_figure(report.graph, report.cards, tmp_path / str(drawn), report.images).svg.read_text()
        assert (ALARM in figure) is misleading


def test_what_to_change_fits_what_is_wrong():
    def remedy(drawn: float, drawn_errors: bool = False, **parts: float) -> str:
        graph = sample_graph(drawn=drawn, specials=("offset", "error") if drawn_errors else ("offset",))
        for accounts in graph["account"].values():
            for account in accounts.values():
                account.update(parts)
        return verdict(graph).remedy

    assert remedy(9.0) == ""
    assert remedy(0.7, other=0.2, lost=10.6) == f"{WARNING} {MORE}; {ALONG}"
    # Where the errors are drawn already there is no more to say of them.
    assert remedy(0.7, True, other=0.2, error=10.6) == f"{WARNING} {MORE}."
    assert remedy(2.0, value=10.0, other=7.0, lost=0.0) == f"{WARNING} {DRAW}"


def test_parts_too_small_to_see_are_in_no_bar():
    graph = sample_graph(drawn=9.0)
    for parts in graph["account"]["blocks.6"].values():
        parts["rest"], parts["offset"] = 1e-7, -1e-6
    for bar in truth_bars(graph):
        assert not {"rest", "offset"} & {piece.part for piece in bar.pieces}


def test_where_a_concept_is_reaches_the_page_as_it_is(small):
    data = json.loads(re.search(r'id="graph-data">(.*?)</script>', render_page(small), re.DOTALL)[1])
    places = small.where["blocks.2/42"]
    ((told, edge), second) = next(node["where"] for node in data["nodes"] if node["id"] == "blocks.2/42")
    packed = np.frombuffer(base64.b64decode(told), dtype=np.uint8)
    levels = np.stack([packed >> 4, packed & 15], 1).ravel()
    assert (levels == places["photograph-0"].light.ravel() >> 4).all() and levels.max() == 15
    assert edge == pytest.approx(places["photograph-0"].edge, rel=1e-3)
    assert not np.frombuffer(base64.b64decode(second[0]), dtype=np.uint8).any()  # nowhere in the second photograph
    assert all(("where" in node) == (node["label"].startswith(("Concept", "Less of"))) for node in data["nodes"])


def test_a_bar_of_truth_is_the_account_on_one_scale():
    graph = sample_graph(drawn=14.0)
    for bar, parts in zip(truth_bars(graph), graph["account"]["blocks.6"].values(), strict=True):
        scale = sum(piece.width for piece in bar.pieces) / sum(abs(piece.value) for piece in bar.pieces)
        assert {piece.part: piece.value for piece in bar.pieces} == {
            part: value for part, value in parts.items() if part != "value" and value != 0
        }
        for piece in bar.pieces:
            assert piece.width == pytest.approx(scale * abs(piece.value), abs=2e-3)
            assert piece.left >= bar.zero - 2e-3 if piece.value > 0 else piece.left + piece.width <= bar.zero + 2e-3
        assert bar.end - bar.zero == pytest.approx(scale * parts["value"], abs=5e-3)
        assert "concepts not drawn −3.1" in bar.spoken and "error" not in bar.spoken
    graph["account"]["blocks.6"] = {
        key: dict.fromkeys(parts, 0.0) for key, parts in graph["account"]["blocks.6"].items()
    }
    assert truth_bars(graph) == truth_bars({"account": {}}) == []


INKS = ("ink", "faint", "alarm", "strong-negative", "pin", "strong")
SHAPES = ("edge-strong", "focus", "part-drawn", "part-other", "part-offset", "part-error", "part-lost", "part-rest")


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_and_shapes_stand_out_in_light_and_dark():
    """WCAG AA: 4.5 for text, 3 for shapes that say something."""
    style = (Path(sys.modules["vismech.report"].__file__).parent / "templates" / "page.css").read_text()
    light, dark = (dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in style.split("@media screen")[:2])
    for colours in (light, light | dark):
        for names, least in ((INKS, 4.5), (SHAPES, 3.0)):
            for name, ground in itertools.product(names, ("plate", "ground")):
                low, high = sorted((luminance(colours[name]), luminance(colours[ground])))
                assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


def test_a_concept_that_acts_by_its_absence_is_drawn_and_worded_so(small, page, tmp_path):
    absent = [node for node in small.graph["nodes"] if is_absence(node)]
    assert len(absent) == len(small.graph["layers"])
    assert len(page.of_class("absence")) == len(absent)
    text = " ".join(page.words)
    figure = graph_figure(small.graph, small.cards, tmp_path / "graph", small.images).svg.read_text()
    for node in absent:
        assert f"less of #{node['concept']}" in text or f"−#{node['concept']}" in text
        assert f"Less of concept {node['concept']}" in text
    assert figure.count("<!-- less of #") + figure.count("<!-- −#") == len(absent)
    assert "acts by its absence" in text


def test_far_patches_are_marked_and_not_drawn_as_the_concept():
    report = sample_report(sample_graph(per_layer=1), patches=4)
    name, card = next(iter(report.cards.items()))
    cosines = (0.96, 0.26, 0.25, 0.2)
    patches = [patch._replace(cosine=cosine) for patch, cosine in zip(card.patches, cosines, strict=True)]
    elements = Elements(render_page(report._replace(cards={**report.cards, name: card._replace(patches=patches)})))
    assert len(elements.of_class("far")) == 3
    assert "3 of these 4 patches are far from the concept" in " ".join(elements.words)


def test_a_wide_table_refuses_what_it_would_have_to_average():
    frame = pd.DataFrame(
        {
            "layer": ["a", "a", "a"],
            "variant": ["plain", "plain", "residual"],
            "budget": [None, None, None],
            "metric": ["x", "y", "x"],
            "value": [1.0, 2.0, 3.0],
        }
    )
    found = wide(frame, ["layer"])
    assert found.to_dict("records")[0] == {"layer": "a", "variant": "plain", "x": 1.0, "y": 2.0}
    assert found["x"].tolist() == [1.0, 3.0]
    with pytest.raises(ValueError, match="duplicate"):
        wide(pd.concat([frame, frame[:1].assign(value=9.0)]), ["layer"])


def test_what_was_measured_is_shown_row_by_row_and_says_what_it_leaves_out():
    rows = pd.DataFrame(
        {
            "order": ["gig", "random"] * 150,
            "dictionary": "bisecting",
            "k": 128,
            "seed": None,
            "metric": "cpr",
            "value": np.arange(300) / 1000,
            "n": 60,
            "ci_low": 0.1,
            "ci_high": [0.2] * 299 + [None],
            "units": "area",
        }
    )
    found = shown(Measured("circuit", "What is left?", rows, [b"x"]))
    assert "In all rows: dictionary bisecting, k 128." in found.told and "seed" not in found.told
    assert "The first 200 of 300 rows; tables/circuit.csv has all." in found.told
    assert found.table.headings == ["order", "Metric", "Value", "n", "ci_low", "ci_high", "Unit"]
    assert len(found.table.rows) == 200
    assert found.table.rows[1] == [
        "random",
        "cpr",
        "0.00100",
        "60",
        "0.100",
        "0.200",
        "area",
    ]
    few = shown(Measured("circuit", "What is left?", rows.head(1), []))
    assert few.told == "" and few.table.headings[:3] == ["order", "dictionary", "k"]
    assert shown(Measured("none", "?", pd.DataFrame(), [])).table.rows == []


def test_a_photograph_that_is_taken_for_another_class_does_not_stand_for_its_own(small, tmp_path):
    """The first of the images that were answered cat was an airplane, and stood under "cat"."""
    right, wrong = (Patch(encode_png(np.full((8, 8, 3), value, np.uint8)), "", 1.0, str(value)) for value in (200, 40))
    assert portrait([wrong, right], {"40"}) == right and portrait([wrong], {"40"}) == wrong and portrait([], ()) is None
    images, mistaken = {"129": [wrong, right], "130": [right]}, {"40"}
    page = render_page(small._replace(images=images, mistaken=mistaken))
    nodes = {node["id"]: node for node in embedded(Elements(page))["nodes"]}
    assert nodes["class/129"]["picture"] == nodes["class/130"]["picture"]  # both show what is right
    plain = graph_figure(small.graph, {}, tmp_path / "a", {"129": [right], "130": [right]}, dpi=50)
    told = graph_figure(small.graph, {}, tmp_path / "b", images, dpi=50, mistaken=mistaken)
    assert plain.png.read_bytes() == told.png.read_bytes()
