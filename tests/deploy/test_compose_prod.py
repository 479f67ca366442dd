"""The production file: what it promises, and its processes on this machine, with TLS, passwords and rights."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import trustme
from confluent_kafka import Consumer, KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from shop.platform import discovery
from tests.support.capture import need_debezium
from tests.support.compose import DEPLOY
from tests.support.documented import commands
from tests.support.newcomers import Newcomers, end_connections
from tests.support.production import FILE, SERVICES, Production, make_secrets, written
from tests.support.secured import new_password
from tests.support.services import FRONTS, SHIPPED
from tests.support.shop import free_ports
from tests.support.waiting import until

PASSWORD = "correct horse battery staple"

OURS = {
    *(f"{name}-{part}" for name in SHIPPED for part in ("api", "worker", "roles")),
    "migrate",
    "kafka-roles",
    "cdc-begin",
    *FRONTS,
}


def test_it_has_everything_for_every_service() -> None:
    databases = {f"{name}-db" for name in SHIPPED}
    assert SERVICES.keys() == OURS | databases | {"kafka", "gateway", "connect"}


def test_change_data_capture_starts_nothing_unless_it_is_asked_for() -> None:
    asked = {name for name in SERVICES if SERVICES[name].get("profiles") == ["cdc"]}
    assert asked == {"cdc-begin", "connect"}
    assert not [name for name in SERVICES.keys() - asked if "profiles" in SERVICES[name]]
    for name in SERVICES.keys() - asked:
        assert not asked & SERVICES[name].get("depends_on", {}).keys()
    for name in OURS:
        told = SERVICES[name]["environment"].get("SHOP_RELAY", "${SHOP_RELAY:-polling}")
        assert told == "${SHOP_RELAY:-polling}"


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_each_runs_an_image_by_digest_and_may_do_little(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        # `pin-images.sh` writes it as REPOSITORY@sha256:….
        assert service["image"].startswith("${SHOP_IMAGE:?")
        assert service["user"] == "10001:10001"
    else:
        assert re.fullmatch(r"[\w/]+:[\w.-]+@\$\{[A-Z]+_DIGEST:\?.*\}", service["image"])
    assert not {"build", "privileged", "env_file", "develop"} & service.keys()
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["deploy"]["resources"]["limits"].keys() == {"cpus", "memory", "pids"}
    assert "user" in service or name == "kafka"  # whose image has a user of its own
    for volume in service["volumes"]:
        assert "src" not in volume
        assert volume.endswith(":ro") or not volume.startswith("."), volume


def test_the_gateway_alone_is_published_and_pages_for_staff_on_this_machine_alone() -> None:
    published = {name: SERVICES[name]["ports"] for name in SERVICES if "ports" in SERVICES[name]}
    assert published.keys() == {"gateway", *FRONTS}
    for name in FRONTS:
        assert all(port.startswith("127.0.0.1:") for port in published[name])
        assert not {*SERVICES[name]["networks"]} & {*SERVICES["gateway"]["networks"]}
    assert FILE["networks"]["events"]["internal"] is True
    assert all(FILE["networks"][name]["internal"] for name in SHIPPED)


@pytest.mark.parametrize("name", sorted(OURS))
def test_secrets_are_files_and_each_sees_its_own(name: str) -> None:
    service = SERVICES[name]
    assert service["volumes"] == [f"./secrets/{name}:/run/secrets:ro"]
    owner, _, part = name.rpartition("-")
    for key, text in service["environment"].items():
        assert not re.search(r"://[^/@]*:[^/@]*@", text), key
        if re.search("PASSWORD|SECRET|TOKEN|ENCRYPTION_KEY", key):
            assert key.endswith("_FILE") and text.startswith("/run/secrets/"), key
    if part in {"api", "worker"}:
        assert service["environment"]["SHOP_ENV"] == "production"
        assert not [
            k
            for k in service["environment"]
            for other in {*SHIPPED} - {owner}
            if f"_{other.upper()}__" in k
        ]
    issues = part == "api" and discovery.sections()[owner].issues_tokens
    assert ("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE" in service["environment"]) is issues


def test_every_folder_of_secrets_is_made(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    mounted = {
        volume.split(":")[0].removeprefix("./secrets/")
        for service in SERVICES.values()
        for volume in service["volumes"]
        if volume.startswith("./secrets/")
    }
    assert mounted <= {path.name for path in tmp_path.iterdir()}
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for path in before:
        assert path.stat().st_mode & 0o007 == 0, path
    make_secrets(tmp_path)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_certificate_that_an_operator_brings_is_given_to_the_container_that_reads_it(
    tmp_path: Path,
) -> None:
    make_secrets(tmp_path)
    key = tmp_path / "gateway/key.pem"
    key.unlink()
    key.write_text("brought")
    key.chmod(0o600)
    make_secrets(tmp_path)
    assert (key.read_text(), key.stat().st_mode & 0o777) == ("brought", 0o440)


def pin_images(folder: Path, docker: str) -> subprocess.CompletedProcess[str]:
    """`pin-images.sh`, with a stand-in for docker, since it asks registries."""
    (folder / "docker").write_text(f"#!/bin/sh\n{docker}\n")
    (folder / "docker").chmod(0o755)
    for name in ("pin-images.sh", "compose.prod.yaml"):
        shutil.copy(DEPLOY / name, folder)
    return subprocess.run(
        ["sh", str(folder / "pin-images.sh"), "registry.example/eventshop:0.2.0", "https://shop.example"],
        env={"PATH": f"{folder}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip


def test_all_images_are_pinned_by_one_command(tmp_path: Path) -> None:
    done = pin_images(tmp_path, 'echo "sha256:$4" | tr -d "/:." | sed s/sha256/sha256:/')
    assert done.returncode == 0, done.stderr
    written = dict(
        line.split("=", 1) for line in (tmp_path / "images.env").read_text().splitlines()
    )
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "compose.prod.yaml").read_text()))
    assert written.keys() == asked
    assert written.pop("SHOP_ISSUER") == "https://shop.example"
    assert written.pop("SHOP_IMAGE").startswith("registry.example/eventshop:0.2.0@sha256:")
    assert all(digest.startswith("sha256:") for digest in written.values())


@pytest.mark.parametrize(
    "docker",
    ["exit 1", "exit 0", 'case $4 in nginx*) exit 1 ;; *) echo "sha256:0" ;; esac'],
    ids=["no docker", "an old docker", "one image that is not there"],
)
def test_images_without_a_digest_are_not_pinned(tmp_path: Path, docker: str) -> None:
    """An empty digest would be found out by Compose alone, in words of its own."""
    done = pin_images(tmp_path, docker)
    assert done.returncode == 1
    assert "there is no digest of" in done.stderr
    assert not list(tmp_path.glob("images.env*"))


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    with ExitStack() as stops:
        yield Production(tmp_path_factory.mktemp("production"), stops)


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_every_process_starts_with_its_own_secrets_roles_and_rights(production: Production) -> None:
    production.start_all()
    for name in SHIPPED:
        with production.to(name) as client:
            assert client.get("/docs").status_code == 404

    def works(name: str) -> bool:
        lines = production.processes[f"{name}-worker"].log.path.read_text()
        return "relay.leading" in lines

    for name in SHIPPED:
        until(lambda name=name: works(name), f"the worker of {name} relays", 60)
    for process in production.processes.values():
        assert process.returncode is None, process.ended()
        said = process.log.path.read_text()
        assert "uthorization" not in said and "denied" not in said, said


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
def test_the_six_steps_in_production_with_a_token(production: Production) -> None:
    """Each API logs in to its database as its own role, as `users_api`, and nobody comes in without a token."""
    production.start_all()
    for words in commands("First start in production", "keys"):
        production.run("users-api", *words)
    with production.to("users") as users, production.to("orders") as orders:
        person = {"email": "setiadi@example.com", "name": "Setiadi", "password": PASSWORD}
        user = users.post("/users", json=person)
        assert user.status_code == 201, user.text
        session = users.post(
            "/sessions", json={name: person[name] for name in ("email", "password")}
        )
        assert session.status_code == 201, session.text
        token = session.json()["access_token"]
        auth = {"Authorization": f"Bearer {token}"}
        coffee = {"product": "coffee", "quantity": 100, "total_price": 50}
        me = f"/users/{user.json()['id']}"
        assert users.get(me).status_code == orders.post("/orders", json=coffee).status_code == 401
        # A process reads the keys once a second. Until then it knows none, because this key is the first.
        until(
            lambda: users.get(me, headers=auth).is_success, "the user service takes the token", 30
        )
        assert users.get(me, headers=auth).json()["email"] == person["email"]

        def place() -> httpx.Response:
            return orders.post("/orders", json=coffee, headers=auth)

        # Until the key has come to the order service, it knows no token.
        until(lambda: place().status_code == 201, "the order service takes the token", 90)
        order = place()
        assert order.status_code == 201, order.text
        assert order.json()["customer"] == {"name": "Setiadi", "email": person["email"]}
        placed = orders.get(f"/orders/{order.json()['id']}", headers=auth)
        assert (placed.status_code, placed.text) == (200, order.text)
        again = users.post("/users", json={**person, "email": "SETIADI@example.com"})
        assert again.status_code == 409
        form = {"grant_type": "refresh_token", "refresh_token": session.json()["refresh_token"]}
        assert users.post("/token", data=form).status_code == 200
        assert users.delete(f"{me}/sessions", headers=auth).status_code == 204
        until(lambda: place().status_code == 401, "a token of before is refused by orders", 90)
    for role in ("users_api", "users_worker"):
        assert role in production.logged_in("users-db")


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_every_connection_to_a_database_has_tls_of_postgresql_itself(
    production: Production,
) -> None:
    production.start_all()
    for name in SHIPPED:
        with closing(production.administrator(f"{name}-db")) as admin:
            [(found,)] = admin.execute("SHOW server_version").fetchall()
            assert SERVICES[f"{name}-db"]["image"].startswith(f"postgres:{found}-")
            by_role = admin.execute(
                "SELECT usename, bool_and(ssl), min(version) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)"
                " WHERE client_addr IS NOT NULL GROUP BY usename"
            ).fetchall()
            assert {f"{name}_api", f"{name}_worker"} <= {role for role, _, _ in by_role}
            for role, encrypted, version in by_role:
                assert encrypted and version in {"TLSv1.2", "TLSv1.3"}, (role, version)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of another authority."""
    path = tmp_path_factory.mktemp("stranger") / "ca.crt"
    trustme.CA().cert_pem.write_to_path(str(path))
    path.chmod(0o444)
    return path


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("was", "now", "allowed", "said"),
    [
        (r"sslrootcert=\S+", "sslrootcert={stranger}", "", "certificate verify failed"),
        ("localhost", "127.0.0.1", "", "does not match host name"),
        ("sslmode=verify-full", "sslmode=disable", "database-without-tls", "no encryption"),
    ],
    ids=["another authority", "another name", "no TLS"],
)
def test_a_database_that_is_not_the_one_that_is_meant_is_refused_in_a_sentence(
    production: Production, stranger: Path, was: str, now: str, allowed: str, said: str
) -> None:
    [port] = free_ports(1)
    for name in ("users-api", "users-worker"):
        url = production.environment(name)["SHOP_USERS__DATABASE_URL"]
        wrong = re.sub(was, now.format(stranger=stranger), url)
        assert wrong != url
        more = {"SHOP_USERS__DATABASE_URL": wrong, "SHOP_USERS__PORT": str(port)}
        more["SHOP_TELEMETRY__METRICS"] = "false"
        if allowed:
            asked = production.tried(name, **more)
            assert asked.returncode == 2
            assert "the connection may be without TLS" in asked.stderr
            more["SHOP_PRODUCTION_ALLOWS"] = allowed
        process = production.start(name, **more)
        try:
            text = process.log.path.read_text
            until(lambda text=text: said in text(), f"{name} says {said!r}", 30)
            assert process.ended() is None
        finally:
            process.stop(10)
        told = [line for line in text().splitlines() if said in line]
        assert "waiting" in told[0], told
    listed = production.tried("users-api", "keys", "list", **more)
    assert listed.returncode == 2
    assert said in listed.stderr
    assert "Traceback" not in listed.stderr


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FRONTS)
def test_pages_read_every_database_and_the_log_with_roles_of_their_own(
    production: Production, name: str
) -> None:
    production.start_all()
    with production.to(name) as pages:
        assert pages.get("/").headers["location"] == "/login"
    given = production.environment(name)["SHOP_CONSOLE__APIS"].split(",")
    apis = [word for each in given for word in ("--api", each)]

    def well() -> bool:
        return production.tried(name, "top", "--once", *apis).returncode == 0

    # What its pages are made of, with its settings. It fails if something is away.
    until(well, "all is well in its eyes", 120)
    production.run(name, "events", "--topic", "users", "--no-follow")
    for each in SHIPPED:
        production.run(name, "parked", "list", each)
        assert f"{each}_front" in production.logged_in(f"{each}-db")
        assert not written(production.client(name), each)


@pytest.mark.kafka
@pytest.mark.heavy
def test_a_service_writes_to_its_own_topic_and_to_no_other(production: Production) -> None:
    for user in SHIPPED:
        for topic in SHIPPED:
            assert written(production.client(user), topic) is (user == topic), (user, topic)
    assert not written(production.client("migrate"), "users")


@pytest.mark.kafka
@pytest.mark.heavy
def test_nobody_joins_the_group_of_another_service_or_reads_without_a_password(
    production: Production,
) -> None:
    with pytest.raises(KafkaException) as told:
        admin = AdminClient(production.client("orders"))
        admin.describe_consumer_groups(["users"], request_timeout=30)["users"].result()
    assert told.value.args[0].code() == KafkaError.GROUP_AUTHORIZATION_FAILED
    wrong = {**production.client("orders"), "sasl.password": "guess"}
    with closing(Consumer({**wrong, "group.id": "orders"})) as consumer:
        with pytest.raises(KafkaException):
            consumer.list_topics(timeout=3)
    plain: Mapping[str, Any] = {
        "bootstrap.servers": production.kafka,
        "group.id": "x",
        "log_level": 0,
    }
    with closing(Consumer({**plain})) as consumer, pytest.raises(KafkaException):
        consumer.list_topics(timeout=3)


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_passwords_are_replaced_by_the_steps_for_this_file_and_no_request_is_refused(
    production: Production,
) -> None:
    """Those of docs/operations.md, "With `deploy/compose.prod.yaml`"."""
    production.start_all()
    url = f"http://127.0.0.1:{production.api_ports['users']}"

    def write(name: str, *lines: str) -> None:
        path = production.secrets / f"passwords/{name}_password"
        path.with_suffix(".new").write_text("".join(f"{line}\n" for line in lines))
        path.with_suffix(".new").replace(path)

    names = ("users_api", "kafka_users")
    old = {name: (production.secrets / f"passwords/{name}_password").read_text().strip() for name in names}  # fmt: skip
    new = {name: new_password() for name in names}
    with Newcomers(url) as first:
        first.more()
        for name in names:
            write(name, old[name], new[name])
        make_secrets(production.secrets)
        first.more()
        for name in ("users-roles", "kafka-roles"):
            production.run(name)
        first.more()
    with closing(production.administrator("users-db")) as admin:
        end_connections(admin, "users_api")
        with Newcomers(url) as between:
            between.more()
            for name in names:
                write(name, new[name])
            make_secrets(production.secrets)
            between.more()
        end_connections(admin, "users_api")
        with Newcomers(url) as last:
            last.more()
    assert {*first.answers, *between.answers, *last.answers} == {201}
    for name, given in (("users_api", "users-api/database"), ("kafka_users", "users-worker/kafka")):
        assert (production.secrets / f"{given}_password").read_text().strip() == new[name]
    # A client with the new password alone is let in.
    assert written(production.client("users"), "users")


@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(300)
def test_certificate_and_authority_of_a_database_are_replaced_and_no_request_is_refused(
    production: Production, tmp_path: Path
) -> None:
    """The steps of docs/operations.md, each under load."""
    production.start_all()
    make_secrets(tmp_path)
    server, role = production.databases["users-db"], "users_api"
    url = f"http://127.0.0.1:{production.api_ports['users']}"
    old = (production.secrets / "authority/ca.crt").read_text()
    new = (tmp_path / "authority/ca.crt").read_text()

    def authorities(folder: str, *certificates: str) -> None:
        path = production.secrets / folder / "ca.crt"
        unfinished = path.with_suffix(".new")
        unfinished.write_text("".join(certificates))
        unfinished.chmod(0o440)
        unfinished.replace(path)

    with closing(production.administrator("users-db")) as admin:
        with Newcomers(url) as first:
            first.more()
            for folder in ("users-api", "users-worker", "users-roles", "migrate", *FRONTS):
                authorities(folder, old, new)
            first.more()
            server.use(tmp_path / "users-db/server.crt", tmp_path / "users-db/server.key")
            admin.execute("SELECT pg_reload_conf()")
            first.more()
        end_connections(admin, role)
        with Newcomers(url) as between:
            between.more()
            authorities("users-api", new)  # the others need the old one for Kafka
            between.more()
        end_connections(admin, role)
        with Newcomers(url) as last:
            last.more()
    assert {*first.answers, *between.answers, *last.answers} == {201}
    (tmp_path / "old.crt").write_text(old)
    with pytest.raises(psycopg.OperationalError, match="certificate verify failed"):
        production.administrator("users-db", authority=tmp_path / "old.crt")
    production.administrator("users-db").close()
    # As it was, for the next test.
    for folder in ("users-api", "users-worker", "users-roles", "migrate", *FRONTS):
        authorities(folder, new, old)
    kept = production.secrets / "users-db"
    server.use(kept / "server.crt", kept / "server.key")
    with closing(production.administrator("users-db")) as admin:
        admin.execute("SELECT pg_reload_conf()")


# The last one: from here on, Debezium relays.
@pytest.mark.kafka
@pytest.mark.heavy
@pytest.mark.timeout(400)
def test_debezium_sends_with_its_own_secrets_roles_and_rights(production: Production) -> None:
    need_debezium()
    production.start_all()
    connect = production.relay_by_debezium()

    def reads() -> bool:
        found = "SELECT active FROM pg_replication_slots WHERE slot_name = '{0}_outbox'"
        assert connect.ended() is None, connect.last_words()
        return all(production.row(name, found.format(name)) == (True,) for name in SHIPPED)

    until(reads, "Debezium reads the slots", 120)
    assert "users_cdc" in production.logged_in("users-db")
    with production.to("users") as users:
        person = {"email": "captured@example.com", "name": "Captured", "password": PASSWORD}
        assert users.post("/users", json=person).status_code == 201
    sent = "SELECT relay.position = head.position FROM relay, outbox_head AS head"
    until(lambda: production.row("users", sent) == (True,), "the event is in the log", 60)
    for name in SHIPPED:
        said = production.processes[f"{name}-worker"].log.tail()
        assert any("captured.following" in line for line in said), said
        assert not any("relay.leading" in line for line in said), said
