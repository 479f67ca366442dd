"""Where an API listens."""

import errno
import socket
from contextlib import ExitStack

import httpx
import pytest

from shop.platform.processes import listening
from shop.platform.processes.listening import PortTaken, bind
from tests.support.databases import Databases
from tests.support.living import settings as settings_of
from tests.support.shop import Running, answers, free_ports, run_shop
from tests.support.waiting import until


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as attempt:
            attempt.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def bound(host: str, port: int) -> list[str]:
    with ExitStack() as stack:
        return [stack.enter_context(each).getsockname()[0] for each in bind(host, port)]


@needs_ipv6
def test_localhost_is_both_of_a_machines_own_addresses(port: int) -> None:
    assert bound("localhost", port) == ["127.0.0.1", "::1"]
    assert bound("127.0.0.1", port) == ["127.0.0.1"]
    assert bound("::1", port) == ["::1"]


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
def test_localhost_is_the_ipv4_address_without_ipv6(
    port: int, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = listening._bind

    def absent(address: str, port: int, *, shared: bool) -> socket.socket:
        if ":" in address:
            raise OSError(number, "there is none")
        return real(address, port, shared=shared)

    monkeypatch.setattr(listening, "_bind", absent)
    assert bound("localhost", port) == ["127.0.0.1"]
    with pytest.raises(PortTaken):
        bind("::1", port)


@needs_ipv6
@pytest.mark.parametrize("taken", ["127.0.0.1", "::1"])
def test_a_port_that_is_taken_on_either_is_taken(port: int, taken: str) -> None:
    family = socket.AF_INET6 if ":" in taken else socket.AF_INET
    with socket.create_server((taken, port), family=family):
        with pytest.raises(PortTaken, match=rf"cannot listen on {taken}:{port}: Address already"):
            bind("localhost", port)
    # What was bound before the other failed has been given back.
    assert len(bound("localhost", port)) == 2


@needs_ipv6
def test_an_api_answers_on_both(databases: Databases, port: int) -> None:
    api = Running("api", "users", **settings_of(databases), SHOP_USERS__PORT=port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            until(lambda: answers(client), "it answers", 30)
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{port}/health/live").status_code == 200
    finally:
        assert api.stop() == 0


@needs_ipv6
def test_an_api_says_that_its_port_is_taken(databases: Databases, port: int) -> None:
    with socket.create_server(("::1", port), family=socket.AF_INET6):
        done = run_shop("api", "users", **settings_of(databases), SHOP_USERS__PORT=port)
    assert done.returncode == 2
    assert done.stderr == (
        f"shop: cannot listen on ::1:{port}: Address already in use; choose another with "
        "SHOP_USERS__PORT\n"
    )
