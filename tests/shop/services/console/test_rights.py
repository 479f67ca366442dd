"""The console with the database roles of `shop roles`: it shows everything, and does what an administrator asks."""

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import httpx
import pytest

from shop.platform.event_log import with_password
from tests.support.consoles import confirmed, console, tick
from tests.support.databases import Databases
from tests.support.living import living, plant
from tests.support.secured import SERVICES, Secured
from tests.support.tls_postgres import ADMINISTRATOR
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(180)]

BREAK = "ALTER TABLE customers ADD CONSTRAINT unlucky CHECK (name NOT LIKE 'U %')"
MEND = "ALTER TABLE customers DROP CONSTRAINT unlucky"


@pytest.fixture(scope="module", autouse=True)
def only_shipped() -> Iterator[None]:
    """Those of the tests have no database here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHOP_SERVICES", "shop.services")
        yield


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path_factory.mktemp("secured"), stops)


def urls_of(secured: Secured, roles: Mapping[str, str]) -> Databases:
    """Of these databases, each with its role."""
    return Databases(
        {
            name: with_password(secured.url(name, role), secured.passwords(role)[0])
            for name, role in roles.items()
        }
    )


@pytest.fixture(scope="module")
async def parked(anyio_backend: str, secured: Secured) -> Databases:
    """As a superuser has them. Three users are parked in the order service, and one of them has an order."""
    del anyio_backend
    urls = urls_of(secured, dict.fromkeys((*SERVICES, "log"), ADMINISTRATOR))
    plant(urls.orders, BREAK)
    async with living(urls) as system:
        async with system.moving("users relay", "orders consumer"):
            await system.create(3)
            await system.settled("orders")
    return urls


@pytest.fixture
def client(secured: Secured, parked: Databases) -> Iterator[httpx.Client]:
    del parked
    urls = urls_of(secured, {name: f"{name}_front" for name in (*SERVICES, "log")})
    with console(urls) as client:
        yield client


def test_every_page_shows_what_there_is(client: httpx.Client) -> None:
    def looked() -> str:
        page = client.get("/").text
        return page if "no worker feeds the log" in page else ""

    assert "permission denied" not in until(looked, "the databases are read")
    pages = re.findall(r'<a href="(/[^"]*)"', client.get("/").text)
    assert {"/parked", "/log", "/find", "/timeline"} <= set(pages)
    for path in (
        *pages,
        "/timeline?q=users/1",
        "/timeline?q=a%20key",
        "/find?what=users",
        "/log/users/0/0",
    ):
        page = client.get(path, follow_redirects=True)
        assert page.status_code == 200, (path, page.text)
        assert "permission denied" not in page.text, path


def test_a_key_is_retried_another_discarded_and_that_undone(
    client: httpx.Client, parked: Databases
) -> None:
    page = client.get("/parked").text
    one, two = tick(page, "1", "2")
    plant(parked.orders, MEND)
    done = confirmed(client, {"act": "retry", "id": [one]})
    assert re.findall('class="error">([^<]*)<', done) == []
    assert '<b class="figure">1</b> of 1 keys, <b class="figure">1</b> record applied' in done
    done = confirmed(client, {"act": "discard", "id": [two]})
    [undo] = re.findall(r'action="(/parked/deeds/[^"]+/undo)"', done)
    assert client.post(undo, follow_redirects=True).status_code == 200
    until(lambda: "users/2" in client.get("/parked").text, "the discarded record is parked again")
