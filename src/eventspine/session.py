"""Sets how a session with PostgreSQL behaves, whatever its environment, role and database set.

libpq's environment (`PGTZ`), the URL (`?options=`), `ALTER DATABASE … SET`, `ALTER ROLE … SET` and the server's
configuration file may each change the format of values, timeouts and planning. So the first statement of every
session sets all of these, which overrides the others. (libpq's `options` would not: `PGTZ` and `PGDATESTYLE`
override them, and a pooler refuses them.)
"""

import json
from collections.abc import Mapping
from typing import Any

from psycopg.conninfo import conninfo_to_dict

STATEMENT_WITHIN = 15.0
"""Seconds after which PostgreSQL ends a statement."""

# What values look like, and what a statement's text means.
_MEANING = {
    "search_path": "public",
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "timezone_abbreviations": "Default",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "default_text_search_config": "pg_catalog.simple",
    "gin_fuzzy_search_limit": "0",
    "xmlbinary": "base64",
    "xmloption": "content",
    "array_nulls": "on",
    "backslash_quote": "safe_encoding",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "transform_null_equals": "off",
    # What a transaction is.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    "restrict_nonsystem_relation_kind": "",
    "row_security": "on",
    # Messages that are never read would be sent with every answer.
    "client_min_messages": "notice",
}

_NO_LIMITS = {
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "transaction_timeout": "0",
}

# A process may freeze (SIGSTOP, a paused VM) while it holds a row others need: most of all the
# outbox head. PostgreSQL ends such a session after the first limit; a process that waits for it must wait
# longer than that, so that one frozen process costs the others a pause and not a refusal.
_LIMITS = {
    **_NO_LIMITS,
    "idle_in_transaction_session_timeout": "2s",
    "lock_timeout": "5s",
    "statement_timeout": f"{STATEMENT_WITHIN:g}s",
    # The server notices in 10 s, instead of hours, that this machine is dead.
    "tcp_user_timeout": "10s",
}

# A prepared statement keeps its plan until the table is analysed. A plan that reads the whole table is
# the cheapest while that has a hundred rows, and a thousand times dearer when it has a million. To plan
# each time anew costs more than most of these statements do. But each of them finds a few rows by an
# index, in the order of that index, and for those one plan is right for any size: row by row.
_PLANS = {
    "plan_cache_mode": "auto",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_material": "off",
    "enable_sort": "off",
    "enable_incremental_sort": "off",
    "enable_indexscan": "on",
    "enable_indexonlyscan": "on",
    "enable_nestloop": "on",
    # Compiling pays for statements that take seconds.
    "jit": "off",
}

WHOLE_TABLES = {name: "on" for name, value in _PLANS.items() if name.startswith("enable_")}
"""For a session whose statements read whole tables, once."""

SESSION_SETTINGS: Mapping[str, str] = {**_MEANING, **_LIMITS, **_PLANS}
"""What every session is pinned to, unless it asks for something else."""

MIGRATION_SETTINGS: Mapping[str, str] = {**_MEANING, **_NO_LIMITS}
"""For a session that changes the schema: that takes the time it takes."""

# What a release of PostgreSQL has no more, or not yet, needs no pin. Names are qualified, since the
# search path may still be any role's. An operator may ask for more than `on` (`remote_apply`); with `off`,
# what was answered could be lost.
_PIN = b"""
SELECT pg_catalog.set_config(name, value, false)
FROM pg_catalog.json_each_text(%(settings)s::pg_catalog.json) AS settings(name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL
UNION ALL
SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'
"""

# 10 s after what was sent is not confirmed by the server's kernel, and 11 s after it was last heard of
# by one who waits.
TCP_LIMITS = {
    "tcp_user_timeout": 10_000,  # ms
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

CONNECT_WITHIN = 5
"""Seconds that connecting may take, and then that pinning the session may."""


def pinned(settings: Mapping[str, str]) -> tuple[bytes, dict[str, Any]]:
    """The statement that pins a session to these, and its parameters."""
    return _PIN, {"settings": json.dumps(dict(settings))}


def connection_parameters(url: str) -> dict[str, Any]:
    """libpq's, where the URL itself does not say: the encoding, how long it waits, and that it takes no
    standby.
    """
    defaults = {
        "client_encoding": "UTF8",
        "connect_timeout": CONNECT_WITHIN,
        # What a standby answers may be old by any length of time; and after a failover the server that
        # was the primary may be one.
        "target_session_attrs": "primary",
        **TCP_LIMITS,
    }
    said = conninfo_to_dict(url)
    return {name: value for name, value in defaults.items() if name not in said}
