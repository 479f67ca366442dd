"""CORS, where it is switched on: pages of these origins may ask, and read the answers.

https://fetch.spec.whatwg.org/#http-cors-protocol. It stands in front of the app, so that every answer
has it, whatever made it: a fast route, a refusal, an unknown address. Only what is refused before there
is a request (a head too large, a connection too many) has not.

No page may have a browser's cookies or client certificates sent: nothing here takes any.
"""

from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_METHODS = b"DELETE, GET, HEAD, PATCH, POST"
# What `fetch` may set beside its own.
_HEADERS = b"Authorization, Content-Type, Idempotency-Key, If-Match, If-None-Match, Traceparent"
_SHOWN = b"Allow, ETag, Location, Retry-After, WWW-Authenticate"
_KEPT = b"600"  # seconds that a browser may keep a preflight's answer

_VARY = (b"vary", b"Origin")
_VARY_PREFLIGHT = (
    b"vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)


class Cors:
    """In front of an app. `origins` as browsers send them: scheme, host and port."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = {origin.encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
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
            # To another origin it says no by what it leaves out.
            await send({"type": "http.response.start", "status": 204, "headers": headers})
            await send({"type": "http.response.body", "body": b""})
            return
        # Also where no origin is named: a cache might give that answer to a page.
        added = [_VARY, *granted]
        if granted:
            added.append((b"access-control-expose-headers", _SHOWN))

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        await self._app(scope, receive, answer)
