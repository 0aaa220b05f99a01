"""Chromium for the page's tests: its flags, how a page is opened and how its controls are worked."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

selenium = pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver import Chrome, ChromeOptions  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.remote.webelement import WebElement  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
NEEDS_BROWSER = [
    pytest.mark.browser,
    pytest.mark.skipif(not (CHROMIUM and CHROMEDRIVER), reason="chromium and chromedriver are not on the path"),
]
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1400,1000"
)
VISIBLE = "return [...document.querySelectorAll('#links .link')].filter(p => p.getClientRects().length).length"


def start(profile: Path) -> Chrome:
    """A browser whose console is kept."""
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(str(CHROMEDRIVER)))


def resize(browser: Chrome, width: int) -> None:
    """The window so many pixels wide."""
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def afresh(browser: Chrome, address: str) -> None:
    """The page as who has never seen it has it: 1,400 pixels wide, nothing kept, nothing to go back to.

    Chromium keeps 50 entries of history; of a full list it first drops those that a script added to without a
    gesture, which are the ones that a test goes back to.
    """
    resize(browser, 1400)
    for forget in (True, False):
        browser.get("about:blank")
        browser.execute_cdp_cmd("Page.resetNavigationHistory", {})
        browser.get(address)
        if forget:
            browser.execute_script("localStorage.clear()")


def until(page: Chrome, script: str, wanted: object) -> None:
    """Wait for what a script returns."""
    WebDriverWait(page, 10).until(lambda _: page.execute_script(script) == wanted)


def concept(page: Chrome, index: int) -> WebElement:
    """A concept's tile, scrolled into view."""
    node = page.find_elements(By.CSS_SELECTOR, ".node.concept")[index]
    page.execute_script("arguments[0].scrollIntoView({block: 'center', inline: 'center'})", node)
    return node


def card(page: Chrome) -> WebElement:
    """The card of the chosen node."""
    return page.find_element(By.ID, "card")


def title(page: Chrome) -> str:
    """What the card is of."""
    return " ".join(card(page).find_element(By.TAG_NAME, "h4").text.split())


def eventually(page: Chrome, shown: bool) -> None:
    """Wait for the card to be shown, or to be gone."""
    WebDriverWait(page, 10).until(lambda _: card(page).is_displayed() == shown)


def choose(page: Chrome, mode: str) -> None:
    """Take the weights of a group."""
    page.execute_script("document.querySelector(`input[value='${arguments[0]}']`).click()", mode)


def slide(page: Chrome, control: str, value: Any) -> None:
    """Set a slider as a hand would."""
    page.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        control,
        value,
    )
