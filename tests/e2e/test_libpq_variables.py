"""libpq's variables in the environment: `shop up` heeds none, the other commands those of who is who."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shop.platform import discovery
from shop.platform.libpq import HEEDED, libpq_variables
from tests.support.databases import Databases, NewDatabase
from tests.support.folders import short_directory
from tests.support.living import settings
from tests.support.shop import Shop, new_order, new_user, run_shop
from tests.support.waiting import until

UTC = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?Z")

# Each by itself keeps libpq from connecting, or has it connect elsewhere, or as somebody else, or
# changes what values look like.
HOSTILE = dict.fromkeys(sorted(libpq_variables()), "no such thing") | {
    "PGHOST": "/nowhere",
    "PGHOSTADDR": "127.0.0.2",
    "PGPORT": "1",
    "PGTZ": "Asia/Tokyo",
    "PGDATESTYLE": "German",
    "PGCLIENTENCODING": "LATIN1",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGGEQO": "off",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGTARGETSESSIONATTRS": "standby",
    "PGCONNECT_TIMEOUT": "no number",
}


def databases(new_database: NewDatabase) -> Databases:
    return Databases({name: new_database(None) for name in (*discovery.names(), "log")})


def named(urls: Databases) -> dict[str, Any]:
    """To the tests' server, which does not wait for its disk."""
    return settings(urls) | {"SHOP_ACCEPT_DATA_LOSS": "true"}


@pytest.fixture
def hostile_shop() -> Iterator[Shop]:
    with short_directory() as directory:
        # What platforms set for uvicorn's own command, beside it.
        shop = Shop(directory / "data", **HOSTILE, WEB_CONCURRENCY="auto")
        try:
            shop.start()
            yield shop
        finally:
            shop.close()


@pytest.mark.heavy
def test_shop_up_and_what_is_run_beside_it_heed_none(hostile_shop: Shop) -> None:
    user = hostile_shop.users.post("/users", json=new_user(name="Zoë ☕")).raise_for_status().json()
    assert user["name"] == "Zoë ☕"
    assert UTC.search(user["created_at"])

    def placed() -> bool:
        order = hostile_shop.orders.post("/orders", json=new_order(user["id"]))
        return order.status_code == 201 and bool(UTC.search(order.json()["placed_at"]))

    until(placed, "an order is placed")
    audited = hostile_shop.run("audit", timeout=60, **HOSTILE)
    assert audited.returncode == 0, audited.stdout + audited.stderr
    # All that the shop's own processes know of the environment.
    for process in hostile_shop.processes()[1:]:
        assert not libpq_variables() & process.environ().keys(), process.cmdline()


@pytest.mark.heavy
def test_libpq_variables_only_say_who_connects_to_a_database_of_ones_own(
    new_database: NewDatabase,
) -> None:
    urls = databases(new_database)
    ignored: dict[str, Any] = {name: value for name, value in HOSTILE.items() if name not in HEEDED}
    done = run_shop("migrate", **named(urls), **ignored)
    assert done.returncode == 0, done.stderr
    assert done.stderr == (
        f"shop: ignored: {', '.join(sorted(ignored))}; SHOP_…__DATABASE_URL says where a database is"
        " (docs/operations.md, 'PostgreSQL's own variables')\n"
    )
    refused = run_shop("migrate", **named(urls), PGREQUIREAUTH="scram-sha-256")
    assert refused.returncode == 2
    assert "scram-sha-256" in refused.stderr


def test_a_password_file_and_a_service_that_the_url_names_are_heeded(
    new_database: NewDatabase, tmp_path: Path
) -> None:
    urls = databases(new_database)
    info = psycopg.conninfo.conninfo_to_dict(urls.users)
    services = tmp_path / "services"
    services.write_text("[ours]\n" + "".join(f"{name}={info[name]}\n" for name in ("host", "port")))
    url = f"postgresql://postgres@/{info['dbname']}?service=ours"
    by_service = {**named(urls), "SHOP_USERS__DATABASE_URL": url}
    done = run_shop("migrate", **by_service, PGSERVICEFILE=services, PGPASSFILE=os.devnull)
    assert done.returncode == 0, done.stderr
    # libpq has read it.
    assert f'password file "{os.devnull}" is not a plain file' in done.stderr
