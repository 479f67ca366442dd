"""The shop as production runs it, on this machine: TLS, passwords in files, and a role for each process.

The PostgreSQL of the wheel can't do TLS. So a small proxy does it in front of that server, as a TLS
terminator does it in production, and clients begin with TLS at once (`sslnegotiation=direct`).
"""

import asyncio
import os
import ssl
import subprocess
import sys
import tempfile
import threading
from base64 import b64encode
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
from psycopg import sql

from devstack.certificate import Certificate
from devstack.postgres import LocalPostgres
from shop.platform import roles
from tests.support.shop import free_ports

ADMINISTRATOR = "administrator"
SERVICES = ("users", "orders")


class Secured:
    """A PostgreSQL to which clients come by TLS and SCRAM at `port`, with the databases and roles of `shop roles`.

    The log is a table in it.
    """

    def __init__(self, folder: Path, stops: ExitStack) -> None:
        self.secrets = folder / "secrets"
        self.secrets.mkdir(parents=True)
        self.key_encryption_key = self.secrets / "key_encryption_key"
        self.key_encryption_key.write_text(b64encode(os.urandom(32)).decode())
        self.key_encryption_key.chmod(0o400)
        self.certificate = Certificate(folder / "certificate")
        self.certificate.make()
        self.port, self.plain_port = free_ports(2)
        # Not below pytest's own folder, which another user, as whom PostgreSQL runs, may not pass.
        data = Path(stops.enter_context(tempfile.TemporaryDirectory(prefix="eventshop-test-")))
        data.chmod(0o711)
        self.server = self._start(data / "postgres", stops)
        for name in (*SERVICES, "log"):
            for role in roles.named(name):
                self.set_file(role, new_password())
            self.shop("roles", name, "--passwords", self.secrets, "--apply", **self._admin())
        self.migrate()

    def migrate(self) -> None:
        self.shop("migrate", **self.environment("migrate", *SERVICES))

    def file(self, role: str) -> Path:
        return self.secrets / f"{role}_password"

    def set_file(self, role: str, *passwords: str) -> None:
        """As a whole, as an operator does it."""
        new = self.secrets / f"{role}.new"
        new.write_text("".join(f"{each}\n" for each in passwords))
        new.chmod(0o400)
        new.replace(self.file(role))

    def passwords(self, role: str) -> list[str]:
        return self.file(role).read_text().split()

    def set_roles(self, database: str) -> None:
        self.shop("roles", database, "--passwords", self.secrets, "--apply", **self._admin())

    def connect(self, database: str, role: str, password: str | None = None) -> psycopg.Connection:
        password = password or self.passwords(role)[0]
        return psycopg.connect(self.url(database, role), password=password, autocommit=True)

    def url(self, database: str, role: str) -> str:
        tls = f"sslmode=verify-full&sslrootcert={self.certificate.authority}&sslnegotiation=direct"
        return f"postgresql://{role}@localhost:{self.port}/{database}?{tls}"

    def as_superuser(self, database: str = "postgres") -> psycopg.Connection:
        """By the socket."""
        where = (
            f"host={self.server.socket_dir} port={self.plain_port} user=postgres dbname={database}"
        )
        return psycopg.connect(where, autocommit=True)

    def environment(self, part: str, *services: str) -> dict[str, str]:
        """Of `migrate`, of an `api` or of a `worker`."""
        suffix = "" if part == "migrate" else f"_{part}"
        found = {"SHOP_SERVICES": "shop.services"}
        for name in services:
            prefix = f"SHOP_{name.upper()}__DATABASE"
            found[f"{prefix}_URL"] = self.url(name, f"{name}{suffix}")
            found[f"{prefix}_PASSWORD_FILE"] = str(self.file(f"{name}{suffix}"))
        if part != "api":
            role = "log" if part == "migrate" else "log_worker"
            found["SHOP_EVENT_LOG_URL"] = self.url("log", role)
            found["SHOP_EVENT_LOG_PASSWORD_FILE"] = str(self.file(role))
        if part == "migrate":
            found["SHOP_ACCEPT_DATA_LOSS"] = "true"  # fsync is off here
        return found

    def shop(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command that ends; it must succeed."""
        done = self.tried(*words, **environment)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def tried(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "shop.cli", *map(str, words)],
            env={"PATH": os.environ["PATH"], **environment},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _admin(self) -> Mapping[str, str]:
        return {
            "SHOP_ADMIN_URL": self.url("postgres", ADMINISTRATOR),
            "SHOP_ADMIN_PASSWORD_FILE": str(self.file(ADMINISTRATOR)),
        }

    def _start(self, data: Path, stops: ExitStack) -> LocalPostgres:
        settings = {
            "fsync": "off",
            "listen_addresses": "localhost",
            "port": str(self.plain_port),
            "password_encryption": "scram-sha-256",
        }
        server = LocalPostgres(data, settings=settings)
        server.start()
        stops.callback(server.stop)
        server.wait_ready()
        terminating = TlsTerminator(
            self.certificate.chain, self.certificate.key, self.port, self.plain_port
        )
        stops.callback(terminating.close)
        (server.data_dir / "pg_hba.conf").write_text(
            "local all postgres trust\nhost all all all scram-sha-256\n"
        )
        self.server = server
        self.set_file(ADMINISTRATOR, new_password())
        with closing(self.as_superuser()) as admin:
            admin.execute("SELECT pg_reload_conf()")
            admin.execute(
                sql.SQL("CREATE ROLE {} SUPERUSER LOGIN PASSWORD {}").format(
                    sql.Identifier(ADMINISTRATOR), self.passwords(ADMINISTRATOR)[0]
                )
            )
        return server


class TlsTerminator:
    """TLS at `port`, and what comes through it goes on to `plain`; in threads of its own."""

    def __init__(self, certificate: Path, key: Path, port: int, plain: int) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._context.set_alpn_protocols(["postgresql"])
        self._ports = port, plain
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._pass_on, "localhost", self._ports[0], ssl=self._context
        )

    async def _end(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _pass_on(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        far, to_far = await asyncio.open_connection("127.0.0.1", self._ports[1])

        async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                to.write(data)
                await to.drain()

        ways = [asyncio.create_task(pump(near, to_far)), asyncio.create_task(pump(far, to_near))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_far.close()
            to_near.close()


def new_password() -> str:
    """One that is found nowhere by accident."""
    return f"Zk8-{os.urandom(12).hex()}_mQ"
