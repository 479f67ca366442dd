"""libpq's variables (`PGHOST`, `PGTZ`, …), which would reach every connection of a process.

The database's URL says where a connection goes, and the code what its session is like. So of libpq's
variables only those are heeded that say how each side proves who it is.
"""

import os
from collections.abc import Collection

from psycopg.pq import Conninfo

HEEDED = frozenset(
    {
        "PGPASSWORD", "PGPASSFILE", "PGREQUIREAUTH", "PGREQUIREPEER", "PGCHANNELBINDING",
        "PGSSLMODE", "PGSSLNEGOTIATION", "PGSSLCERT", "PGSSLKEY", "PGSSLCERTMODE",
        "PGSSLROOTCERT", "PGSSLCRL", "PGSSLCRLDIR", "PGSSLSNI", "PGSSLCOMPRESSION",
        "PGSSLMINPROTOCOLVERSION", "PGSSLMAXPROTOCOLVERSION",
        "PGGSSENCMODE", "PGKRBSRVNAME", "PGGSSLIB", "PGGSSDELEGATION",
        # Where a service is looked up; heeded only if the URL names one.
        "PGSERVICEFILE", "PGSYSCONFDIR",
    }
)  # fmt: skip
"""What `shop api`, `worker`, `migrate`, `audit`, `parked` and `events` let libpq read."""

# Beside those that have a place in a URL.
_ENVIRONMENT_ONLY = {
    "PGTZ", "PGDATESTYLE", "PGGEQO", "PGSERVICEFILE", "PGSYSCONFDIR", "PGLOCALEDIR", "PGREALM",
    "PGREQUIRESSL", "PGOAUTHDEBUG", "PGOAUTHCAFILE",
}  # fmt: skip


def libpq_variables() -> set[str]:
    """All that the libpq of this process reads."""
    with_place = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    return with_place | _ENVIRONMENT_ONLY


def forget_libpq_variables(heeded: Collection[str] = ()) -> list[str]:
    """Take them out of this process's environment, and so out of its children's; gives their names."""
    ignored = sorted((libpq_variables() & os.environ.keys()) - set(heeded))
    for name in ignored:
        del os.environ[name]
    return ignored
