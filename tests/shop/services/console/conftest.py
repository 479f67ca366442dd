"""A browser in front of the console of the module's `shop`."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from shop.platform.flow import asking
from shop.services.console import quick_log
from tests.support.browser import Visit, chromium, visiting
from tests.support.shop import Shop


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to answer than a person should wait."""
    monkeypatch.setattr(asking, "WITHIN", 20.0)
    monkeypatch.setattr(quick_log, "WITHIN_S", 20.0)


@pytest.fixture(scope="module")
def base(shop: Shop) -> str:
    [port] = shop.ports["console"]
    return f"http://127.0.0.1:{port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, base: str) -> Iterator[Visit]:
    with visiting(browser, base) as visit:
        yield visit
