"""Sends a fixed number of orders per second in the background, without waiting for the answers.

`python -m benchmarks.steady PORT RATE CUSTOMERS` prints at its end how many orders it sent.
"""

import asyncio
import signal
import sys

import uvloop

from benchmarks.stage import HOST
from shop.platform.processes.ready import notify_ready

CONNECTIONS = 20


async def stream(port: int, rate: float, customers: int) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    counts = [0] * CONNECTIONS
    notify_ready()
    tasks = [
        asyncio.create_task(_connection(port, rate / CONNECTIONS, customers, number, counts))
        for number in range(CONNECTIONS)
    ]
    stopped = asyncio.create_task(stopping.wait())
    done, _ = await asyncio.wait([*tasks, stopped], return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        if task in done:
            task.result()  # raises if it failed
    for task in tasks:
        task.cancel()
    print(f"sent {sum(counts)}")


async def _connection(
    port: int, rate: float, customers: int, number: int, counts: list[int]
) -> None:
    reader, writer = await asyncio.open_connection(HOST, port)
    loop = asyncio.get_running_loop()
    due = loop.time() + number / CONNECTIONS / rate
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        due += 1 / rate
        customer = (counts[number] * 31 + number) % customers + 1
        body = b'{"user_id":%d,"product":"coffee","quantity":2,"total_price":"9.50"}' % customer
        writer.write(
            b"POST /orders HTTP/1.1\r\nhost: shop\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 201"):
            raise RuntimeError(head.decode())
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
        counts[number] += 1


if __name__ == "__main__":
    uvloop.run(stream(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])))
