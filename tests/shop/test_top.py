"""`shop top`: the flow of events in a terminal."""

import json
import re

import pytest

from shop.platform.flow import asking
from tests.support.databases import Databases
from tests.support.living import plant, settings, shop
from tests.support.shop import environment
from tests.support.terminals import Terminal

pytestmark = pytest.mark.usefixtures("only_shipped_services")


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine may take longer to answer a look than an operator should wait."""
    monkeypatch.setattr(asking, "WITHIN", 20.0)


def test_once_prints_each_step_of_each_service_and_its_status_tells_trouble(
    copied: Databases,
) -> None:
    result = shop(copied, "top", "--once", "--every", "0.2")
    # No worker runs any more, and no API.
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    rows = [line.split() for line in lines]
    assert ["reads", "users", "well", "0", "0.0", "26"] in rows
    assert ["relay", "stuck", "0", "0.0", "25"] in rows
    assert ["topic", "users", "well", "0.0", "26"] in rows
    assert "\x1b" not in result.stdout
    assert any("users relay: no worker feeds the log" in line for line in lines)
    assert any("users API: http://127.0.0.1:8001: " in line for line in lines)


def test_json_is_one_object_with_numbers_and_sentences(copied: Databases) -> None:
    result = shop(copied, "top", "--json", "--every", "0.2")
    found = json.loads(result.stdout)
    assert found["state"] in {"stuck", "away"}
    of = {each["name"]: each for each in found["services"]}
    assert of["users"]["outbox"]["published"] == 26
    assert of["users"]["outbox"]["publish_rate"] == 0
    assert of["orders"]["consumers"][0]["behind"] == 0
    assert {each["where"] for each in found["troubles"]} >= {"users relay", "orders API"}


def test_on_a_terminal_it_is_live_until_q_and_leaves_the_terminal_as_it_was(
    copied: Databases,
) -> None:
    words = ["top", "--every", "0.2", "--data", "/nowhere"]
    with Terminal(words, environment(**settings(copied), TERM="xterm-256color")) as terminal:
        terminal.until("reads users", "\x1b[32mwell")
        before = len(terminal.shown)
        plant(
            copied.orders,
            'INSERT INTO parked (consumer, topic, partition, "offset", position, key, headers, holds_key, cause, error)'
            " VALUES ('orders', 'users', 0, 100, 100, '7', '{}', true, 'X', 'x')",
        )
        terminal.until("1 parked", "shop parked list orders", after=before)
        before = len(terminal.shown)
        plant(copied.users, "UPDATE relay SET position = 20")
        terminal.until("6 event(s) wait", after=before)
        terminal.press("q")
        assert terminal.end() == 0
    assert b"\x1b[?1049h" in terminal.shown  # the other screen, and back
    assert terminal.shown.rindex(b"\x1b[?1049l") > terminal.shown.rindex(b"reads users")
    assert b"Traceback" not in terminal.shown


def test_without_colours_where_they_are_not_wanted(copied: Databases) -> None:
    words = ["top", "--every", "0.2", "--data", "/nowhere"]
    with Terminal(words, environment(**settings(copied), TERM="xterm", NO_COLOR="1")) as terminal:
        terminal.until("reads users", "no worker feeds the log")
        terminal.press("\x03")
        assert terminal.end() == 130
    assert not re.search(rb"\x1b\[[0-9;]*3[0-9]m", terminal.shown)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ("loyalty=http://x", "there is no service loyalty; there are: orders, users"),
        ("users=x:80", "is not SERVICE=URL with a URL that begins with http:// or https://"),
    ],
)
def test_an_api_that_can_not_be_asked_is_refused(
    databases: Databases, given: str, sentence: str
) -> None:
    result = shop(databases, "top", "--api", given)
    assert result.exit_code == 2
    assert sentence in result.stderr
