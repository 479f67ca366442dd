"""`shop up`, with stand-ins for the shop's own processes and everything else real."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from devstack.data import check_format
from devstack.up import run
from devstack.up_options import LocalService, UpOptions
from tests.support.up import ODD, read_until, stop


@pytest.fixture(autouse=True)
def only_shipped_services(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-ins run elsewhere, and find no others."""
    monkeypatch.setenv("SHOP_SERVICES", "shop.services")


def test_it_says_one_line_when_all_is_ready_and_finds_its_data_again(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, ports: tuple[int, int]
) -> None:
    up = start()
    *_, ready = read_until(up, "eventshop is ready")
    assert ready == (
        f"eventshop is ready: users http://127.0.0.1:{ports[0]} · orders http://127.0.0.1:{ports[1]}"
        f" · data in {tmp_path / 'data'} · Ctrl-C stops"
    )
    second = start()
    read_until(second, f"another `shop up` (process {up.pid}) is running on {tmp_path / 'data'}")
    assert second.wait(60) == 1
    log = (tmp_path / "data" / "logs" / "orders-worker.log").read_text()
    assert log == f"worker of orders on {ports[1]}\n"
    assert "eventshop has stopped" in stop(up)
    assert not (tmp_path / "data" / "postgres" / "postmaster.pid").exists()

    up = start()
    read_until(up, "eventshop is ready")
    dsn = f"postgresql://users@/users?host={tmp_path / 'data' / 'postgres'}&port=5432"
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM visits").fetchone() == (2,)
    stop(up, signal.SIGTERM)


@pytest.mark.heavy
def test_after_a_kill_of_the_whole_command_it_starts_again_at_once(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    up = start()
    read_until(up, "eventshop is ready")
    up.kill()
    up.wait()
    up = start()
    read_until(up, "eventshop is ready")
    # And a PostgreSQL that is killed comes back, under the children's feet.
    pid_file = tmp_path / "data" / "postgres" / "postmaster.pid"
    os.kill(int(pid_file.read_text().split()[0]), signal.SIGKILL)
    lines = read_until(up, "postgres is ready again")
    assert any("postgres ended: killed by SIGKILL" in line for line in lines)
    stop(up, signal.SIGHUP)


def test_a_stop_while_it_still_starts_is_heard(start: Callable[[], subprocess.Popen[str]]) -> None:
    up = start()
    read_until(up, "starting PostgreSQL")
    # A step, such as making the database, is not interrupted.
    assert "eventshop has stopped" in stop(up, within=50)


@pytest.mark.heavy
def test_it_serves_its_own_database_whatever_the_environment_names(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "url").write_text("postgresql://nobody@127.0.0.1:1/elsewhere")
    monkeypatch.setenv("SHOP_USERS__DATABASE_URL_FILE", str(tmp_path / "url"))
    monkeypatch.setenv("SHOP_EVENT_LOG", "kafka")
    up = start()
    lines = read_until(up, "eventshop is ready")
    ignored = (
        "ignored: SHOP_EVENT_LOG; `shop up` sets these itself (--kafka and --cdc choose the log)"
    )
    assert ignored in lines
    stop(up)


def never(*words: str) -> list[str]:
    raise AssertionError(words)


def test_a_taken_port_is_one_sentence_that_names_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(UpOptions(tmp_path / "data", [LocalService("users", port)]), never) == 1
    assert capsys.readouterr().err == (
        f"eventshop did not start: port {port}, which users wants, is in use: stop what listens "
        "there, or choose another with --port users=… or SHOP_USERS__PORT\n"
    )


def test_a_host_that_is_not_this_machine_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = UpOptions(tmp_path / "data", [LocalService("users", 1024)], host="nowhere.invalid")
    assert run(options, never) == 1
    assert re.fullmatch(
        r"eventshop did not start: nowhere\.invalid is not an address of this machine \(.+\): set SHOP_HOST to one"
        r" that is\n",
        capsys.readouterr().err,
    )


def test_a_port_that_is_taken_on_the_other_localhost_is_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        taken = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with taken:
        port = taken.getsockname()[1]
        assert run(UpOptions(tmp_path / "data", [LocalService("users", port)]), never) == 1
    assert f"port {port}, which users wants, is in use" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "said"),
    [
        (30, "did not start: only 30 files may be open here, and an API needs "),
        (160, "only 160 files may be open here (ulimit -n), so an API holds "),
    ],
)
def test_few_files_are_said_before_anything_starts(tmp_path: Path, files: int, said: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "VERSION").write_text("not this release's")
    program = (
        "import resource, sys; from pathlib import Path; from devstack.up import *;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({files}, {files}));"
        f"sys.exit(run(UpOptions(Path({str(tmp_path / 'data')!r}), [], max_connections=8192)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1
    assert said in done.stderr


def test_data_of_another_release_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "VERSION").write_text("2\n")
    assert run(UpOptions(tmp_path, [LocalService("users", 1024)]), never) == 1
    assert "has format 2 and this release knows format 1" in capsys.readouterr().err
    assert not (tmp_path / "postgres").exists()


def test_two_services_on_one_port_is_one_sentence(
    tmp_path: Path, ports: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    services = [LocalService("users", ports[0]), LocalService("orders", ports[0])]
    assert run(UpOptions(tmp_path, services), never) == 1
    assert f"users and orders were both given port {ports[0]}" in capsys.readouterr().err


def test_a_migration_that_fails_shows_what_it_said(
    tmp_path: Path, ports: tuple[int, int], capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_words: str) -> list[str]:
        return [sys.executable, "-c", "print('step 7'); raise SystemExit('column is gone')"]

    services = [LocalService("users", ports[0])]
    assert run(UpOptions(tmp_path / "data", services), failing) == 1
    said = capsys.readouterr().err
    assert "step 7\n" in said
    assert re.search(
        r"could not be migrated \(exit status 1: column is gone\); .*migrate.log", said
    )


@pytest.mark.heavy
def test_data_is_where_it_was_told_to_be(
    start: Callable[..., subprocess.Popen[str]],
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A long way, through a link, seen from here, with characters of all kinds; and it is found again."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "-link").symlink_to(place)
    name = os.fsdecode(b"L\xe4den") + ODD
    told = Path("-link") / name / ("x" * 200)
    data = place / name / ("x" * 200)
    for visits in (1, 2):
        up = start(told)
        *_, ready = read_until(up, "eventshop is ready")
        assert f"{ODD}/{'x' * 200} · " in ready
        running = json.loads((data / "running.json").read_text())
        with psycopg.connect(running["SHOP_USERS__DATABASE_URL"]) as connection:
            assert connection.execute("SELECT count(*) FROM visits").fetchone() == (visits,)
        stop(up)
    assert (data / "postgres" / "PG_VERSION").exists()
    assert len(list(place.iterdir())) == len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\nb", "contains a control character"),
        ("x/" * 500, "has more than the 900 bytes that PostgreSQL supports"),
        ("y" * 300, "File name too long"),
        ("loop", "can.t be resolved|Too many levels of symbolic links"),
        (
            "file/data",
            "Not a directory: .*; all data is in .*, and --data or SHOP_DATA_DIR names another",
        ),
    ],
)
def test_data_that_cannot_be_there_is_one_sentence(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    before = set(tmp_path.rglob("*"))
    assert run(UpOptions(tmp_path / name, [LocalService("users", 1024)]), never) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("eventshop did not start: ")
    assert re.search(said, line)
    assert set(tmp_path.rglob("*")) == before


def test_a_format_that_a_full_disk_left_empty_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "VERSION").touch()
    check_format(tmp_path)
    assert (tmp_path / "VERSION").read_text() == "1\n"
