"""Runs `shop` without the code that calls interceptors.

It is the baseline of `benchmarks/interceptors.py`.
"""

from collections.abc import Mapping

from starlette.types import Receive, Scope, Send

from eventspine.answers import Answer
from eventspine.context import Context
from eventspine.event import Event
from eventspine.interceptors import Interceptor, Proceed
from eventspine.outbox import Transaction
from shop.cli.main import main
from shop.platform.http.interceptors import Exchange
from shop.platform.http.interceptors import Proceed as Respond
from shop.platform.http.route import FastRoute, send_answer
from shop.platform.interceptors import Interceptors


async def _answer(
    self: FastRoute, scope: Scope, receive: Receive, send: Send, path_params: Mapping[str, str]
) -> None:
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
    FastRoute.answer = _answer  # type: ignore[method-assign]
    Transaction._end = Transaction._commit  # type: ignore[method-assign]
    main()
