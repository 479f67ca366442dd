"""An API process that is replaced: its name has another address."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from devstack import gateway
from tests.support.gateway import standing
from tests.support.serving import problem
from tests.support.shop import Running, free_ports
from tests.support.upstream import Upstream, said
from tests.support.waiting import until

VALID = 1.0  # seconds


@contextmanager
def names(addresses: dict[str, str]) -> Iterator[str]:
    """A DNS server for these names, which may change; its address."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            query, client = server.recvfrom(512)
            if not query:
                return
            end = query.index(b"\0", 12) + 5
            name, labels = [], query[12:end]
            while labels[0]:
                name.append(labels[1 : labels[0] + 1].decode())
                labels = labels[labels[0] + 1 :]
            found = addresses.get(".".join(name))
            head = query[:2] + struct.pack("!5H", 0x8180 if found else 0x8183, 1, bool(found), 0, 0)
            # It may be kept for an hour; the gateway keeps it for `valid`.
            answer = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 3600, 4) + socket.inet_aton(found) if found else b""  # fmt: skip
            server.sendto(head + query[12:end] + answer, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        host, port = server.getsockname()
        yield f"{host}:{port}"
    finally:
        server.sendto(b"", server.getsockname())
        thread.join(5)
        server.close()


def test_a_service_at_a_new_address_is_found_and_no_request_fails(
    tmp_path: Path,
) -> None:
    [port] = free_ports(1)
    addresses = {"orders-api": "127.2.0.1", "users-api": "127.2.0.1"}
    with names(addresses) as resolver, Upstream("127.2.0.1", port) as old:
        apis = gateway.upstreams(
            {"orders": f"orders-api:{port} resolve", "users": f"users-api:{port} resolve"},
            resolver=resolver, valid=f"{VALID:g}s",
        )  # fmt: skip
        old.respond = said(by="old")
        with standing(tmp_path, apis, {}) as stage, stage.client() as client:
            until(lambda: client.get("/orders").is_success, "the name is known")
            with Upstream("127.2.0.2", port) as new:
                new.respond = said(by="new")
                addresses["orders-api"] = "127.2.0.2"
                changed = time.monotonic()
                by = []
                # The old one drains for longer than an answer is valid, and then it is gone.
                while time.monotonic() < changed + 3 * VALID:
                    answer = client.post("/orders")
                    assert answer.status_code == 200
                    by.append(answer.json()["by"])
                    time.sleep(0.02)
                old.stop()
                assert by[-1] == "new" and sorted(by, reverse=True) == by
                for _ in range(10):
                    assert client.post("/orders").json() == {"by": "new"}


def test_an_upstream_name_without_an_address_does_not_stop_the_gateway_from_starting(
    tmp_path: Path,
) -> None:
    [port] = free_ports(1)
    addresses: dict[str, str] = {}
    with names(addresses) as resolver, Upstream("127.2.0.3", port):
        apis = gateway.upstreams(
            {"orders": f"orders-api:{port} resolve", "users": f"users-api:{port} resolve"},
            resolver=resolver, valid=f"{VALID:g}s",
        )  # fmt: skip
        with standing(tmp_path, apis, {}) as stage, stage.client() as client:
            problem(client.post("/orders"), 503, "temporarily-unavailable")
            addresses["orders-api"] = "127.2.0.3"
            until(lambda: client.post("/orders").is_success, "it is found", timeout=60)


@pytest.mark.heavy
def test_a_real_api_that_is_replaced_refuses_no_request(tmp_path: Path, users_url: str) -> None:
    [port] = free_ports(1)
    addresses = {"users-api": "127.2.1.1"}
    with names(addresses) as resolver, ExitStack() as held:

        def start(address: str) -> Running:
            api = Running(
                "api", "users", SHOP_USERS__DATABASE_URL=users_url, SHOP_USERS__PORT=port,
                SHOP_DRAIN_MS=int(3000 * VALID), SHOP_HOST=address,
            )  # fmt: skip
            held.callback(lambda: api.stop() if api.process.poll() is None else None)
            return api

        old = start("127.2.1.1")
        apis = gateway.upstreams(
            {"users": f"users-api:{port} resolve", "orders": f"users-api:{port} resolve"},
            resolver=resolver, valid=f"{VALID:g}s",
        )  # fmt: skip
        stage = held.enter_context(standing(tmp_path, apis, {}))
        client = held.enter_context(stage.client())
        until(lambda: client.get("/users").is_success, "the old one answers", timeout=60)
        start("127.2.1.2")
        until(lambda: listens("127.2.1.2", port), "the new one is there", timeout=60)
        addresses["users-api"] = "127.2.1.2"
        old.process.terminate()
        created = 0
        while old.process.poll() is None or created % 20:
            user = {"email": f"u{created}@example.com", "name": "U"}
            assert client.post("/users", json=user).status_code == 201
            created += 1
            time.sleep(0.025)
        assert old.stop() == 0
        lines = stage.log().splitlines()
        assert {at for at in ("127.2.1.1", "127.2.1.2") if any(at in line for line in lines)} == {
            "127.2.1.1",
            "127.2.1.2",
        }


def listens(address: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((address, port), 5):
        return True
    return False
