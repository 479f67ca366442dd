"""How a page is made: Jinja's templates, the files beside them, and how values are shown."""

import json
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from fastapi import APIRouter, Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from shop.services.console.access import OPEN, Viewer

_HERE = Path(__file__).parent
_STATIC = _HERE / "static"
_KINDS = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


class Entry(NamedTuple):
    """A page in the navigation."""

    path: str
    label: str
    hint: str
    """What one finds there, in a few words."""


def page(
    request: Request,
    template: str,
    *,
    status: int = 200,
    viewer: Viewer | None = None,
    **values: Any,
) -> Response:
    """A whole page, or the part of one, that a template makes."""
    return Response(
        rendered(template, request=request, viewer=viewer, **values),
        status,
        media_type="text/html",
    )


def rendered(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


async def viewing(request: Request) -> Viewer:
    """A dependency of every page: who looks. Raises `NotLoggedIn` and `NotAllowed`."""
    found: Viewer = await request.app.access.viewer(request)
    return found


async def acting(request: Request) -> Viewer:
    """A dependency of whatever changes something: who acts. Raises `NotLoggedIn` and `NotAllowed`."""
    found: Viewer = await request.app.access.actor(request)
    return found


async def form(request: Request, most: int = 64 * 1024) -> dict[str, list[str]]:
    """The fields of a form that was sent; at most `most` bytes of it are read."""
    from urllib.parse import parse_qs  # noqa: PLC0415 - few requests are forms

    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            return {}
    return parse_qs(body.decode(errors="replace"), keep_blank_values=True, max_num_fields=2000)


def files() -> APIRouter:
    """The style, the scripts. Their address has a hash of their content, so a browser keeps them for good."""
    router = APIRouter()

    @router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
    async def static(name: str) -> Response:
        found = _files().get(name)
        if found is None:
            return Response("There is no such file.\n", 404, media_type="text/plain")
        kept = {"cache-control": "public, max-age=31536000, immutable"}
        return Response(found.content, headers=kept, media_type=found.kind)

    return router


class _File(NamedTuple):
    content: bytes
    kind: str
    version: str


@cache
def _files() -> dict[str, _File]:
    return {
        path.relative_to(_STATIC).as_posix(): _File(
            content := path.read_bytes(), _KINDS[path.suffix], sha256(content).hexdigest()[:12]
        )
        for path in _STATIC.rglob("*")
        if path.suffix in _KINDS
    }


@cache
def _environment() -> Environment:
    from shop.services.console.pages import ENTRIES  # noqa: PLC0415 - they use this module

    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        # Values come from clients and from foreign records: each is escaped, whatever a template is called.
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals |= {"entries": ENTRIES, "static": _static, "open_viewer": OPEN}
    made.filters |= {
        "number": number,
        "rate": rate,
        "ms": milliseconds,
        "when": when,
        "clock": clock,
        "pretty": pretty,
        "with_code": with_code,
    }
    return made


def _static(name: str) -> str:
    return f"/static/{name}?v={_files()[name].version}"


def number(value: float | None) -> str:
    """1 234 567, with spaces that do not break; a dash for what is not known."""
    return "–" if value is None else f"{value:,.0f}".replace(",", "\u202f")


def rate(value: float | None) -> str:
    """Events a second."""
    if value is None:
        return "–"
    return f"{value:.1f}" if 0 < value < 10 else number(value)  # noqa: PLR2004


def milliseconds(value: float | None) -> str:
    """A duration given in milliseconds, in the unit that a person would choose."""
    if value is None:
        return "–"
    for most, size, unit in (
        (1, 1, "ms"),
        (10, 1, "ms"),
        (1000, 1, "ms"),
        (60_000, 1000, "s"),
        (3_600_000, 60_000, "min"),
        (86_400_000, 3_600_000, "h"),
    ):
        if abs(value) < most:
            digits = 2 if most == 1 else 1 if abs(value / size) < 10 else 0  # noqa: PLR2004
            return f"{value / size:.{digits}f}\u202f{unit}"
    return f"{value / 86_400_000:.1f}\u202fd"


def when(value: datetime | None) -> str:
    """A time in full: 2026-01-31 13:45:10.123 (UTC)."""
    if value is None:
        return "–"
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def clock(value: datetime | None) -> str:
    return "–" if value is None else value.astimezone(UTC).strftime("%H:%M:%S.%f")[:-3]


def with_code(text: str) -> Markup:
    """A sentence in which commands stand between backticks, as in Markdown."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup().join(
        Markup("<code>{}</code>").format(part) if number % 2 else escape(part)
        for number, part in enumerate(parts)
    )


def pretty(value: Any) -> str:
    """JSON for a person."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
