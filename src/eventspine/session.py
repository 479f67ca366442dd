"""Pins the settings of PostgreSQL sessions, whatever the environment, the role and the database set.

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

# The format of values, and the meaning of a statement's text.
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
    # The properties of a transaction.
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "exit_on_error": "off",
    "restrict_nonsystem_relation_kind": "",
    "row_security": "on",
    # Lower levels would send messages that are never read.
    "client_min_messages": "notice",
}

_NO_LIMITS = {
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "lock_timeout": "0",
    "statement_timeout": "0",
    "transaction_timeout": "0",
}

# A process may freeze (SIGSTOP, a paused VM) while it holds a row lock that others need, above all the outbox
# head. PostgreSQL ends such a session after the first limit. Processes that wait for the lock wait longer than
# that. So a frozen process delays the others, and their requests do not fail.
_LIMITS = {
    **_NO_LIMITS,
    "idle_in_transaction_session_timeout": "2s",
    "lock_timeout": "5s",
    "statement_timeout": f"{STATEMENT_WITHIN:g}s",
    # The server detects within 10 s, instead of hours, that this machine is dead.
    "tcp_user_timeout": "10s",
}

# A prepared statement keeps its plan until the table is analysed. A plan that reads the whole table is the
# cheapest for a hundred rows, and a thousand times too expensive for a million. Planning each time costs more
# than most of these statements. But each of them finds a few rows by an index, in the order of that index. For
# them one plan, row by row through the index, is right for any size.
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
    # JIT compilation pays only for statements that take seconds.
    "jit": "off",
}

WHOLE_TABLES = {name: "on" for name, value in _PLANS.items() if name.startswith("enable_")}
"""Settings of a session whose statements read whole tables once."""

SESSION_SETTINGS: Mapping[str, str] = {**_MEANING, **_LIMITS, **_PLANS}
"""The default settings of every session."""

MIGRATION_SETTINGS: Mapping[str, str] = {**_MEANING, **_NO_LIMITS}
"""Settings of a session that changes the schema, without a time limit."""

# Settings that a release of PostgreSQL does not have are skipped. Names are qualified, because the search path
# is not set yet. For `synchronous_commit`, an operator may choose more than `on` (`remote_apply`). `off` is not
# allowed, because an answered request could be lost.
_PIN = b"""
SELECT pg_catalog.set_config(name, value, false)
FROM pg_catalog.json_each_text(%(settings)s::pg_catalog.json) AS settings(name, value)
WHERE pg_catalog.current_setting(name, true) IS NOT NULL
UNION ALL
SELECT pg_catalog.set_config('synchronous_commit', 'on', false)
WHERE pg_catalog.current_setting('synchronous_commit') = 'off'
"""

# A connection fails 10 s after data is sent that the server's kernel does not confirm. While this process only
# waits, it fails 11 s after the last sign of the server.
TCP_LIMITS = {
    "tcp_user_timeout": 10_000,  # ms
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}

CONNECT_WITHIN = 5
"""Seconds that connecting may take. Pinning the session may then take as long again."""


def pinned(settings: Mapping[str, str]) -> tuple[bytes, dict[str, Any]]:
    """The statement that pins a session to these settings, and its parameters."""
    return _PIN, {"settings": json.dumps(dict(settings))}


def connection_parameters(url: str) -> dict[str, Any]:
    """Parameters of libpq. The URL overrides these defaults: the encoding, the timeouts, and no standby."""
    defaults = {
        "client_encoding": "UTF8",
        "connect_timeout": CONNECT_WITHIN,
        # A standby's data may be old. After a failover, the former primary may be a standby.
        "target_session_attrs": "primary",
        **TCP_LIMITS,
    }
    said = conninfo_to_dict(url)
    return {name: value for name, value in defaults.items() if name not in said}
