"""One browser for the page's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    from browser.browse import start

    driver = start(tmp_path_factory.mktemp("profile"))
    yield driver
    driver.quit()
