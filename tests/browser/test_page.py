"""The page in a real browser: no errors, no sideways scroll, and every control does what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser.browse import NEEDS_BROWSER, VISIBLE, card, choose, concept, eventually, resize, slide, title
from report_sample import sample_graph, sample_report
from vismech.report.layout import default_links
from vismech.report.page import render_page

pytestmark = NEEDS_BROWSER


@pytest.fixture(scope="module")
def graph() -> dict:
    found = sample_graph(per_layer=16, specials=("offset", "error"))
    parts = {"value": 11.5, "drawn": 14.0, "other": -2.2, "offset": 1.1, "error": 0.6, "lost": -2.4, "rest": 0.4}
    found["account"][found["layers"][-1]]["129"] = parts
    return found


@pytest.fixture(scope="module")
def address(graph: dict, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render_page(sample_report(graph, patches=5)), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page freshly opened 1,400 pixels wide; whatever a test does, it must leave no message in the console."""
    resize(browser, 1400)
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [400, 1000, 1400])
def test_the_body_never_scrolls_sideways(page, width):
    resize(page, width)
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    wide = page.execute_script("const e = document.documentElement; return [e.scrollWidth, e.clientWidth]")
    assert wide[0] <= wide[1]
    page.execute_script("window.scrollTo(200, 0)")
    assert page.execute_script("return window.scrollX") == 0
    # The graph keeps a readable size and scrolls inside its own box instead.
    tile = page.find_element(By.CSS_SELECTOR, ".node.concept .plate").rect["width"]
    assert tile >= 50
    inside = page.execute_script(
        "const s = document.querySelector('.scroll'); return s.scrollWidth > s.clientWidth + 1"
    )
    assert inside == (width < 1300)


def test_the_text_of_a_tile_stays_inside_it(page):
    spill = page.execute_script("""
        return [...document.querySelectorAll('.node')].flatMap(node => {
          const plate = node.querySelector('.plate').getBoundingClientRect();
          return [...node.querySelectorAll('text, use, .bar, .venn')].filter(part => {
            const box = part.getBoundingClientRect();
            return box.left < plate.left - 1 || box.right > plate.right + 1 || box.bottom > plate.bottom + 1;
          }).map(part => part.textContent);
        });""")
    assert spill == []


def test_a_bar_says_where_each_classs_value_comes_from(page, graph):
    """Widths are the parts of the account, negative ones hatched and left of zero, the mark at the network's value."""
    accounts = graph["account"][graph["layers"][-1]]
    bars = page.find_elements(By.CSS_SELECTOR, ".stack[role='img']")
    assert len(bars) == len(accounts)
    for width in (1400, 400):
        resize(page, width)
        scales = []
        for bar, parts in zip(bars, accounts.values(), strict=True):
            zero = bar.find_element(By.CLASS_NAME, "zero").rect["x"]
            for part in set(parts) - {"value"}:
                drawn = bar.find_elements(By.CSS_SELECTOR, f".part.{part}")
                assert len(drawn) == (parts[part] != 0)
                for piece in drawn:
                    box = piece.rect
                    scales.append((box["width"], abs(parts[part])))
                    assert (box["x"] >= zero - 1) if parts[part] > 0 else (box["x"] + box["width"] <= zero + 1)
                    hatched = "gradient" in piece.value_of_css_property("background-image")
                    assert hatched == (parts[part] < 0)
            own = bar.find_element(By.CSS_SELECTOR, ".own").rect
            scales.append((own["x"] + own["width"] / 2 - zero, parts["value"]))
            assert all(words in bar.get_attribute("aria-label") for words in ("drawn concepts", "lost by rebuilding"))
        scale = max(pixels for pixels, _ in scales) / max(size for _, size in scales)
        assert all(abs(pixels - scale * size) <= 2 for pixels, size in scales)
        assert min(bar.rect["width"] for bar in bars) > 0.7 * min(width, 700)


def test_hovering_opens_a_card_and_leaving_closes_it(page, graph):
    node = concept(page, 3)
    ActionChains(page).move_to_element(node).perform()
    eventually(page, True)
    label = page.execute_script("return arguments[0].getAttribute('aria-label')", node)
    assert label.startswith(title(page).split(" blocks")[0])
    assert len(card(page).find_elements(By.CSS_SELECTOR, ".patches .picture")) == 5
    assert len(card(page).find_elements(By.CSS_SELECTOR, ".importances tr")) == len(graph["groups"])
    headings = [heading.text for heading in card(page).find_elements(By.CSS_SELECTOR, ".columns h5")]
    assert headings == ["Inputs from blocks.4", "Outputs to classes"]
    # All the links that are lit touch the node, and the rest of the graph is dimmed.
    lit = page.execute_script("""
        const data = JSON.parse(document.getElementById('graph-data').textContent);
        const chosen = Number(document.querySelector('.node.chosen').dataset.node);
        return [...document.querySelectorAll('.link.on')].map(path => data.links[path.dataset.link])
          .map(link => link.source === chosen || link.target === chosen);""")
    assert lit and all(lit)
    ActionChains(page).move_to_element(page.find_element(By.TAG_NAME, "h1")).perform()
    eventually(page, False)


ALPHA = """
const canvas = arguments[0];
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
return [...pixels].filter((_, place) => place % 4 === 3);
"""


def test_a_concept_lights_the_photographs_it_is_in(page, graph):
    assert not page.find_elements(By.CSS_SELECTOR, "[data-photo] canvas")
    node = concept(page, 0)
    ActionChains(page).move_to_element(node).perform()
    eventually(page, True)
    above, below = page.find_elements(By.CSS_SELECTOR, "[data-photo] .photo")
    inside = card(page).find_elements(By.CSS_SELECTOR, ".within .photo")
    assert len(inside) == 2
    for first, second in ((above, below), inside):
        lit, dark = (photo.find_element(By.TAG_NAME, "canvas") for photo in (first, second))
        alpha = page.execute_script(ALPHA, lit)
        assert len(alpha) == 28 * 28 and alpha.count(0) == 64  # the square of the sample report
        assert set(page.execute_script(ALPHA, dark)) == {204}
        assert "not here" in second.text and "not here" not in first.text
        assert lit.size == first.find_element(By.TAG_NAME, "img").size
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    eventually(page, False)
    assert not page.find_elements(By.CSS_SELECTOR, "[data-photo] canvas")


def test_photographs_are_chosen_by_whether_they_were_answered_rightly(page):
    shown = "return [...document.querySelectorAll('[data-photo]')].map(f => f.getClientRects().length > 0)"
    for answer, expected in (("wrong", [False, True]), ("right", [True, False]), ("", [True, True])):
        page.execute_script("document.querySelector(`[name=answered][value='${arguments[0]}']`).click()", answer)
        assert page.execute_script(shown) == expected


def test_what_a_card_says_stays_inside_it(page):
    """Long class names are cut by an ellipsis; neither they nor the numbers beside them overlap or leave the card."""
    ActionChains(page).click(concept(page, 3)).perform()
    eventually(page, True)
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    wrong = page.execute_script("""
        return [...document.querySelectorAll('#card, .cards .details')].flatMap(card => {
          const outer = card.getBoundingClientRect();
          const inside = '.seen .picture, .known th, .known td, .known span, .known b, .importances td';
          const parts = [...card.querySelectorAll(inside)];
          const boxes = parts.map(part => part.getBoundingClientRect());
          const across = (a, b) => a.left < b.right - 1 && b.left < a.right - 1;
          const over = (a, b) => across(a, b) && a.top < b.bottom - 1 && b.top < a.bottom - 1;
          const out = parts.filter((part, i) => boxes[i].right > outer.right + 1 || boxes[i].left < outer.left - 1);
          const spilt = parts.filter(part => part.matches('td, th') && part.scrollWidth > part.clientWidth + 1);
          const crossed = parts.filter((part, i) => parts.some((other, j) =>
            i !== j && !part.contains(other) && !other.contains(part) && over(boxes[i], boxes[j])));
          return [...out, ...spilt, ...crossed].map(part => part.textContent);
        });""")
    assert wrong == []
    names = card(page).find_elements(By.CSS_SELECTOR, ".known .class span")
    assert [name.text for name in names][1:] == ["goose", "thatch"]
    assert len(card(page).find_elements(By.CSS_SELECTOR, ".seen .picture")) == 1


def test_a_click_pins_the_card_and_escape_closes_it(page):
    ActionChains(page).click(concept(page, 2)).move_to_element(page.find_element(By.ID, "graph-title")).perform()
    # A second hover would replace a card that is not pinned.
    name = title(page)
    ActionChains(page).move_to_element(concept(page, 5)).perform()
    assert card(page).is_displayed() and title(page) == name
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    eventually(page, False)


def test_the_keyboard_walks_the_graph(page):
    page.execute_script("document.getElementById('load').focus()")
    # From the last control: the scrolling box, the first class, then down to a concept.
    ActionChains(page).send_keys(Keys.TAB, Keys.TAB).perform()
    eventually(page, True)
    assert title(page) == "spoonbill"
    ActionChains(page).send_keys(Keys.ARROW_DOWN).perform()
    assert title(page).startswith("Concept")
    first = title(page)
    ActionChains(page).send_keys(Keys.ARROW_RIGHT, Keys.ENTER).perform()
    assert title(page) != first
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    eventually(page, False)


def test_the_card_leads_from_node_to_node(page):
    ActionChains(page).click(concept(page, 0)).perform()
    button = card(page).find_element(By.CSS_SELECTOR, "li button")
    target = button.get_attribute("title")
    page.execute_script("arguments[0].click()", button)
    assert card(page).is_displayed()
    layer, label = target.split(" · ")
    assert title(page) == f"{label} {layer}"


def test_the_slider_changes_how_many_links_are_drawn(page, graph):
    assert page.execute_script(VISIBLE) == default_links(graph)
    for count in (1, 7, len(graph["links"])):
        slide(page, "count", count)
        assert page.execute_script(VISIBLE) == count
        assert page.find_element(By.ID, "shown").text == str(count)


def test_the_group_control_changes_the_weights(page, graph):
    link = next(i for i, e in enumerate(graph["links"]) if e["weights"]["129"] > 0 > e["weights"]["130"])
    read = """
        const path = document.querySelector(`[data-link='${arguments[0]}']`);
        return [path.textContent, path.style.getPropertyValue('--s'), path.classList.contains('negative')];"""
    seen = {}
    for mode in ("mean", "129", "130"):
        choose(page, mode)
        seen[mode] = page.execute_script(read, link)
        weight = graph["links"][link]["weight"] if mode == "mean" else graph["links"][link]["weights"][mode]
        shown = float(seen[mode][0].rpartition(": ")[2].replace("−", "-"))
        assert shown == pytest.approx(weight, rel=5e-3)
        assert seen[mode][2] == (weight < 0)
    assert len({strength for _, strength, _ in seen.values()}) == 3


def test_on_a_narrow_screen_the_card_is_a_sheet_inside_the_window(page):
    resize(page, 400)
    ActionChains(page).click(concept(page, 1)).perform()
    eventually(page, True)
    box = page.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.left, b.right, b.bottom]", card(page)
    )
    assert box[0] >= 0 and box[1] <= 400 and box[2] <= 1000
    page.find_element(By.ID, "close").click()
    eventually(page, False)


def test_in_print_the_whole_graph_fits_the_paper(page):
    resize(page, 700)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        sizes = page.execute_script(
            "return ['graph', 'controls'].map(id => document.getElementById(id).getBoundingClientRect().right)"
        )
        assert 0 < sizes[0] <= 700 and sizes[1] == 0
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


@pytest.mark.thorough
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_axe_finds_nothing_serious(page, width, scheme):
    """axe-core, which browsers' own audits run: with a card open, all sections unfolded."""
    package = pytest.importorskip("axe_core_python", reason="axe-core-python is not installed")
    resize(page, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    for details in page.find_elements(By.TAG_NAME, "details"):
        page.execute_script("arguments[0].open = true", details)
    concept(page, 0).click()
    eventually(page, True)
    page.execute_script((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    found = page.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
    assert len(found["passes"]) > 20
    wrong = [each for each in found["violations"] if each["impact"] in ("serious", "critical")]
    assert not wrong, [(each["id"], each["help"], [node["html"][:150] for node in each["nodes"][:3]]) for each in wrong]
