"""What an administrator does on the console, in a real browser, with the real shop behind it."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
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
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, needs_chromium, pytest.mark.timeout(600)]

KEYS = 500


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with short_directory() as directory:
        shop = Shop(
            directory / "data",
            fronts=["console"],
            SHOP_SERVICES="shop.services",
            SHOP_MOST_PARKED=2 * KEYS,
        )
        try:
            shop.start()
            user = shop.users.post("/users", json=new_user()).raise_for_status().json()["id"]
            for _ in range(60):
                shop.orders.post("/orders", json=new_order(user)).raise_for_status()
            yield shop
        finally:
            shop.close()


def at_orders(shop: Shop, statement: str) -> None:
    with psycopg.connect(shop._url("orders"), autocommit=True) as connection:
        connection.execute(statement.encode())


def park(shop: Shop, count: int) -> None:
    """Users whom the order service can't keep; the cause is removed at once."""
    at_orders(
        shop,
        "ALTER TABLE customers ADD CONSTRAINT unlucky CHECK (name NOT LIKE 'Unlucky%') NOT VALID",
    )

    def create(number: int) -> None:
        named = new_user(name=f"Unlucky {number}")
        shop.users.post("/users", json=named).raise_for_status()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(create, range(count)))
    until(lambda: parked(shop) == count, f"{count} keys are parked", 120)
    at_orders(shop, "ALTER TABLE customers DROP CONSTRAINT unlucky")


def parked(shop: Shop) -> int:
    [(count,)] = shop.rows("orders", "SELECT count(*) FROM parked")
    return int(count)


def done(page: Page) -> None:
    expect(page.locator("#deed .tag").first).to_have_text("done", timeout=60_000)


def press_to(page: Page, name: str) -> None:
    """Press Tab until what has this name has the focus."""
    for _ in range(80):
        page.keyboard.press("Tab")
        said = page.evaluate(
            "(document.activeElement.ariaLabel || document.activeElement.textContent || '').trim()"
        )
        if re.fullmatch(name, said):
            return
    raise AssertionError(f"the keyboard does not reach {name}")


def test_a_parked_key_is_retried(visit: Visit, shop: Shop) -> None:
    park(shop, 1)
    page = visit.go("/parked")
    page.locator("tbody a.mono").click()
    expect(page.locator("article")).to_have_count(1)
    page.get_by_role("button", name="Retry").click()
    expect(page.locator("h1")).to_have_text("Retry 1 key?")
    page.get_by_role("button", name="Retry 1 key").click()
    done(page)
    expect(page.locator("#deed")).to_contain_text("1 record applied")
    assert parked(shop) == 0
    page.get_by_role("link", name="Back to what is parked").click()
    expect(page.locator("main")).to_contain_text("Nothing is parked")


def test_a_key_is_discarded_and_the_discard_undone_by_the_keyboard_alone(
    visit: Visit, shop: Shop
) -> None:
    park(shop, 1)
    page = visit.go("/parked")
    press_to(page, r"users \d+ of orders")
    page.keyboard.press("Space")
    expect(page.locator("[data-ticked]")).to_have_text("1 ticked")
    page.keyboard.press("Shift+Tab")
    for _ in range(4):
        if "Discard ticked" in page.evaluate("document.activeElement.textContent"):
            break
        page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Discard 1 key?")
    press_to(page, "Discard 1 key")
    page.keyboard.press("Enter")
    done(page)
    assert parked(shop) == 0
    press_to(page, "Undo: park them again")
    page.keyboard.press("Enter")
    expect(page.locator("#deed")).to_contain_text("1 records are parked again")
    assert parked(shop) == 1
    page.goto(page.url.partition("/parked")[0] + "/parked")
    page.get_by_label("All on this page").check()
    page.get_by_role("button", name="Retry ticked").click()
    expect(page.get_by_role("button", name="Retry 1 key")).to_be_focused()
    page.keyboard.press("Enter")
    done(page)
    assert parked(shop) == 0


def test_500_parked_keys_are_retried_at_once_and_the_audit_holds(visit: Visit, shop: Shop) -> None:
    park(shop, KEYS)
    page = visit.go("/parked")
    expect(page.locator("[data-total]")).to_have_text(str(KEYS))
    page.get_by_role("button", name=f"Retry all {KEYS}").click()
    expect(page.locator("h1")).to_have_text(f"Retry {KEYS} keys?")
    page.get_by_role("button", name=f"Retry {KEYS} keys").click()
    expect(page.locator("#deed progress")).to_be_visible()
    done(page)
    expect(page.locator("#deed")).to_contain_text(f"{KEYS} records applied")
    assert parked(shop) == 0
    page = visit.go("/checks")
    page.get_by_role("button", name="Start an audit").click()
    expect(page.locator("#check .tag").first).to_have_text("everything holds", timeout=60_000)
    expect(page.locator("#check")).to_contain_text("reading topic users")


def test_one_row_is_open_at_a_time_with_its_history_and_its_address(visit: Visit) -> None:
    page = visit.go("/find/orders?status=placed")
    page.locator("a[data-row]", has_text=re.compile("^37$")).click()
    expect(page.locator("#opened h2").first).to_have_text("order 37")
    expect(page).to_have_url(re.compile(r"status=placed&open=37$"))
    expect(page.locator("#opened article.journey")).to_have_count(1)
    page.locator("a[data-row]", has_text=re.compile("^35$")).click()
    expect(page.locator("#opened h2").first).to_have_text("order 35")
    expect(page.locator("tr[aria-current]")).to_have_count(1)
    page.reload()
    expect(page.locator("#opened h2").first).to_have_text("order 35")
    page.get_by_role("link", name="Older").click()
    expect(page.locator("a[data-row]")).to_have_count(10)


def test_a_filter_with_a_name_stays_in_this_browser(visit: Visit) -> None:
    page = visit.go("/find/orders?status=cancelled")
    page.get_by_role("button", name="Save this filter").click()
    page.get_by_label("Its name").fill("cancelled ones")
    page.keyboard.press("Enter")
    page = visit.go("/find/orders")
    page.get_by_role("link", name="cancelled ones").click()
    expect(page).to_have_url(re.compile(r"/find/orders\?status=cancelled$"))
    page.get_by_role("button", name="Forget the filter cancelled ones").click()
    page.reload()
    expect(page.get_by_role("link", name="cancelled ones")).to_have_count(0)


def every_page(visit: Visit, shop: Shop) -> Iterator[Page]:
    """Each page of these in each of its states; what is parked is parked again at its end."""
    for path in ("/find/orders?open=3", "/find/users", "/find/orders?user_id=seven"):
        yield visit.go(path)
    yield visit.go("/parked?text=nothing-has-this")
    yield visit.go("/parked")
    page = visit.go("/parked")
    page.locator("tbody a.mono").first.click()
    yield page
    page.get_by_role("button", name="Discard").click()
    yield page
    page.get_by_role("button", name="Discard 1 key").click()
    done(page)
    yield page
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#deed")).to_contain_text("parked again")
    yield page
    page = visit.go("/checks")
    yield page
    page.locator("form", has_text="Rebuild").get_by_role("button").click()
    expect(page.locator("#check .tag").first).not_to_have_text("under way", timeout=60_000)
    yield page


@pytest.fixture
def three_parked(shop: Shop) -> Iterator[None]:
    park(shop, 3)
    yield
    assert shop.run("parked", "retry", "orders").returncode == 0


@needs_axe
@pytest.mark.usefixtures("three_parked")
@pytest.mark.parametrize(("size", "scheme"), [(WIDE, "light"), (PHONE, "dark")])
def test_axe_finds_no_mistake_and_no_page_is_wider_than_its_window(
    browser: Browser, base: str, shop: Shop, size: tuple[int, int], scheme: str
) -> None:
    with visiting(browser, base, size, color_scheme=scheme) as visit:
        for page in every_page(visit, shop):
            assert mistakes(page) == [], page.url
            assert overflow(page) == 0, page.url
