"""Where an API listens."""

import errno
import socket

_LOOPBACKS = ("127.0.0.1", "::1")
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""Of a machine without IPv6."""


class PortTaken(Exception):
    """Another process listens there, or listening is not allowed."""

    def __init__(self, address: str, port: int, error: OSError) -> None:
        super().__init__(f"cannot listen on {address}:{port}: {error.strerror}")
        self.errno = error.errno or errno.EIO


def bind(host: str, port: int) -> list[socket.socket]:
    """Sockets, bound. Raises `PortTaken`.

    `localhost` is both of a machine's own addresses: some programs take the one for it, some the other,
    and a process that held the other could answer in our place.
    """
    bound: list[socket.socket] = []
    for address in _LOOPBACKS if host == "localhost" else (host,):
        try:
            bound.append(_bind(address, port))
        except OSError as error:
            if bound and error.errno in _ABSENT:
                continue
            for other in bound:
                other.close()
            raise PortTaken(address, port, error) from error
    return bound


def _bind(address: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener
