"""The console in a real browser, with the real shop behind it."""

import itertools
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import (
    PHONE,
    WIDE,
    Visit,
    mistakes,
    needs_axe,
    needs_chromium,
    overflow,
    visiting,
)
from tests.support.folders import short_directory
from tests.support.shop import Shop, new_order, new_user
from tests.support.waiting import at_best

pytestmark = [pytest.mark.heavy, needs_chromium, pytest.mark.timeout(600)]

PATIENT = 60_000  # ms


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with short_directory() as directory:
        shop = Shop(directory / "data", fronts=["console"], SHOP_SERVICES="shop.services")
        try:
            shop.start()
            for _ in range(3):
                user = shop.users.post("/users", json=new_user()).raise_for_status().json()
                for _ in range(20):
                    order(shop, user["id"])
            yield shop
        finally:
            shop.close()


def order(shop: Shop, user: int, trace: str = "") -> int:
    headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"} if trace else {}
    answer = shop.orders.post(
        "/orders",
        json=new_order(user),
        headers={**headers, "Idempotency-Key": f"key-{time.monotonic_ns()}"},
    )
    placed: int = answer.raise_for_status().json()["id"]
    return placed


def live(page: Page) -> None:
    expect(page.locator("[data-stream-state]")).to_have_attribute("data-stream-state", "live")


def paths(visit: Visit) -> list[str]:
    page = visit.go("/")
    found: list[str] = page.eval_on_selector_all(
        "nav.pages a", "all => all.map(each => each.getAttribute('href'))"
    )
    return [*found, "/timeline?q=orders/1", "/log/orders/0/0", "/nowhere"]


def test_an_order_that_is_placed_is_seen_within_a_second(visit: Visit, shop: Shop) -> None:
    page = visit.go("/log?topic=orders")
    live(page)

    def listed() -> float:
        placed = order(shop, 1)
        began = time.monotonic()
        row = page.locator(".event", has=page.locator(".key", has_text=re.compile(f"^{placed}$")))
        expect(row).to_be_visible(timeout=PATIENT)
        return time.monotonic() - began

    at_best(listed, 1.0)

    page = visit.go("/")
    live(page)
    records = page.get_by_label("Order service").locator("div", has_text="records").locator("dd")
    logged = "SELECT sum(next_offset)::int FROM log_heads WHERE topic = 'orders'"
    heads = itertools.count(shop.rows("log", logged)[0][0])
    expect(records).to_have_text(str(next(heads)), timeout=PATIENT)

    def counted() -> float:
        order(shop, 1)
        began = time.monotonic()
        expect(records).to_have_text(str(next(heads)), timeout=PATIENT)
        return time.monotonic() - began

    at_best(counted, 1.0)


def test_its_timeline_is_complete_and_in_order(visit: Visit, shop: Shop) -> None:
    trace = f"{time.monotonic_ns():032x}"
    placed = order(shop, 1, trace)
    shop.orders.post(f"/orders/{placed}/cancel").raise_for_status()
    page = visit.go(f"/log?topic=orders&key={placed}")
    page.locator(".event").last.click()
    page.get_by_role("link", name=f"Timeline of orders {placed}").click()
    expect(page.locator("article.journey")).to_have_count(2)
    first, second = page.locator("article.journey").all()
    expect(first.locator("h2")).to_have_text("order.placed")
    expect(second.locator("h2")).to_have_text("order.cancelled")
    names = first.locator(".steps b").all_inner_texts()
    assert names == ["request", "commit", "append", "users applies"]
    for _ in range(20):
        if first.locator(".tag.warn, .tag.bad").count() == 0:
            break
        page.reload()
    times = re.findall(r"\d\d:\d\d:\d\d\.\d{3}", first.locator(".steps").inner_text())
    request, commit, append, _, applied = times
    assert request <= commit <= append <= applied
    expect(second.locator("tr", has_text="status")).to_contain_text("placed")
    expect(second.locator("tr", has_text="status")).to_contain_text("cancelled")
    page.goto(f"{page.url.partition('/timeline')[0]}/timeline?q={trace}")
    expect(page.locator("article.journey h2")).to_have_text(["order.placed"])


def test_new_events_are_held_while_the_reader_scrolls(visit: Visit, shop: Shop) -> None:
    page = visit.go("/log")
    live(page)
    page.mouse.wheel(0, 600)
    expect(page.locator("[data-stream-state]")).to_have_attribute("data-stream-state", "paused")
    top = page.locator(".event").first.get_attribute("href")
    order(shop, 2)
    held = page.get_by_role("button", name="new, held while you read")
    expect(held).to_be_visible()
    assert page.locator(".event").first.get_attribute("href") == top
    held.click()
    expect(page.locator(".event").first).not_to_have_attribute("href", str(top))
    expect(held).to_be_hidden()


def test_everything_can_be_done_by_the_keyboard_alone(visit: Visit) -> None:
    page = visit.go("/log")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("/")
    expect(page.get_by_label("Key")).to_be_focused()
    page.keyboard.type("1")
    page.keyboard.press("Enter")
    page.wait_for_url("**key=1**")
    row = page.locator(".event").first
    reach(page, row.get_attribute("href") or "")
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    expect(page.locator("#record h2")).to_be_visible()
    reach(page, "/timeline")
    page.keyboard.press("Enter")
    page.wait_for_url("**/timeline**")
    page.keyboard.press("/")
    page.keyboard.type("orders/1")
    page.keyboard.press("Enter")
    expect(page.locator("article.journey")).not_to_have_count(0)


def reach(page: Page, href: str) -> None:
    """Press Tab until the link has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if str(page.evaluate("document.activeElement.getAttribute('href')")).startswith(href):
            return
    raise AssertionError(f"the keyboard does not reach {href}")


def test_no_page_is_wider_than_a_phone(browser: Browser, base: str) -> None:
    with visiting(browser, base, PHONE) as visit:
        for path in paths(visit):
            page = visit.go(path)
            assert overflow(page) == 0, path
        visit.said.clear()  # the 404


def test_the_theme_is_the_systems_until_one_is_chosen(browser: Browser, base: str) -> None:
    with visiting(browser, base, color_scheme="dark") as visit:
        page = visit.go("/")
        assert brightness(page) < 60
        switch = page.get_by_role("button", name="Theme")
        switch.click()
        assert brightness(page) > 200
        page.reload()
        assert brightness(page) > 200, "it was kept"
        switch.click()
        assert brightness(page) < 60
        switch.click()
        expect(switch).to_contain_text("system")


def brightness(page: Page) -> float:
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    numbers = [float(each) for each in re.findall(r"[\d.]+", colour)[:3]]
    return sum(numbers) / 3


@needs_axe
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_axe_finds_no_mistake(
    browser: Browser, base: str, scheme: str, size: tuple[int, int]
) -> None:
    with visiting(browser, base, size, color_scheme=scheme) as visit:
        for path in paths(visit):
            page = visit.go(path)
            assert mistakes(page) == [], path
        visit.said.clear()  # the 404


def test_no_layout_jumps_while_events_come(visit: Visit, shop: Shop) -> None:
    for path in ("/", "/log"):
        page = visit.go(path)
        live(page)
        page.evaluate(
            "() => { window.shift = 0; new PerformanceObserver(all => { for (const each of all.getEntries())"
            " window.shift += each.value }).observe({type: 'layout-shift'}) }"
        )
        for _ in range(5):
            order(shop, 3)
            page.wait_for_timeout(200)
        # The rows of the log move down, which is what it is for; nothing else may.
        assert page.evaluate("window.shift") < (0.01 if path == "/" else 0.6), path


def test_what_is_away_is_said_within_five_seconds_and_when_it_is_back(
    visit: Visit, shop: Shop, tmp_path: Path
) -> None:
    del tmp_path
    page = visit.go("/")
    live(page)
    verdict = page.get_by_label("State", exact=True)
    expect(verdict).to_contain_text("Everything moves", timeout=PATIENT)

    def took() -> float:
        """It says so until another process is in its place, after a second and more."""
        shop.part("orders-api").kill()
        began = time.monotonic()
        expect(verdict).to_contain_text("orders API", timeout=PATIENT)
        seconds = time.monotonic() - began
        expect(verdict).to_contain_text("Everything moves", timeout=PATIENT)
        return seconds

    at_best(took, 5.0, tries=3)
