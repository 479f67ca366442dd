"""Runs `shop api`, and takes one part out of it and puts it back in turn, for `benchmarks/in_turn.py`.

`SWITCHED` names the part: `seams` is the code that calls interceptors, `interceptors` are all interceptors, `traces`
are those of traces, and `guard` verifies tokens. `SWITCHED_WINDOWS` names the file for what was measured, and
`SWITCHED_LENGTH` is the length of a window in seconds.
"""

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from starlette.types import Receive, Scope, Send

from benchmarks.windows import take_turns
from eventspine.answers import Answer
from eventspine.context import Context
from eventspine.database import Database
from eventspine.event import Event
from eventspine.interceptors import Interceptor, Proceed, chained
from eventspine.outbox import Transaction
from eventspine.steps import NO_STEPS
from shop.cli.main import main
from shop.platform.http.app import ServiceApp
from shop.platform.http.context import HEADERS, headers_of
from shop.platform.http.interceptors import Exchange
from shop.platform.http.interceptors import Proceed as Respond
from shop.platform.http.route import FastRoute, send_answer
from shop.platform.interceptors import Interceptors
from shop.platform.processes import api
from shop.platform.service import Service
from shop.platform.settings import Settings

_make_app = api.make_app

Change = tuple[Any, str, Any]
"""An object, the name of its attribute, and the value without the part."""


def _changes(part: str, app: ServiceApp, databases: list[Database]) -> list[Change]:
    routes = {id(route): route for each in app._fast.values() for route in each}.values()
    metrics = app.state.telemetry.metrics
    match part:
        case "guard":
            return [(route, "guard", None) for route in routes]
        case "seams":
            return [(FastRoute, "answer", _answer), (Transaction, "_end", Transaction._commit)]
        case "traces":
            empty, steps = ["choosers"], chained(metrics.steps())
        case _:
            empty, steps = ["interceptors", "choosers", "observers"], NO_STEPS
    return [
        *((route, name, ()) for route in routes for name in empty),
        *((database, "steps", steps) for database in databases),
    ]


def _switched(service: Service, settings: Settings) -> ServiceApp:
    databases: list[Database] = []

    class Noted(Database):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            databases.append(self)

    class Counting(api.Server):
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            windows, length = os.environ["SWITCHED_WINDOWS"], os.environ["SWITCHED_LENGTH"]
            requests = partial(getattr, self.server_state, "total_requests")
            words = (change, requests, Path(windows), float(length))
            Thread(target=take_turns, args=words, daemon=True).start()

    def change(has_part: bool) -> None:
        for thing, name, value in whole if has_part else without:
            setattr(thing, name, value)

    api.Database = Noted  # type: ignore[attr-defined]
    api.Server = Counting
    app = _make_app(service, settings)
    without = _changes(os.environ["SWITCHED"], app, databases)
    whole = [(thing, name, getattr(thing, name)) for thing, name, _ in without]
    return app


async def _answer(
    self: FastRoute, scope: Scope, receive: Receive, send: Send, path_params: Mapping[str, str]
) -> None:
    scope[HEADERS] = headers_of(scope["headers"])
    await send_answer(send, await self._respond(scope, receive, path_params, None))


class _Nothing(Interceptor):
    def publish(self, event: Event, context: Context) -> Context:
        return context

    async def commit(self, tx: Transaction, proceed: Proceed) -> None:
        await proceed()


async def _nothing(exchange: Exchange, proceed: Respond) -> Answer:
    return await proceed()


def nothing(part: str, service: str) -> Interceptors:
    """One interceptor of each kind, which does nothing."""
    return Interceptors(steps=(_Nothing(),), routes=(_nothing,))


if __name__ == "__main__":
    api.make_app = _switched
    main()
