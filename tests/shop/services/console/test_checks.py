"""The page of checks: audits, dry runs of rebuilds, and restores into another database."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.consoles import console
from tests.support.databases import Databases
from tests.support.living import plant, settings
from tests.support.waiting import until


@pytest.fixture
def urls(copied: Databases, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Databases:
    """The settings are in the environment, as in a console that runs by itself."""
    for name, value in settings(copied).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DATA_DIR", str(tmp_path))
    return copied


@pytest.fixture
def client(urls: Databases) -> Iterator[httpx.Client]:
    with console(urls) as client:
        yield client


def started(client: httpx.Client, **given: str) -> str:
    """The address of the check."""
    answer = client.post("/checks", data=given)
    assert answer.status_code == 303, answer.text
    return answer.headers["location"]


def ended(client: httpx.Client, path: str) -> str:
    until(lambda: "under way" not in client.get(path).text, "the check ends", 60)
    return client.get(path).text


def test_an_audit_shows_its_progress_and_its_verdict_and_is_kept(
    urls: Databases, tmp_path: Path
) -> None:
    with console(urls) as client:
        path = started(client, kind="audit", service="")
        shown = ""
        with client.stream("GET", f"{path}/stream") as answer:
            for line in answer.iter_lines():
                shown += line
                # An empty line ends a message; the verdict stands at the head of the last one.
                if not line and "everything holds" in shown:
                    break
        assert "users: reading topic users" in shown
        assert "26 of 26" in shown
        page = ended(client, path)
        assert "shop audit --json" in page
        assert "orders: checkpoints on topic users" in page
        assert "problem" not in page.replace("problems", "")
    [kept] = (tmp_path / "console").iterdir()
    assert json.loads(kept.read_text())["status"] == 0
    with console(urls) as client:
        assert client.get(path).text.count("everything holds") == 1
        assert "everything holds" in client.get("/checks").text


def test_an_audit_that_finds_a_fault_names_it(client: httpx.Client, urls: Databases) -> None:
    plant(urls.orders, "UPDATE customers SET name = '<b>X' WHERE id = 2")
    page = ended(client, started(client, kind="audit", service="orders"))
    assert "problems found" in page
    assert "name is &#39;&lt;b&gt;X&#39; and must be" in page


def test_a_dry_run_of_a_rebuild_says_what_differs_and_changes_nothing(
    client: httpx.Client, urls: Databases
) -> None:
    plant(urls.orders, "UPDATE customers SET name = 'X' WHERE id = 2")
    page = ended(client, started(client, kind="rebuild", service="orders", table="customers"))
    assert "tables differ" in page
    assert "1 row(s) differ" in page
    with psycopg.connect(urls.orders) as connection:
        assert connection.execute("SELECT name FROM customers WHERE id = 2").fetchone() == ("X",)


def test_a_restore_goes_into_a_database_of_its_own(client: httpx.Client, urls: Databases) -> None:
    page = ended(client, started(client, kind="restore", service="orders", into="looked_at"))
    assert "restored" in page
    assert "DROP DATABASE &#34;looked_at&#34;" in page
    assert "rows now: " in page
    # It has rows now, so the past can't be restored into it, and the check fails. What it leaves is said, too.
    path = started(client, kind="restore", service="orders", into="looked_at", until="3")
    page = ended(client, path)
    assert "If it has made the database looked_at, that is still there." in page
    beside = psycopg.conninfo.make_conninfo(urls.orders, dbname="looked_at")
    with psycopg.connect(beside) as connection:
        assert connection.execute("SELECT count(*) FROM orders").fetchone() == (22,)
    with psycopg.connect(urls.orders, autocommit=True) as connection:
        connection.execute("DROP DATABASE looked_at")


def test_a_check_that_can_not_be_is_one_sentence(client: httpx.Client) -> None:
    restore = {"kind": "restore", "service": "orders"}
    for given, sentence in (
        ({"kind": "audit", "service": "cows"}, "There is no service cows."),
        ({"kind": "rebuild", "service": "orders", "table": "x; --"}, "has no table x; -- that"),
        ({"kind": "rebuild"}, "Choose a service."),
        ({**restore, "into": "--give-up"}, "Name an empty database"),
        ({**restore, "into": "orders"}, "own database"),
        ({**restore, "into": "x", "until": "soon"}, "neither a position"),
        ({"kind": "drop"}, "There is no such check."),
    ):
        answer = client.post("/checks", data=given)
        assert answer.status_code == 409
        assert sentence in answer.text
        assert "No check was started yet" in answer.text


def test_the_same_check_runs_once_at_a_time_and_can_be_stopped(client: httpx.Client) -> None:
    path = started(client, kind="audit", service="users")
    again = client.post("/checks", data={"kind": "audit", "service": "users"})
    assert "The same check runs already" in again.text
    client.post(f"{path}/stop")
    page = ended(client, path)
    assert re.search("stopped|everything holds", page)
    assert client.get("/checks/20260101T000000-abcdef").status_code == 404


def test_without_a_folder_they_are_kept_until_the_console_ends(
    urls: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHOP_DATA_DIR")
    with console(urls) as client:
        assert "until the console is restarted" in client.get("/checks").text
