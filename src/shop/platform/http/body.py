"""The JSON body of a request: read it within its limits, and make a model of it."""

import asyncio
import json
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter
from pydantic_core import ValidationError
from starlette.types import Receive, Scope

from shop.platform.http.cycle import ARRIVED, BROKEN_OFF, Cycle
from shop.platform.problems import (
    BodyTooLarge,
    Invalid,
    MalformedBody,
    Problem,
    RequestTooSlow,
    UnsupportedMediaType,
    invalid,
)
from shop.platform.settings import BODY_WITHIN

Headers = Iterable[tuple[bytes, bytes]]

_UTF_8 = {b"utf-8", b"utf8", b"us-ascii"}
"""ASCII is a subset of UTF-8. `utf8` is not a registered name, but many clients send it."""

MAX_BODY = 64 * 1024  # bytes; a user with every character escaped has about 4000
_BODY_WITHIN = BODY_WITHIN
# If a client sends too much, this much more is read, so that it sees the answer instead of a reset
# connection.
_DRAIN = 64 * 1024 * 1024


async def read_json_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body. Raises `UnsupportedMediaType`, `BodyTooLarge` or `MalformedBody`.

    It raises `MalformedBody` if the body is incomplete or the client disconnects. The received part may look
    complete, and must not be executed.
    """
    media_type = b""
    for name, value in scope["headers"]:
        if name == b"content-type":
            media_type = value
    if media_type != b"application/json":
        _check_media_type(media_type)
    cycle = getattr(receive, "__self__", None)
    # The server's own `receive`, which nothing wraps, has nothing to wait for.
    if isinstance(cycle, Cycle) and ARRIVED in scope and not cycle.disconnected:
        whole = bytes(cycle.body)
        if len(whole) <= MAX_BODY:
            return whole
    message = await receive()
    parts = [message.get("body", b"")]
    size = len(parts[0])
    while message.get("more_body", False) and size <= _DRAIN:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size <= MAX_BODY:
            parts.append(part)
    if size > MAX_BODY:
        raise BodyTooLarge(f"At most {MAX_BODY} bytes are accepted")
    if message["type"] == "http.disconnect" or BROKEN_OFF in scope:
        raise MalformedBody("The body ends too early")
    return b"".join(parts)


async def body_in_time(scope: Scope, receive: Receive) -> bytes:
    """The same, and raises `RequestTooSlow`."""
    try:
        async with asyncio.timeout(_BODY_WITHIN):
            return await read_json_body(scope, receive)
    except TimeoutError:
        raise RequestTooSlow(f"The body must arrive within {_BODY_WITHIN} s") from None


def _check_media_type(media_type: bytes) -> None:
    essence, _, parameters = media_type.lower().partition(b";")
    essence = essence.strip()
    if essence != b"application/json" and not (
        essence.startswith(b"application/") and essence.endswith(b"+json")
    ):
        raise UnsupportedMediaType("Send it with Content-Type: application/json")
    for parameter in parameters.split(b";"):
        name, _, value = parameter.partition(b"=")
        if name.strip() == b"charset" and value.strip(b' \t"') not in _UTF_8:
            raise UnsupportedMediaType("JSON must be sent in UTF-8")


def model_of(body: bytes, adapter: TypeAdapter[Any], headers: Headers) -> Any:
    """The body as the adapter's model. Raises a `Problem` that says what is wrong with it."""
    body = body.removeprefix(BOM_UTF8)
    try:
        model = adapter.validator.validate_json(body)
    except ValidationError as error:
        _check_encoding(headers)
        raise _refused(adapter, body, error) from None
    # A repeated member means an extra colon. A string may have colons too, so check further.
    if body.count(b":") > len(model.model_fields_set):
        _check_members(body)
    return model


def _check_encoding(headers: Headers) -> None:
    """Raises `UnsupportedMediaType` for a compressed body (RFC 9110, 8.4)."""
    for name, value in headers:
        if name == b"content-encoding" and value.strip().lower() != b"identity":
            raise UnsupportedMediaType("Send it without a Content-Encoding")


def _refused(adapter: TypeAdapter[Any], body: bytes, error: ValidationError) -> Problem:
    problem = invalid(error, "body")
    if isinstance(problem, MalformedBody):
        # A lone surrogate or a number with thousands of digits is valid JSON, but no valid value. Python's
        # slower parser accepts it, so that the error can name the field.
        try:
            adapter.validate_python(json.loads(body.decode(), parse_int=_integer))
        except ValidationError as named:
            return invalid(named, "body")
        except (ValueError, RecursionError):
            pass
    return problem


def _integer(digits: str) -> float:
    return int(digits) if len(digits) < 1000 else float(digits)  # noqa: PLR2004 - int() ends at 4300


def _check_members(body: bytes) -> None:
    """Raises `Invalid` for a repeated member, because its meaning is unclear."""

    def unique(members: list[tuple[str, Any]]) -> None:
        names = [name for name, _ in members]
        for name in names:
            if names.count(name) > 1:
                raise Invalid.field("body", name[:200], "Given more than once")

    json.loads(body, object_pairs_hook=unique)
