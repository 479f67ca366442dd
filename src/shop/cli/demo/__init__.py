"""`shop demo`: customers who come, order, err and try again, so that there is something to see."""

from typing import Annotated

import typer

from shop.cli.common import DEFAULT_DATA, DataDir, beside_running_shop, settings_or_stop, stop
from shop.cli.filters import span_or_stop
from shop.platform.apis import local_apis


def demo(
    rate: Annotated[float, typer.Option(min=0.1, max=2000, help="requests a second")] = 20.0,
    lasts: Annotated[
        str, typer.Option("--for", metavar="TIME", help="how long: 90s, 15m, 2h")
    ] = "1m",
    orders: Annotated[
        int | None,
        typer.Option(min=1, help="end once so many orders are placed, however long that takes"),
    ] = None,
    clients: Annotated[
        int, typer.Option(min=1, max=256, help="the most requests under way at the same time")
    ] = 16,
    users_url: Annotated[
        str | None, typer.Option("--users", metavar="URL", help="the user service's API")
    ] = None,
    orders_url: Annotated[
        str | None, typer.Option("--orders-api", metavar="URL", help="the order service's API")
    ] = None,
    data: DataDir = DEFAULT_DATA,
) -> None:
    """Send realistic requests to a shop: customers, orders, cancellations, mistakes, and repeats.

    It writes into that shop, so use it only to try one out. Where tokens are required, log in first
    as an admin (`shop login`). Ctrl-C ends it and says what was done.
    Exit status: 0 if each answer was as it must be, 1 if one was not, 2 if the shop could not be reached.
    """
    from shop.cli.demo.run import Plan, run  # noqa: PLC0415 - only this needs it

    with beside_running_shop(data):
        settings = settings_or_stop()
    if settings.env == "production" and not (users_url and orders_url):
        stop(
            "in production, `shop demo` sends nothing unless --users and --orders-api say where to"
        )
    here = local_apis(settings)
    urls = {
        "users": _url("--users", users_url or here["users"]),
        "orders": _url("--orders-api", orders_url or here["orders"]),
    }
    seconds = span_or_stop(lasts, "--for").total_seconds()
    raise typer.Exit(run(Plan(urls, rate, seconds, orders, clients)))


def _url(option: str, url: str) -> str:
    if not url.startswith(("http://", "https://")):
        stop(f"{option} {url} is not a URL: it begins with http:// or https://")
    return url.rstrip("/")
