"""Tables in a real browser; what the page is without its script; and that nothing from elsewhere can be reached."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from browser.browse import NEEDS_BROWSER, resize
from report_sample import sample_graph, sample_report
from vismech.report.page import Section, render_page

pytestmark = NEEDS_BROWSER
NAMES = ["b10", "b9", "<b>a</b>", "c"]
COUNTS = [1200, 30, None, 5]
SHARES = [0.00412, 0.5, 0.02, None]
INTERVALS = {"ci_low": [0.5, -1.0, None], "ci_high": [1.5, 0.0, None]}
MINE = pd.DataFrame({"what": ["x", "y", "z"], "value": [1.0, -0.5, 2.0], **INTERVALS})


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    report = sample_report(sample_graph(per_layer=3), patches=1)
    frame = pd.DataFrame({"lower": NAMES, "gap_median": SHARES, "images": COUNTS, "more": [-2.5, 1e-7, 3.0, 0.0]})
    report = report._replace(completeness=frame, sections=[Section("Mine", MINE.to_html(index=False, na_rep="—"))])
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render_page(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page freshly opened; whatever a test does, it must leave no message in the console."""
    resize(browser, 1400)
    browser.get("about:blank")
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []


def first_cells(page: Chrome, table: str) -> list[str]:
    return page.execute_script(
        "return [...document.querySelector(arguments[0]).tBodies[0].rows].map(row => row.cells[0].textContent)", table
    )


@pytest.mark.parametrize(
    ("column", "ascending", "descending"),
    [
        (0, ["<b>a</b>", "b9", "b10", "c"], ["c", "b10", "b9", "<b>a</b>"]),
        (1, ["b10", "<b>a</b>", "b9", "c"], ["b9", "<b>a</b>", "b10", "c"]),
        (2, ["c", "b9", "b10", "<b>a</b>"], ["b10", "b9", "c", "<b>a</b>"]),
        (3, ["b10", "c", "b9", "<b>a</b>"], ["<b>a</b>", "b9", "c", "b10"]),
    ],
)
def test_a_heading_sorts_numbers_as_numbers_with_what_is_missing_last(page, column, ascending, descending):
    table = "[aria-label='Completeness']"
    heading = page.find_elements(By.CSS_SELECTOR, f"{table} th")[column]
    button = heading.find_element(By.TAG_NAME, "button")
    page.execute_script("arguments[0].focus()", button)
    for order, said in ((ascending, "ascending"), (descending, "descending"), (NAMES, None)):
        ActionChains(page).send_keys(Keys.ENTER).perform()
        assert first_cells(page, table) == order
        assert heading.get_dom_attribute("aria-sort") == said
    button.click()
    assert len(page.find_elements(By.CSS_SELECTOR, f"{table} [aria-sort]")) == 1


def test_every_table_with_headings_and_rows_can_be_sorted(page):
    tables = page.execute_script(
        "return [...document.querySelectorAll('table')].filter(t => t.tHead && t.tBodies[0].rows.length > 1)"
        ".map(t => [t.tHead.rows[0].cells.length, t.querySelectorAll('th .sort').length])"
    )
    assert len(tables) == 5
    assert all(sorts == cells or sorts == cells - 1 for cells, sorts in tables)


def test_an_interval_is_drawn_beside_its_ends(page):
    boxes = page.execute_script("""
        return [...document.querySelectorAll('.interval')].map(track => ['b', 'i'].map(part => {
          const [box, own] = [track.querySelector(part), track].map(e => e.getBoundingClientRect());
          return [(box.left - own.left) / own.width, (box.right - own.left) / own.width];
        }));""")
    assert len(boxes) == 2
    for (bar, zero), low, high in zip(boxes, (0.5, -1.0), (1.5, 0.0), strict=True):
        assert bar == pytest.approx([(low + 1) / 2.5, (high + 1) / 2.5], abs=0.02)
        assert zero[0] == pytest.approx(1 / 2.5, abs=0.02)


def test_without_the_script_the_page_is_read_as_before(browser, address):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(address)
        shown = {
            name: [e for e in browser.find_elements(By.CSS_SELECTOR, name) if e.is_displayed()]
            for name in (".node", ".stack", ".measures", ".link:not(.out)", ".controls", "#card", ".sort")
        }
        assert [name for name, elements in shown.items() if elements] == [
            ".node",
            ".stack",
            ".measures",
            ".link:not(.out)",
        ]
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_nothing_from_elsewhere_can_be_reached(browser, address):
    browser.get("about:blank")
    browser.get(address)
    refused = browser.execute_async_script("""
        const done = arguments[0];
        const refused = [];
        document.addEventListener('securitypolicyviolation', (event) => refused.push(event.effectiveDirective));
        const image = document.createElement('img');
        image.src = 'https://example.invalid/a.png';
        const frame = document.createElement('iframe');
        frame.src = 'https://example.invalid/';
        document.body.append(image, frame);
        fetch('https://example.invalid/').catch(() => 0);
        setTimeout(() => done(refused.sort()), 300);""")
    assert refused == ["connect-src", "frame-src", "img-src"]
    browser.get_log("browser")
