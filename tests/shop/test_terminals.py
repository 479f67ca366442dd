"""No character is too much for a terminal, and no exit status says what is not so."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from shop.cli import common
from shop.cli.main import main
from tests.support.databases import Databases
from tests.support.examples import heavy
from tests.support.living import plant, settings
from tests.support.shop import TRACEBACK, environment, shop_command
from tests.support.terminals import locale_in, on_a_terminal
from tests.support.waiting import until

NAME = "Läden ☕ 咖啡 \\udce4"
"""In Latin-1 only in part, and at its end what no encoding has."""


@pytest.fixture
def told(copied: Databases) -> dict[str, str]:
    """Settings of a shop in whose log and table there is such a name; the table lacks it otherwise."""
    headers = '{"ce_time": "☕", "ce_type": "☕", "ce_id": "☕"}'
    plant(
        copied.log,
        f"INSERT INTO log_records VALUES ('users', 0, 26, 'ö', $v${{\"name\": \"{NAME}\"}}$v$, $h${headers}$h$)",
        "UPDATE log_heads SET next_offset = next_offset + 1 WHERE topic = 'users'",
    )
    plant(copied.users, "UPDATE users SET name = 'Läden ☕ 咖啡' WHERE id = 1")
    return settings(copied)


@pytest.mark.parametrize(
    ("charmap", "words", "status"),
    [
        ("ISO-8859-1", ["audit"], 1),
        *heavy(
            ("ISO-8859-1", ["events", "--no-follow", "--data", "Läden ☕"], 0),
            ("ISO-8859-1", ["parked", "show", "orders", "Läden ☕"], 0),
            ("ISO-8859-1", ["up", "--port", "users=☕"], 2),
            ("EUC-JP", ["audit"], 1),
            ("ascii", ["events", "--no-follow"], 0),
        ),
    ],
)
def test_no_character_is_too_much_for_a_terminal(
    told: dict[str, str],
    charmap: str,
    words: Sequence[str],
    status: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if charmap == "ascii":
        terminal = {"PYTHONIOENCODING": "ascii"}
    else:
        directory = tmp_path_factory.getbasetemp()
        language = {"ISO-8859-1": "de_DE", "EUC-JP": "ja_JP"}[charmap]
        terminal = {
            "LOCPATH": str(directory),
            "LC_ALL": locale_in(directory, language, charmap),
            "PYTHONUTF8": "0",
        }
    ended, shown = on_a_terminal(words, told | terminal)
    assert not TRACEBACK.search(shown.decode(errors="replace")), shown
    assert ended == status, shown
    shown.decode(charmap)  # and nothing else was sent


@pytest.mark.parametrize(
    ("command", "unbuffered"),
    [("audit --help", "1"), *heavy(("audit", ""), ("events --no-follow --json", "1"))],
)
def test_output_that_is_lost_is_no_verdict(
    told: dict[str, str], command: str, unbuffered: str
) -> None:
    def run(stdout: int) -> tuple[int, str]:
        done = subprocess.run(
            shop_command(*command.split()),
            env=environment(**told) | {"PYTHONUNBUFFERED": unbuffered},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    read, write = os.pipe()
    os.close(read)
    assert run(write) == (141, ""), "nobody reads"
    os.close(write)
    full = os.open("/dev/full", os.O_WRONLY)
    assert run(full) == (2, "shop: cannot write the output: No space left on device\n")
    os.close(full)


def test_a_verdict_is_given_with_every_stream_closed(told: dict[str, str]) -> None:
    closed = 'exec "$0" -m shop.cli audit <&- >&- 2>&-'
    done = subprocess.run(
        ["sh", "-c", closed, sys.executable], env=environment(**told), timeout=90, check=False
    )
    assert done.returncode == 1


@pytest.mark.parametrize("lost", ["closed", *heavy("nobody reads", "the disk is full")])
def test_a_service_works_although_its_output_is_lost(told: dict[str, str], lost: str) -> None:
    ends: tuple[int, ...] = ()
    if lost == "nobody reads":
        read, write = os.pipe()
        os.close(read)
        ends = (write,)
    elif lost == "the disk is full":
        ends = (os.open("/dev/full", os.O_WRONLY),)
    ready, is_ready = os.pipe()
    words = shop_command("worker", "users")
    worker = subprocess.Popen(
        words if ends else ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *words],
        env=environment(**told, SHOP_READY_FD=is_ready),
        stdout=ends[0] if ends else None,
        stderr=ends[0] if ends else None,
        pass_fds=[is_ready],
    )
    for number in (*ends, is_ready):
        os.close(number)
    assert os.read(ready, 10) == b"ready\n"
    os.close(ready)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(60) == 0


@pytest.mark.parametrize("command", ["audit users", *heavy("migrate users")])
def test_ctrl_c_is_status_130(told: dict[str, str], command: str) -> None:
    with psycopg.connect(told["SHOP_USERS__DATABASE_URL"]) as holding:
        holding.execute("SELECT pg_advisory_xact_lock(7406)")
        holding.execute("LOCK outbox, parked, cursors")
        busy = subprocess.Popen(
            shop_command(*command.split()),
            env=environment(**told), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND %s = ANY (pg_blocking_pids(pid))"
        own = [holding.info.backend_pid]
        until(lambda: holding.execute(waiting, own).fetchone(), "it waits for a lock", 60)
        busy.send_signal(signal.SIGINT)
        output = busy.communicate(timeout=60)
    assert (busy.returncode, output) == (130, ("", ""))


@pytest.mark.parametrize(
    "command",
    ["up", "api users", "worker users", "migrate", "events", "audit", "parked list users"],
)
@pytest.mark.parametrize("error", [KeyError("x"), BrokenPipeError("elsewhere"), EOFError("x")])
def test_an_unforeseen_error_is_status_70(
    command: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(common, "read_settings", failing)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["shop", *command.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("shop: an unexpected error")
    assert type(error).__name__ in last


def test_a_file_that_does_not_compile_is_named_and_not_to_be_reported(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        compile("place(", "orders.py", "exec")

    monkeypatch.setattr(common, "read_settings", failing)
    monkeypatch.setattr(sys, "argv", ["shop", "worker", "users"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 70
    *_, last = capsys.readouterr().err.splitlines()
    assert last == "shop: '(' was never closed (orders.py, line 1): correct the file"


def test_files_and_folders_of_any_name_are_found_and_files_are_utf_8(
    told: dict[str, str], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    odd = tmp_path / "Läden ☕, a\\b:c%d #e=f!g'h\"i -k"
    odd.mkdir()
    (odd / "password").write_text("Läden\r\n", encoding="utf-8")
    directory = tmp_path_factory.getbasetemp()
    latin = {
        "LOCPATH": str(directory),
        "LC_ALL": locale_in(directory, "de_DE", "ISO-8859-1"),
        "PYTHONUTF8": "0",
    }
    own = {
        "SHOP_LOG_DIR": odd / "logs",
        "SHOP_USERS__DATABASE_PASSWORD_FILE": odd / "password",
        "SHOP_ORDERS__DATABASE_PASSWORD_FILE": tmp_path / os.fsdecode(b"L\xe4den"),
    }
    (tmp_path / os.fsdecode(b"L\xe4den")).write_text("x")
    code = (
        "import sys; from shop.cli.main import main; from shop.cli.common import settings_or_stop;"
        "print(ascii(settings_or_stop().service('users').database_password));"
        "sys.argv = ['shop', 'migrate', 'users']; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(**told, **own) | latin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == r"'L\xe4den'"
    assert (odd / "logs" / "migrate.log").exists()
    assert len(list(tmp_path.iterdir())) == 2
