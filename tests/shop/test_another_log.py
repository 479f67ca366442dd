"""From one log to another, as whoever runs the shop does it: what is said, and what becomes of it."""

import asyncio
from collections.abc import Sequence

import psycopg
import pytest
from typer.testing import CliRunner, Result

from devstack.kafka import LocalKafka
from eventspine.kafka_log import KafkaLog
from eventspine.log import EventLog, LogUnavailable, Message
from eventspine.log_copy import CannotCopy, copy_topic, no_relay
from eventspine.postgres_log import PostgresLog
from shop.cli.main import app
from shop.platform import discovery
from tests.support.databases import Databases, NewDatabase
from tests.support.living import living, plant, settings, shop
from tests.support.shop import run_shop
from tests.support.topics import forget_topics
from tests.support.waiting import eventually

HOLDS = "No event is lost, and none was applied twice"
PRUNE = "DELETE FROM outbox WHERE position <= 20"


@pytest.fixture
def moved(copied: Databases, new_database: NewDatabase, templates: dict[str, str]) -> Databases:
    """The same services, with settings that name another log, which is empty."""
    return copied.but(log=new_database(templates["log"]))


def prune(urls: Databases) -> None:
    for name in ("users", "orders"):
        plant(urls[name], PRUNE)


def migrate(urls: Databases, **more: str) -> str:
    """As at every start; it makes the topics. What it says to people."""
    result = run_shop("migrate", **settings(urls) | more)
    assert result.returncode == 0, result.stdout + result.stderr
    return "\n".join(line for line in result.stdout.splitlines() if line.startswith("shop: "))


async def make_topics(urls: Databases) -> None:
    async with living(urls):
        pass


async def work(urls: Databases) -> None:
    """The services go on, with this log, until all is applied."""
    async with living(urls) as system, system.moving():
        await system.create(3)
        await system.settled()
        await system.place(2, 3, 4)
        await system.settled()


def logs_hold_the_same(one: Databases, other: Databases) -> bool:
    def content(url: str) -> Sequence[tuple[object, ...]]:
        with psycopg.connect(url) as connection:
            return connection.execute(
                'SELECT topic, partition, "offset", key, value, headers::text FROM log_records'
                " ORDER BY 1, 2, 3"
            ).fetchall()

    return content(one.log) == content(other.log)


def said_of_lost_records(output: str) -> bool:
    return any(words in output for words in ("records were removed", "lost records", "by hand"))


@pytest.mark.heavy
async def test_another_log_is_said_once_and_told_from_a_loss(
    copied: Databases, moved: Databases
) -> None:
    names = " and ".join(discovery.names())
    line = f"shop: the log has changed for {names}: the new log is fed from the outbox"
    assert "has changed" not in migrate(copied)
    assert migrate(moved).count(line) == 1

    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 1
    assert "users: table users is the latest version of every key in topic users" in result.output
    for topic in ("users", "orders"):
        assert f"the checkpoints on topic {topic} belong to another log (postgres " in result.output
    assert "events are relayed to another log (postgres " in result.output
    assert "start its worker with these settings" in result.output
    assert not said_of_lost_records(result.output)

    await work(moved)
    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 0, result.output
    assert HOLDS in result.output
    assert "another" not in migrate(moved)

    # And back: what the first lacks is fed to it.
    assert migrate(copied).count(line) == 1
    await work(copied)
    result = await asyncio.to_thread(shop, copied, "audit")
    assert result.exit_code == 0, result.output


async def test_a_log_that_is_still_being_fed_is_no_loss(
    copied: Databases, moved: Databases
) -> None:
    await make_topics(moved)
    async with living(moved) as system, system.moving("users consumer", "orders consumer"):
        await eventually(lambda: system.orders.fetch("SELECT FROM earlier_cursors"))
        await eventually(lambda: system.users.fetch("SELECT FROM earlier_cursors"))
    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 1
    assert "events of topic users up to position 26 were applied from another log" in result.output
    assert "this one holds none above 0" in result.output
    assert "audit again in a while" in result.output
    assert "not compared: this log lacks events from which the table was computed" in result.output
    assert not said_of_lost_records(result.output)


async def test_a_log_that_lacks_what_the_outbox_was_pruned_of_is_named_and_copied(
    copied: Databases, moved: Databases
) -> None:
    prune(copied)
    lacks = "positions 1 to 20 of /users are no longer in the outbox: the new log gets no events"
    assert f"shop: users: the log has changed, and {lacks}" in migrate(moved)
    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 1
    assert lacks in result.output
    assert "`shop log copy`, or" in result.output
    assert "docs/operations.md, 'Another log'" in result.output
    assert not said_of_lost_records(result.output)

    result = await asyncio.to_thread(shop, moved, "log", "copy", "--from", copied.log)
    assert result.exit_code == 0, result.output
    assert (
        "shop: users: topic users up to position 26: 26 events copied, 0 were there"
        in result.output
    )
    assert logs_hold_the_same(copied, moved)
    again = await asyncio.to_thread(shop, moved, "log", "copy", "--from", copied.log)
    assert "0 events copied, 26 were there" in again.output

    # Nothing has been read of it yet, and all that was applied stands there.
    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 1
    assert "start its worker with these settings" in result.output
    assert not any(
        words in result.output for words in ("not in the log", "differs", "not compared", "missing")
    )

    await work(moved)
    assert (await asyncio.to_thread(shop, moved, "audit")).exit_code == 0

    # The first log lacks what has been relayed to the other, and is given it the same way.
    plant(copied.users, "DELETE FROM outbox")
    plant(copied.orders, "DELETE FROM outbox")
    assert "positions 27 to 29 of /users are no longer in the outbox" in migrate(copied)
    result = await asyncio.to_thread(shop, copied, "log", "copy", "--from", moved.log)
    assert result.exit_code == 0, result.output
    assert "3 events copied, 26 were there" in result.output
    await work(copied)
    assert (await asyncio.to_thread(shop, copied, "audit")).exit_code == 0


async def test_a_log_that_was_lost_is_a_loss_until_it_is_given_up(
    copied: Databases, moved: Databases
) -> None:
    prune(copied)
    await make_topics(moved)
    refused = await asyncio.to_thread(shop, moved, "log", "accept")
    assert refused.exit_code == 1
    assert "users: positions 1 to 20 are neither in this log nor in the outbox" in refused.output
    assert "not accepted; --give-up continues without them" in refused.output
    assert "the new log gets no events" in (await asyncio.to_thread(shop, moved, "audit")).output

    result = await asyncio.to_thread(shop, moved, "log", "accept", "--give-up")
    assert result.exit_code == 0, result.output
    assert "accepted; the worker feeds the log from position 21" in result.output
    await work(moved)
    result = await asyncio.to_thread(shop, moved, "audit")
    assert result.exit_code == 1
    assert "positions 1 to 20 are missing from topic users" in result.output


async def test_a_log_that_was_filled_by_other_means_is_accepted(
    copied: Databases, moved: Databases
) -> None:
    prune(copied)
    await make_topics(moved)
    one, other = PostgresLog(copied.log), PostgresLog(moved.log)
    for topic in ("users", "orders"):
        records = await one.read(topic, 0, 0, 1000)
        await other.append(topic, [Message(r.key or "", r.value, r.headers) for r in records])
    await one.close()
    await other.close()
    result = await asyncio.to_thread(shop, moved, "log", "accept")
    assert result.exit_code == 0, result.output
    await work(moved)
    assert (await asyncio.to_thread(shop, moved, "audit")).exit_code == 0


async def test_nothing_is_copied_while_a_worker_runs(copied: Databases, moved: Databases) -> None:
    await make_topics(moved)
    async with living(copied) as system, system.moving():
        await system.create(1)
        await system.settled()
        result = await asyncio.to_thread(shop, moved, "log", "copy", "--from", copied.log)
    assert result.exit_code == 2
    first = discovery.names()[0]
    assert f"shop: {first}: its worker is running, and feeds a log: stop all its workers first" in (
        result.output
    )


class Breaking(PostgresLog):
    """Goes away after so many events, in the middle of an append."""

    left = 7

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        await super().append(topic, messages[: self.left])
        if len(messages) > self.left:
            raise LogUnavailable("the log went away")


class Forgetful(PostgresLog):
    """Loses a header of one record, and confirms it."""

    async def append(self, topic: str, messages: Sequence[Message]) -> None:
        kept = [one._replace(headers={**one.headers}) for one in messages]
        kept[3].headers.pop("ce_time")  # type: ignore[attr-defined]
        await super().append(topic, kept)


async def copy_users(of: EventLog, to: EventLog, urls: Databases) -> str:
    """The positions of the other log, after the copy; or why there was none."""
    try:
        async with no_relay(urls.users) as office:
            await copy_topic(of, to, "users", "/users", office, lambda *_: None)
        records = await to.read("users", 0, 0, 1000)
        return " ".join(record.headers["ce_id"] for record in records)
    except (CannotCopy, LogUnavailable) as error:
        return str(error)
    finally:
        await of.close()
        await to.close()


def counted(first: int, last: int) -> str:
    return " ".join(map(str, range(first, last + 1)))


async def test_a_copy_that_was_stopped_goes_on_where_it_was(
    copied: Databases, moved: Databases
) -> None:
    await make_topics(moved)
    one = PostgresLog(copied.log)
    assert await copy_users(one, Breaking(moved.log), copied) == "the log went away"
    one = PostgresLog(copied.log)
    assert await copy_users(one, PostgresLog(moved.log), copied) == counted(1, 26)


async def test_repeats_and_foreign_records_stay_behind(copied: Databases, moved: Databases) -> None:
    """Among them the position that nobody gave out, for which no log can be kept."""
    await make_topics(moved)
    plant(
        copied.log,
        """INSERT INTO log_records SELECT topic, partition, "offset" + 100, key, value, headers, now()
        FROM log_records WHERE topic = 'users' AND "offset" >= 10""",
        "UPDATE log_records SET headers = '{}' WHERE topic = 'users' AND \"offset\" = 113",
        """UPDATE log_records SET headers = replace(headers::text, '"26"', '"900"')::json
        WHERE topic = 'users' AND "offset" = 125""",
        "UPDATE log_heads SET next_offset = 126 WHERE topic = 'users'",
    )
    assert await copy_users(PostgresLog(copied.log), PostgresLog(moved.log), copied) == counted(
        1, 26
    )


async def test_a_log_that_has_gone_on_is_not_mended_behind_its_back(
    copied: Databases, moved: Databases
) -> None:
    """What would stand behind a higher position is dropped by whoever reads it."""
    prune(copied)
    await make_topics(moved)
    assert (await asyncio.to_thread(shop, moved, "log", "accept", "--give-up")).exit_code == 0
    await work(moved)
    result = await asyncio.to_thread(shop, moved, "log", "copy", "--from", copied.log)
    assert result.exit_code == 2
    assert "holds position 28 but lacks position 1" in result.output


async def test_a_difference_between_two_logs_is_noticed(
    copied: Databases, moved: Databases
) -> None:
    await make_topics(moved)
    said = await copy_users(PostgresLog(copied.log), Forgetful(moved.log), copied)
    assert "position 4 of topic users differs between the logs" in said


def test_a_log_is_not_copied_into_itself(copied: Databases) -> None:
    for words in (["--from", copied.log], ["--from", "postgres"]):
        result = shop(copied, "log", "copy", *words)
        assert result.exit_code == 2
        assert "both name the same log (postgres " in result.output
    result = shop(copied, "log", "copy", "--from", "somewhere")
    assert result.exit_code == 2
    assert "--from somewhere is not a log" in result.output


@pytest.mark.heavy
@pytest.mark.kafka
async def test_from_the_table_to_kafka_and_back_although_the_outbox_was_pruned(
    copied: Databases, kafka: LocalKafka
) -> None:
    forget_topics(kafka.bootstrap_servers)
    prune(copied)
    on_kafka = {"SHOP_EVENT_LOG": "kafka", "SHOP_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers}

    def on(where: dict[str, str], *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--data", "/nowhere"], env=settings(copied) | where)

    migrate(copied, **on_kafka)
    assert (await asyncio.to_thread(on, on_kafka, "audit")).exit_code == 1
    result = await asyncio.to_thread(on, on_kafka, "log", "copy", "--from", "postgres")
    assert result.exit_code == 0, result.output
    assert "26 events copied" in result.output
    log = KafkaLog({"bootstrap.servers": kafka.bootstrap_servers})
    async with living(copied) as system:
        system.log = log
        async with system.moving():
            await system.create(3)
            async with asyncio.timeout(40):
                while await applied(system.orders, "users") < 29:
                    await asyncio.sleep(0.05)
    await log.close()
    result = await asyncio.to_thread(on, on_kafka, "audit")
    assert result.exit_code == 0, result.output
    assert HOLDS in result.output

    plant(copied.users, "DELETE FROM outbox")
    migrate(copied)
    assert (await asyncio.to_thread(on, {}, "audit")).exit_code == 1
    result = await asyncio.to_thread(
        on,
        {"SHOP_KAFKA__BOOTSTRAP_SERVERS": kafka.bootstrap_servers},
        "log",
        "copy",
        "--from",
        "kafka",
    )
    assert result.exit_code == 0, result.output
    assert "3 events copied, 26 were there" in result.output
    await work(copied)
    assert (await asyncio.to_thread(on, {}, "audit")).exit_code == 0


async def applied(orders: object, topic: str) -> int:
    [(highest,)] = await orders.fetch(  # type: ignore[attr-defined]
        "SELECT coalesce(max(last_position), 0) FROM cursors WHERE topic = %(topic)s",
        {"topic": topic},
    )
    return int(highest)
