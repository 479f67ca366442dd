"""Measures what a thousand logins a minute cost orders on the same machine."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import psycopg

from benchmarks import cpu
from benchmarks.load import CUSTOMERS, post_orders, require_wrk
from benchmarks.orders_a_second import ratios, unchanged
from benchmarks.report import Row, Section, spread
from benchmarks.shop_data import add_customers
from benchmarks.stage import HOST, Shop, Stage
from eventspine.database import Database
from eventspine.outbox import transaction
from shop.services.users.identity import keys
from shop.services.users.identity.key_encryption import (
    KeyEncryption,
    new_key_encryption_key,
    read_key_encryption,
)
from shop.services.users.identity.passwords import Passwords

TITLE = "Logins"
HOW = """\
`POST /orders` over 64 kept-alive connections, as above, without tokens; and the same while the user service's API, on the same
machine, is asked for 1,000 logins a minute (`POST /sessions`). Each login compares a password by Argon2id, opens a session, and
signs a token (RS256). The rate says how many were answered, and the last row how much processor time they took. A hash on one half
of a core slows orders on the other, whatever its priority (`docs/decisions/0031-libsodium-hashes-passwords.md`).
"""

A_MINUTE = 1000
_PEOPLE = 100
_SENDERS = 8
"""Enough that the pace holds although a login takes its time."""
_PASSWORD = "correct horse battery staple"

_ADD = """
WITH made AS (
    INSERT INTO users (email, name)
    SELECT n || '@example.com', 'U' FROM generate_series(1, %(people)s) AS n RETURNING id
)
INSERT INTO credentials (user_id, password_hash) SELECT id, %(hash)s FROM made
"""


def run(stage: Stage) -> Section:
    require_wrk()
    shop = stage.shop()
    file = stage.directory / "key-encryption-key"
    file.write_text(new_key_encryption_key() + "\n")
    shop = replace(shop, env={**shop.env, "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": str(file)})
    asyncio.run(_add_people(shop))
    asyncio.run(_add_key(shop, read_key_encryption(file)))
    add_customers(shop.orders, CUSTOMERS)
    rates: dict[str, list[float]] = {"alone": [], "beside": []}
    a_minute: list[float] = []
    processors: list[float] = []
    with (
        stage.running("orders-api", "shop.cli", "api", "orders", env=shop.env),
        stage.running("users-api", "shop.cli", "api", "users", env=shop.env) as users,
    ):
        assert users.pid is not None
        post_orders(shop.orders_url, connections=64, seconds=2)
        # Short and many, and one after the other: the machine changes.
        rounds = 2 * stage.rounds
        for number in range(rounds):
            stage.say(f"logins: round {number + 1} of {rounds}")
            kinds = list(rates) if number % 2 else list(reversed(rates))
            for kind in kinds:
                stage.settle()
                seconds = stage.seconds(4)
                if kind == "alone":
                    load = post_orders(shop.orders_url, connections=64, seconds=seconds)
                else:
                    used = cpu.seconds(users.pid)
                    began = time.monotonic()
                    with _logins(shop.users_port) as done:
                        load = post_orders(shop.orders_url, connections=64, seconds=seconds)
                    took = time.monotonic() - began
                    a_minute.append(60 * len(done) / took)
                    processors.append((cpu.seconds(users.pid) - used) / took)
                rates[kind].append(load.per_second)
    beside, alone = (spread(rates[kind], "/s") for kind in ("beside", "alone"))
    return Section(
        TITLE,
        HOW,
        [
            Row(
                f"orders a second beside {A_MINUTE:,} logins a minute, against without",
                ratios(rates["beside"], rates["alone"]), "×", at_least=0.9,
                measured=f"{beside} against {alone}; {spread(a_minute, ' logins a minute')}",
            ),
            Row(
                "the same without logins both times: what the machine does by itself",
                unchanged(rates["alone"]), "×",
            ),
            Row("processors that the logins' API took meanwhile", processors, "", less_is_better=True),
        ],
    )  # fmt: skip


@contextmanager
def _logins(port: int) -> Iterator[list[int]]:
    """At a steady pace, while the block lasts. Raises unless each succeeds."""
    done: list[int] = []
    failed: list[str] = []
    stop = threading.Event()

    def send(first: int) -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        number = first
        due = time.monotonic() + first * 60 / A_MINUTE
        while not stop.wait(max(0.0, due - time.monotonic())):
            due += _SENDERS * 60 / A_MINUTE
            number += _SENDERS
            body = {"email": f"{number % _PEOPLE + 1}@example.com", "password": _PASSWORD}
            connection.request(
                "POST", "/sessions", json.dumps(body), {"Content-Type": "application/json"}
            )
            answer = connection.getresponse()
            told = answer.read()
            if answer.status == 201:
                done.append(number)
            else:
                failed.append(f"{answer.status}: {told.decode()}")
        connection.close()

    senders = [threading.Thread(target=send, args=[number]) for number in range(_SENDERS)]
    for sender in senders:
        sender.start()
    try:
        yield done
    finally:
        stop.set()
        for sender in senders:
            sender.join()
    if failed:
        raise RuntimeError(f"{len(failed)} logins failed; the first: {failed[0]}")


async def _add_people(shop: Shop) -> None:
    passwords = Passwords()
    hashed = await passwords.hash(_PASSWORD)
    await passwords.close()
    with psycopg.connect(shop.users, autocommit=True) as connection:
        connection.execute(_ADD.encode(), {"people": _PEOPLE, "hash": hashed})


async def _add_key(shop: Shop, encryption: KeyEncryption) -> None:
    database = Database(shop.users, size=1)
    await database.open()
    async with transaction(database) as tx:
        await keys.first_key(tx, encryption)
    await database.close()
