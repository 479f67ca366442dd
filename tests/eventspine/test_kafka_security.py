"""Kafka behind TLS and passwords: what the shop's settings pass through, and what is said when
they are wrong.
"""

import asyncio
import shlex
import shutil
import time
import uuid
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, suppress
from itertools import product
from pathlib import Path

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    ResourcePatternType,
    ResourceType,
)
from typer.testing import CliRunner

from eventspine.database import Database
from eventspine.kafka_log import KafkaLog, appender, reader, topics
from eventspine.log import LogUnavailable, Record
from shop.cli.main import app
from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.platform.event_log import open_event_log
from shop.platform.settings import Settings
from tests.support.databases import Databases
from tests.support.living import Living, settings
from tests.support.records import from_offsets, numbered, numbers, poll_until
from tests.support.secure_kafka import PASSWORD, Secure
from tests.support.waiting import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.heavy, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    if shutil.which("openssl") is None:
        pytest.skip("left out, since there is no `openssl` to make a certificate with")
    with ExitStack() as stops:
        yield Secure(tmp_path_factory.mktemp("secure"), stops)


def open_with(environment: Mapping[str, str]) -> KafkaLog:
    """As a worker opens its log."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        log = open_event_log(Settings())
    assert isinstance(log, KafkaLog)
    return log


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "eventspine.kafka"]


async def test_events_flow_through_tls_with_a_password_from_a_file(secure: Secure) -> None:
    log, topic = open_with(secure.environment), f"topic-{uuid.uuid4().hex[:12]}"
    await log.create_topic(topic)
    await log.append(topic, numbered(100))
    member = log.subscribe(f"group-{topic}", [topic], from_offsets())
    assert sorted(numbers(await poll_until(member, 100))) == list(range(100))
    assert sum((await log.end_offsets(topic)).values()) == 100
    await log.close()


@pytest.mark.parametrize("wrong", ["password", "certificate"])
async def test_what_is_refused_is_named_and_tried_again(
    secure: Secure,
    wrong: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    environment = dict(secure.environment)
    if wrong == "password":
        (tmp_path / "password").write_text("mistaken")
        environment["SHOP_KAFKA__SASL_PASSWORD_FILE"] = str(tmp_path / "password")
        named = "uthentication failed"
    else:
        environment["SHOP_KAFKA__SSL_CA_LOCATION"] = str(secure.stranger)
        named = "certificate"

    monkeypatch.setattr(appender, "GIVE_UP_AFTER", 3.0)
    for module in (reader, topics):
        monkeypatch.setattr(module, "ANSWER_WITHIN", 2.0)
    log, topic = open_with(environment), f"topic-{uuid.uuid4().hex[:12]}"
    right = open_with(secure.environment)
    await right.create_topic(topic)
    await right.append(topic, numbered(10))
    member = log.subscribe(f"group-{topic}", [topic], from_offsets())

    async def refused(call: Awaitable[object]) -> str:
        with pytest.raises(LogUnavailable) as raised:
            await call
        return str(raised.value)

    # Whoever waits says the same thing once: so it has to be the same, to the letter.
    told = [await refused(member.poll(10, 20)) for _ in range(3)]
    assert len(set(told)) == 1, told
    told.append(await refused(log.create_topic(topic)))
    told.append(await refused(log.end_offsets(topic)))
    told.append(await refused(log.append(topic, numbered(1))))
    assert all(named in line for line in told), told
    away = said(caplog)
    assert len(away) == 1 and "kafka.waiting" in away[0] and named in away[0]

    # It is never given up: whoever mends the file of users need not restart anything.
    if wrong == "password":
        secure.set_password("mistaken")
        records: list[Record] = []
        async with asyncio.timeout(30):
            while len(records) < 10:
                with suppress(LogUnavailable):
                    records += await member.poll(10, 1.0)
        await log.append(topic, numbered(1, first=10))
        secure.set_password(PASSWORD)
    await log.close()
    await right.close()


@pytest.mark.parametrize("both_at_once", [True, False])
async def test_a_password_is_replaced_while_events_flow(
    secure: Secure, tmp_path: Path, both_at_once: bool
) -> None:
    """With both in the file from before to after the change, or with the new one alone, just after it."""
    principal, new = f"user-{uuid.uuid4().hex[:8]}", "battery staple"
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    environment = secure.environment_of(principal) | {"SHOP_KAFKA__SASL_PASSWORD_FILE": str(file)}
    right, log = open_with(secure.environment), open_with(environment)
    topic = f"topic-{uuid.uuid4().hex[:12]}"
    await right.create_topic(topic)
    allow(secure, principal, topic)
    member = log.subscribe(f"group-{topic}", [topic], from_offsets())

    appended = 0
    received: list[int] = []

    async def move_for(seconds: float) -> None:
        nonlocal appended
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            await log.append(topic, numbered(1, first=appended))
            appended += 1
            async with asyncio.timeout(30):
                while len(received) < appended:
                    # As a consumer does it: it is tried again.
                    with suppress(LogUnavailable):
                        received.extend(numbers(await member.poll(10, 1.0)))

    async def allowed() -> bool:
        """The rights have reached the broker. What it refuses is not written."""
        nonlocal appended
        with suppress(LogUnavailable):
            await log.append(topic, numbered(1, first=appended))
            appended += 1
        return appended > 0

    await eventually(allowed, what="the right to write")
    await move_for(1)
    if both_at_once:
        file.write_text(f"{PASSWORD}\n{new}\n")
    secure.set_password(new, principal)
    if both_at_once:
        await move_for(5)  # longer than a login is valid
    file.write_text(f"{new}\n")
    await move_for(5)
    assert sorted(received) == list(range(appended))
    assert sum((await right.end_offsets(topic)).values()) == appended
    await log.close()
    await right.close()


def allow(secure: Secure, principal: str, topic: str) -> None:
    """To write and read it."""
    acls = [
        AclBinding(
            kind, topic if kind is ResourceType.TOPIC else f"group-{topic}", ResourcePatternType.LITERAL,
            f"User:{principal}", "*", operation, AclPermissionType.ALLOW,
        )
        for kind, operation in (
            (ResourceType.TOPIC, AclOperation.WRITE),
            (ResourceType.TOPIC, AclOperation.READ),
            (ResourceType.GROUP, AclOperation.READ),
        )
    ]  # fmt: skip
    for made in secure.admin.create_acls(acls).values():
        made.result()


# Rights


def documented_acls() -> Iterator[AclBinding]:
    """What the commands in docs/operations.md give."""
    text = (Path(__file__).parents[2] / "docs/operations.md").read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if not line.startswith("    kafka-acls.sh "):
            continue
        words = [word for word in shlex.split(line)[3:] if word != "--add"]
        given: dict[str, list[str]] = {}
        name = ""
        for word in words:
            if word.startswith("--"):
                name = word
                given.setdefault(name, [])
            else:
                given[name].append(word)
        operations = given.get("--operation", [])
        if "--producer" in given:
            operations = ["Write", "Describe", "Create"]
        for kind, names in (
            (ResourceType.TOPIC, given.get("--topic", [])),
            (ResourceType.GROUP, given.get("--group", [])),
        ):
            for who, what, operation in product(given["--allow-principal"], names, operations):
                yield AclBinding(
                    kind, what, ResourcePatternType.LITERAL, who, "*",
                    AclOperation[operation.upper()], AclPermissionType.ALLOW,
                )  # fmt: skip


async def test_services_with_the_documented_rights_move_events_and_start_again(
    secure: Secure, databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those whose rights docs/operations.md lists.
    monkeypatch.setenv(PACKAGES, "shop.services")
    environments = {name: secure.environment_of(name) for name in discovery.names()}
    for name, value in {**settings(databases), **environments["orders"]}.items():
        monkeypatch.setenv(name, value)
    acls = set(documented_acls())
    assert {acl.principal for acl in acls} == {f"User:{name}" for name in discovery.names()}
    for made in secure.admin.create_acls(list(acls)).values():
        made.result()

    async def move(first: bool) -> None:
        async with AsyncExitStack() as held:
            opened = {}
            for name in discovery.names():
                opened[name] = Database(databases[name])
                await opened[name].open()
                held.push_async_callback(opened[name].close)
            systems = {}
            for name, environment in environments.items():
                log = open_with(environment)
                held.push_async_callback(log.close)
                systems[name] = Living(databases, opened, log)
            if first:
                migrating = open_with(secure.environment)
                for topic in discovery.names():
                    await migrating.create_topic(topic, 1)
                await migrating.close()
            users, orders = systems["users"], systems["orders"]
            async with (
                users.moving("users relay", "users consumer"),
                orders.moving("orders relay", "orders consumer"),
            ):
                users.users_created = 0 if first else 5
                await users.create(5)
                await users.settled()
                await orders.place(*range(1, users.users_created + 1))
                await orders.settled()

    for first in (True, False):
        await move(first)
        audit = await asyncio.to_thread(CliRunner().invoke, app, ["audit", "--data", "/nowhere"])
        assert audit.exit_code == 0, audit.output
