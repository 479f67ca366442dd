"""`shop up` with a service that the shop does not bring: everything that a person does, with it too."""

import json
from collections.abc import Iterator

import httpx
import pytest

from tests.support.checker import check
from tests.support.engines import Engine
from tests.support.folders import short_directory
from tests.support.load import Load
from tests.support.shop import Shop, json_lines, new_user
from tests.support.waiting import until

pytestmark = pytest.mark.heavy

SERVICES = {"SHOP_SERVICES": "shop.services,tests.more.services"}


@pytest.fixture(scope="module")
def shop(engine: Engine) -> Iterator[Shop]:
    engine.forget()
    with short_directory() as directory:
        shop = Shop(directory / "data", engine.up_options, **SERVICES)
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


@pytest.fixture
def greetings(shop: Shop) -> Iterator[httpx.Client]:
    [port] = shop.ports["greetings"]
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
        yield client


def test_its_events_and_the_others_are_seen_by_every_command(
    shop: Shop, greetings: httpx.Client
) -> None:
    user = shop.users.post("/users", json=new_user()).json()
    greeting = {"user_id": user["id"], "text": "Good morning"}
    sent = until(lambda: accepted(greetings, greeting), "the user is known there") or {}
    assert sent["text"] == "Good morning"
    assert greetings.get(f"/greetings/{sent['id']}").json() == sent

    # Beside it, without a word about which services there are.
    def seen() -> bool:
        events = json_lines(shop.run("events", "--no-follow", "--json").stdout)
        return {"greetings", "users"} <= {event["topic"] for event in events}

    until(seen, "both topics are shown", 90)
    parked = shop.run("parked", "list", "greetings")
    assert (parked.returncode, parked.stdout) == (0, "0 parked, of 0 blocked key(s)\n")
    audited = shop.run("audit", "--json", timeout=60)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    titles = [section["title"] for section in json.loads(audited.stdout)["sections"]]
    assert [title for title in titles if title.startswith("greetings: ")]
    running = json.loads((shop.data / "running.json").read_text())
    assert running["SHOP_SERVICES"] == SERVICES["SHOP_SERVICES"]


def accepted(greetings: httpx.Client, greeting: dict[str, object]) -> dict[str, object] | None:
    answer = greetings.post("/greetings", json=greeting)
    return answer.json() if answer.status_code == 201 else None


def test_a_shop_recovers_from_the_deaths_of_its_processes(shop: Shop) -> None:
    load = Load(shop.ports, name="others")
    with load:
        load.until(30, "send_greeting")
        for part in ("greetings-worker", "greetings-api"):
            shop.part(part).kill()
            load.until(30, "send_greeting", timeout=60)
    # The user of the test before and her greeting are not of this load.
    found = [fault for fault in check(shop.sources(), load.sent) if "nobody asked" not in fault]
    assert found == []


def test_a_planted_fault_in_its_table_is_found(shop: Shop) -> None:
    shop.rows("greetings", "UPDATE people SET name = 'Somebody else' WHERE id = 1 RETURNING id")
    audited = shop.run("audit", "greetings", timeout=60)
    assert audited.returncode == 1
    assert "people 1 differs: name is 'Somebody else'" in audited.stdout
