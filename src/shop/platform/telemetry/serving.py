"""The small HTTP server of a process that shows its state: `/metrics`, and a worker's health.

It runs in the event loop that does the work. So if that loop is frozen, nothing is answered, which is the truth.
It needs no web framework, which a worker does not load.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from pathlib import Path
from typing import NamedTuple

import structlog

_LOG = structlog.get_logger("shop.telemetry")

_HEAD_WITHIN = 5.0  # seconds
_LARGEST_HEAD = 16 * 1024  # bytes
_TRY_AGAIN_AFTER = 1.0  # seconds; the process before this one may still hold the port


class Page(NamedTuple):
    status: int
    content_type: str
    body: bytes


Show = Callable[[Mapping[str, str]], Awaitable[Page]]
"""Makes a page for a request with these headers; their names are in small letters."""


def text(status: int, said: str) -> Page:
    return Page(status, "text/plain; charset=utf-8", f"{said}\n".encode())


@asynccontextmanager
async def serving(
    pages: Mapping[str, Show],
    host: str,
    port: int,
    target_file: Path | None,
    labels: Mapping[str, str],
    *,
    silent: bool = False,
) -> AsyncIterator[None]:
    """Serve these pages, by path, until the block ends.

    A port that is taken is logged, and is tried again every second: it must not stop the process. `silent`: for
    a command, whose output is not a log.
    """
    connections: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(writer)
        try:
            await _answer(pages, reader, writer)
        finally:
            connections.discard(writer)

    listening = asyncio.create_task(_listen(answer, host, port, target_file, labels, silent=silent))
    # One turn, so that the port is usually open when the block begins.
    await asyncio.wait([listening], timeout=0.2)
    try:
        yield
    finally:
        listening.cancel()
        with suppress(asyncio.CancelledError):
            (await listening).close()
        for connection in connections:
            connection.close()
        _forget(target_file)


async def _listen(
    answer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str,
    port: int,
    target_file: Path | None,
    labels: Mapping[str, str],
    *,
    silent: bool,
) -> asyncio.Server:
    said = silent
    while True:
        try:
            server = await asyncio.start_server(answer, host, port, limit=_LARGEST_HEAD)
            break
        except OSError as error:
            if not said:
                _LOG.error("telemetry.port_refused", host=host, port=port, reason=str(error))
                said = True
            await asyncio.sleep(_TRY_AGAIN_AFTER)
    bound = server.sockets[0].getsockname()[1]
    address = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
    if not silent:
        _LOG.info("telemetry.serving", address=address)
    if target_file is not None:
        try:
            _write(target_file, json.dumps([{"targets": [address], "labels": dict(labels)}]))
        except OSError as error:
            if not silent:
                _LOG.error("telemetry.target_failed", file=str(target_file), reason=str(error))
    return server


def _write(file: Path, content: str) -> None:
    """Write atomically, because Prometheus reads the file when it changes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(f"{file.name}.new")
    new.write_text(content + "\n")
    new.replace(file)


def _forget(file: Path | None) -> None:
    if file is not None:
        with suppress(OSError):
            file.unlink(missing_ok=True)


async def _answer(
    pages: Mapping[str, Show], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Answer one request, and close the connection."""
    try:
        async with asyncio.timeout(_HEAD_WITHIN):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        method, page = await _page(pages, head)
        writer.write(
            f"HTTP/1.1 {page.status} {HTTPStatus(page.status).phrase}\r\n"
            f"content-type: {page.content_type}\r\ncontent-length: {len(page.body)}\r\n"
            "connection: close\r\n\r\n".encode()
            + (b"" if method == "HEAD" else page.body)
        )
        await writer.drain()
    except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        pass  # it left, is too slow, or does not speak HTTP
    finally:
        writer.close()


async def _page(pages: Mapping[str, Show], head: str) -> tuple[str, Page]:
    first, *lines = head.split("\r\n")
    method, _, rest = first.partition(" ")
    path = rest.partition(" ")[0].partition("?")[0]
    if path not in pages:
        return method, text(404, f"There is {' and '.join(sorted(pages))}")
    if method not in {"GET", "HEAD"}:
        return method, text(405, "Only GET is answered")
    pairs = (line.partition(":") for line in lines)
    try:
        return method, await pages[path]({name.lower(): value.strip() for name, _, value in pairs})
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who asks gets an answer
        _LOG.error("telemetry.page_failed", path=path, exc_info=error)
        return method, text(500, "It could not be made; the log has the reason")
