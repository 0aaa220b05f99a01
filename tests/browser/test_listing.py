"""The list of all concepts in a real browser: sorted, searched, a screenful at a time, and in the address."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from browser.browse import NEEDS_BROWSER, afresh, until
from report_sample import sample_graph, sample_report
from vismech.report.page import ReportData, render_page

pytestmark = [*NEEDS_BROWSER, pytest.mark.thorough]
FRAGMENT = "return location.hash.slice(1)"
ROWS = "return [...document.querySelectorAll('.listing tbody tr')].map(r => [...r.cells].map(c => c.textContent))"


@pytest.fixture(scope="module")
def report() -> ReportData:
    return sample_report(sample_graph(per_layer=3), patches=1)


@pytest.fixture(scope="module")
def address(report: ReportData, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("listing") / "index.html"
    path.write_text(render_page(report), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(browser: Chrome, address: str) -> Iterator[Chrome]:
    """The page freshly opened without names; whatever a test does, it must leave no message in the console."""
    afresh(browser, address)
    yield browser
    assert browser.get_log("browser") == []


def rows(page: Chrome) -> list[list[str]]:
    return page.execute_script(ROWS)


def head(page: Chrome, title: str) -> None:
    buttons = page.find_elements(By.CSS_SELECTOR, ".listing th button")
    next(each for each in buttons if each.text.strip() == title).click()


def test_every_concept_of_a_layer_is_listed_a_screenful_at_a_time(page, report):
    layer = list(report.graph["layers"])[-1]
    total = len(report.concepts[layer].share)
    found = rows(page)
    numbers = [row[0] for row in found]
    assert len(found) == 50 and numbers[0].startswith("#0") and numbers[49].startswith("#49")
    assert page.find_element(By.ID, "which").text == f"1–50 of {total}"
    assert not page.find_element(By.ID, "earlier").is_enabled()
    while page.find_element(By.ID, "later").is_enabled():
        page.find_element(By.ID, "later").click()
        numbers += [row[0] for row in rows(page)]
    assert [number.partition("in the graph")[0] for number in numbers] == [f"#{number}" for number in range(total)]
    # Names of classes are text, and what has no members has nothing to tell.
    assert rows(page)[-1][3:] == ["—"] * 5
    assert page.find_elements(By.CSS_SELECTOR, ".listing b") == []
    for _ in range(2):
        page.execute_script("history.back()")
    until(page, FRAGMENT, "" if total <= 150 else f"from={(total - 1) // 50 * 50 - 100}")


def test_columns_sort_with_what_is_missing_last(page, report):
    layer = list(report.graph["layers"])[-1]
    shares = report.concepts[layer].share
    known = sorted(range(len(shares) - 1), key=lambda number: (-shares[number], number))
    head(page, "Holds, %")
    assert [row[0].partition("in the")[0] for row in rows(page)] == [f"#{number}" for number in known[:50]]
    assert page.switch_to.active_element.text.strip() == "Holds, %"
    assert page.execute_script("return document.querySelector('.listing [aria-sort]').ariaSort") == "descending"
    until(page, FRAGMENT, "by=-share")
    head(page, "Holds, %")
    assert rows(page)[0][0].partition("in the")[0] == f"#{known[-1]}"
    while page.find_element(By.ID, "later").is_enabled():
        page.find_element(By.ID, "later").click()
    assert rows(page)[-1][0] == f"#{len(shares) - 1}"


def test_a_concept_is_found_named_and_linked_to(page, report, address):
    other, *_, layer = report.graph["layers"]
    page.execute_script(
        "const e = document.getElementById('filter'); e.value = 'drum'; e.dispatchEvent(new Event('input'))"
    )
    drums = sum(name == "<b>drum</b>" for name in report.concepts[layer].commonest)
    assert all(row[-2] == "<b>drum</b>" for row in rows(page))
    assert page.find_element(By.ID, "which").text.endswith(
        f"of {drums} found among {len(report.concepts[layer].share)}"
    )
    until(page, FRAGMENT, "filter=drum")
    # An address that somebody sent: the layer, the order, and the concept, on whichever screen it is.
    number = len(report.concepts[other].share) - 1
    page.get("about:blank")
    page.get(f"{address}#layer={other}&concept={number}&by=-tightness")
    marked = page.find_element(By.CSS_SELECTOR, ".listing .marked")
    assert marked.text.startswith(f"#{number}") and rows(page)[-1][0] == f"#{number}"
    assert page.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return b.top > 0 && b.bottom < innerHeight", marked
    )
    # What the graph shows can be opened there, and a name that it is given stands here too.
    node = next(n for n in report.graph["nodes"] if n["kind"] == "concept" and n["layer"] == layer)
    page.get("about:blank")
    page.get(f"{address}#concept={node['concept']}")
    page.find_element(By.XPATH, "//tr[@class='marked']//button[text()='in the graph']").click()
    until(page, "return document.getElementById('card').hidden", False)
    page.execute_script(
        "const e = document.querySelector('.naming input'); e.value = 'beak'; e.dispatchEvent(new Event('input'))"
    )
    assert page.find_element(By.CSS_SELECTOR, ".listing .marked bdi").get_attribute("textContent") == "beak"


def test_a_wrong_address_shows_the_list_as_it_begins(page, address):
    page.get("about:blank")
    page.get(f"{address}#layer=none&concept=99999&by=nothing&from=-3")
    assert rows(page)[0][0].startswith("#0") and not page.find_elements(By.CSS_SELECTOR, ".listing .marked")
