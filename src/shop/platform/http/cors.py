"""CORS, if it is switched on: pages of the configured origins may send requests and read the answers.

https://fetch.spec.whatwg.org/#http-cors-protocol. It wraps the app, so that every answer has the headers:
from a fast route, a refusal, or an unknown address. Only refusals before a request is complete (a head that
is too large, too many connections) do not have them.

A page may not send a browser's cookies or client certificates, because no API here uses them.
"""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shop.platform.log_ids import note_request

_METHODS = b"DELETE, GET, HEAD, PATCH, POST"
# The headers that `fetch` may set, in addition to the safelisted ones.
_HEADERS = b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Traceparent"
_SHOWN = b"Allow, ETag, Location, Retry-After, WWW-Authenticate"
_KEPT = b"600"  # seconds for which a browser may cache a preflight's answer

_VARY = (b"vary", b"Origin")
_VARY_PREFLIGHT = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


class Cors:
    """Wraps an app. `origins` have the form that browsers send: scheme, host and port."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        note_request(scope)
        given = dict(scope["headers"])
        origin = given.get(b"origin")
        granted: list[tuple[bytes, bytes]] = []
        if origin is not None and origin in self._origins:
            granted = [(b"access-control-allow-origin", origin)]
        if (
            origin is not None
            and scope["method"] == "OPTIONS"
            and b"access-control-request-method" in given
        ):
            headers = [_VARY_PREFLIGHT, *granted]
            if granted:
                headers += [
                    (b"access-control-allow-methods", _METHODS),
                    (b"access-control-allow-headers", _HEADERS),
                    (b"access-control-max-age", _KEPT),
                ]
            # For another origin, the missing headers mean a refusal.
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        # Also without an origin, because a cache might return that answer to a page.
        added = [_VARY, *granted]
        if granted:
            added.append((b"access-control-expose-headers", _SHOWN))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, answer)
