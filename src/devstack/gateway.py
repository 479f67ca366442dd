"""The gateway's configuration: the files in deploy/nginx, and those that differ between places.

`make compose` writes `services.conf` and `place/upstreams.conf` from the services and their routes. `lay_out` makes a
folder with all files for another place, such as `shop up --gateway` and tests.
"""

import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.certificate import Certificate
from devstack.files import make_folder, write_whole
from devstack.kafka import PROJECT
from eventspine.database import Database
from shop.platform import discovery
from shop.platform.discovery import NotAService
from shop.platform.settings import read_settings

FILES = PROJECT / "deploy" / "nginx"
WRITTEN = ("services.conf", "place/upstreams.conf")

_HEAD = "# Written by `make compose` for the services there are: see devstack/gateway.py.\n"

# The time is less than the API's own keep-alive, 75 s (SHOP_KEEP_ALIVE_S). A server that failed is left out for one
# second, not for nginx's default of ten: if it is the only one, all requests would be refused.
_UPSTREAM = """\
upstream {name} {{
    zone {name} 64k;
    server {address} max_fails=1 fail_timeout=1s;
    keepalive 64;
    keepalive_requests 10000;
    keepalive_timeout 60s;
}}
"""

# A new container has another address. An API that is being replaced answers for longer than this (SHOP_DRAIN_MS).
_RESOLVER = """\
resolver {address} valid={valid} ipv6=off;
resolver_timeout 2s;
"""

_LOCATIONS = """\
location = /{path} {{
    set $service {name};
    include service.conf;
}}
location /{path}/ {{
    set $service {name};
    include service.conf;
}}
"""

DOCKER = "127.0.0.11"
"""The resolver in every network of Compose."""


@dataclass(frozen=True)
class Place:
    """The files that differ between places. Each field is the text of a file in `place/`; None: the file in
    deploy/nginx.
    """

    upstreams: str
    default: str
    listen: str
    server: str
    proxies: str | None = None
    rates: str | None = None

    @classmethod
    def here(
        cls,
        listeners: Sequence[str],
        apis: str,
        certificate: Certificate,
        *,
        proxies: str | None = None,
        rates: str | None = None,
    ) -> "Place":
        """A place on this machine. `listeners` are addresses with ports. `apis` is the text of `upstreams`. The certificate
        is in a folder beside the configuration, so its path may contain any character.
        """
        beside = f"../{certificate.folder.name}"
        return cls(
            upstreams=apis,
            default="".join(f"listen {each} ssl default_server;\n" for each in listeners),
            listen="".join(f"listen {each} ssl;\n" for each in listeners),
            server=f"server_name {' '.join(certificate.names())};\n"
            f"ssl_certificate {beside}/{certificate.chain.name};\n"
            f"ssl_certificate_key {beside}/{certificate.key.name};\n",
            proxies=proxies,
            rates=rates,
        )


def write() -> None:
    """The files that depend on the services, as they are. Raises `NotAService`."""
    for file, text in rendered().items():
        (FILES / file).write_text(text)


def rendered() -> Mapping[str, str]:
    """These files, as they must be for the current services. Raises `NotAService`."""
    addresses = {
        name: f"{name}-api:{section.model_fields['port'].default} resolve"
        for name, section in discovery.sections().items()
        if name in discovery.names()  # a front is for staff, and not behind the public gateway
    }
    return {
        "services.conf": _HEAD + services(routes()),
        "place/upstreams.conf": _HEAD + upstreams(addresses, resolver=DOCKER),
    }


def routes() -> dict[str, list[str]]:
    """The first words of each service's paths, by its name: {"orders": ["orders"]}. Raises `NotAService`."""
    found: dict[str, list[str]] = {}
    owners: dict[str, str] = {}
    for service in discovery.load_all():
        url = f"postgresql://localhost/{service.name}"  # nothing connects to it
        settings = read_settings(discovery.sections(), **{service.name: {"database_url": url}})
        router = service.endpoints(settings, Database(url)).router
        paths = sorted({str(getattr(each, "path", "")).split("/")[1] for each in router.routes})
        for path in paths:
            if (twin := owners.setdefault(path, service.name)) != service.name:
                raise NotAService(
                    f"{twin} and {service.name} both have routes below /{path}, and the gateway sends a "
                    "path to one service: rename those of one"
                )
        found[service.name] = paths
    return found


def services(paths: Mapping[str, Iterable[str]]) -> str:
    """The locations of services.conf."""
    return "".join(
        f"\n# {name}\n" + "".join(_LOCATIONS.format(name=name, path=path) for path in below)
        for name, below in paths.items()
    )


def upstreams(
    addresses: Mapping[str, str], *, resolver: str | None = None, valid: str = "5s"
) -> str:
    """The upstreams of the APIs. An address is `127.0.0.1:8001`, or a name with `resolve`. nginx resolves the name again
    when the answer is older than `valid`.
    """
    asked = _RESOLVER.format(address=resolver, valid=valid) if resolver else ""
    servers = (_UPSTREAM.format(name=name, address=at) for name, at in addresses.items())
    return "\n".join((asked, *servers))


def lay_out(folder: Path, place: Place, services_conf: str | None = None) -> Path:
    """Write all files to `folder`, which is created anew. Returns the path of its nginx.conf."""
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder / "place")
    for file in FILES.rglob("*.conf"):
        shutil.copyfile(file, folder / file.relative_to(FILES))
    for name, text in vars(place).items():
        if text is not None:
            write_whole(folder / "place" / f"{name}.conf", text)
    if services_conf is not None:
        write_whole(folder / "services.conf", services_conf)
    return folder / "nginx.conf"
