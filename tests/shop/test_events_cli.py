"""`shop events`: the log in a terminal."""

import json

import pytest

from tests.support.databases import Databases
from tests.support.living import OBEYED, SHOWN, assert_harmless, plant, shop


def events(urls: Databases, *words: str) -> str:
    result = shop(urls, "events", "--no-follow", *words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_last_ten_of_each_topic_are_shown_a_line_each(copied: Databases) -> None:
    lines = events(copied).splitlines()
    assert len(lines) == 20
    assert [line.split()[1] for line in lines[10:]] == [f"users/0@{n}" for n in range(16, 26)]
    assert "user.erased #26 id=20 version=2" in lines[19]


def test_from_an_offset_of_a_topic_as_json(copied: Databases) -> None:
    lines = events(copied, "--topic", "orders", "--from", "23", "--json").splitlines()
    assert [json.loads(line)["offset"] for line in lines] == [23, 24]
    assert json.loads(lines[-1])["data"]["status"] == "cancelled"


def test_with_a_pattern_the_whole_log_is_searched_in_keys_headers_and_data(
    copied: Databases,
) -> None:
    lines = events(copied, "--grep", "EMAIL.*u7@|ce_type=user.erased").splitlines()
    assert [line.split()[1] for line in lines] == ["users/0@6", "users/0@24", "users/0@25"]
    found = events(copied, "--topic", "orders", "--grep", '"status": "cancelled"', "--json")
    assert [json.loads(line)["offset"] for line in found.splitlines()] == [22, 23, 24]


def test_since_a_time_or_so_long_ago(copied: Databases) -> None:
    times = [
        json.loads(line)["headers"]["ce_time"]
        for line in events(copied, "--grep", "ce_time=", "--topic", "users", "--json").splitlines()
    ]
    assert len(times) == 26
    later = [time for time in times if time >= times[21]]
    shown = events(copied, "--topic", "users", "--since", times[21], "--json").splitlines()
    assert [json.loads(line)["headers"]["ce_time"] for line in shown] == later
    assert len(events(copied, "--topic", "users", "--since", "2h").splitlines()) == 26
    assert events(copied, "--since", "2999-01-01T00:00:00Z") == ""
    narrower = events(copied, "--topic", "users", "--since", times[21], "--grep", "erased")
    assert len(narrower.splitlines()) == 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--since", "yesterday"], "--since yesterday is neither a time span like 90s"),
        (["--since", "2026-11-26T12:00:00"], "--since 2026-11-26T12:00:00 has no time zone"),
        (["--since", "999999999d"], "--since 999999999d is longer than 36500 days"),
        (["--since", "2h", "--from", "1"], "--from and --since each say where to begin"),
        (["--grep", "(x"], "--grep (x is not a regular expression"),
    ],
)
def test_a_filter_that_means_nothing_is_refused(
    copied: Databases, words: list[str], sentence: str
) -> None:
    result = shop(copied, "events", "--no-follow", *words)
    assert result.exit_code == 2
    assert sentence in result.stderr


def test_control_characters_in_records_do_nothing_to_the_terminal(copied: Databases) -> None:
    bad = json.dumps(OBEYED)
    headers = f'{{"ce_time": {bad}, "ce_type": {bad}, "ce_id": {bad}}}'
    for n, value in enumerate([f'{{"name": {bad}, {bad}: [{bad}]}}', bad, OBEYED]):
        plant(
            copied.log,
            f"INSERT INTO log_records VALUES ('users', 0, {26 + n}, '1', $v${value}$v$,"
            f" $h${headers}$h$)",
            "UPDATE log_heads SET next_offset = next_offset + 1 WHERE topic = 'users'",
        )
    shown = events(copied, "--topic", "users")
    assert shown.count(SHOWN) == 3 * 2 + 2 + 1 + 1 + 1
    assert_harmless(shown)
    assert_harmless(events(copied, "--topic", "users", "--json"))
