"""What is the same address, and in which order things come, in databases of every locale."""

import itertools
import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from shop.platform import discovery
from shop.platform.migrations import NotMigrated, migrate
from tests.support.serving import Served, problem, serving

TURKISH = "tr_TR.UTF-8"
"""I is the capital of ı there, and İ that of i."""

PROVIDERS = {
    "builtin": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'",
    "builtin-full": "LOCALE_PROVIDER builtin BUILTIN_LOCALE 'PG_UNICODE_FAST'",
    "libc-C": "LOCALE_PROVIDER libc LOCALE 'C'",
    "libc-Turkish": f"LOCALE_PROVIDER libc LOCALE '{TURKISH}'",
}

_numbers = itertools.count(1)


def installed() -> bool:
    known = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    return "tr_TR.utf8" in known.split()


def database(postgres: LocalPostgres, locale: str) -> str:
    """The URL of an empty one."""
    if locale == "libc-Turkish" and not installed():
        pytest.skip(f"the system has no locale {TURKISH}: localedef -i tr_TR -f UTF-8 {TURKISH}")
    name = f"test_locale_{next(_numbers)}"
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        admin.execute(
            f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8' {PROVIDERS[locale]}"
        )
    return postgres.dsn(name, "postgres")


def bring_forward(url: str, name: str = "users", to: str = "head") -> None:
    service = discovery.load(name)
    migrate(url, service.tables(), service.migrations, to=to)


@pytest.fixture(scope="module", params=PROVIDERS)
def users(request: pytest.FixtureRequest, postgres: LocalPostgres) -> Iterator[Served]:
    url = database(postgres, request.param)
    bring_forward(url)
    with serving("users", url) as served:
        yield served


def test_an_address_in_another_case_is_taken_at_once_later_and_in_a_change(users: Served) -> None:
    def create(email: str) -> int:
        return users.client.post("/users", json={"email": email, "name": "I"}).status_code

    assert create("INFO@example.com") == 201
    assert create("info@example.com") == 409
    assert create("iNfO@EXAMPLE.COM") == 409
    both = ["RACING-I@example.com", "racing-i@example.com"]
    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(create, both)) == [201, 409]
    other = users.client.post("/users", json={"email": "other@example.com", "name": "O"}).json()
    changed = users.client.patch(f"/users/{other['id']}", json={"email": "Info@example.com"})
    problem(changed, 409, "email-taken")
    for email in ("INFO@example.com", "info@example.com", "iNfO@EXAMPLE.COM"):
        found = users.client.get("/users", params={"email": email}).json()["items"]
        assert [user["email"] for user in found] == ["INFO@example.com"]


# Written by whoever writes to the table: the API takes ASCII alone.
PAIRS = [
    ("IŞIK", "işik"), ("İNCİ", "inci"), ("ÄÖÜ", "äöü"), ("ЯЙ", "яй"), ("ΩΣ", "ωσ"), ("ԱՖ", "աֆ"),
    ("ᲐᲰ", "აჰ"), ("Ꭰ", "ꭰ"), ("𐐀", "𐐨"), ("Ⅷ", "ⅷ"), ("Ｉ", "ｉ"), ("\u212a", "k"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_upper_and_lower_case_are_the_same_in_every_script(
    users: Served, one: str, other: str
) -> None:
    taken = "INSERT INTO users (email, name) VALUES (%s, 'x')"
    with users.connection.transaction(force_rollback=True):
        users.connection.execute(taken, [f"{one}@example.com"])
        with pytest.raises(psycopg.errors.UniqueViolation):
            users.connection.execute(taken, [f"{other}@EXAMPLE.com"])


NAMES_OF_OURS = {"topic", "consumer", "source", "about", "log", "version_num"}
"""Names that the code gives, and ids: no locale takes two of them for one, or sorts them anew when the
system's rules change."""


@pytest.mark.parametrize("schema", [*discovery.names(), "log"])
def test_no_index_goes_by_a_locale_the_text_of_others(
    postgres: LocalPostgres, templates: dict[str, str], schema: str
) -> None:
    """Or a new glibc under the server would leave it in an order that is none any more."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        name = f"test_locale_{next(_numbers)}"
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {templates[schema]}")
    with psycopg.connect(postgres.dsn(name, "postgres")) as connection:
        by_locale = connection.execute(
            """
            SELECT i.indexrelid::regclass::text, a.attname
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indexrelid
            JOIN pg_collation c ON c.oid = i.indcollation[a.attnum - 1]
            WHERE c.collname = 'default' AND i.indrelid::regclass::text NOT LIKE 'pg_%'
            """
        ).fetchall()
    assert {column for _, column in by_locale} <= NAMES_OF_OURS


def turkish_with_pairs(postgres: LocalPostgres, *addresses: str) -> str:
    url = database(postgres, "libc-Turkish")
    bring_forward(url, to="users_0008")
    with psycopg.connect(url) as connection:
        for address in addresses:
            connection.execute("INSERT INTO users (email, name) VALUES (%s, 'x')", [address])
        connection.execute("INSERT INTO users (version, erased_at) VALUES (2, now()), (2, now())")
    return url


def contents(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT u::text FROM users u ORDER BY id").fetchall()
        return [*found, *connection.execute("SELECT version_num FROM alembic_version").fetchall()]


def test_a_database_that_holds_such_a_pair_is_told_which_and_stays_as_it_was(
    postgres: LocalPostgres,
) -> None:
    url = turkish_with_pairs(
        postgres, "info@a.example", "b@a.example", "INFO@a.example", "I@b.example", "i@b.example"
    )
    before = contents(url)
    with pytest.raises(NotMigrated) as refused:
        bring_forward(url)
    said = str(refused.value)
    assert "ids 1, 3; 4, 5; nothing was changed" in said
    assert "example" not in said  # it goes to logs
    assert contents(url) == before
    # What it says is done, by the release that runs on it: by its own events, hence not here.
    with psycopg.connect(url) as connection:
        connection.execute("UPDATE users SET email = id || '@c.example' WHERE id IN (3, 5)")
    bring_forward(url)
    with psycopg.connect(url) as connection, pytest.raises(psycopg.errors.UniqueViolation):
        connection.execute("INSERT INTO users (email, name) VALUES ('INFO@A.EXAMPLE', 'x')")


def test_pairs_of_users_are_all_counted_and_the_first_are_named(
    postgres: LocalPostgres,
) -> None:
    url = turkish_with_pairs(
        postgres, *(f"{name}@{n}.example" for n in range(15) for name in ("I", "i"))
    )
    with pytest.raises(NotMigrated, match=r"19, 20; and 5 more groups; nothing was changed"):
        bring_forward(url)


# As the release before users_0009 wrote it.
CREATED_BEFORE = """
WITH wanted AS (
    SELECT DISTINCT ON (lower(c.email)) c.n, c.email, c.name
    FROM jsonb_to_recordset(%(commands)s::jsonb) AS c(n integer, email text, name text)
    WHERE NOT EXISTS (SELECT FROM users u WHERE lower(u.email) = lower(c.email))
    ORDER BY lower(c.email), c.n
), numbered AS MATERIALIZED (
    SELECT w.n, w.email, w.name, nextval('users_id_seq') AS id
    FROM (SELECT * FROM wanted ORDER BY n) AS w
), created AS (
    INSERT INTO users (id, email, name)
    SELECT id, email, name FROM numbered ORDER BY lower(email)
    ON CONFLICT (lower(email)) DO NOTHING
    RETURNING id, version, created_at
)
SELECT n, email FROM numbered JOIN created USING (id)
"""


def test_an_api_of_the_release_before_goes_on_while_this_one_is_rolled_out(users: Served) -> None:
    asked = [
        {"n": n, "email": email, "name": "x"}
        for n, email in enumerate(["Before-I@b.example", "before-i@b.example", "new@b.example"])
    ]
    with users.connection.transaction(force_rollback=True):
        created = users.connection.execute(CREATED_BEFORE, {"commands": json.dumps(asked)})
        assert sorted(created.fetchall()) == [(0, "Before-I@b.example"), (2, "new@b.example")]
