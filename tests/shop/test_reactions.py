"""A service asks a provider outside about its events; another only reads what came of it.

The provider is a real HTTP server, the workers are real processes.
"""

import asyncio
import json
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import psycopg
import pytest

from devstack.compose import rendered
from eventspine.context import Request
from eventspine.database import Database
from eventspine.outbox import transaction
from shop.platform import discovery
from tests.outside.services.letters.actions import WriteLetter, write
from tests.support.databases import NewDatabase
from tests.support.serving import serving
from tests.support.shop import environment, run_shop, shop_command
from tests.support.waiting import until

SERVICES = ("letters", "digest")


class Provider:
    """Delivers letters. A repeat of a key is answered as before, and delivers nothing."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.delivered: dict[str, str] = {}
        self.answer: Callable[[BaseHTTPRequestHandler, str], None] = self.deliver
        self.under_way = self.most_under_way = 0
        self._lock = threading.Lock()
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                letter = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                key = self.headers["Idempotency-Key"]
                with provider._lock:
                    provider.asked[key] += 1
                    provider.under_way += 1
                    provider.most_under_way = max(provider.most_under_way, provider.under_way)
                    provider.delivered.setdefault(key, letter["address"])
                try:
                    provider.answer(self, letter["address"])
                finally:
                    with provider._lock:
                        provider.under_way -= 1

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def deliver(self, handler: BaseHTTPRequestHandler, address: str) -> None:
        self.say(handler, 200, b'{"status": "delivered"}')

    def say(self, handler: BaseHTTPRequestHandler, status: int, body: bytes) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class System:
    """Two services' databases and their log."""

    def __init__(self, new_database: NewDatabase, provider: Provider) -> None:
        self.urls = {name: new_database(None) for name in (*SERVICES, "log")}
        self.settings: dict[str, str] = {
            "SHOP_SERVICES": "tests.outside.services",
            "SHOP_EVENT_LOG_URL": self.urls["log"],
            "SHOP_LETTERS__PROVIDER_URL": provider.url,
            "SHOP_LETTERS__PROVIDER_TIMEOUT_S": "0.5",
            **{f"SHOP_{name.upper()}__DATABASE_URL": self.urls[name] for name in SERVICES},
        }
        migrated = self.shop("migrate")
        assert migrated.returncode == 0, migrated.stderr

    def shop(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return run_shop(*words, timeout=90, **self.settings)

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        return self.shop(*words, "--data", "/nowhere")

    @contextmanager
    def worker(self, service: str) -> Iterator["subprocess.Popen[str]"]:
        process = subprocess.Popen(
            shop_command("worker", service),
            env=environment(**self.settings),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            assert process.communicate(timeout=60) is not None

    def write(self, *addresses: str) -> None:
        async def act() -> None:
            database = Database(self.urls["letters"], size=1)
            await database.open()
            async with transaction(database) as tx:
                await write(tx, [Request(WriteLetter(address)) for address in addresses])
            await database.close()

        asyncio.run(act())

    def rows(self, service: str, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.urls[service], autocommit=True) as connection:
            return connection.execute(sql.encode()).fetchall()

    def statuses(self) -> list[str]:
        return [status for (status,) in self.rows("letters", "SELECT status FROM letters ORDER BY id")]  # fmt: skip

    def posted(self) -> list[tuple[Any, ...]]:
        return self.rows("letters", "SELECT key FROM outbox WHERE type = 'letter.posted'")

    def wait_for(self, *statuses: str) -> None:
        until(lambda: self.statuses() == list(statuses), f"{statuses}")


@pytest.fixture
def provider() -> Iterator[Provider]:
    provider = Provider()
    yield provider
    provider.close()


@pytest.fixture
def system(new_database: NewDatabase, provider: Provider) -> System:
    return System(new_database, provider)


def test_each_outcome_comes_back_once_and_another_service_only_reads_it(
    system: System, provider: Provider
) -> None:
    system.settings["SHOP_LETTERS__PROVIDER_TIMEOUT_S"] = "30"  # each is asked once
    system.write("a", "b")
    provider.answer = lambda handler, address: (
        provider.say(handler, 409, b"") if address == "b" else provider.deliver(handler, address)
    )
    with system.worker("letters"), system.worker("digest"):
        system.wait_for("delivered", "refused")
        counted = "SELECT status, letters FROM digest ORDER BY 1"
        until(lambda: len(system.rows("digest", counted)) == 2, "the digest")
    assert provider.asked == {"letters.post/letters/1": 1, "letters.post/letters/2": 1}
    assert system.rows("digest", counted) == [("delivered", 1), ("refused", 1)]
    audited = system.command("audit")
    assert audited.returncode == 0, audited.stdout + audited.stderr
    assert "letters.post: checkpoints on topic letters" in audited.stdout
    # A service without a topic has no relay, and nothing of it is looked for in the log.
    assert system.rows("digest", "SELECT source FROM relay") == []
    assert system.rows("log", "SELECT DISTINCT topic FROM log_heads") == [("letters",)]
    assert "topic digest" not in audited.stdout


@pytest.mark.heavy
def test_a_provider_that_fails_is_asked_again_with_the_same_key(
    system: System, provider: Provider
) -> None:
    turns: Counter[str] = Counter()

    def trouble(handler: BaseHTTPRequestHandler, address: str) -> None:
        turns[address] += 1
        if turns[address] == 1:
            time.sleep(0.8)  # longer than the reaction waits
        elif turns[address] == 2:
            provider.say(handler, 503, b"")
        elif turns[address] == 3:
            handler.connection.close()
        else:
            provider.deliver(handler, address)

    provider.answer = trouble
    letters = [str(n) for n in range(12)]
    system.write(*letters)
    with system.worker("letters"):
        until(lambda: provider.asked, "the provider is asked")
        # The rest of the service goes on: what is published meanwhile reaches the log.
        system.write("later")
        ends = "SELECT next_offset >= 13 FROM log_heads WHERE topic = 'letters'"
        until(lambda: system.rows("log", ends) == [(True,)], "the relay goes on")
        until(lambda: set(system.statuses()) == {"delivered"}, "all are delivered", 60)
    assert set(provider.asked) == {f"letters.post/letters/{n}" for n in range(1, 14)}
    assert len(system.posted()) == 13
    assert 1 < provider.most_under_way <= 12  # four at a time, and those that were given up
    assert system.command("audit", "letters").returncode == 0


def test_a_call_cut_off_by_a_kill_is_made_again_and_its_outcome_comes_once(
    system: System, provider: Provider
) -> None:
    killed = threading.Event()
    system.settings["SHOP_LETTERS__PROVIDER_TIMEOUT_S"] = "30"

    def answer(handler: BaseHTTPRequestHandler, address: str) -> None:
        killed.wait(30)
        provider.deliver(handler, address)

    provider.answer = answer
    system.write("a", "b")
    with system.worker("letters") as worker:
        until(lambda: len(provider.delivered) == 2, "the provider has done it")
        worker.kill()
        worker.wait()
    assert system.statuses() == ["written", "written"]
    killed.set()
    with system.worker("letters"):
        system.wait_for("delivered", "delivered")
    assert provider.asked == {"letters.post/letters/1": 2, "letters.post/letters/2": 2}
    assert provider.delivered == {"letters.post/letters/1": "a", "letters.post/letters/2": "b"}
    assert sorted(system.posted()) == [("1",), ("2",)]
    assert system.command("audit", "letters").returncode == 0


@pytest.mark.heavy
def test_an_answer_that_makes_no_sense_parks_its_event_alone_and_can_be_retried(
    system: System, provider: Provider
) -> None:
    provider.answer = lambda handler, address: (
        provider.say(handler, 200, b"<html>") if address == "b" else provider.deliver(handler, address)
    )  # fmt: skip
    system.write("a", "b", "c")
    with system.worker("letters"):
        system.wait_for("delivered", "written", "delivered")
    parked = system.command("parked", "list", "letters")
    assert "letters.post: letters/0@1 position 2  key 2  JSONDecodeError" in parked.stdout
    audited = system.command("audit", "letters")
    assert audited.returncode == 1
    assert "letters.post: parked events" in audited.stdout
    # Still senseless; then away; then mended.
    retried = system.command("parked", "retry", "letters")
    assert (retried.returncode, "left 1: JSONDecodeError" in retried.stdout) == (1, True)
    provider.answer = lambda handler, address: provider.say(handler, 503, b"")
    retried = system.command("parked", "retry", "letters")
    assert retried.returncode == 2
    assert retried.stderr == "shop: cannot use the database: letters.post: NoOutcome: status 503\n"
    provider.answer = provider.deliver
    retried = system.command("parked", "retry", "letters")
    assert (retried.returncode, retried.stdout) == (
        0, "key 2 in topic letters: applied 1, left 0\n"
    )  # fmt: skip
    assert system.statuses() == ["delivered"] * 3
    with system.worker("letters"):
        relayed = "SELECT position FROM relay"
        until(lambda: system.rows("letters", relayed) == [(6,)], "all is relayed")
    assert system.command("audit", "letters").returncode == 0


def test_a_service_that_only_reads_has_an_api_and_stands_in_the_compose_file(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SERVICES", "tests.outside.services")
    discovery.check()
    with serving("digest", system.urls["digest"]) as digest:
        assert digest.client.get("/digest").json() == {"letters": {}}
    text = rendered("compose.yaml", {"letters": 9011, "digest": 9012})
    assert "digest-worker:" in text and "digest-api:" in text


def test_events_published_by_a_service_that_only_reads_are_found_by_the_audit(
    system: System,
) -> None:
    system.rows("digest", "UPDATE outbox_head SET position = 1 RETURNING 1")
    audited = system.command("audit", "digest")
    assert audited.returncode == 1
    assert "it has no topic, and 1 event(s) in its outbox" in audited.stdout
