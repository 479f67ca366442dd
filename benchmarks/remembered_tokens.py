"""CPU time of a fast route alone, in this process: without tokens, and with tokens that were verified before.

`python -m benchmarks.remembered_tokens` prints it in µs, as JSON. It shows what the gate costs more exactly than a load on a
whole service, whose CPU time varies by more than that.
"""

import asyncio
import json
import time
from typing import Annotated, Any

from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from pydantic import BaseModel, Field
from starlette.types import Message, Scope

from benchmarks.auth import CALLERS, KID, signed_tokens
from eventspine.answers import Answer
from eventspine.database import Database
from shop.platform.auth.gate import Gate
from shop.platform.auth.rules import OWN, allowed, rule_of
from shop.platform.auth.settings import AuthSettings
from shop.platform.auth.tokens import key_of
from shop.platform.http.context import Asked
from shop.platform.http.route import FastRoute

_ROUNDS, _REQUESTS = 9, 10_000


class _Order(BaseModel):
    user_id: int
    product: Annotated[str, Field(max_length=200)]
    quantity: int


_BODY = _Order(user_id=1, product="tea", quantity=2).model_dump_json().encode()
_PLACED = Answer(201, (("content-type", "application/json"),), _BODY)
_HEADERS = [
    (b"host", b"localhost:8002"),
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_BODY)),
]


@allowed("orders:write", rows=OWN)
async def _place(order: _Order, context: Asked) -> Any:
    return _PLACED


async def _receive() -> Message:
    return {"type": "http.request", "body": _BODY, "more_body": False}


async def _send(_: Message) -> None:
    pass


async def _cost(route: FastRoute, headers: list[list[tuple[bytes, bytes]]]) -> float:
    before = time.process_time()
    for number in range(_REQUESTS):
        scope: Scope = {
            "type": "http", "method": "POST", "path": "/orders", "query_string": b"",
            "headers": headers[number % len(headers)],
            "scheme": "http", "http_version": "1.1", "server": ("127.0.0.1", 8002),
        }  # fmt: skip
        await route.answer(scope, _receive, _send, {})
    return (time.process_time() - before) / _REQUESTS * 1e6


async def _measure() -> dict[str, float]:
    private = rsa.generate_private_key(65537, 2048)
    gate = Gate(AuthSettings(requests_a_second=1_000_000), Database(""))
    public = {**RSAAlgorithm.to_jwk(private.public_key(), as_dict=True), "kid": KID, "alg": "RS256"}
    gate._own.keys = {KID: key_of(public)}
    routes = {
        kind: FastRoute("/orders", _place, methods=["POST"], response_model=None)
        for kind in ("open", "asking")
    }
    rule = rule_of(routes["asking"])
    assert rule is not None
    routes["asking"].guard = gate.guard(rule)
    sent = {
        "open": [_HEADERS],
        "asking": [
            [*_HEADERS, (b"authorization", b"Bearer " + token.encode())]
            for token in signed_tokens(private)
        ],
    }
    costs: dict[str, list[float]] = {kind: [] for kind in routes}
    for number in range(_ROUNDS):
        for kind in list(routes) if number % 2 else reversed(routes):
            costs[kind].append(await _cost(routes[kind], sent[kind]))
    assert gate.counts == [_ROUNDS * _REQUESTS, CALLERS, 0]
    return {kind: min(values) for kind, values in costs.items()}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure())))
