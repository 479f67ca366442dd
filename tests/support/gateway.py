"""A real nginx with the files of deploy/nginx, in front of stand-ins; and clients for it."""

import itertools
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from devstack import gateway
from devstack.certificate import Certificate
from devstack.nginx import Nginx
from devstack.supervisor import wait_ready
from tests.support.shop import free_ports
from tests.support.upstream import Upstream

ROUTES = {"orders": ["orders"], "users": [".well-known", "sessions", "token", "users"]}
"""Of the services when users sign in."""

_clients = itertools.count(2)


def an_address() -> str:
    """Of a client that no other test is: limits are kept by address. All of 127.0.0.0/8 is this machine."""
    number = next(_clients)
    return f"127.1.{number // 250}.{number % 250 + 1}"


@dataclass
class Gateway:
    nginx: Nginx
    port: int
    certificate: Certificate
    upstreams: Mapping[str, Upstream]

    @property
    def orders(self) -> Upstream:
        return self.upstreams["orders"]

    @property
    def users(self) -> Upstream:
        return self.upstreams["users"]

    def client(self, *, http2: bool = False, address: str | None = None, **options: Any) -> httpx.Client:  # fmt: skip
        """Another one for the gateway's limits each time, unless the address is given."""
        transport = httpx.HTTPTransport(
            verify=self.trust(), http2=http2, local_address=address or an_address()
        )
        url = f"https://localhost:{self.port}"
        return httpx.Client(base_url=url, transport=transport, timeout=30, **options)

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.certificate.authority))

    def connect(
        self, context: ssl.SSLContext | None = None, *, name: str | None = "localhost", address: str | None = None
    ) -> ssl.SSLSocket:  # fmt: skip
        """A connection to write any bytes to."""
        source = (address or an_address(), 0)
        plain = socket.create_connection(("127.0.0.1", self.port), 30, source_address=source)
        context = context or self.trust()
        if name is None:
            context.check_hostname = False
        try:
            return context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    def exchange(self, sent: bytes, **options: Any) -> bytes:
        """What comes back until the gateway closes, or has answered `Connection: close`."""
        with self.connect(**options) as connection:
            connection.sendall(sent)
            return read_all(connection)

    def log(self) -> str:
        return self.nginx.log.path.read_text()


def read_all(connection: ssl.SSLSocket) -> bytes:
    received = b""
    try:
        while part := connection.recv(65536):
            received += part
    except (ConnectionResetError, ssl.SSLEOFError):
        pass
    return received


@contextmanager
def standing(
    folder: Path,
    apis: str,
    upstreams: Mapping[str, Upstream],
    *,
    proxies: str | None = None,
    rates: str | None = None,
    connections: int | None = None,
) -> Iterator[Gateway]:
    """`apis`, `proxies`, `rates`: see `gateway.Place`. With `connections` there is one worker, which holds so many."""
    certificate = Certificate(folder / "certificate")
    certificate.make()
    [port] = free_ports(1)
    place = gateway.Place.here(
        [f"127.0.0.1:{port}"], apis, certificate, proxies=proxies, rates=rates
    )
    conf = gateway.lay_out(folder / "nginx", place, gateway.services(ROUTES))
    if connections is not None:
        text = conf.read_text()
        for was, now in (
            ("connections 8192", f"connections {connections}"),
            ("processes auto", "processes 1"),
        ):
            assert was in text
            text = text.replace(was, now)
        conf.write_text(text)
    nginx = Nginx(conf, run=folder / "run", log=folder / "gateway.log", port=port)
    nginx.start()
    try:
        wait_ready(nginx, 60)
        yield Gateway(nginx, port, certificate, upstreams)
    finally:
        nginx.stop(5)


@contextmanager
def in_front_of_two(folder: Path, **options: Any) -> Iterator[Gateway]:
    """Stand-ins for the shop's services, at fixed addresses."""
    with Upstream() as orders, Upstream() as users:
        behind = {"orders": orders, "users": users}
        apis = gateway.upstreams({name: f"127.0.0.1:{at.port}" for name, at in behind.items()})
        with standing(folder, apis, behind, **options) as stage:
            yield stage
