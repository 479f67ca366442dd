"""PostgreSQL from the wheel, as `shop up` and the tests run it."""

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from devstack.postgres import LocalPostgres
from devstack.supervisor import StartFailed, Supervisor

QUICK = {"fsync": "off", "shared_buffers": "16MB"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("data") / "postgres", settings=QUICK) as postgres:
        yield postgres


def ask(postgres: LocalPostgres, query: str, database: str = "postgres") -> Any:
    with psycopg.connect(postgres.dsn(database)) as connection:
        row = connection.execute(query).fetchone()
    return row and row[0]


def test_it_is_durable_unicode_and_reachable_by_its_socket_only(server: LocalPostgres) -> None:
    assert LocalPostgres(server.data_dir).settings["fsync"] == "on"
    assert ask(server, "SHOW server_version").startswith("18.")
    assert ask(server, "SHOW synchronous_commit") == "on"
    assert ask(server, "SHOW wal_level") == "logical"
    assert ask(server, "SHOW data_checksums") == "on"
    assert ask(server, "SHOW listen_addresses") == ""
    assert ask(server, "SHOW server_encoding") == "UTF8"
    assert ask(server, "SELECT datlocale FROM pg_database WHERE datname = 'template1'") == "C.UTF-8"
    assert ask(server, "SELECT upper('ä')") == "Ä"
    assert server.socket_dir.stat().st_mode & 0o777 == 0o700


def test_a_port_in_the_callers_environment_does_not_lead_astray(
    server: LocalPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPORT", "1")
    assert ask(server, "SELECT 1") == 1


def test_each_database_opens_only_to_its_own_role(server: LocalPostgres) -> None:
    server.ensure_databases(["users", "orders"])
    server.ensure_databases(["users", "orders"])
    assert ask(server, "SELECT current_user::text", "users") == "users"
    assert ask(server, "SHOW is_superuser", "users") == "off"
    with psycopg.connect(server.dsn("users"), autocommit=True) as connection:
        connection.execute("CREATE DATABASE past")  # as `shop restore users --into past` does
        connection.execute("DROP DATABASE past")
    for other in ("orders", "postgres"):
        with pytest.raises(psycopg.OperationalError, match="permission denied"):
            psycopg.connect(server.dsn(other, user="users"))


def test_a_killed_initdb_leaves_nothing_half_done(tmp_path: Path) -> None:
    unfinished = tmp_path / "postgres.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with LocalPostgres(tmp_path / "postgres", settings=QUICK) as postgres:
        assert ask(postgres, "SELECT 1") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["postgres"]


def test_a_copy_that_is_open_to_others_is_closed_again(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres", settings=QUICK) as postgres:
        pass
    postgres.data_dir.chmod(0o755)
    with postgres:
        assert ask(postgres, "SELECT 1") == 1


def test_data_of_another_version_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("17\n")
    with pytest.raises(StartFailed, match="written by PostgreSQL 17 and this is PostgreSQL 18"):
        LocalPostgres(tmp_path).start()


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StartFailed, match="not a PostgreSQL data directory"):
        LocalPostgres(tmp_path).start()
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_start_that_fails_says_why(tmp_path: Path) -> None:
    settings = {**QUICK, "max_connections": "many"}
    with pytest.raises(StartFailed, match=r'FATAL: .*"max_connections".*"many"'):
        LocalPostgres(tmp_path / "postgres", settings=settings).__enter__()


def test_a_path_too_long_for_a_socket_gets_a_short_private_directory(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / ("long" * 25) / "postgres", settings=QUICK) as postgres:
        short = postgres.socket_dir
        assert ask(postgres, "SELECT 1") == 1
        assert short.stat().st_mode & 0o777 == 0o700
    assert not short.exists()


def test_a_path_too_long_for_a_socket_gets_a_short_one_and_unfit_folders_are_skipped(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unfit = place / "t, t"
    unfit.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(unfit))
    with LocalPostgres(place / 'Läden ☕, \\:c%d #"' / "postgres", settings=QUICK) as postgres:
        assert ask(postgres, "SELECT 1") == 1
    assert not list(unfit.iterdir())
    assert len(list(place.iterdir())) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can't run PostgreSQL as itself")
def test_a_closed_parent_folder_is_opened_by_root_for_passing_through_only(tmp_path: Path) -> None:
    closed = tmp_path / "root"
    closed.mkdir(mode=0o700)
    said: list[str] = []
    with LocalPostgres(closed / "postgres", settings=QUICK, say=said.append) as postgres:
        assert ask(postgres, "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o701
    assert len(said) == 1
    assert str(closed) in said[0]


def test_a_pid_file_with_another_processs_number_is_no_obstacle(tmp_path: Path) -> None:
    postgres = LocalPostgres(tmp_path / "postgres", settings=QUICK)
    with postgres:
        left_behind = (postgres.data_dir / "postmaster.pid").read_text()
    _, rest = left_behind.split("\n", 1)
    (postgres.data_dir / "postmaster.pid").write_text(f"{os.getppid()}\n{rest}")
    with postgres:
        assert ask(postgres, "SELECT 1") == 1


def test_a_server_left_behind_is_ended_before_its_data_is_used_again(tmp_path: Path) -> None:
    left_behind = LocalPostgres(tmp_path / "postgres", settings=QUICK)
    left_behind.start()
    left_behind.wait_ready()
    # Until it is reaped it counts as a process; its parent would be gone, and init does that.
    signal.signal(signal.SIGCHLD, lambda *_: left_behind.ended())
    try:
        with LocalPostgres(tmp_path / "postgres", settings=QUICK) as postgres:
            assert left_behind.ended() == "exit status 0"
            assert ask(postgres, "SELECT 1") == 1
    finally:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        left_behind.stop()


@pytest.mark.heavy
def test_killed_it_is_started_again_with_all_that_was_committed(tmp_path: Path) -> None:
    said: list[str] = []
    deadline = time.monotonic() + 30

    def pause(seconds: float) -> None:
        if any("ready again" in line for line in said):
            raise InterruptedError
        assert time.monotonic() < deadline, said
        time.sleep(seconds)

    postgres = LocalPostgres(tmp_path / "postgres", settings=QUICK)
    supervisor = Supervisor(say=said.append, pause=pause)
    try:
        supervisor.start(postgres, timeout=30)
        # A backend that is busy at the moment of the kill, and so holds on to the shared memory.
        busy = psycopg.connect(postgres.dsn("postgres"), autocommit=True)
        busy.execute("CREATE TABLE kept AS SELECT 1 AS n")
        busy.pgconn.send_query(b"SELECT count(*) FROM generate_series(1, 4000000)")
        first_pid = postgres.pid
        assert first_pid
        os.kill(first_pid, signal.SIGKILL)
        with suppress(InterruptedError):
            supervisor.watch()
        busy.close()
        assert postgres.pid != first_pid
        assert said[0] == "postgres ended: killed by SIGKILL; starting it again in 0.2 s"
        assert ask(postgres, "SELECT n FROM kept") == 1
    finally:
        supervisor.stop()
    assert postgres.ended() == "exit status 0"
