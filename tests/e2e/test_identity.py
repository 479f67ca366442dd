"""Tokens and revocations in real processes: APIs, workers, the log between them.

Signed with keys of the test's own, which it publishes as the user service does: as events, in the transaction that
writes its tables.
"""

import asyncio
import signal
import time
from collections.abc import Iterator
from uuid import UUID

import httpx
import pytest

from eventspine.context import NOBODY
from eventspine.database import Database
from eventspine.event import Event
from eventspine.outbox import transaction
from tests.support.databases import NewDatabase
from tests.support.examples import heavy
from tests.support.issuing import Token, access, bearer, ended, key, planted
from tests.support.parts import Parts
from tests.support.shop import free_ports, new_order, run_shop
from tests.support.token_kinds import EC, KINDS, STATES
from tests.support.waiting import SLOWER, at_best, until

BOUND = 2.0
"""Seconds from the commit of a revocation to the first refusal, in every service, while workers run."""


@pytest.fixture(scope="module")
def parts(new_database: NewDatabase) -> Iterator[Parts]:
    users_port, orders_port = free_ports(2)
    databases = {name: new_database(None) for name in ("users", "orders", "log")}
    settings = {
        "SHOP_AUTH__REQUIRED": "true",
        "SHOP_AUTH__REQUESTS_A_SECOND": "100000",
        "SHOP_EVENT_LOG": "postgres",
        "SHOP_EVENT_LOG_URL": databases["log"],
        "SHOP_USERS__DATABASE_URL": databases["users"],
        "SHOP_ORDERS__DATABASE_URL": databases["orders"],
        "SHOP_USERS__PORT": users_port,
        "SHOP_ORDERS__PORT": orders_port,
    }
    migrated = run_shop("migrate", timeout=60, **settings)
    assert migrated.returncode == 0, migrated.stderr
    parts = Parts(settings, databases)
    try:
        parts.start("users-api", "users-worker", "orders-api", "orders-worker")
        publish(parts, *(each.changed(state) for each, state in STATES))  # type: ignore[arg-type]
        yield parts
    finally:
        parts.close()


def publish(parts: Parts, *events: Event) -> float:
    """Write them into the user service's tables, and publish them, in one transaction; when it had committed."""

    async def run() -> None:
        database = Database(parts.databases["users"], size=1)
        await database.open()
        async with transaction(database) as tx:
            for sql, values in planted([*events]):
                await tx.execute(sql, values)
            for event in events:
                tx.publish(event, NOBODY)
        await database.close()

    asyncio.run(run())
    return time.monotonic()


def user(parts: Parts) -> int:
    body = {"email": f"{time.monotonic_ns()}@example.com", "name": "U"}
    return int(parts.users.post("/users", json=body).json()["id"])


def statuses(parts: Parts, headers: dict[str, str], id_: int) -> tuple[int, int]:
    """Of both services."""
    return (
        parts.users.get(f"/users/{id_}", headers=headers).status_code,
        parts.orders.get("/orders", headers=headers).status_code,
    )


def signed_in(parts: Parts, **claims: object) -> tuple[int, dict[str, str]]:
    """A new user and a token that both services take."""
    id_ = user(parts)
    headers = bearer(Token(f"user:{id_}", claims=claims).signed())
    until(lambda: statuses(parts, headers, id_) == (200, 200), "the token is taken")
    return id_, headers


def test_a_user_who_signed_in_orders_and_sees_the_order_and_nobody_else_does(parts: Parts) -> None:
    id_, headers = signed_in(parts)
    body = {name: value for name, value in new_order(id_).items() if name != "user_id"}
    placed = parts.orders.post("/orders", json=body, headers=headers)
    assert (placed.status_code, placed.json()["user_id"]) == (201, id_)
    path = placed.headers["location"]
    assert parts.orders.get(path, headers=headers).status_code == 200
    _, others = signed_in(parts)
    assert parts.orders.get(path, headers=others).status_code == 404
    assert parts.orders.post(f"{path}/cancel", headers=others).status_code == 404
    assert parts.orders.get(path).status_code == 401


@pytest.mark.parametrize(
    "what", ["customer", "admin", "customer without orders:read", "no token", "expired", "alg none",
             "HS256 with the key as PEM", "jwk", "exp 1e400", "key just retired", "1 MB"],
)  # fmt: skip
def test_real_processes_answer_as_the_matrix_says(parts: Parts, what: str) -> None:
    id_, _ = signed_in(parts)
    expected = {"customer": 200, "admin": 200, "customer without orders:read": 403, "1 MB": 431}
    response = parts.orders.get("/orders", headers=KINDS[what](Token(f"user:{id_}")))
    assert response.status_code == expected.get(what, 401)


@pytest.mark.parametrize("what", ["session", *heavy("generation", "lock")])
def test_a_revocation_holds_in_both_services_within_its_bound(parts: Parts, what: str) -> None:
    def took() -> float:
        session = f"0198e9a0-0000-7000-8000-{time.monotonic_ns() % 10**12:012}"
        id_, headers = signed_in(parts, sid=session)
        event: Event = access(f"user:{id_}", 6, locked=what == "lock")
        if what == "session":
            event = ended(UUID(session), id_)
        began = publish(parts, event)
        until(lambda h=headers, i=id_: statuses(parts, h, i) == (401, 401), "it is refused")
        seconds = time.monotonic() - began
        newer = bearer(Token(f"user:{id_}", claims={"gen": 6}).signed())
        assert statuses(parts, newer, id_) == ((401, 401) if what == "lock" else (200, 200))
        return seconds

    print(f"{what}: refused {at_best(took, BOUND):.2f} s after the commit")


def test_a_key_is_rotated_and_no_good_token_is_refused(parts: Parts) -> None:
    new, old = key("rotated"), EC
    id_ = user(parts)
    published = publish(parts, new.changed("initial"))
    by_old, by_new = (bearer(Token(f"user:{id_}", key=each).signed()) for each in (old, new))
    until(lambda: statuses(parts, by_new, id_) == (200, 200), "the new key is known")
    assert time.monotonic() - published < BOUND + SLOWER
    publish(parts, new.changed("active", 2), old.changed("verifying", 2))
    deadline = time.monotonic() + 2.5
    while time.monotonic() < deadline:
        assert statuses(parts, by_old, id_) == statuses(parts, by_new, id_) == (200, 200)
    publish(parts, old.changed("gone", 3))
    until(lambda: statuses(parts, by_old, id_) == (401, 401), "the old key is gone")
    assert statuses(parts, by_new, id_) == (200, 200)


@pytest.mark.heavy
def test_orders_restarts_while_the_user_service_is_down_and_still_verifies(parts: Parts) -> None:
    id_, headers = signed_in(parts)
    _, locked_out = revoked = signed_in(parts)
    publish(parts, access(f"user:{revoked[0]}", 9))
    until(lambda: parts.orders.get("/orders", headers=locked_out).status_code == 401, "refused")
    parts.stop("users-api", "users-worker", number=signal.SIGKILL)
    parts.stop("orders-api")
    parts.start("orders-api")
    until(lambda: parts.orders.get("/health/ready").status_code == 200, "it is ready")
    placed = parts.orders.post("/orders", json=new_order(id_), headers=headers)
    assert placed.status_code == 201
    assert parts.orders.get("/orders", headers=locked_out).status_code == 401
    with pytest.raises(httpx.TransportError):
        parts.users.get("/health/live")
    parts.start("users-api", "users-worker")
