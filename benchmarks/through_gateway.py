"""Measures what the gateway costs: orders through nginx with TLS, against orders sent to the API itself."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from benchmarks.load import CUSTOMERS, Load, post_orders
from benchmarks.orders_a_second import ratios, unchanged
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import HOST, Shop, Stage, free_port
from devstack import gateway
from devstack.certificate import Certificate
from devstack.nginx import Nginx
from devstack.supervisor import wait_ready

TITLE = "Through the gateway"
HOW = """\
`POST /orders` over 64 connections: to the API itself, and through nginx with TLS (`deploy/nginx`, without its limits of rates, since
all orders come from one address), in turns. `wrk`, nginx, the service and the database share two cores, so the cost
of encryption in the client is in the figure, too. Connections are kept, as browsers and pools keep them.
"""

_CONNECTIONS = 64

_RATES = """
map $uri $nobody {
    default "";
}
limit_req_zone $nobody zone=requests:1m rate=1r/s;
limit_req_zone $nobody zone=sign_in:1m rate=1r/s;
"""


def run(stage: Stage) -> Section:
    loads: dict[str, list[Load]] = {"direct": [], "through": []}
    with ExitStack() as held:
        shop = stage.shop()
        add_customers(shop.orders, CUSTOMERS)
        held.enter_context(stage.shop_process(shop, "api", "orders"))
        urls = {"direct": shop.orders_url, "through": held.enter_context(_gateway(stage, shop))}
        for url in urls.values():
            post_orders(url, connections=_CONNECTIONS, seconds=1)
        # Short and many, and one after the other: the machine changes.
        rounds = 3 * stage.rounds
        for number in range(rounds):
            stage.say(f"gateway: round {number + 1} of {rounds}")
            for kind in list(loads) if number % 2 else list(reversed(loads)):
                stage.settle()
                loads[kind].append(
                    post_orders(urls[kind], connections=_CONNECTIONS, seconds=stage.seconds(3))
                )
    without, with_tls = ([load.per_second for load in loads[kind]] for kind in loads)
    return Section(
        TITLE,
        HOW,
        [
            Row(
                "orders a second through nginx with TLS, against those sent to the API", ratios(with_tls, without), "×",
                at_least=0.75,
                measured=f"{spread(with_tls, '/s')} against {spread(without, '/s')}",
            ),
            Row(
                "the same without nginx both times: what the machine does by itself",
                unchanged(without), "×",
            ),
            Row("an answer through nginx, p50", [load.p50 for load in loads["through"]], "ms", less_is_better=True),
            Row("an answer from the API, p50", [load.p50 for load in loads["direct"]], "ms", less_is_better=True),
        ],
    )  # fmt: skip


@contextmanager
def _gateway(stage: Stage, shop: Shop) -> Iterator[str]:
    """In front of the shop; where its orders are."""
    folder = stage.directory / "gateway"
    certificate = Certificate(folder / "certificate")
    certificate.make()
    port = free_port()
    apis = {"orders": f"{HOST}:{shop.orders_port}", "users": f"{HOST}:{shop.users_port}"}
    place = gateway.Place.here(
        [f"{HOST}:{port}"], gateway.upstreams(apis), certificate, rates=_RATES
    )
    conf = gateway.lay_out(folder / "nginx", place)
    nginx = Nginx(conf, run=folder / "run", log=folder / "gateway.log", port=port)
    nginx.start()
    try:
        wait_ready(nginx, 10.0)
        yield f"https://localhost:{port}/orders"
    finally:
        nginx.stop(5.0)
