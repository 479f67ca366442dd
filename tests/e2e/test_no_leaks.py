"""Secrets are nowhere: not in logs, answers, metrics, crash reports, argument lists, nor a child's environment."""

import os
import signal
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.secured import SERVICES, Secured
from tests.support.shop import PARTS, Running, Shop, answers, free_ports, shop_command
from tests.support.tls_postgres import ADMINISTRATOR
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with ExitStack() as stops:
        yield Secured(tmp_path_factory.mktemp("secured"), stops)


def visible(process: psutil.Process) -> str:
    """What other users or a crash report may see of it and of its children."""
    found = []
    for each in (process, *process.children(recursive=True)):
        with each.oneshot():
            found += each.cmdline()
        found.append(Path(f"/proc/{each.pid}/environ").read_text(errors="replace"))
    return "\n".join(found)


@pytest.mark.heavy
def test_production_shows_no_secret_anywhere(secured: Secured, tmp_path: Path) -> None:
    secrets = {
        password for role in (ADMINISTRATOR, "users", "users_api", "users_worker", "log_worker")
        for password in secured.passwords(role)
    }  # fmt: skip
    kek = tmp_path / "kek"
    kek.write_text(b64encode(os.urandom(32)).decode())
    kek.chmod(0o400)
    secrets.add(kek.read_text())
    port, *metrics = free_ports(3)
    logs = tmp_path / "logs"
    shared = {
        "SHOP_ENV": "production",
        "SHOP_AUTH__REQUIRED": "true",
        "SHOP_AUTH__ISSUER": "https://shop.example",
        "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE": str(kek),
        "SHOP_USERS__PORT": str(port),
        "SHOP_LOG_DIR": str(logs),
        "SHOP_ACCESS_LOG": "true",
    }
    seen: list[str] = []
    with ExitStack() as stops:
        running = []
        for part, metrics_port in zip(("api", "worker"), metrics, strict=True):
            settings = {**secured.environment(part, "users"), **shared}
            settings["SHOP_TELEMETRY__METRICS_PORT"] = str(metrics_port)
            running.append(Running(part, "users", by=shop_command, **settings))
            stops.callback(running[-1].stop)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            until(lambda: answers(client), "the API answers", 60)
            running[1].output.until("worker.started")
            seen += [visible(psutil.Process(each.process.pid)) for each in running]
            for path in (
                "/users",
                "/users/1",
                "/health/ready",
                "/docs",
                "/openapi.json",
            ):
                answer = client.get(path)
                seen.append(f"{answer.headers}{answer.text}")
            for metrics_port in metrics:
                answer = httpx.get(f"http://127.0.0.1:{metrics_port}/metrics")
                assert answer.is_success
                seen.append(answer.text)
            # A password that is wrong now, and a database that is away: both are logged.
            for role in ("users_api", "users_worker", "log_worker"):
                secured.set_file(role, wrong := f"wrong-{os.urandom(8).hex()}")
                secrets.add(wrong)
            with secured.as_superuser() as admin:
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename LIKE %s",
                    ["%\\_%"],
                )
            until(lambda: client.get("/health/ready").status_code == 503, "it is not ready")
            seen.append(client.get("/health/ready").text)
            running[0].output.until("password authentication failed")
            running[1].output.until("password authentication failed")
        # The way a crash ends, with whatever the interpreter says then.
        for each in running:
            each.process.send_signal(signal.SIGABRT)
            each.process.wait(60)
            each.output.close()
            seen += each.output.lines
    seen += [file.read_text() for file in logs.glob("*")]
    refused = secured.tried("api", "users", **{**shared, "SHOP_LOG_LEVEL": "debug"})
    shown = secured.tried("settings", **secured.environment("migrate", *SERVICES))
    seen += [refused.stdout, refused.stderr, shown.stdout, shown.stderr]
    for text in seen:
        for secret in secrets:
            assert secret not in text
    assert not list(tmp_path.rglob("core*"))


@pytest.mark.heavy
def test_shop_up_gives_its_children_no_secret_of_its_environment(tmp_path: Path) -> None:
    """What is exported for another program, by habit."""
    secret = os.urandom(12).hex()
    shop = Shop(
        tmp_path / "data",
        PGPASSWORD=secret,
        SHOP_ORDERS__DATABASE_PASSWORD=secret,
        SHOP_KAFKA__SASL_PASSWORD=secret,
    )
    try:
        shop.start()
        for child in psutil.Process(shop.up.process.pid).children(recursive=True):
            assert secret not in Path(f"/proc/{child.pid}/environ").read_text(errors="replace")
            assert secret not in "\n".join(child.cmdline())
        assert PARTS
    finally:
        shop.close()
    for file in (tmp_path / "data").rglob("*.log"):
        assert secret not in file.read_text(errors="replace")
