"""What an API that can't reach its database says of it: why, once, and when it is over."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest

from devstack.postgres import LocalPostgres
from tests.support.serving import problem
from tests.support.shop import Running, free_ports, json_lines, new_user
from tests.support.waiting import until


@contextmanager
def users_api(url: str) -> Iterator[tuple[httpx.Client, Running]]:
    (port,) = free_ports(1)
    running = Running("api", "users", SHOP_USERS__DATABASE_URL=url, SHOP_USERS__PORT=port)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield client, running
        assert running.stop() == 0
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()
            running.output.close()


def waits(running: Running, route: str) -> list[dict[str, Any]]:
    lines = [
        line for line in running.output.lines if "api.waiting" in line or "api.recovered" in line
    ]
    return [dict(line) for line in json_lines("\n".join(lines)) if line["route"] == route]


@pytest.fixture
def missing(postgres: LocalPostgres) -> Iterator[str]:
    """The URL of a database that is not there."""
    name = "not_there_yet"
    yield postgres.dsn(name, "postgres")
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def test_the_log_says_why_before_the_first_request(missing: str) -> None:
    with users_api(missing) as (_, running):
        line = running.output.until("api.waiting")
    assert 'database \\"not_there_yet\\" does not exist' in line


@pytest.mark.heavy
def test_the_log_says_why_once_and_the_client_is_not_told(
    missing: str, postgres: LocalPostgres, templates: dict[str, str]
) -> None:
    with users_api(missing) as (client, running):
        running.output.until("api.waiting")
        with ThreadPoolExecutor() as many:
            for response in many.map(client.get, ["/users/1", "/health/ready"] * 5):
                found = problem(response, 503, "temporarily-unavailable")
                assert found["detail"] == "The database is unavailable"
        for route in ("GET /users/{user_id}", "GET /health/ready"):
            (line,) = waits(running, route)
            assert line["level"] == "warning"
            assert 'database "not_there_yet" does not exist' in line["reason"]

        with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
            admin.execute(f"CREATE DATABASE not_there_yet TEMPLATE {templates['users']}")
        until(lambda: client.get("/health/ready").status_code == 200, "it is ready")
        made = client.post("/users", json=new_user()).json()
        assert client.get(f"/users/{made['id']}").status_code == 200
        until(lambda: len(waits(running, "GET /users/{user_id}")) == 2, "the log says so")
    for route in ("GET /users/{user_id}", "GET /health/ready"):
        assert [line["event"] for line in waits(running, route)][-1] == "api.recovered"
    assert waits(running, "POST /users") == []
