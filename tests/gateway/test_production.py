"""The production file of Compose runs the gateway as its configuration needs it."""

import re

from devstack import gateway
from devstack.nginx import is_fixed
from shop.platform.settings import Settings
from tests.support.compose import load

SERVICES = load("compose.prod.yaml")["services"]
GATEWAY = SERVICES["gateway"]
APIS = {name: service for name, service in SERVICES.items() if name.endswith("-api")}


def test_its_image_is_a_version_without_the_flaw_in_http_2_pinned_by_digest() -> None:
    found = re.fullmatch(r"nginx:(\d+)\.(\d+)\.(\d+)-\w+@\$\{NGINX_DIGEST:\?.*\}", GATEWAY["image"])
    assert found and is_fixed([int(number) for number in found.groups()])


def test_it_runs_these_files_and_can_write_nowhere_but_to_memory() -> None:
    conf = GATEWAY["entrypoint"][GATEWAY["entrypoint"].index("-c") + 1]
    assert conf == "/etc/gateway/nginx.conf"
    assert "./nginx:/etc/gateway:ro" in GATEWAY["volumes"]
    prefix = GATEWAY["entrypoint"][GATEWAY["entrypoint"].index("-p") + 1]
    assert prefix.endswith("/") and GATEWAY["tmpfs"][0].startswith(prefix.rstrip("/"))
    assert GATEWAY["read_only"] and GATEWAY["user"].startswith("101")
    certificate = (gateway.FILES / "place" / "server.conf").read_text()
    mounted = [volume.split(":")[1] for volume in GATEWAY["volumes"]]
    for path in re.findall(r"ssl_certificate(?:_key)? (.*);", certificate):
        assert path.rpartition("/")[0] in mounted


def test_it_reaches_the_apis_by_the_names_that_it_has_for_them() -> None:
    upstreams = (gateway.FILES / "place" / "upstreams.conf").read_text()
    servers = re.findall(r"server ([\w-]+):(\d+) resolve", upstreams)
    assert {name for name, _ in servers} == set(APIS)
    assert all(set(GATEWAY["networks"]) & set(api["networks"]) for api in APIS.values())


def test_an_old_api_answers_for_longer_than_the_gateway_keeps_its_address() -> None:
    upstreams = (gateway.FILES / "place" / "upstreams.conf").read_text()
    [valid] = re.findall(r"resolver \S+ valid=(\d+)s", upstreams)
    for api in APIS.values():
        drain = int(api["environment"]["SHOP_DRAIN_MS"])
        assert drain > 1000 * int(valid)
        settings = Settings(drain_ms=drain)
        assert int(api["stop_grace_period"].removesuffix("s")) >= settings.stop_within()


def test_whoever_limits_by_address_believes_the_gateway() -> None:
    assert SERVICES["users-api"]["environment"]["SHOP_USERS__TRUSTED_PROXIES"]
