"""How much one client may ask of the gateway, and that its neighbours notice nothing of it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from tests.support.gateway import Gateway, an_address, in_front_of_two
from tests.support.serving import problem
from tests.support.upstream import Received, respond
from tests.support.waiting import eventually, until

BURST, SIGN_IN_BURST, AT_ONCE = 200, 10, 100
"""As client.conf has them."""
RATE = 5
"""Requests a second here: place/rates.conf has ten times as many, which a busy machine may not manage to ask."""

RATES = """
limit_req_zone $client zone=requests:1m rate=5r/s;
map $uri $signs_in {
    default   "";
    /sessions $client;
    /token    $client;
}
limit_req_zone $signs_in zone=sign_in:1m rate=1r/s;
"""

BEHIND_A_PROXY = "set_real_ip_from 127.7.7.7;\nreal_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n"  # fmt: skip


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway at which a client may ask `RATE` times a second."""
    with in_front_of_two(tmp_path_factory.mktemp("few"), rates=RATES) as stage:
        yield stage


@pytest.fixture(scope="module")
def _behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("behind")
    with in_front_of_two(folder, proxies=BEHIND_A_PROXY) as stage:
        yield stage


@pytest.fixture
def behind(_behind: Gateway) -> Gateway:
    """A gateway that believes one proxy."""
    for upstream in _behind.upstreams.values():
        upstream.reset()
    return _behind


def test_a_client_that_asks_too_often_is_refused_and_its_neighbour_is_not(few: Gateway) -> None:
    with few.client(http2=True) as client, few.client() as neighbour:
        began = time.monotonic()
        answers, others = [], []
        for n in range(BURST + 100):
            # It invents a new token for each: that makes it no other client.
            answers.append(client.get("/orders", headers={"Authorization": f"Bearer {n}"}))
            if n % 10 == 0:
                others.append(neighbour.get("/orders").status_code)
        took = time.monotonic() - began
        answered = Counter(answer.status_code for answer in answers)
        assert answered.keys() == {200, 429}
        assert BURST < answered[200] <= BURST + RATE * took + 2
        refused = next(answer for answer in answers if answer.status_code == 429)
        problem(refused, 429, "too-many-requests")
        assert refused.headers["retry-after"] == "1"
        assert refused.headers["strict-transport-security"]
        assert set(others) == {200}
        time.sleep(1.0)  # as it was told
        assert client.get("/orders").status_code == 200


@pytest.mark.parametrize("path", ["/sessions", "/token"])
def test_signing_in_is_for_fewer_tries_however_its_path_is_written(stage: Gateway, path: str) -> None:  # fmt: skip
    written = [path, f"/{path}", f"/.{path}", path.replace("s", "%73").replace("t", "%74"), f"/x/..{path}"]  # fmt: skip
    with stage.client() as client:
        host = f"https://localhost:{stage.port}"
        answered = Counter(
            client.post(httpx.URL(host).copy_with(raw_path=written[n % 5].encode())).status_code
            for n in range(3 * SIGN_IN_BURST)
        )
        assert SIGN_IN_BURST < answered[200] <= SIGN_IN_BURST + 5
        assert answered[429] == 3 * SIGN_IN_BURST - answered[200]
        assert client.get("/users").status_code == 200


def test_a_client_has_so_many_requests_under_way_and_its_neighbour_is_answered(
    stage: Gateway,
) -> None:
    finish = threading.Event()

    def wait(connection: object, received: Received) -> None:
        if received.target != "/orders/quick":
            finish.wait(60)
        respond(connection)  # type: ignore[arg-type]

    stage.orders.respond = wait
    greedy = an_address()

    async def flood() -> Counter[int]:
        transport = httpx.AsyncHTTPTransport(
            verify=stage.trust(), local_address=greedy, limits=httpx.Limits(max_connections=200)
        )
        async with httpx.AsyncClient(transport=transport, timeout=90) as client:

            async def one() -> int:
                return (await client.get(f"https://localhost:{stage.port}/orders")).status_code

            tasks = [asyncio.create_task(one()) for _ in range(AT_ONCE + 30)]
            while sum(task.done() for task in tasks) < 30:
                await asyncio.sleep(0.01)
            # A refusal may overtake the last of those that are passed on.
            await eventually(lambda: len(stage.orders.received) >= AT_ONCE)
            assert len(stage.orders.received) == AT_ONCE
            with stage.client() as neighbour:
                assert (await asyncio.to_thread(neighbour.get, "/orders/quick")).status_code == 200
            finish.set()
            return Counter(await asyncio.gather(*tasks))

    try:
        assert asyncio.run(flood()) == {200: AT_ONCE, 429: 30}
    finally:
        finish.set()


def tries(behind: Gateway, *addresses: str) -> Counter[int]:
    """Sign-ins through the proxy, by these clients in turn, more than one of them may."""
    with behind.client(address="127.7.7.7") as client:
        return Counter(
            client.post("/sessions", headers={"X-Forwarded-For": each}).status_code
            for each in [*addresses] * (3 * SIGN_IN_BURST // len(addresses))
        )


def test_all_addresses_of_one_ipv6_network_are_one_client(behind: Gateway) -> None:
    same = [f"2001:db8:1:2:{n:x}::1" for n in range(10)]
    assert tries(behind, *same)[200] <= SIGN_IN_BURST + 5
    assert tries(behind, "2001:db8:1:3::1")[200] > SIGN_IN_BURST


def test_each_ipv6_network_is_a_client_of_its_own(behind: Gateway) -> None:
    assert tries(behind, *[f"2001:db8:2:{n:x}::1" for n in range(10)]) == {200: 30}


def test_each_ipv4_address_is_a_client_of_its_own_and_has_whole_networks_as_neighbours(behind: Gateway) -> None:  # fmt: skip
    assert tries(behind, *[f"10.0.0.{n}" for n in range(10)]) == {200: 30}
    assert tries(behind, "10.1.0.1")[200] <= SIGN_IN_BURST + 5


def test_a_proxy_that_is_named_is_believed_about_the_last_address_only(behind: Gateway) -> None:
    """What stands before it is what the client itself has sent to the proxy."""
    with behind.client(address="127.7.7.7") as client:
        client.get("/orders", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.5"})
        client.get("/orders", headers={"X-Forwarded-For": "6.6.6.6, 203.0.113.5, 127.7.7.7"})
        client.get("/orders", headers={"X-Forwarded-For": "nonsense"})
    said = [received.values("x-forwarded-for") for received in behind.orders.received]
    assert said == [["203.0.113.5"], ["203.0.113.5"], ["127.7.7.7"]]


def test_nobody_else_is_believed(behind: Gateway) -> None:
    with behind.client(address="127.7.7.8") as client:
        client.get("/orders", headers={"X-Forwarded-For": "203.0.113.5"})
    [received] = behind.orders.received
    assert received.values("x-forwarded-for") == ["127.7.7.8"]


def test_a_flood_of_one_client_does_not_make_answers_to_others_slower(few: Gateway) -> None:
    """By the 99th percentile; a busy machine may need more tries."""

    def p99(client: httpx.Client) -> float:
        took = []
        for _ in range(100):
            began = time.monotonic()
            assert client.get("/orders").status_code == 200
            took.append(time.monotonic() - began)
            time.sleep(0.005)
        return sorted(took)[98]

    flooding = threading.Event()
    refused = 0

    def flood() -> None:
        nonlocal refused
        with few.client(http2=True) as client:
            while not flooding.is_set():
                refused += client.get("/orders").status_code == 429
                time.sleep(0.002)

    found = []
    for _ in range(12):
        flooding.clear()
        with few.client() as alone, few.client() as among:
            before = p99(alone)
            thread = threading.Thread(target=flood)
            thread.start()
            try:
                until(lambda: refused, "the flood is refused")
                meanwhile = p99(among)
            finally:
                flooding.set()
                thread.join(30)
        found.append(f"{before * 1000:.1f} ms → {meanwhile * 1000:.1f} ms")
        if meanwhile <= 1.5 * before + 0.002:
            break
    else:
        pytest.fail(f"the flood made others slower: {found}")
    print(found, f"refused: {refused}")
    assert refused
