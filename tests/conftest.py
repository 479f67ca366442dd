"""Real PostgreSQL for every test: one server a session, fresh databases a test; all services.

A database is made from a migrated template, which takes some 30 ms; the server keeps its files in
memory where there is room, since nobody will miss its data. Tests that kill a server start one of
their own.
"""

import itertools
import os
import re
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from xdist.scheduler import LoadFileScheduling

from devstack.postgres import LocalPostgres
from eventspine.log_tables import metadata as log_metadata
from shop.platform import discovery
from shop.platform.migrations import migrate
from tests.support.databases import LOG_MIGRATIONS, Databases, NewDatabase

pytest_plugins = ["tests.support.async_tests", "tests.support.clocks", "tests.support.kafka"]

# One more than the shop's own, so that nothing here knows how many there are. What a test starts
# (`tests.support.shop.environment`) has only the shop's own, unless it asks for more.
os.environ["SHOP_SERVICES"] = "shop.services,tests.more.services"

_LONGEST_FIRST = (
    "storm/test_storm.py",
    "cdc/",
    "e2e/test_kafka_proofs.py",
    "e2e/test_crashes.py",
    "deploy/test_compose.py",
    "eventspine/test_kafka_",
    "shop/test_another_log.py",
    "deploy/test_compose_prod.py",
    "e2e/",
    "examples/",
    "shop/test_reactions.py",
    "shop/test_migrations.py",
    "shop/test_audit.py",
    "shop/test_re",
    "shop/test_terminals.py",
    "devstack/test_up.py",
    "gateway/",
    "shop/test_plans.py",
    "shop/test_overload.py",
    "shop/services/test_openapi.py",
    "eventspine/test_consumer.py",
    "eventspine/test_re",
)
"""Beginnings of paths below `tests`. With several processes a long file that came last would keep
one of them at work while the others are done."""

_BY_ONE_PROCESS = (
    ("eventspine/test_kafka_", "shop/test_another_log.py"),
    (
        "e2e/test_crashes.py",
        "e2e/test_parts.py",
        "e2e/test_another_service.py",
        "e2e/test_memory.py",
        "e2e/test_signed_in.py",
    ),
)
"""Files whose tests share a broker: with several processes, each that runs one of them starts one."""


class _Scheduling(LoadFileScheduling):
    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        below = file.removeprefix("tests/")
        return next((group[0] for group in _BY_ONE_PROCESS if below.startswith(group)), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> _Scheduling:
    return _Scheduling(config, log)


_OWN_FOLDER = pytest.StashKey[Path]()


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Tests' folders stand in one of this run's own, which goes with it if all is well.

    In pytest's usual place every run that begins shuts out the other users of the machine: PostgreSQL
    runs as one where the tests run as root, and could no longer open the files of a run beside it.
    """
    # What a script runs in the background ignores Ctrl-C, and so would all processes that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if not (hasattr(config, "workerinput") or config.option.basetemp):
        config.stash[_OWN_FOLDER] = folder = Path(tempfile.mkdtemp(prefix="eventshop-tests-"))
        config.option.basetemp = str(folder / "t")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    folder = session.config.stash.get(_OWN_FOLDER, None)
    if folder and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(folder, ignore_errors=True)


_SLOW = (
    "cdc/", "clients/", "deploy/", "devstack/", "e2e/", "examples/", "gateway/", "storm/", "project/test_tutorial.py",
    "shop/platform/processes/", "shop/platform/http/test_docs.py", "shop/platform/http/test_idle.py",
    "shop/platform/http/test_limits.py", "shop/services/test_openapi.py", "shop/services/test_batches.py",
    "shop/test_another_log.py", "shop/test_audit.py", "shop/test_cli.py", "shop/test_databases.py",
    "shop/test_leaping_clocks.py", "shop/test_locales.py", "shop/test_migrations.py", "shop/test_overload.py",
    "shop/test_parked_cli.py", "shop/test_plans.py", "shop/test_re",
    "shop/test_session_settings.py", "shop/test_silence.py", "shop/test_terminals.py",
    "shop/test_events_cli.py", "shop/test_top.py", "eventspine/test_kafka_", "eventspine/test_pruning.py", "eventspine/test_rebuilding.py",
    "eventspine/test_running_time.py", "eventspine/test_which_log.py", "shop/auth/test_matrix.py",
    "eventspine/test_crash.py", "eventspine/test_frozen.py", "eventspine/test_parking.py",
    "eventspine/test_held_keys.py", "shop/auth/test_known.py", "shop/services/identity/", "shop/services/console/",
    "eventspine/test_captured.py", "shop/platform/test_flow.py", "shop/platform/telemetry/test_looking.py",
    "shop/platform/telemetry/test_traces_export.py", "eventspine/test_silence.py", "eventspine/test_retrying.py", "eventspine/test_relay_leadership.py",
    "eventspine/test_transaction_away.py", "eventspine/test_consumer_trouble.py",
)  # fmt: skip
"""Beginnings of paths below `tests`: tests that start processes, wait, or try many examples. They are
marked `slow`. Files that would be left out altogether are not even read."""


def _below_tests(path: Path) -> str:
    return path.relative_to(Path(__file__).parent).as_posix()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    if "not slow" in config.option.markexpr and collection_path.is_file():
        return _below_tests(collection_path).startswith(_SLOW) or None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        path = _below_tests(item.path)
        found = (n for n, begin in enumerate(_LONGEST_FIRST) if path.startswith(begin))
        return next(found, len(_LONGEST_FIRST))

    items.sort(key=turn)
    for item in items:
        if _below_tests(item.path).startswith(_SLOW):
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if "not heavy" not in terminalreporter.config.option.markexpr:
        return
    here = Path(__file__).parent
    folders = Counter(
        path.parent.relative_to(here.parent).as_posix()
        for path in here.rglob("test_*.py")
        if re.search(r"mark\.heavy\b|\*heavy\(", path.read_text())
    )
    files = ", ".join(f"{folder} ({folders[folder]})" for folder in sorted(folders))
    terminalreporter.write_line(
        "left out, since they are heavy (`make test HEAVY=true` runs them, as CI does): the whole shop on Kafka,"
        f" some tests in files of {files}, and three of four examples that Hypothesis makes"
    )


_GIB = 1024**3
_IN_MEMORY = Path("/dev/shm")


def _data_folder() -> Path | None:
    """A database is three hundred files; on a busy disk one takes a second to make and one to remove.

    None for wherever temporary files go.
    """
    with suppress(OSError, ValueError):
        available = int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])
        room = min(shutil.disk_usage(_IN_MEMORY).free, available * 1024)
        if room > 8 * _GIB and os.access(
            _IN_MEMORY, os.W_OK
        ):  # 8 MB a database, some hundreds of them
            return _IN_MEMORY
    return None


@pytest.fixture(scope="session")
def postgres() -> Iterator[LocalPostgres]:
    # A short path of its own: pytest's are too long for a socket.
    with tempfile.TemporaryDirectory(prefix="eventshop-test-", dir=_data_folder()) as directory:
        os.chmod(directory, 0o711)
        settings = {"fsync": "off", "shared_buffers": "128MB"}
        with LocalPostgres(Path(directory) / "postgres", settings=settings) as server:
            yield server


@pytest.fixture(scope="session")
def new_database(postgres: LocalPostgres) -> Iterator[NewDatabase]:
    """`new_database(template)` makes a database and gives its URL; None for an empty one."""
    numbers = itertools.count(1)
    admin = psycopg.connect(postgres.dsn("postgres"), autocommit=True)

    def new(template: str | None = None) -> str:
        name = f"test_{next(numbers)}"
        made_from = f" TEMPLATE {template} STRATEGY file_copy" if template else ""
        admin.execute(f"CREATE DATABASE {name}{made_from}")
        return postgres.dsn(name, "postgres")

    yield new
    admin.close()


@pytest.fixture(scope="session")
def templates(postgres: LocalPostgres) -> dict[str, str]:
    """Migrated databases, by service; and the `log`. Nobody connects to them."""
    with psycopg.connect(postgres.dsn("postgres"), autocommit=True) as admin:
        for name in (*discovery.names(), "log"):
            admin.execute(f"CREATE DATABASE template_{name}")
    for name in discovery.names():
        service = discovery.load(name)
        url = postgres.dsn(f"template_{name}", "postgres")
        migrate(url, service.tables(), service.migrations)
    migrate(postgres.dsn("template_log", "postgres"), log_metadata, LOG_MIGRATIONS)
    return {name: f"template_{name}" for name in (*discovery.names(), "log")}


@pytest.fixture
def only_shipped_services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_SERVICES", "shop.services")


@pytest.fixture
def users_url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["users"])


@pytest.fixture
def orders_url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["orders"])


@pytest.fixture
def log_url(new_database: NewDatabase, templates: dict[str, str]) -> str:
    return new_database(templates["log"])


@pytest.fixture
def databases(new_database: NewDatabase, templates: dict[str, str]) -> Databases:
    return Databases({name: new_database(template) for name, template in templates.items()})


@pytest.fixture
def postgres_log_url(new_database: NewDatabase) -> str:
    """An empty database, for a log that makes its own tables."""
    return new_database(None)
