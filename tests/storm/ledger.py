"""The ledger: a row for every event applied, written in the transaction that applies it.

It is the handler that is not idempotent: an event applied twice stands there twice, and one that was
stepped over does not. There is no constraint that would hide it.
"""

from collections.abc import Sequence
from typing import Any

from pydantic_core import to_json

from eventspine.interceptors import Interceptor, Proceed
from eventspine.outbox import Transaction
from eventspine.received import Received

LEDGER_SQL = """
CREATE TABLE storm_ledger (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    topic text NOT NULL,
    partition integer NOT NULL,
    "offset" bigint NOT NULL,
    position bigint NOT NULL,
    key text NOT NULL,
    version bigint NOT NULL,
    retried boolean NOT NULL,
    pid integer NOT NULL DEFAULT pg_backend_pid(),
    at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT ALL ON storm_ledger TO PUBLIC;
-- For `mutations/head_lock`.
CREATE SEQUENCE storm_positions;
GRANT ALL ON storm_positions TO PUBLIC;
"""
"""To be run once in each service's database. `seq` is the order in which events were applied, within
a partition; `retried` says that `shop parked retry` did it, and not a consumer."""

_ENTER = """
INSERT INTO storm_ledger (topic, partition, "offset", position, key, version, retried)
SELECT topic, partition, "offset", position, key, version, retried
FROM jsonb_to_recordset(%(entries)s::jsonb) AS e(
    topic text, partition integer, "offset" bigint, position bigint, key text, version bigint,
    retried boolean)
"""


class Ledger(Interceptor):
    """Has every event entered that handlers are given."""

    def __init__(self, *, retried: bool) -> None:
        self._retried = retried

    async def apply(
        self, tx: Transaction, received: Sequence[Received[Any]], proceed: Proceed
    ) -> None:
        await proceed()
        entries = [
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "position": position,
                "key": event.key,
                "version": event.version,
                "retried": self._retried,
            }
            for event, position, record in received
        ]
        await tx.execute(_ENTER, {"entries": to_json(entries).decode()})
