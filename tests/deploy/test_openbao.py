"""A real OpenBao writes the secrets' files, by deploy/openbao, and processes use what is in them."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import psycopg
import pytest

from tests.support.compose import DEPLOY
from tests.support.secured import Secured, new_password
from tests.support.shop import Running, answers, free_ports, shop_command
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)

BAO = DEPLOY.parent / "build/ci/bin/bao"


class OpenBao:
    """A server in memory, unsealed, and its command for an administrator."""

    def __init__(self, folder: Path, stops: ExitStack) -> None:
        if not BAO.exists():
            pytest.skip("left out, since there is no OpenBao here: `make ci-tools` installs it")
        (port,) = free_ports(1)
        self.environment = {
            "PATH": f"{BAO.parent}:{os.environ['PATH']}",
            "HOME": str(folder),
            "BAO_ADDR": f"http://127.0.0.1:{port}",
            "BAO_TOKEN": os.urandom(12).hex(),
        }
        server = subprocess.Popen(
            [BAO, "server", "-dev", "-dev-no-store-token", f"-dev-listen-address=127.0.0.1:{port}"],
            env={**self.environment, "BAO_DEV_ROOT_TOKEN_ID": self.environment["BAO_TOKEN"]},
            stdout=stops.enter_context((folder / "bao.log").open("wb")),
            stderr=subprocess.STDOUT,
        )
        stops.callback(end, server)
        healthy = f"{self.environment['BAO_ADDR']}/v1/sys/health"
        until(lambda: _is_up(healthy), "OpenBao is up", 60)

    def run(self, *words: str, **more: str) -> str:
        done = subprocess.run(
            list(words), env={**self.environment, **more}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


def end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait(20)


def _is_up(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def stops() -> Iterator[ExitStack]:
    with ExitStack() as stops:
        yield stops


def test_the_agent_writes_credentials_that_work_and_writes_new_ones_before_they_end(
    tmp_path: Path, stops: ExitStack
) -> None:
    bao = OpenBao(tmp_path, stops)
    secured = Secured(tmp_path / "shop", stops)
    password = tmp_path / "openbao-password"
    password.write_text(made := new_password())
    with closing(secured.as_superuser()) as admin:
        admin.execute(f"CREATE ROLE openbao LOGIN CREATEROLE PASSWORD '{made}'".encode())
        admin.execute("GRANT users_api, users_worker TO openbao WITH ADMIN OPTION, INHERIT FALSE")
    tls = f"sslmode=verify-full&sslrootcert={secured.certificate.authority}"
    url = f"postgresql://{{{{username}}}}:{{{{password}}}}@localhost:{secured.port}/postgres?{tls}"
    setup = ["sh", str(DEPLOY / "openbao/setup.sh"), "users", url, str(password)]
    for _ in range(2):  # it may be run again
        bao.run(*setup, SHOP_LIFETIME="20s")
    bao.run(
        "bao",
        "kv",
        "put",
        "secret/eventshop/users_api",
        "kafka_password=first",
        "key_encryption_key=one\ntwo",
    )

    written = start_agent(bao, secured, tmp_path, stops)
    url = until(written("database_url"), "the database's URL", 90)
    assert until(written("kafka_password"), "Kafka's password", 90) == "first"
    assert until(written("key_encryption_key"), "both keys", 90).split() == ["one", "two"]
    for name in ("database_url", "kafka_password"):
        assert (tmp_path / "files" / name).stat().st_mode & 0o777 == 0o440

    (port,) = free_ports(1)
    api = Running(
        "api", "users", by=shop_command, SHOP_USERS__PORT=port, SHOP_SERVICES="shop.services",
        SHOP_USERS__DATABASE_URL_FILE=tmp_path / "files/database_url",
    )  # fmt: skip
    stops.callback(api.stop)
    client = stops.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
    until(lambda: answers(client), "the API answers", 60)

    def ready() -> bool:
        return client.get("/health/ready").is_success

    until(ready, "its database's role works", 90)
    # The role that it has may do what users_api may, and nothing else.
    with closing(psycopg.connect(written("database_url")(), autocommit=True)) as connection:
        assert connection.execute("SELECT count(*) FROM users").fetchall() == [(0,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine (id int)")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM cursors")

    # Changed in the store, it is in the file within the agent's interval.
    bao.run(
        "bao",
        "kv",
        "put",
        "secret/eventshop/users_api",
        "kafka_password=first\nsecond",
        "key_encryption_key=two",
    )
    until(lambda: written("kafka_password")() == "first\nsecond", "the new password", 90)
    # A role that ends is replaced before, and the old one is gone.
    until(lambda: written("database_url")() not in {"", url}, "a new role", 90)

    def refused() -> bool:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError as error:
            return "authentication failed" in str(error)
        return False

    until(refused, "the old role is gone", 120)
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        until(ready, "connections are made with the new role")


def start_agent(
    bao: OpenBao, secured: Secured, folder: Path, stops: ExitStack
) -> Callable[[str], Callable[[], str]]:
    """The agent of users-api; gives what reads one of its files."""
    (folder / "login").mkdir()
    role = "auth/approle/role/users_api"
    (folder / "login/role_id").write_text(
        bao.run("bao", "read", "-field=role_id", f"{role}/role-id")
    )
    (folder / "login/secret_id").write_text(
        bao.run("bao", "write", "-f", "-field=secret_id", f"{role}/secret-id")
    )
    config = (DEPLOY / "openbao/agent.hcl").read_text()
    config = config.replace("/run/openbao", str(folder / "login")).replace(
        "/run/secrets", str(folder / "files")
    )
    (folder / "agent.hcl").write_text(config.replace('"30s"', '"1s"'))
    agent = subprocess.Popen(
        [BAO, "agent", f"-config={folder / 'agent.hcl'}"],
        env={
            **{name: text for name, text in bao.environment.items() if name != "BAO_TOKEN"},
            "SHOP_ROLE": "users_api",
            "SHOP_DATABASE": secured.url("users", "x").partition("@")[2],
        },
        stdout=stops.enter_context((folder / "agent.log").open("wb")),
        stderr=subprocess.STDOUT,
    )
    stops.callback(end, agent)

    def reading(name: str) -> Callable[[], str]:
        file = folder / "files" / name
        return lambda: file.read_text().strip() if file.exists() else ""

    return reading
