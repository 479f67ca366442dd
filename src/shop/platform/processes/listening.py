"""The sockets on which an API listens."""

import errno
import socket

_LOOPBACKS = ("127.0.0.1", "::1")
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
"""Errors on a machine without IPv6."""


class PortTaken(Exception):
    """Another process listens there, or listening is not allowed; or the host is not this machine."""

    def __init__(self, address: str, port: int, error: OSError) -> None:
        super().__init__(f"cannot listen on {address}:{port}: {error.strerror}")
        self.errno = error.errno or errno.EIO
        self.reason = error.strerror
        self.is_elsewhere = isinstance(error, socket.gaierror) or error.errno in _ABSENT
        """Whether another host is the way out, and not another port."""


def bind(host: str, port: int, *, shared: bool = False) -> list[socket.socket]:
    """Bound sockets. Raises `PortTaken`. If `shared`, other processes of this user may bind the same port so.

    `localhost` means both 127.0.0.1 and ::1. Some clients use one of them and some the other. If this process
    had only one, another process could take the other and answer instead.
    """
    bound: list[socket.socket] = []
    for address in _LOOPBACKS if host == "localhost" else (host,):
        try:
            bound.append(_bind(address, port, shared=shared))
        except OSError as error:
            if bound and error.errno in _ABSENT:
                continue
            for other in bound:
                other.close()
            raise PortTaken(address, port, error) from error
    return bound


def _bind(address: str, port: int, *, shared: bool = False) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((address, port))
    except OSError:
        listener.close()
        raise
    return listener
