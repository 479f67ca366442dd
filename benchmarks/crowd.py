"""Many clients in one process: `python -m benchmarks.crowd PORT CLIENTS SECONDS`; prints JSON.

Each client sends an order, and the next one after the answer. After a 503 it waits for the time in `Retry-After`,
plus or minus half of it, as clients should. The starts are spread over a second, because a simultaneous start
would dominate the measurement.
"""

import asyncio
import gc
import json
import random
import resource
import sys
from collections.abc import Callable
from statistics import quantiles
from typing import cast

import uvloop

from benchmarks.load import CUSTOMERS
from benchmarks.stage import HOST

_RETRY_AFTER = b"\r\nretry-after: "
_WARM_UP = 2.0  # seconds that are not counted


class Clock:
    """The time of the measurement, and its counts."""

    def __init__(self, seconds: float) -> None:
        self.now: Callable[[], float] = asyncio.get_running_loop().time
        self.since = self.now() + _WARM_UP
        self.until = self.since + seconds
        self.accepted = 0
        self.refused: list[float] = []

    def is_over(self) -> bool:
        return self.now() > self.until


class Customer(asyncio.Protocol):
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._sent = 0.0
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        asyncio.get_running_loop().call_later(random.random(), self._send)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end or len(body) < _number(head, b"\r\ncontent-length: "):
            return
        self._received = b""
        now = self._clock.now()
        counts = self._clock.since <= self._sent and now <= self._clock.until
        match head[9:12]:
            case b"201":
                self._clock.accepted += counts
                self._send()
            case b"503" if _RETRY_AFTER in head.lower():
                if counts:
                    self._clock.refused.append((now - self._sent) * 1000)
                after = _number(head, _RETRY_AFTER) * random.uniform(0.5, 1.5)
                asyncio.get_running_loop().call_later(after, self._send)
            case _:
                raise RuntimeError((head + end + body).decode())

    def _send(self) -> None:
        if self._clock.is_over():
            self._transport.close()
            return
        body = b'{"user_id":%d,"product":"coffee","quantity":1,"total_price":"4.50"}' % (
            random.randint(1, CUSTOMERS)
        )
        self._sent = self._clock.now()
        self._transport.write(
            b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )


def _number(head: bytes, name: bytes) -> int:
    return int(head.lower().partition(name)[2].partition(b"\r\n")[0])


async def crowd(port: int, clients: int, seconds: float) -> dict[str, float]:
    loop = asyncio.get_running_loop()
    clock = Clock(seconds)
    failed: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: failed.append(context))
    for _ in range(clients):
        await loop.create_connection(lambda: Customer(clock), HOST, port)
    # Connecting is not part of the measured time.
    clock.since = clock.now() + _WARM_UP
    clock.until = clock.since + seconds
    await asyncio.sleep(_WARM_UP + seconds + 0.5)
    if failed:
        raise RuntimeError(f"{len(failed)} clients failed: {failed[0]}")
    cuts = quantiles(clock.refused, n=100) if len(clock.refused) > 1 else [0.0] * 99
    return {
        "accepted": clock.accepted / seconds,
        "refused": len(clock.refused) / seconds,
        "p50": cuts[49],
        "p99": cuts[98],
    }


if __name__ == "__main__":
    gc.disable()  # otherwise it would read answers late
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    port, clients, seconds = sys.argv[1:]
    print(json.dumps(uvloop.run(crowd(int(port), int(clients), float(seconds)))))
