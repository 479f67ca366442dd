"""Migrations of the spine's tables and of the log's tables.

A step is a file in `spine/`: the next number, its SQL, and the same change in `tables.py`. It is run in
every database of a service, before the service's own migrations. A step that was released never changes.
"""

from importlib import import_module
from importlib.resources import files
from pathlib import Path

SPINE = Path(str(files(__name__))) / "spine"
LOG = Path(str(files(__name__))) / "log"


def steps() -> list[str]:
    """The SQL of the spine's steps, in their order, for a database without a service."""
    return [
        str(import_module(f"{__name__}.spine.{file.stem}").SQL)
        for file in sorted(SPINE.glob("[0-9]*.py"))
    ]


PUBLISH_EVENTS = """
CREATE FUNCTION publish_events(count integer, events jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    base bigint;
BEGIN
    -- STRICT: if the head is gone this fails, instead of publishing nothing.
    UPDATE outbox_head SET position = position + count RETURNING position - count INTO STRICT base;
    INSERT INTO outbox (position, topic, key, type, schema_version, version, time, data, headers)
    SELECT base + e.n, e.t, e.k, e.y, e.s, e.v, clock_timestamp(), e.d, e.h
    FROM ROWS FROM (
        jsonb_to_recordset(events) AS
            (t text, k text, y text, s integer, v bigint, d jsonb, h jsonb)
    ) WITH ORDINALITY AS e(t, k, y, s, v, d, h, n);
    PERFORM pg_notify('outbox', '');
END
$$;
"""
"""The outbox write is a transaction's last statement. It locks the row of `outbox_head`, advances its position
by the number of events, and stores the events with the positions in between."""

RUNNING_MS = """
CREATE FUNCTION running_ms() RETURNS bigint LANGUAGE plpgsql STABLE AS $$
BEGIN
    RETURN (SELECT ms FROM running_time);
END
$$;
"""
"""The present running time, as the default of new rows."""
