"""Removes libpq's environment variables (`PGHOST`, `PGTZ`, …), which would affect every connection.

The database's URL says where a connection goes, and the code pins the session's settings. So only libpq's
variables for authentication are kept.
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
        # The files of connection services; libpq reads them only if the URL names a service.
        "PGSERVICEFILE", "PGSYSCONFDIR",
    }
)  # fmt: skip
"""The variables that libpq may read in `shop api`, `worker`, `migrate`, `audit`, `parked` and `events`."""

# Variables that are no parameter of a URL.
_ENVIRONMENT_ONLY = {
    "PGTZ", "PGDATESTYLE", "PGGEQO", "PGSERVICEFILE", "PGSYSCONFDIR", "PGLOCALEDIR", "PGREALM",
    "PGREQUIRESSL", "PGOAUTHDEBUG", "PGOAUTHCAFILE",
}  # fmt: skip


def libpq_variables() -> set[str]:
    """All variables that the libpq of this process reads."""
    with_place = {option.envvar.decode() for option in Conninfo.get_defaults() if option.envvar}
    return with_place | _ENVIRONMENT_ONLY


def forget_libpq_variables(heeded: Collection[str] = ()) -> list[str]:
    """Remove libpq's variables, except `heeded`, for this process and its children. Returns their names."""
    ignored = sorted((libpq_variables() & os.environ.keys()) - set(heeded))
    for name in ignored:
        del os.environ[name]
    return ignored
