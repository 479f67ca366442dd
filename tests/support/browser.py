"""A real browser, driven by Playwright: Debian's Chromium, since none is downloaded."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
AXE = Path(__file__).parents[2] / "build/browser/node_modules/axe-core/axe.min.js"

# No sandbox, because tests may run as root in a container. The rest keeps it from calling its maker.
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

WIDE, PHONE = (1280, 800), (390, 844)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"
)
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="axe-core is not here: make browser")


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """A window, and what went wrong in it, which is checked at its end."""

    def __init__(self, context: BrowserContext, base: str) -> None:
        self.page: Page = context.new_page()
        self._base = base
        self.elsewhere: list[str] = []
        """Requests to other hosts."""
        self.said: list[str] = []
        """Errors and warnings of its console, and errors of scripts."""
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("console", lambda line: self._told(line.type, line.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def go(self, path: str) -> Page:
        self.page.goto(f"{self._base}{path}", wait_until="load")
        return self.page

    def _asked(self, url: str) -> None:
        if not url.startswith((f"{self._base}/", "data:", "blob:")):
            self.elsewhere.append(url)

    def _told(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self.said.append(text)


@contextmanager
def visiting(
    browser: Browser, base: str, size: tuple[int, int] = WIDE, **options: Any
) -> Iterator[Visit]:
    """A new window, as of a person who was never here. What it loads from elsewhere, and errors, fail the test."""
    width, height = size
    context = browser.new_context(viewport={"width": width, "height": height}, **options)
    context.set_default_timeout(60_000)
    expect.set_options(timeout=60_000)
    visit = Visit(context, base)
    try:
        yield visit
        assert visit.elsewhere == []
        assert visit.said == []
    finally:
        context.close()


def mistakes(page: Page) -> list[str]:
    """What axe finds, by WCAG 2.2 AA and what it holds for good practice."""
    # By the debugger, which the page's own security policy does not bind.
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {json.dumps([node['target'] for node in each['nodes'][:3]])}"
        f" {each['nodes'][0].get('failureSummary', '')}"
        for each in found["violations"]
    ]


def overflow(page: Page) -> int:
    """Pixels by which the page is wider than the window."""
    found: int = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    return max(0, found)
