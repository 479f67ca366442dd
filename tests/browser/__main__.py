"""Pictures of each page of the console, light and dark, in docs/console: `make screenshots`.

A real shop with believable requests, and some events that a consumer can't apply, so that each page has something
to show.
"""

import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
from playwright.sync_api import Browser

from tests.support.browser import WIDE, chromium
from tests.support.folders import short_directory
from tests.support.shop import Shop, new_order, new_user, shop_command

FOLDER = Path(__file__).parents[2] / "docs/console"

_BUSY_S = 60
"""Seconds of requests before the first picture, so that the charts have a shape."""


def main() -> None:
    with short_directory() as directory, chromium() as browser:
        shop = Shop(directory / "data", fronts=["console"], SHOP_SERVICES="shop.services")
        try:
            shop.start()
            demo = subprocess.Popen(
                shop_command(
                    *("demo", "--rate", "25", "--for", f"{3 * _BUSY_S}s", "--data", shop.data),
                    *("--users", f"http://127.0.0.1:{shop.users_port}"),
                    *("--orders-api", f"http://127.0.0.1:{shop.orders_port}"),
                ),
                stdout=subprocess.DEVNULL,
            )
            cancelled = _some_trouble(shop)
            [port] = shop.ports["console"]
            _some_checks(f"http://127.0.0.1:{port}")
            time.sleep(_BUSY_S)
            FOLDER.mkdir(exist_ok=True)
            for scheme in ("light", "dark"):
                _pictures(browser, f"http://127.0.0.1:{port}", scheme, cancelled)
            demo.terminate()
            demo.wait(20)
        finally:
            shop.close()


def _some_trouble(shop: Shop) -> int:
    """Orders that the user service's copy refuses. Returns another, which was placed and cancelled."""
    with psycopg.connect(shop._url("users"), autocommit=True) as connection:
        connection.execute("ALTER TABLE orders ADD CHECK (product <> 'lamp') NOT VALID")
    user = shop.users.post("/users", json=new_user(name="Ada Lovelace")).json()["id"]
    for product in ("lamp", "lamp", "lamp", "desk"):
        order = shop.orders.post(
            "/orders", json=new_order(user, product=product), headers=_headers()
        )
        placed: int = order.raise_for_status().json()["id"]
        shop.orders.post(f"/orders/{placed}/cancel", headers=_headers()).raise_for_status()
    return placed


def _some_checks(base: str) -> None:
    own = {"Sec-Fetch-Site": "same-origin"}
    for of in ({"kind": "audit"}, {"kind": "rebuild", "service": "orders"}):
        httpx.post(f"{base}/checks", data=of, headers=own)


def _headers() -> dict[str, str]:
    return {
        "traceparent": f"00-{uuid4().hex}-{uuid4().hex[:16]}-01",
        "Idempotency-Key": str(uuid4()),
    }


def _pictures(browser: Browser, base: str, scheme: str, order: int) -> None:
    width, height = WIDE
    context = browser.new_context(
        viewport={"width": width, "height": height},
        color_scheme="dark" if scheme == "dark" else "light",
    )
    page = context.new_page()
    page.goto(base)
    paths = page.eval_on_selector_all("nav.pages a", "all => all.map(one => one.pathname)")
    for path in paths:
        more = {"/timeline": f"?q=orders/{order}", "/find": f"/orders?open={order}"}.get(path, "")
        page.goto(f"{base}{path}{more}")
        # Streams never end, so there is no moment at which all is loaded.
        page.wait_for_timeout(2500)
        name = path.strip("/") or "flow"
        page.screenshot(path=FOLDER / f"{name}-{scheme}.png")
        sys.stdout.write(f"docs/console/{name}-{scheme}.png\n")
    context.close()


if __name__ == "__main__":
    main()
