"""A release and the next one beside each other, on the newer schema: what `docs/operations.md` promises of an upgrade.

The next release is this one with the field that the tutorial adds to orders: a column with its migration, a
field of the events, of requests and of answers.
"""

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, Self

import httpx
import psycopg
import pytest

from tests.support.databases import Databases
from tests.support.shop import (
    Running,
    answers,
    environment,
    free_ports,
    new_order,
    new_user,
    run_shop,
)
from tests.support.waiting import until

pytestmark = [pytest.mark.heavy, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


def next_release(folder: Path) -> Path:
    """Where its modules are."""
    page = (ROOT / "docs/tutorial.md").read_text()
    section = re.search(r"^## Add a field\n.*?^```diff\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert section, "the tutorial adds no field"
    modules = folder / "src"
    shutil.copytree(
        ROOT / "src", modules, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
    )
    for command, given in (
        (["git", "apply", "-C1"], section[1]),
        ([sys.executable, "-m", "devstack.migration", "orders", "note"], ""),
    ):
        done = subprocess.run(
            command, cwd=folder, env=environment(PYTHONPATH=modules), input=given,
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return modules


class Release:
    """The processes of one release."""

    def __init__(self, databases: Databases, stops: ExitStack, **more: Any) -> None:
        self._settings = {
            "SHOP_SERVICES": "shop.services",
            "SHOP_EVENT_LOG": "postgres",
            "SHOP_EVENT_LOG_URL": databases.log,
            "SHOP_USERS__DATABASE_URL": databases.users,
            "SHOP_ORDERS__DATABASE_URL": databases.orders,
            "SHOP_ORDERS__CUSTOMER_GRACE_MS": 10_000,
            **more,
        }
        self._stops = stops
        self._running: list[Running] = []

    def start(self) -> dict[str, httpx.Client]:
        """Clients of its APIs, once they answer."""
        ports = dict(zip(("users", "orders"), free_ports(2), strict=True))
        for name, port in ports.items():
            own: dict[str, Any] = {f"SHOP_{name.upper()}__PORT": port}
            for part in ("api", "worker"):
                self._running.append(Running(part, name, **self._settings, **own))
                self._stops.callback(self._running[-1].stop)
        clients = {
            name: self._stops.enter_context(
                closing(httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30))
            )
            for name, port in ports.items()
        }
        for client in clients.values():
            until(lambda client=client: answers(client), "an API answers", 90)
        return clients

    def stop(self) -> None:
        assert [each.stop(timeout=30) for each in self._running] == [0] * len(self._running)

    def migrate(self) -> None:
        migrated = self.run("migrate")
        assert migrated.returncode == 0, migrated.stderr

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return run_shop(*words, timeout=120, **self._settings)


class Clients(threading.Thread):
    """Somebody new orders again and again, at one release and at the other. Every answer is kept."""

    def __init__(self, *apis: dict[str, httpx.Client]) -> None:
        super().__init__(daemon=True)
        self.apis = list(apis)
        self.answers: list[httpx.Response] = []
        self.failed: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        turn = 0
        while not self._over.is_set():
            turn += 1
            # One release knows the user that the other has created.
            here, there = self.apis[turn % len(self.apis)], self.apis[(turn + 1) % len(self.apis)]
            try:
                user = self._kept(here["users"].post("/users", json=new_user()))
                order = self._kept(there["orders"].post("/orders", json=new_order(user["id"])))
                if turn % 2:
                    self._kept(here["orders"].post(f"/orders/{order['id']}/cancel"))
                self._kept(here["orders"].get(f"/orders/{order['id']}"))
            except (httpx.HTTPError, KeyError) as error:
                self.failed.append(f"{type(error).__name__}: {error}")

    def _kept(self, answer: httpx.Response) -> dict[str, Any]:
        self.answers.append(answer)
        return dict(answer.json())

    def after(self, more: int) -> None:
        """Until so many more answers have come."""
        wanted = len(self.answers) + more
        until(lambda: len(self.answers) >= wanted or None, f"{more} answers", 90)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join(60)
        refused = [each.text for each in self.answers if not each.is_success]
        assert (refused[:3], self.failed[:3]) == ([], [])


@pytest.fixture
def stops() -> Iterator[ExitStack]:
    with ExitStack() as stops:
        yield stops


def test_two_releases_serve_together_while_clients_order(
    databases: Databases, stops: ExitStack, tmp_path: Path
) -> None:
    before = Release(databases, stops)
    after = Release(databases, stops, PYTHONPATH=next_release(tmp_path))
    before.migrate()
    old = before.start()
    with Clients(old) as clients:
        clients.after(20)
        after.migrate()
        clients.after(20)
        new = after.start()
        clients.apis = [old, new]
        clients.after(40)
        _what_each_understands(old, new)
        clients.apis = [new]
        clients.after(20)
        before.stop()
        clients.after(20)

    for database in (databases.users, databases.orders):
        until(lambda url=database: _is_relayed(url), "everything is in the log", 60)
    audit = after.run("audit")
    assert audit.returncode == 0, audit.stdout + audit.stderr


def _what_each_understands(old: dict[str, httpx.Client], new: dict[str, httpx.Client]) -> None:
    user = old["users"].post("/users", json=new_user()).json()
    # The same request under the same key, sent to both, is one order.
    key = {"Idempotency-Key": f"across-releases-{user['id']}"}
    first = old["orders"].post("/orders", json=new_order(user["id"]), headers=key)
    again = new["orders"].post("/orders", json=new_order(user["id"]), headers=key)
    assert (first.status_code, again.status_code) == (201, 201), first.text
    assert again.content == first.content
    noted = new["orders"].post("/orders", json=new_order(user["id"], note="ring twice"))
    assert (noted.status_code, noted.json()["note"]) == (201, "ring twice")
    id_ = noted.json()["id"]
    seen = old["orders"].get(f"/orders/{id_}")
    assert seen.status_code == 200
    assert "note" not in seen.json()
    # The user service of the old release applies the events of the new one, which have a field more.
    mine = f"/users/{user['id']}/orders"
    for users in (old["users"], new["users"]):
        until(lambda users=users: users.get(mine).json()["count"] == 2 or None, "both orders")


def _is_relayed(url: str) -> bool:
    with closing(psycopg.connect(url, autocommit=True)) as connection:
        rows = connection.execute(
            "SELECT (SELECT position FROM outbox_head) = max(position) FROM relay"
        )
        return rows.fetchall() == [(True,)]
