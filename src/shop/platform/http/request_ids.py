"""The id of a request, which a gateway has made (`X-Request-Id`), in the lines of the log about it."""

import re

from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

# A client without a gateway can send anything; it stands in the log.
_ID = re.compile(rb"[A-Za-z0-9_.:-]{1,128}")


def request_id(scope: Scope) -> dict[str, str]:
    """What a line of the log has of it: nothing, if the request has no id."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _ID.fullmatch(value):
            return {"request_id": value.decode()}
    return {}


class RequestIds:
    """Around the application of a server with an access log: each line has the id. Others need none of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with bound_contextvars(**request_id(scope)):
            await self._app(scope, receive, send)
