"""What is missing or wrong is said in one sentence, and never with a traceback."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest

from eventspine import server
from shop.cli.main import main
from shop.platform import discovery
from tests.support.databases import NewDatabase

NOWHERE = "postgresql://shop:secret@/shop?host=/nowhere"
UNREACHABLE = (
    "cannot reach a database: connection is bad: connection to server on socket "
    '"/nowhere/.s.PGSQL.5432" failed: No such file or directory '
    "Is the server running locally and accepting connections on that socket?"
)
NONE_RUNS = "no shop runs in .data (`shop up` starts one, --data names its folder), and "
UNREADABLE = (
    "can't be read: look at the host and at what follows the ?, and whether special characters are "
    "percent-encoded"
)


pytestmark = pytest.mark.usefixtures("logging_as_it_was")


@pytest.mark.parametrize(
    ("command", "settings", "said"),
    [
        ("api users", {}, "SHOP_USERS__DATABASE_URL is not set"),
        ("worker orders", {}, "SHOP_ORDERS__DATABASE_URL is not set"),
        (
            "worker orders",
            {"ORDERS__DATABASE_URL": NOWHERE},
            "SHOP_EVENT_LOG_URL is not set: the log's PostgreSQL database",
        ),
        (
            "worker orders",
            {"ORDERS__DATABASE_URL": NOWHERE, "EVENT_LOG": "kafka"},
            "SHOP_KAFKA__BOOTSTRAP_SERVERS is not set: host:port of a broker",
        ),
        (
            "worker orders",
            {"ORDERS__DATABASE_URL": NOWHERE, "EVENT_LOG_URL": NOWHERE, "RELAY": "cdc"},
            (
                "SHOP_RELAY is cdc, which needs Kafka, and SHOP_EVENT_LOG is postgres: set SHOP_EVENT_LOG=kafka, or"
                " SHOP_RELAY=polling"
            ),
        ),
        (
            "cdc begin",
            {},
            "not done: change data capture needs Kafka, and SHOP_EVENT_LOG is postgres",
        ),
        ("cdc status", {}, f"{NONE_RUNS}SHOP_GREETINGS__DATABASE_URL is not set"),
        ("up --cdc", {}, "--cdc needs Kafka: add --kafka local, or --kafka HOST:PORT"),
        ("migrate", {}, "SHOP_GREETINGS__DATABASE_URL is not set"),
        ("events", {}, f"{NONE_RUNS}SHOP_EVENT_LOG_URL is not set: the log's PostgreSQL database"),
        ("audit", {}, f"{NONE_RUNS}SHOP_GREETINGS__DATABASE_URL is not set"),
        ("parked list users", {}, f"{NONE_RUNS}SHOP_USERS__DATABASE_URL is not set"),
        (
            "audit",
            {"USRES__PORT": "8001"},
            "settings: SHOP_USRES__PORT is not a setting; did you mean SHOP_USERS__PORT?",
        ),
        (
            "up --port users=9001 --port payments=9003",
            {},
            "--port payments=9003: there is no service payments; there are: greetings, orders, users, console",
        ),
        (
            "up --kafka --verbose",
            {},
            "--kafka --verbose is neither `local` nor a broker's HOST:PORT",
        ),
        ("up --port users", {}, "--port users is not SERVICE=PORT with a port from 1 to 65535"),
        (
            "up --port users=70000",
            {},
            "--port users=70000 is not SERVICE=PORT with a port from 1 to 65535",
        ),
        (
            "api users",
            {"SERVICES": "shop.services,nowhere"},
            "SHOP_SERVICES: there is no package 'nowhere' that could hold services",
        ),
        ("api payments", {}, "there is no service payments; there are: greetings, orders, users"),
        (
            "api users",
            {"USERS__DATABASE_URL": "users:secret@host"},
            "SHOP_USERS__DATABASE_URL is not like postgresql://user:password@host/database",
        ),
        (
            "events",
            {"EVENT_LOG_URL": "log"},
            "SHOP_EVENT_LOG_URL is not like postgresql://user:password@host/database",
        ),
        (
            "migrate users",
            {"USERS__DATABASE_URL": "postgresql://users:secret@host:port/users"},
            "SHOP_USERS__DATABASE_URL has a port that is no number from 1 to 65535",
        ),
        (
            "worker users",
            {
                "USERS__DATABASE_URL": "postgresql://users@[::1/users",
                "USERS__DATABASE_PASSWORD": "secret",
            },
            f"SHOP_USERS__DATABASE_URL {UNREADABLE}",
        ),
        (
            "migrate users",
            {
                "USERS__DATABASE_URL": NOWHERE,
                "EVENT_LOG_URL": "postgresql://log:100%secret@host/log?sslmod=require",
            },
            f"SHOP_EVENT_LOG_URL {UNREADABLE}",
        ),
        (
            "api users",
            {"USERS__PORT": "70000"},
            "settings: SHOP_USERS__PORT: Input should be less than or equal to 65535",
        ),
        (
            "up",
            {"USERS__TRUSTED_PROXIES": "everyone"},
            (
                "settings: SHOP_USERS__TRUSTED_PROXIES: Input is not a valid IPv4 network;"
                " SHOP_USERS__TRUSTED_PROXIES: Input is not a valid IPv6 network"
            ),
        ),
        (
            "restore users --into=",
            {"USERS__DATABASE_URL": NOWHERE, "EVENT_LOG_URL": NOWHERE},
            "--into needs the name or the URL of a database",
        ),
        (
            "events --no-follow",
            {
                "EVENT_LOG": "kafka",
                "KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
                "KAFKA__NONSENSE": "1",
            },
            'SHOP_KAFKA__…: No such configuration property: "nonsense"',
        ),
        (
            "up",
            {"AUTH__ISSUERS": "nonsense"},
            "settings: SHOP_AUTH__ISSUERS: it is not a JSON list: Expecting value: line 1 column 1 (char 0)",
        ),
        (
            "api users",
            {
                "USERS__DATABASE_URL": NOWHERE,
                "HOST": "192.0.2.1",
            },
            "cannot listen on 192.0.2.1:8001: Cannot assign requested address; set SHOP_HOST to an address of this machine",
        ),
        (
            "worker users",
            {"EVENT_LOG": "rabbit"},
            "settings: SHOP_EVENT_LOG: Input should be 'postgres' or 'kafka'",
        ),
        (
            "migrate users",
            {"USERS__DATABASE_URL_FILE": "/nowhere/url"},
            "settings: SHOP_USERS__DATABASE_URL_FILE: cannot read /nowhere/url: No such file or directory",
        ),
        (
            "api users",
            {"USERS__DATABASE_URL": NOWHERE, "LOG_DIR": __file__},
            f"SHOP_LOG_DIR: cannot log to {__file__}: File exists",
        ),
        (
            "migrate users",
            {"USERS__DATABASE_URL": NOWHERE, "EVENT_LOG_URL": NOWHERE},
            UNREACHABLE,
        ),
    ],
)
def test_what_is_wrong_is_one_sentence(
    command: str,
    settings: dict[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["shop", *command.split()])
    for name, value in settings.items():
        monkeypatch.setenv(f"SHOP_{name}", value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"shop: {said}\n"


def test_settings_of_a_running_shop_that_cannot_be_read_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "running.json").mkdir()
    monkeypatch.setattr(sys, "argv", ["shop", "events", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"shop: cannot read {tmp_path}/running.json: Is a directory; run this as the user who runs `shop up`,"
        " or name another folder with --data\n"
    )


def test_a_shop_that_was_killed_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "running.json").write_text(f'{{"SHOP_EVENT_LOG_URL": "{NOWHERE}"}}')
    (tmp_path / "lock").write_text("2147483647\n")  # no process has this id
    monkeypatch.setattr(sys, "argv", ["shop", "events", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"shop: no shop runs in {tmp_path} (`shop up`")


@pytest.mark.parametrize("trouble", ["no rights", "another's table", "an old server"])
def test_the_reason_why_a_database_cannot_be_migrated_is_one_sentence(
    new_database: NewDatabase,
    trouble: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = new_database(None)
    with psycopg.connect(url, autocommit=True) as admin:
        if trouble == "no rights":
            admin.execute("CREATE ROLE powerless LOGIN")
            url = url.replace("//postgres@", "//powerless@")
            said = "permission denied for schema public"
        elif trouble == "another's table":
            admin.execute("CREATE TABLE users ()")
            said = 'relation "users" already exists'
        else:
            monkeypatch.setattr(server, "OLDEST", 99)
            version = admin.info.parameter_status("server_version")
            said = f"PostgreSQL 99 or newer is needed, and this is {version}"
    monkeypatch.setattr(sys, "argv", ["shop", "migrate", "users"])
    monkeypatch.setenv("SHOP_USERS__DATABASE_URL", url)
    monkeypatch.setenv("SHOP_EVENT_LOG", "kafka")
    monkeypatch.setenv("SHOP_ACCEPT_DATA_LOSS", "true")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"shop: cannot migrate the database users: {said}")


def test_version_is_the_one_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shop", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"eventshop {version('eventshop')}\n"


def test_the_help_is_printed_without_a_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["shop"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "An event-driven shop" in "".join(capsys.readouterr())


@pytest.mark.parametrize("name", discovery.names())
def test_a_worker_loads_neither_the_web_framework_nor_sqlalchemy(name: str) -> None:
    """They are half of what a process starts with, and a worker that died is to be back soon."""
    loads = f"import shop.cli, shop.platform.processes.worker; from shop.platform import discovery; discovery.load('{name}')"
    told = "import sys; print(*sorted({'fastapi', 'sqlalchemy', 'alembic'} & sys.modules.keys()))"
    found = subprocess.run(
        [sys.executable, "-c", f"{loads}; {told}"], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == []


@pytest.mark.parametrize(
    ("metrics", "not_loaded"),
    # The metrics client loads urllib.request itself.
    [("true", {"jwt", "cryptography"}), ("false", {"jwt", "cryptography", "urllib.request"})],
)
def test_an_api_that_asks_for_no_tokens_loads_nothing_that_verifies_them(
    metrics: str, not_loaded: set[str]
) -> None:
    program = (
        "import sys\n"
        "from shop.platform import discovery\n"
        "from shop.platform.processes.api import make_app\n"
        "from shop.platform.settings import read_settings\n"
        "settings = read_settings(discovery.sections())\n"
        "make_app(discovery.load('orders'), settings)\n"
        f"print(*sorted({not_loaded} & sys.modules.keys()))\n"
    )
    url = {
        "SHOP_ORDERS__DATABASE_URL": "postgresql://nowhere.invalid/none",
        "SHOP_TELEMETRY__METRICS": metrics,
    }
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | url, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout == "\n"
