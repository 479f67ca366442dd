"""An interceptor that knows callers by their tokens: `Authorization: Bearer NAME.NUMBER` is user NAME."""

from eventspine.answers import Answer
from shop.platform.http.interceptors import Exchange, Proceed
from shop.platform.interceptors import Interceptors


async def _identified(exchange: Exchange, proceed: Proceed) -> Answer:
    token = dict(exchange.scope["headers"]).get(b"authorization", b"").decode()
    if token:
        name = token.removeprefix("Bearer ").partition(".")[0]
        exchange.context = exchange.context._replace(caller=f"user:{name}")
    return await proceed()


def interceptors(part: str, service: str) -> Interceptors:
    return Interceptors(routes=(_identified,))
