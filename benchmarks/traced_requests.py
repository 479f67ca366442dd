"""CPU time of a fast route alone, in this process: with and without metrics and traces.

`python -m benchmarks.traced_requests URL` prints it in µs, as JSON. The collector at the URL gets the spans. It shows what
traces cost more exactly than a load on a whole service, whose CPU time varies by more than that.
"""

import asyncio
import json
import sys
import time
from typing import Annotated, Any

from pydantic import BaseModel, Field
from starlette.types import Message, Scope

from eventspine.answers import Answer
from shop.platform.http.context import Asked
from shop.platform.http.route import FastRoute
from shop.platform.settings import Settings
from shop.platform.telemetry.process import Telemetry

_ROUNDS = 9
_REQUESTS = {"none": 10_000, "metrics": 10_000, "untraced": 10_000, "traced": 1000}


class _Order(BaseModel):
    user_id: int
    product: Annotated[str, Field(max_length=200)]
    quantity: int


_BODY = _Order(user_id=1, product="tea", quantity=2).model_dump_json().encode()
_PLACED = Answer(201, (("content-type", "application/json"),), _BODY)
_HEADERS = [
    (b"host", b"localhost:8002"),
    (b"accept", b"*/*"),
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_BODY)),
]


async def _place(order: _Order, context: Asked) -> Any:
    return _PLACED


async def _receive() -> Message:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(_: Message) -> None:
    pass


def _route(telemetry: Telemetry) -> FastRoute:
    route = FastRoute("/orders", _place, methods=["POST"], response_model=None)
    route.choosers, route.observers = telemetry.choosers(), telemetry.observers()
    return route


async def _cost(route: FastRoute, requests: int) -> float:
    before = time.process_time()
    for _ in range(requests):
        scope: Scope = {
            "type": "http", "method": "POST", "path": "/orders", "query_string": b"", "headers": _HEADERS,
            "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 8002),
        }  # fmt: skip
        await route.answer(scope, _receive, _send, {})
    # Spans that have ended are sent by a thread, and this waits for it.
    await asyncio.sleep(1.2 if requests == _REQUESTS["traced"] else 0)
    return (time.process_time() - before) / requests * 1e6


async def _measure(url: str) -> dict[str, float]:
    telemetry = {
        "none": Telemetry(Settings(telemetry={"metrics": False}), "api", "orders"),
        "metrics": Telemetry(Settings(), "api", "orders"),
        "untraced": _traced(url, 0),
        "traced": _traced(url, 1),
    }
    for each in telemetry.values():
        if each.traces is not None:
            each.traces.export.start()
    routes = {kind: _route(each) for kind, each in telemetry.items()}
    costs: dict[str, list[float]] = {kind: [] for kind in routes}
    for number in range(_ROUNDS):
        for kind in list(routes) if number % 2 else reversed(routes):
            costs[kind].append(await _cost(routes[kind], _REQUESTS[kind]))
    return {kind: min(values) for kind, values in costs.items()}


def _traced(url: str, ratio: float) -> Telemetry:
    given = {"otlp_endpoint": url, "traces_ratio": ratio, "traces_per_s": 1_000_000}
    return Telemetry(Settings(telemetry=given), "api", "orders")


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(sys.argv[1]))))
