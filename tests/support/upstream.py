"""A service's stand-in behind the gateway: it keeps each request to the byte, and answers as it is told."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple, Self


class Received(NamedTuple):
    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def target(self) -> str:
        return self.head.split(b" ", 2)[1].decode("latin-1")

    def values(self, name: str) -> list[str]:
        """Of all headers of this name."""
        lines = [line.partition(b":") for line in self.head.split(b"\r\n")[1:]]
        wanted = name.lower().encode()
        return [value.strip().decode("latin-1") for key, _, value in lines if key.lower() == wanted]


Respond = Callable[[socket.socket, Received], None]
"""Writes an answer, or does something worse. The connection is kept unless it closes it."""


def respond(
    connection: socket.socket, status: str = "200 OK", headers: str = "", body: bytes = b"{}"
) -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)


def said(**document: Any) -> Respond:
    """Always this JSON."""
    body = json.dumps(document).encode()
    return lambda connection, _: respond(connection, body=body)


def hang_up(connection: socket.socket, _: Received) -> None:
    """It has read the request, and is gone before it has answered: killed, say."""
    connection.shutdown(socket.SHUT_RDWR)


class Upstream:
    def __init__(self, address: str = "127.0.0.1", port: int = 0) -> None:
        self.respond: Respond = said()
        self.received: list[Received] = []
        self._listener = socket.create_server((address, port), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._connections: set[socket.socket] = set()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def reset(self) -> None:
        self.respond = said()
        self.received.clear()

    def stop(self) -> None:
        """As a process that is killed: its port refuses, and its connections end."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in tuple(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._accepting.join(5)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.add(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError), connection.makefile("rb") as stream:
            while request := _read(stream):
                self.received.append(request)
                self.respond(connection, request)
        self._connections.discard(connection)


def _read(stream: Any) -> Received | None:
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        if not (line := stream.readline()):
            return None
        head += line
    request = Received(head[:-4], b"")
    lengths = request.values("content-length")
    assert not request.values("transfer-encoding"), "the gateway passes bodies on whole"
    return request._replace(body=stream.read(int(lengths[0])) if lengths else b"")
