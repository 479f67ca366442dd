"""Upper and lower case are Unicode's, letter by letter, and not those of the database's locale.

An API of the release before goes on while this one is rolled out: `lower(email)` stays what its
statements name, and takes its rules from the column.
"""

from alembic import op
from sqlalchemy import text

from shop.platform.migrations import NotMigrated

revision = "users_0009"
down_revision = "users_0008"

_SHOWN = 10

# By the new rules, so not by the index, which goes by the old ones. Addresses are left out: what is
# said here ends in logs.
_SHARED = """
SELECT string_agg(id::text, ', ' ORDER BY id), count(*) OVER ()
FROM users WHERE email IS NOT NULL
GROUP BY lower(email COLLATE pg_c_utf8) HAVING count(*) > 1
ORDER BY min(id) LIMIT :shown
"""


def upgrade() -> None:
    # Now and not between: whoever came after the look could be told of with the address.
    op.execute("LOCK TABLE users")
    shared = op.get_bind().execute(text(_SHARED), {"shown": _SHOWN}).all()
    if shared:
        listed = "; ".join(ids for ids, _ in shared)
        more = shared[0][1] - len(shared)
        raise NotMigrated(
            "users have the same e-mail address, but for upper and lower case, which the database's"
            f" locale took for different: ids {listed}{f'; and {more} more groups' if more else ''};"
            " nothing was changed: with the release before, give all but one of each group another"
            " address (PATCH /users/{id}) or erase them (DELETE /users/{id}), then migrate"
        )
    op.execute("ALTER TABLE users ALTER COLUMN email TYPE TEXT COLLATE pg_c_utf8")
