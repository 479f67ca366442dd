"""The shop as production runs it, on this machine: TLS, passwords in files, and a role for each process."""

import os
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import psycopg

from devstack.certificate import Certificate
from shop.platform import roles
from tests.support.shop import free_ports
from tests.support.tls_postgres import ADMINISTRATOR, TlsPostgres

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
        [self.port] = free_ports(1)
        self.set_file(ADMINISTRATOR, new_password())
        self.server = TlsPostgres(
            stops,
            port=self.port,
            certificate=self.certificate.chain,
            key=self.certificate.key,
            password=self.passwords(ADMINISTRATOR)[0],
            settings={"fsync": "off", "ssl": "on", "password_encryption": "scram-sha-256"},
        )
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
        tls = f"sslmode=verify-full&sslrootcert={self.certificate.authority}"
        return f"postgresql://{role}@localhost:{self.port}/{database}?{tls}"

    def as_superuser(self, database: str = "postgres") -> psycopg.Connection:
        return self.connect(database, ADMINISTRATOR)

    def environment(self, part: str, *services: str) -> dict[str, str]:
        """Of `migrate`, of an `api`, of a `worker`, or of a front."""
        suffix = "" if part == "migrate" else f"_{part}"
        found = {"SHOP_SERVICES": "shop.services"}
        for name in services:
            prefix = f"SHOP_{name.upper()}__DATABASE"
            found[f"{prefix}_URL"] = self.url(name, f"{name}{suffix}")
            found[f"{prefix}_PASSWORD_FILE"] = str(self.file(f"{name}{suffix}"))
        if part != "api":
            role = "log" if part == "migrate" else f"log_{part}"
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


def new_password() -> str:
    """One that is found nowhere by accident."""
    return f"Zk8-{os.urandom(12).hex()}_mQ"
