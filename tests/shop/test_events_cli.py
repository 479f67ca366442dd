"""`shop events`: the log in a terminal."""

import json

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
