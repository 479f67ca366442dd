"""What an API learns of keys and revocations from its database, and what it forgets."""

import asyncio
import time
from collections.abc import AsyncIterator
from math import inf
from types import SimpleNamespace

import psycopg
import pytest

from eventspine.database import Database
from eventspine.errors import Unavailable
from eventspine.event import Event
from shop.platform.auth import known as module
from shop.platform.auth.known import Known
from shop.platform.auth.settings import LONGEST_TOKEN_S
from shop.platform.auth.tokens import Issuer
from tests.support.issuing import SESSION, access, ended, key, planted


class Learning:
    """A `Known`, and the tables that it looks at."""

    def __init__(self, url: str, database: Database) -> None:
        self.issuer = Issuer("http://x", "eventshop", own=True)
        self.changes = 0
        self.known = Known(database, self.issuer, self._changed)
        self.writer = psycopg.connect(url, autocommit=True)

    def _changed(self) -> None:
        self.changes += 1

    def plant(self, *events: Event, by: psycopg.Connection | None = None) -> None:
        for sql, values in planted([*events]):
            (by or self.writer).execute(sql.encode(), values)


@pytest.fixture
async def learning(orders_url: str) -> AsyncIterator[Learning]:
    database = Database(orders_url, size=1)
    await database.open()
    learning = Learning(orders_url, database)
    yield learning
    learning.writer.close()
    await database.close()


async def test_it_knows_what_is_there_at_the_first_look(learning: Learning) -> None:
    learning.plant(
        key().changed(), key("gone").changed("gone"), access("user:7", 3), ended(SESSION)
    )
    learning.plant(access("user:8", 1, locked=True))
    before = learning.known.loaded
    await learning.known.look()
    assert (before, learning.known.loaded) == (False, True)
    assert set(learning.issuer.keys) == {"k1"}
    assert learning.known.generations == {"user:7": 3, "user:8": inf}
    assert set(learning.known.ended) == {str(SESSION)}


async def test_a_look_reads_only_what_has_changed_and_keys_are_made_anew_only_then(
    learning: Learning,
) -> None:
    learning.plant(key().changed(), access("user:7", 3))
    await learning.known.look()
    del learning.known.generations["user:7"]
    learning.plant(access("user:8", 1))
    await learning.known.look()
    assert learning.known.generations == {"user:8": 1}
    assert learning.changes == 1
    learning.plant(key().changed("gone", 2))
    await learning.known.look()
    assert (learning.changes, learning.issuer.keys) == (2, {})


async def test_what_is_committed_late_is_not_missed(learning: Learning, orders_url: str) -> None:
    """It was written before others, which a look has seen since."""
    await learning.known.look()
    with psycopg.connect(orders_url) as slow:
        learning.plant(access("user:1", 1), by=slow)
        learning.plant(access("user:2", 1))
        for _ in range(3):
            await learning.known.look()
        assert learning.known.generations == {"user:2": 1}
    await learning.known.look()
    assert learning.known.generations == {"user:1": 1, "user:2": 1}


async def test_a_row_that_is_written_again_is_read_again(learning: Learning) -> None:
    learning.plant(access("user:7", 3))
    await learning.known.look()
    learning.plant(access("user:7", 4, version=2))
    await learning.known.look()
    assert learning.known.generations == {"user:7": 4}


async def test_after_a_failover_that_lost_transactions_everything_is_read_anew(
    learning: Learning,
) -> None:
    learning.plant(access("user:7", 3))
    await learning.known.look()
    learning.known.generations.clear()
    assert learning.known._since is not None
    learning.known._since += 1000
    await learning.known.look()
    assert learning.known.generations == {"user:7": 3}


async def test_old_revocations_are_not_loaded_and_are_forgotten(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    learning.plant(access("user:1", 1), ended(SESSION))
    later = 1000 * (2 * LONGEST_TOKEN_S + 1)
    learning.writer.execute("UPDATE running_time SET ms = ms + %s", [later])
    learning.plant(access("user:2", 1))
    await learning.known.look()
    assert (learning.known.generations, learning.known.ended) == ({"user:2": 1}, {})

    ahead = 1.0 * LONGEST_TOKEN_S
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead)
    monkeypatch.setattr(module, "time", clock)
    learning.plant(access("user:3", 1), ended(SESSION))
    await learning.known.look()
    ahead = 2.5 * LONGEST_TOKEN_S
    await learning.known.look()
    assert (learning.known.generations, set(learning.known.ended)) == (
        {"user:3": 1},
        {str(SESSION)},
    )
    ahead = 4.0 * LONGEST_TOKEN_S
    await learning.known.look()
    assert (learning.known.generations, learning.known.ended) == ({}, {})


async def test_a_key_that_can_not_be_used_leaves_the_others(learning: Learning) -> None:
    learning.plant(key().changed(), key("k-ec", "ES256").changed())
    learning.writer.execute(
        """UPDATE signing_keys SET public_jwk = '{"kty": "oct", "k": "c2VjcmV0"}' WHERE kid = 'k-ec'"""
    )
    await learning.known.look()
    assert set(learning.issuer.keys) == {"k1"}


async def test_while_the_database_is_away_what_was_known_stays(
    learning: Learning, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    learning.plant(key().changed(), access("user:7", 3))
    await learning.known.look()
    fetch, away = learning.known._database.fetch, asyncio.Event()

    async def fails(*_: object) -> list[object]:
        away.set()
        raise Unavailable("gone")

    monkeypatch.setattr(learning.known._database, "fetch", fails)
    watching = asyncio.create_task(learning.known.watch())
    await away.wait()
    assert set(learning.issuer.keys) == {"k1"}
    learning.plant(access("user:7", 4, version=2))
    monkeypatch.setattr(learning.known._database, "fetch", fetch)
    while learning.known.generations != {"user:7": 4}:
        await asyncio.sleep(0.01)
    watching.cancel()
    await asyncio.wait([watching])
