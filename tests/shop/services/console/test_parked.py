"""The page of parked keys: what is stuck, why, what waits behind it; retry, discard, undo."""

import re
from collections.abc import Iterator

import httpx
import psycopg
import pytest

from shop.services.console import access
from shop.services.console.stuck import Key
from tests.support.consoles import confirmed, console, fields, tick
from tests.support.databases import Databases, NewDatabase
from tests.support.living import living, plant

BREAK = "ALTER TABLE customers ADD CONSTRAINT unlucky CHECK (name NOT LIKE 'U %')"
MEND = "ALTER TABLE customers DROP CONSTRAINT unlucky"


@pytest.fixture(scope="module")
async def settled(
    anyio_backend: str, new_database: NewDatabase, templates: dict[str, str]
) -> Databases:
    """Users 1 to 5 are parked, and of 3 two more events behind; somebody wrote hello to the topic."""
    urls = Databases({name: new_database(template) for name, template in templates.items()})
    plant(urls.orders, BREAK)
    async with living(urls) as system:
        async with system.moving("users relay", "orders consumer"):
            await system.create(5)
            await system.update(3)
            await system.update(3)
            await system.settled("orders")
        plant(
            urls.log,
            "INSERT INTO log_records VALUES ('users', 0, 7, '8', '<b>hello</b>', '{}')",
            "UPDATE log_heads SET next_offset = next_offset + 1 WHERE topic = 'users'",
        )
        async with system.moving("orders consumer"):
            await system.settled("orders")
    return urls


@pytest.fixture
def client(copied: Databases) -> Iterator[httpx.Client]:
    with console(copied) as client:
        yield client


def rows(urls: Databases, sql: str) -> list[tuple[object, ...]]:
    with psycopg.connect(urls.orders, autocommit=True) as connection:
        return connection.execute(sql.encode()).fetchall()


def parked(urls: Databases) -> list[tuple[object, ...]]:
    return rows(
        urls,
        'SELECT key, "offset", attempts, parked_at, headers, value FROM parked ORDER BY "offset"',
    )


def keys(page: str) -> list[str]:
    return re.findall(r'class="mono">(users/[^<]+)</a>', page)


def test_it_shows_each_key_with_its_cause_and_what_waits_behind(client: httpx.Client) -> None:
    page = client.get("/parked").text
    assert keys(page) == [f"users/{n}" for n in (1, 2, 3, 4, 5, 8)]
    assert '<b class="figure" data-total>6</b> keys' in page
    assert '<b class="figure">2</b> events wait behind' in page
    assert page.count("CheckViolation") >= 5
    assert "not an event" in page


def test_filters_are_in_the_address(client: httpx.Client) -> None:
    for query, expected in {
        "key=3": ["users/3"],
        "cause=not+an+event": ["users/8"],
        "text=U4%40EXAMPLE.com": ["users/4"],
        "text=%3Cb%3Ehello": ["users/8"],
        "service=orders&cause=CheckViolation&key=2": ["users/2"],
    }.items():
        assert keys(client.get(f"/parked?{query}").text) == expected, query
    nothing = client.get("/parked?service=users").text
    assert keys(nothing) == []
    assert "No parked key matches" in nothing


def test_a_keys_own_page_shows_its_records_whole_and_nothing_of_them_is_html(
    client: httpx.Client,
) -> None:
    page = client.get("/parked").text
    [three, eight] = tick(page, "3", "8")
    own = client.get(f"/parked/key/{three}").text
    assert own.count('<article class="card stack">') == 3
    assert "behind another" in own
    assert "u3@example.com" in own
    hello = client.get(f"/parked/key/{eight}").text
    assert "&lt;b&gt;hello&lt;/b&gt;" in hello
    assert "<b>hello" not in hello
    for wrong in ("x", "W10", "é"):
        assert client.get(f"/parked/key/{wrong}").status_code == 404


def test_a_mended_key_is_retried_with_what_waits_and_only_it(
    client: httpx.Client, copied: Databases
) -> None:
    page = client.get("/parked").text
    plant(copied.orders, MEND)
    done = confirmed(client, {"act": "retry", "id": tick(page, "3")})
    assert '<b class="figure">1</b> of 1 keys, <b class="figure">3</b> records applied' in done
    assert "can't be taken back" in done
    assert keys(client.get("/parked").text) == [f"users/{n}" for n in (1, 2, 4, 5, 8)]
    assert rows(copied, "SELECT name, version FROM customers") == [("U 3!!", 3)]


def test_a_key_that_fails_again_says_why_and_stays(client: httpx.Client, copied: Databases) -> None:
    page = client.get("/parked").text
    done = confirmed(client, {"act": "retry", "id": tick(page, "2", "3")})
    assert '<b class="figure">2</b> keys failed' in done
    assert "CheckViolation" in done
    assert len(parked(copied)) == 8


def test_a_deed_that_the_database_refuses_ends_and_says_why(
    client: httpx.Client, copied: Databases
) -> None:
    page = client.get("/parked").text
    # A retry locks the place of its partition, and the pages do not read it.
    plant(copied.orders, "ALTER TABLE cursors RENAME TO hidden")
    done = confirmed(client, {"act": "retry", "id": tick(page, "3")})
    assert '<b class="figure">1</b> key failed' in done
    assert "relation &#34;cursors&#34; does not exist" in done


def test_all_that_match_are_retried_and_the_others_are_not(
    client: httpx.Client, copied: Databases
) -> None:
    plant(copied.orders, MEND)
    done = confirmed(client, {"act": "retry-all", "cause": "CheckViolation"})
    assert '<b class="figure">5</b> of 5 keys, <b class="figure">7</b> records applied' in done
    assert keys(client.get("/parked").text) == ["users/8"]
    assert rows(copied, "SELECT count(*) FROM customers") == [(5,)]


def test_the_question_says_how_many_and_nothing_happens_before_the_answer(
    client: httpx.Client, copied: Databases
) -> None:
    before = parked(copied)
    page = client.get("/parked").text
    question = client.post("/parked/confirm", data={"act": "discard", "id": tick(page, "1", "3")})
    assert "<h1>Discard 2 keys?</h1>" in question.text
    assert '<b class="figure">4</b> parked records' in question.text
    assert parked(copied) == before


def test_a_discard_is_undone_exactly(client: httpx.Client, copied: Databases) -> None:
    before = parked(copied)
    page = client.get("/parked").text
    done = confirmed(client, {"act": "discard", "id": tick(page, "1", "3", "8")})
    assert '<b class="figure">5</b> records discarded' in done
    assert len(parked(copied)) == 3
    [path] = re.findall(r'action="(/parked/deeds/[^"]+/undo)"', done)
    assert client.post(path).status_code == 303
    assert parked(copied) == before
    assert "Undone: 5 records are parked again" in client.get(path.removesuffix("/undo")).text
    assert client.post(path).status_code == 303  # a second time does nothing
    assert parked(copied) == before
    plant(copied.orders, MEND)
    again = confirmed(client, {"act": "retry-all", "key": "3"})
    assert '<b class="figure">3</b> records applied' in again


def test_only_the_first_record_of_a_key_can_be_discarded_and_the_gap_accepted(
    client: httpx.Client, copied: Databases
) -> None:
    page = client.get("/parked").text
    confirmed(client, {"act": "discard", "id": tick(page, "3")}, only_first="on")
    assert len(parked(copied)) == 7
    plant(copied.orders, MEND)
    page = client.get("/parked").text
    refused = confirmed(client, {"act": "retry", "id": tick(page, "3")})
    assert "MissingEvents" in refused
    done = confirmed(client, {"act": "retry", "id": tick(page, "3")}, accept_gaps="on")
    assert '<b class="figure">2</b> records applied' in done


def test_if_other_keys_match_than_were_asked_about_it_asks_again(
    client: httpx.Client, copied: Databases
) -> None:
    question = client.post("/parked/confirm", data={"act": "discard-all"}).text
    plant(copied.orders, "DELETE FROM parked WHERE key = '5'")
    again = client.post("/parked/do", data=fields(question))
    assert again.status_code == 200
    assert "5 keys match now, and not 6 as before. Nothing was done yet." in again.text
    assert len(parked(copied)) == 7


def test_a_request_of_another_site_or_without_a_key_does_nothing(
    client: httpx.Client, copied: Databases
) -> None:
    other = {"Sec-Fetch-Site": "cross-site"}
    answer = client.post("/parked/do", data={"act": "discard-all", "count": "6"}, headers=other)
    assert answer.status_code == 403
    assert "No key is chosen" in client.post("/parked/do", data={"act": "discard"}).text
    assert len(parked(copied)) == 8


def test_a_database_that_is_away_is_said_and_the_others_are_shown(
    copied: Databases, tmp_path_factory: pytest.TempPathFactory
) -> None:
    gone = f"postgresql://nobody@/gone?host={tmp_path_factory.mktemp('gone')}"
    with console(copied.but(users=gone)) as client:
        page = client.get("/parked").text
    assert "The database of <b>users</b> can't be read" in page
    assert len(keys(page)) == 6


def test_who_may_only_look_sees_no_button_and_can_do_nothing(
    copied: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "OPEN", access.Viewer("a supporter", may_act=False))
    with console(copied) as client:
        for path in (
            "/parked",
            f"/parked/key/{Key('orders', 'orders', 'users', '3').text}",
            "/checks",
        ):
            page = client.get(path)
            assert page.status_code == 200
            assert "needs the role admin" in page.text
            assert 'method="post"' not in page.text.replace('method="post" action="/logout"', "")
        for path in (
            "/parked/confirm",
            "/parked/do",
            "/checks",
            "/parked/deeds/x/undo",
            "/checks/x/stop",
        ):
            answer = client.post(path, data={"act": "discard-all", "count": "6", "kind": "audit"})
            assert answer.status_code == 403, path
            assert "this needs the role admin" in answer.text
    assert len(parked(copied)) == 8
