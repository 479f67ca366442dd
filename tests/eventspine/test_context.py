"""One context, from the request to the handler of the event."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any, NamedTuple

import pytest

from eventspine.answers import Answer, Key
from eventspine.batching import Batcher
from eventspine.consumer import Consumer
from eventspine.context import NOBODY, Context, Request, from_headers
from eventspine.handlers import Handlers
from eventspine.idempotency import canonical, once_in_transaction
from eventspine.outbox import Transaction, transaction
from eventspine.received import Received
from tests.support import notes
from tests.support.memory_log import MemoryLog
from tests.support.notes import NoteTaken
from tests.support.spine import opened
from tests.support.waiting import eventually

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
WHOLE = Context(TRACE, "vendor=1", "user:17", idempotency_key="k-1", deadline=1.0)


def test_an_event_carries_its_context_and_neither_the_key_nor_the_deadline() -> None:
    headers = WHOLE.headers()
    assert headers == {
        "traceparent": TRACE,
        "tracestate": "vendor=1",
        "ce_authtype": "user",
        "ce_authid": "17",
        "ce_idempotencykeyhash": sha256(b"k-1").hexdigest(),
    }
    arrived = from_headers(headers)
    assert arrived == WHOLE._replace(
        key_hash=sha256(b"k-1").hexdigest(), idempotency_key=None, deadline=NOBODY.deadline
    )
    assert arrived.headers() == headers


@pytest.mark.parametrize("context", [NOBODY, Context(tracestate="vendor=1")])
def test_a_context_of_nothing_costs_no_header(context: Context) -> None:
    assert context.headers() is None


async def test_a_context_goes_from_the_command_to_the_handler_and_on(
    notes_url: str, copy_url: str
) -> None:
    seen: list[Received[NoteTaken]] = []

    async def take(tx: Transaction, requests: Sequence[Request[int]]) -> list[int]:
        for request in requests:
            await notes.save(tx, [])
            tx.publish(notes.event(request.command, 1), request.context)
        return [request.command for request in requests]

    async def listen(tx: Transaction, received: Sequence[Received[NoteTaken]]) -> None:
        seen.extend(received)
        for one in received:
            tx.publish(notes.event(one.event.id + 100, 1), one.context)

    log = MemoryLog(1)
    async with opened(notes_url) as database, opened(copy_url) as copy:
        key = Key("k-1", b"asked", lambda _: Answer(200, (), b""))
        await once_in_transaction(database, take)([Request(7, WHOLE, key)])
        consumer = Consumer(copy, log, Handlers("copy", {NoteTaken: listen}))
        relay = notes.relay(notes_url, log)
        async with notes.Running(relay.run(), consumer.run()):

            async def heard() -> bool:
                return bool(seen) and bool(await copy.fetch("SELECT FROM outbox"))

            await eventually(heard)
        [(headers,)] = await copy.fetch("SELECT headers FROM outbox")
        assert headers == WHOLE.headers()
    [one] = seen
    assert (one.event.id, one.position, one.source) == (7, 1, "/notes")
    assert one.record.offset == 0
    assert one.time is not None and one.time.tzinfo is not None
    assert one.context.caller == "user:17" and one.context.traceparent == TRACE


class Buy(NamedTuple):
    """A command of the release before."""

    price: Decimal
    at: datetime
    tags: frozenset[str]
    note: str | None = None


def _next_release() -> type[Any]:
    class Buy(NamedTuple):
        gift: bool = False
        price: Decimal = Decimal(-1)
        at: datetime | None = None
        tags: frozenset[str] = frozenset()
        note: str | None = None

    return Buy


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def test_the_canonical_form_stays_what_it_is() -> None:
    """A change of it has every retry across an upgrade taken for another request: count the form up."""
    asked = canonical(Buy(Decimal("50.00"), NOON, frozenset("ba")), "user:17")
    assert asked == (
        b'["Buy",{"at":"2026-01-01T12:00:00+00:00","price":"50","tags":["a","b"]},"user:17"]'
    )


def test_a_field_that_a_release_adds_changes_no_form() -> None:
    new = _next_release()
    before = Buy(Decimal("0.10"), NOON, frozenset())
    after = new(price=Decimal("0.1"), at=NOON)
    assert canonical(before._replace(tags=frozenset("x")), None) == canonical(
        after._replace(tags=frozenset("x")), None
    )
    assert canonical(after._replace(tags=frozenset("x"), gift=True), None) != canonical(
        before._replace(tags=frozenset("x")), None
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Decimal("1E+2"), Decimal(100)),
        (Decimal("0.0"), Decimal(0)),
        (
            Decimal("99999999999999999999999999999999.10"),
            Decimal("99999999999999999999999999999999.1"),
        ),
    ],
)
def test_equal_numbers_have_one_form(one: Decimal, other: Decimal) -> None:
    of = Buy(one, NOON, frozenset())
    assert canonical(of, None) == canonical(of._replace(price=other), None)


async def _done(tx: Transaction, requests: Sequence[Request[int]]) -> list[int]:
    return [request.command for request in requests]


async def test_a_fingerprint_of_another_release_is_given_its_answer_and_does_nothing(
    notes_url: str,
) -> None:
    async with opened(notes_url) as database:
        key = Key("k", b"asked", lambda _: Answer(200, (), b"the first"))
        batcher = Batcher(once_in_transaction(database, _done))
        await batcher.submit(Request(1, key=key))
        for form in (b"\x02" + key.salted[1:], key.salted[1:]):
            async with transaction(database) as tx:
                await tx.execute(
                    "UPDATE idempotency_keys SET fingerprint = %(form)s", {"form": form}
                )
            other = Key("k", b"asked otherwise", lambda _: Answer(200, (), b"the second"))
            again = await batcher.submit(Request(1, key=other))
            assert isinstance(again, Answer) and again.body == b"the first"
        await batcher.close()
