"""Routes that take a form (`application/x-www-form-urlencoded`), as OAuth's token endpoint must.

The form is made into the JSON that the endpoint's model takes. So everything else is as on any fast route.
"""

import asyncio
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from pydantic_core import to_json
from starlette.types import Message, Receive, Scope

from eventspine.answers import Answer
from shop.platform.http.body import read_json_body
from shop.platform.http.interceptors import Exchange
from shop.platform.http.peer import PeerRoute
from shop.platform.problems import Invalid, Problem, RequestTooSlow, UnsupportedMediaType
from shop.platform.settings import BODY_WITHIN

FORM = "application/x-www-form-urlencoded"

_MOST_FIELDS = 100


def form_route(refused: Callable[[Exception], Exception]) -> type[PeerRoute]:
    """A class of routes; `refused` puts errors into the form that the protocol asks for."""

    class FormRoute(PeerRoute):
        async def _respond(
            self,
            scope: Scope,
            receive: Receive,
            path_params: Mapping[str, str],
            exchange: Exchange | None,
        ) -> Answer:
            try:
                if self._admit is not None:
                    self._admit()
                body = await _body(scope, receive)
            except Exception as error:  # noqa: BLE001 - whatever it is, the client gets an answer
                return self._refusal(scope, error)

            async def as_json() -> Message:
                return {"type": "http.request", "body": body, "more_body": False}

            return await super()._respond(_of_json(scope), as_json, path_params, exchange)

        def _refusal(self, scope: Scope, error: Exception) -> Answer:
            told = super()._refusal(scope, error)  # and the log is told, too
            other = refused(error)
            return other.answer() if isinstance(other, Problem) else told

    return FormRoute


async def _body(scope: Scope, receive: Receive) -> bytes:
    media_type = dict(scope["headers"]).get(b"content-type", b"").decode("latin-1")
    if media_type.partition(";")[0].strip().lower() != FORM:
        raise UnsupportedMediaType(f"Send it with Content-Type: {FORM}")
    try:
        async with asyncio.timeout(BODY_WITHIN):
            raw = await read_json_body(_of_json(scope), receive)
    except TimeoutError:
        raise RequestTooSlow(f"The body must arrive within {BODY_WITHIN} s") from None
    fields: dict[str, str] = {}
    try:
        given = parse_qsl(
            raw.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise Invalid.field("body", "", "must be a form in UTF-8") from None
    for name, value in given:
        if name in fields:
            raise Invalid.field("body", name[:200], "Given more than once")
        fields[name] = value
    # A parameter without a value is as if it were left out (RFC 6749, 3.2).
    return to_json({name: value for name, value in fields.items() if value})


def _of_json(scope: Scope) -> Scope:
    headers = [each for each in scope["headers"] if each[0] != b"content-type"]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json")]}
