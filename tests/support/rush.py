"""Orders and nothing else, so many a second, or as many as can be had.

On connections of one thread: the clients of `Load` are too many for one interpreter, and it is the
shop that shall have something to do.
"""

import asyncio
import itertools
import json
import math
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

import uvloop

from tests.support.load import Sent
from tests.support.shop import new_order

_A_MOMENT = 0.05  # seconds


class Rush:
    """From that many connections, until the block ends. `sent` is whole then; `name` is in every
    product. Who is refused tries again in a moment, and not after the second that he is told.
    """

    def __init__(
        self,
        port: int,
        customers: Sequence[int],
        a_second: float = math.inf,
        *,
        name: str = "rush",
        clients: int = 64,
        token: str | None = None,
    ) -> None:
        self.sent: list[Sent] = []
        self.took = 0.0
        self._port = port
        self._customers = customers
        self._a_second = a_second
        self._name = name
        self._clients = clients
        self._authorization = "" if token is None else f"Authorization: Bearer {token}\r\n"
        self._stop = threading.Event()
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()), daemon=True)

    def __enter__(self) -> Self:
        self._begin = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        self.took = time.monotonic() - self._begin

    @property
    def slowest(self) -> float:
        return max(sent.answered_at - sent.sent_at for sent in self.sent)

    def rate(self, begin: float, end: float) -> float:
        return sum(begin <= sent.answered_at < end for sent in self.sent) / (end - begin)

    def refused(self) -> str:
        refused = [str(sent) for sent in self.sent if sent.status != 201]
        return f"{len(refused)} of {len(self.sent)}: {refused[:3]}"

    async def _run(self) -> None:
        await asyncio.gather(*(self._client() for _ in range(self._clients)))

    async def _client(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return
        try:
            while not self._stop.is_set():
                number = next(self._numbers)
                await asyncio.sleep(self._begin + number / self._a_second - time.monotonic())
                order = new_order(
                    self._customers[number % len(self._customers)], product=f"{self._name}-{number}"
                )
                sent_at = time.monotonic()
                status: int | None = None
                answer: Mapping[str, Any] = {}
                try:
                    async with asyncio.timeout(15):
                        status, answer = await _post(
                            reader, writer, "/orders", order, self._authorization
                        )
                except (OSError, EOFError):
                    return  # which is found in what was noted: no answer came
                finally:
                    answered_at = time.monotonic()
                    self.sent.append(
                        Sent("place_order", order, status, answer, sent_at, answered_at)
                    )
                if status == 503:
                    await asyncio.sleep(_A_MOMENT)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()


async def _post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    path: str,
    content: object,
    more: str,
) -> tuple[int, Mapping[str, Any]]:
    """`more` are headers, each with its line's end."""
    body = json.dumps(content).encode()
    writer.write(
        b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"%bContent-Length: %d\r\n\r\n%b" % (path.encode(), more.encode(), len(body), body)
    )
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
    return int(head.split()[1]), json.loads(await reader.readexactly(length))
