"""HTTP byte by byte: requests that no client would send, and what comes back."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.support.serving import Served

BODY = b'{"email":"%s","name":"Setiadi"}'


class Raw:
    """A connection, and what comes back over it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._read = connection.makefile("rb")

    def close(self) -> None:
        """For its connection to be closed, both must be."""
        self._read.close()

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def answer(self, *, body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """The next answer: status, headers, body; of an answer to HEAD there is none."""
        status = int(self._read.readline().split()[1])
        headers = {}
        while (line := self._read.readline().strip()) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        length = int(headers.get("content-length", "0")) if body else 0
        return status, headers, self._read.read(length)

    def problem(self, status: int, slug: str) -> dict[str, str]:
        got, headers, body = self.answer()
        assert got == status, body
        assert headers["content-type"] == "application/problem+json"
        assert json.loads(body)["type"] == f"urn:eventshop:problem:{slug}"
        return headers

    def is_closed(self) -> bool:
        return self._read.read(1) == b""

    def answers_on(self) -> bool:
        """The same connection takes another request."""
        self.send(request("GET", "/health/live"))
        return self.answer()[0] == 200


@contextmanager
def connected(served: Served) -> Iterator[Raw]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        raw = Raw(connection)
        with closing(raw):
            yield raw


def request(
    method: str, path: str, *headers: str, body: bytes = b"", length: int | None = None
) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
    if body or length is not None:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


ALIVE = request("GET", "/health/live")


JSON = "Content-Type: application/json"


CHUNKED = "Transfer-Encoding: chunked"


def chunked(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def padded(email: bytes, size: int) -> bytes:
    body = BODY % email
    return body + b" " * (size - len(body))
