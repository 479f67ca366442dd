"""`shop parked`: what could not be applied, in a person's hands."""

from collections.abc import Iterator

import psycopg
import pytest

from shop.cli import parked_printer
from tests.support.collector import collecting
from tests.support.databases import Databases, NewDatabase
from tests.support.living import (
    OBEYED,
    SHOWN,
    assert_harmless,
    impatient,
    living,
    plant,
    settings,
    shop,
)
from tests.support.shop import environment
from tests.support.terminals import Terminal

# No customer of this name can be kept: the name breaks user 3 and, later, user 7.
BREAK = (
    "ALTER TABLE customers ADD CONSTRAINT unlucky CHECK (name NOT LIKE 'U 3%' AND name <> 'U 7!')"
)
MEND = "ALTER TABLE customers DROP CONSTRAINT unlucky"


@pytest.fixture(scope="module")
async def settled(
    anyio_backend: str, new_database: NewDatabase, templates: dict[str, str]
) -> Databases:
    """Users 1 to 10 are applied but for 3, which is parked with two events behind it; and of 7 the
    second event is, with one behind it. Somebody wrote hello to the topic.
    """
    urls = Databases({name: new_database(template) for name, template in templates.items()})
    plant(urls.orders, BREAK)
    async with living(urls) as system:
        async with system.moving("users relay", "orders consumer"):
            await system.create(10)
            await system.update(3, 7)
            await system.update(3, 7, 8)
            await system.settled("orders")
        plant(
            urls.log,
            "INSERT INTO log_records VALUES ('users', 0, 15, '8', 'hello', '{}')",
            "UPDATE log_heads SET next_offset = next_offset + 1 WHERE topic = 'users'",
        )
        async with system.moving("orders consumer"):
            await system.settled("orders")
    return urls


@pytest.fixture
def orders(copied: Databases) -> Iterator[psycopg.Connection]:
    with psycopg.connect(copied.orders, autocommit=True) as connection:
        yield connection


def names(orders: psycopg.Connection, *ids: int) -> list[tuple[int, str, int]]:
    rows = orders.execute("SELECT id, name, version FROM customers WHERE id = ANY(%s)", [list(ids)])
    return sorted(rows.fetchall())


def parked(orders: psycopg.Connection) -> list[tuple[str, int, str, int]]:
    return orders.execute(
        'SELECT key, position, cause, attempts FROM parked ORDER BY "offset"'
    ).fetchall()


ALL = [
    ("3", 3, "CheckViolation", 1),
    ("3", 11, "behind another", 1),
    ("7", 12, "CheckViolation", 1),
    ("3", 13, "behind another", 1),
    ("7", 14, "behind another", 1),
    ("8", 0, "not an event", 1),
]


def test_control_characters_in_records_do_nothing_to_the_terminal(
    copied: Databases, orders: psycopg.Connection
) -> None:
    orders.execute(
        "UPDATE parked SET key = %(bad)s, cause = %(bad)s, error = %(bad)s, value = %(bytes)s,"
        " headers = jsonb_build_object(%(bad)s::text, %(bad)s::text) WHERE key = '3'",
        {"bad": OBEYED, "bytes": OBEYED.encode()},
    )
    for words in (
        ["list", "orders"],
        ["show", "orders", OBEYED],
        ["retry", "orders", "--key", OBEYED, "--dry-run"],
        ["discard", "orders", "--key", OBEYED, "--dry-run"],
        ["retry", "orders", "--key", OBEYED],
    ):
        result = shop(copied, "parked", *words)
        assert SHOWN in result.stdout, result.output
        assert_harmless(result.stdout)
    result = shop(copied, "audit", "orders")
    assert SHOWN.replace(r"\r\n", " ") in result.stdout
    assert_harmless(result.stdout)


def test_list_shows_a_line_for_each_and_counts_the_keys(
    copied: Databases, orders: psycopg.Connection
) -> None:
    assert parked(orders) == ALL
    assert names(orders, 3, 7, 8) == [(7, "U 7", 1), (8, "U 8!", 2)]
    listed = shop(copied, "parked", "list", "orders")
    assert listed.exit_code == 0
    *lines, summary = listed.stdout.splitlines()
    assert [line.partition("  ")[0] for line in lines] == [
        "users/0@2 position 3", "users/0@10 position 11", "users/0@11 position 12",
        "users/0@12 position 13", "users/0@13 position 14", "users/0@15",
    ]  # fmt: skip
    assert 'key 3  CheckViolation: new row for relation "customers" violates check' in lines[0]
    assert "key 8  not an event: it has no header 'ce_id'" in lines[-1]
    assert summary == "6 parked, of 2 blocked key(s)"
    of_seven = shop(copied, "parked", "list", "orders", "--key", "7").stdout
    assert of_seven.endswith("\n2 parked, of 1 blocked key(s)\n")
    strange = shop(copied, "parked", "list", "orders", "--cause", "not an event").stdout
    assert strange.endswith("\n1 parked, of 0 blocked key(s)\n")
    none = shop(copied, "parked", "list", "users")
    assert (none.exit_code, none.stdout) == (0, "0 parked, of 0 blocked key(s)\n")


def test_what_is_chosen_by_a_pattern_and_by_when_it_was_parked(
    copied: Databases, orders: psycopg.Connection
) -> None:
    found = shop(copied, "parked", "list", "orders", "--grep", "u 7!!|HELLO").stdout
    assert [line.split()[0] for line in found.splitlines()[:-1]] == ["users/0@13", "users/0@15"]
    orders.execute("UPDATE parked SET parked_at = now() - interval '3 h' WHERE key <> '8'")
    late = shop(copied, "parked", "list", "orders", "--since", "1h").stdout
    assert late.endswith("\n1 parked, of 0 blocked key(s)\n")
    assert shop(copied, "parked", "discard", "orders", "--since", "1h").exit_code == 0
    assert parked(orders) == ALL[:-1]
    wrong = shop(copied, "parked", "retry", "orders", "--grep", "[")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "--grep [ is not a regular expression" in wrong.stderr
    assert parked(orders) == ALL[:-1]


def test_causes_are_coloured_on_a_terminal_unless_no_color_is_set(copied: Databases) -> None:
    words = ["parked", "list", "orders", "--data", "/nowhere"]
    for more, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        with Terminal(
            words, environment(**settings(copied), TERM="xterm", **more), columns=200
        ) as terminal:
            assert terminal.end() == 0
            assert (b"\x1b[31mCheckViolation" in terminal.shown) is expected
            assert b"not an event" in terminal.shown


def test_show_shows_a_keys_events_whole(copied: Databases) -> None:
    shown = shop(copied, "parked", "show", "orders", "7")
    assert shown.exit_code == 0
    assert "ce_type: user.updated" in shown.stdout
    assert "ce_id: 12" in shown.stdout and "ce_id: 14" in shown.stdout
    assert '"name": "U 7!!"' in shown.stdout
    assert "hello" in shop(copied, "parked", "show", "orders", "8").stdout
    assert shop(copied, "parked", "show", "orders", "99").stdout == (
        "no parked record has the key 99\n"
    )


@pytest.mark.parametrize("command", ["retry", "discard"])
def test_a_dry_run_says_what_would_be_done_and_does_nothing(
    copied: Databases, orders: psycopg.Connection, command: str
) -> None:
    orders.execute(MEND)
    result = shop(copied, "parked", command, "orders", "--key", "3", "--dry-run")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert len(lines) == (1 if command == "retry" else 3)
    assert all(line.startswith(f"would {command}") for line in lines)
    assert parked(orders) == ALL


def test_retry_of_a_key_that_still_fails_says_why_and_exits_1(
    copied: Databases, orders: psycopg.Connection
) -> None:
    result = shop(copied, "parked", "retry", "orders", "--key", "3")
    assert result.exit_code == 1
    assert "key 3 in topic users: applied 0, left 3: CheckViolation: new row" in result.stdout
    assert parked(orders) == [("3", 3, "CheckViolation", 2), *ALL[1:]]


def test_retry_of_a_mended_key_applies_it_and_only_it(
    copied: Databases, orders: psycopg.Connection
) -> None:
    orders.execute(MEND)
    result = shop(copied, "parked", "retry", "orders", "--key", "3")
    assert (result.exit_code, result.stdout) == (0, "key 3 in topic users: applied 3, left 0\n")
    assert names(orders, 3) == [(3, "U 3!!", 3)]
    assert [key for key, *_ in parked(orders)] == ["7", "7", "8"]


def test_a_retry_is_a_span_in_the_trace_of_each_request(
    copied: Databases, orders: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    orders.execute(
        "UPDATE parked SET headers = headers || jsonb_build_object('traceparent', %s::text) WHERE key = '3'",
        [f"00-{trace}-{span}-01"],
    )
    with collecting() as collector:
        monkeypatch.setenv("SHOP_TELEMETRY__OTLP_ENDPOINT", collector.url)
        assert shop(copied, "parked", "retry", "orders", "--key", "3").exit_code == 1
        orders.execute(MEND)
        assert shop(copied, "parked", "retry", "orders", "--key", "3").exit_code == 0
        seen = collector.spans()
    assert [each.is_error for each in seen] == [True, False, False, False]
    for each in seen:
        assert (each.process, each.name) == ("orders-parked", "process users")
        assert (each.trace, each.parent) == (trace, span)
        assert each.attributes["messaging.consumer.group.name"] == "orders"


def test_retry_by_cause_takes_all_its_keys_with_what_waits_behind(
    copied: Databases, orders: psycopg.Connection
) -> None:
    orders.execute(MEND)
    result = shop(copied, "parked", "retry", "orders", "--cause", "CheckViolation")
    assert result.exit_code == 0
    assert "key 3 in topic users: applied 3" in result.stdout
    assert "key 7 in topic users: applied 2" in result.stdout
    assert names(orders, 3, 7) == [(3, "U 3!!", 3), (7, "U 7!!", 3)]
    assert parked(orders) == ALL[-1:]
    assert shop(copied, "audit", "orders").exit_code == 1, "hello is still there"
    assert shop(copied, "parked", "discard", "orders", "--key", "8").exit_code == 0
    assert shop(copied, "audit").exit_code == 0


def test_retry_of_everything_fails_for_what_is_no_event(
    copied: Databases, orders: psycopg.Connection
) -> None:
    orders.execute(MEND)
    result = shop(copied, "parked", "retry", "orders")
    assert result.exit_code == 1
    assert "key 8 in topic users: applied 0, left 1: NotAnEvent: it has no header" in result.stdout
    assert [key for key, *_ in parked(orders)] == ["8"]
    nothing = shop(copied, "parked", "retry", "orders", "--key", "3")
    assert (nothing.exit_code, nothing.stdout) == (0, "no parked record matches\n")


def test_a_discarded_event_leaves_a_gap_that_has_to_be_accepted(
    copied: Databases, orders: psycopg.Connection
) -> None:
    words = ["discard", "orders", "--key", "7", "--cause", "CheckViolation"]
    result = shop(copied, "parked", *words)
    assert result.exit_code == 0
    assert result.stdout.endswith("\n1 discarded; they stay in the log\n")
    refused = shop(copied, "parked", "retry", "orders", "--key", "7")
    assert refused.exit_code == 1
    assert "MissingEvents: customers 7: version 3 arrived after version 1" in refused.stdout
    accepted = shop(copied, "parked", "retry", "orders", "--key", "7", "--accept-gaps")
    assert (accepted.exit_code, accepted.stdout) == (0, "key 7 in topic users: applied 1, left 0\n")
    assert names(orders, 7) == [(7, "U 7!!", 3)]


def test_discard_wants_to_be_told_what(copied: Databases, orders: psycopg.Connection) -> None:
    result = shop(copied, "parked", "discard", "orders")
    assert result.exit_code == 2
    assert result.stderr == (
        "shop: select what to discard, with --key, --cause, --since or --grep\n"
    )
    assert parked(orders) == ALL


def test_what_is_wrong_is_one_sentence(copied: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch, parked_printer)
    unknown = shop(copied, "parked", "list", "payments")
    assert unknown.exit_code == 2
    assert (
        unknown.stderr
        == "shop: there is no service payments; there are: greetings, orders, users\n"
    )
    away = copied.but(orders="postgresql://a@/b?host=/nowhere")
    unreachable = shop(away, "parked", "list", "orders")
    assert unreachable.exit_code == 2
    (sentence,) = unreachable.stderr.splitlines()
    assert sentence.startswith("shop: cannot use the database: ")
