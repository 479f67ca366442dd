"""Renders the Compose files from templates that name no service.

    python -m devstack.compose    writes deploy/compose.yaml and its like, secrets.sh, kubernetes/, connect/, and the gateway's
                                  files for the services there are (devstack/gateway.py)

In a template, the lines from `# {each service}` to `# {end}` are repeated for every service. In them,
`@service@`, `@SERVICE@` (in names of settings) and `@port@` are replaced. `@services@` stands for all names, `@issuers@` for those that sign tokens. Lines from
`# {if it issues tokens}` to `# {fi}` are for these alone. Lines from `# {each front}` to `# {end of front}` are repeated for
every front, with `@front@`, `@FRONT@` and `@front_port@`; `@fronts@` stands for their names, and `@apis@` for the addresses of the APIs, by the names of their containers.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

from devstack import gateway
from devstack.kafka import PROJECT
from shop.platform import discovery
from shop.platform.discovery import NotAService

CONNECTOR = "connect/connector.properties"
"""Rendered for each service that publishes, as `connect/SERVICE.properties`."""

FILES = (
    "compose.yaml",
    "compose.dev.yaml",
    "compose.prod.yaml",
    "secrets.sh",
    "kubernetes/shop.yaml",
    "observability/compose.yaml",
    "observability/prometheus.yml",
)

_DEPLOY = PROJECT / "deploy"
_HEAD = "# Written by `make compose` from {template}: change that.\n"
_IF_ISSUER = re.compile(
    r"^ *# \{if it issues tokens\}\n(.*?)^ *# \{fi\}\n", re.MULTILINE | re.DOTALL
)
_FRONT = re.compile(r"^ *# \{each front\}\n(.*?)^ *# \{end of front\}\n", re.MULTILINE | re.DOTALL)
_EACH = re.compile(r"^ *# \{each service\}\n(.*?)^ *# \{end\}\n", re.MULTILINE | re.DOTALL)


def write() -> None:
    for file in FILES:
        (_DEPLOY / file).write_text(rendered(file, ports()))
    written = {
        _DEPLOY / "connect" / f"{name}.properties": text for name, text in connectors().items()
    }
    for path, text in written.items():
        path.write_text(text)
    for path in (_DEPLOY / "connect").glob("*.properties"):
        # Those of a service that was deleted.
        if path not in written and path.read_text().startswith(_connector_head()):
            path.unlink()


def connectors() -> dict[str, str]:
    """The properties of each service's connector."""
    template, head = template_of(CONNECTOR), _connector_head()
    return {
        name: head + _of_service(template.read_text(), name, port)
        for name, port in ports().items()
        if discovery.load(name).topic
    }


def _connector_head() -> str:
    return _HEAD.format(template=template_of(CONNECTOR).name)


def ports() -> dict[str, int]:
    """The port of every service, by name. Raises `NotAService`."""
    return {
        name: section.model_fields["port"].default
        for name, section in discovery.sections().items()
        if name in discovery.names()
    }


def front_ports() -> dict[str, int]:
    """The port of every front, by name. Raises `NotAService`."""
    sections = discovery.sections()
    return {name: sections[name].model_fields["port"].default for name in discovery.fronts()}


def rendered(file: str, services: Mapping[str, int]) -> str:
    """The content of the file for these services and their ports."""
    template = template_of(file)

    def for_each(block: re.Match[str]) -> str:
        return "".join(_of_service(block[1], *service) for service in services.items())

    def for_each_front(block: re.Match[str]) -> str:
        return "".join(_of_front(block[1], *front) for front in front_ports().items())

    # Its lines may repeat some for each service.
    text = _FRONT.sub(for_each_front, template.read_text())
    text = _EACH.sub(for_each, text).replace("@services@", " ".join(services))
    text = text.replace("@fronts@", " ".join(front_ports()))
    apis = ",".join(f"{name}=http://{name}-api:{port}" for name, port in services.items())
    text = text.replace("@apis@", apis)
    text = text.replace("@issuers@", " ".join(name for name in services if name in issuers()))
    return _HEAD.format(template=template.name) + text.rstrip("\n") + "\n"


def issuers() -> list[str]:
    """The services that sign access tokens."""
    return [name for name, section in discovery.sections().items() if section.issues_tokens]


def template_of(file: str) -> Path:
    name, _, kind = file.rpartition(".")
    return _DEPLOY / f"{name}.template.{kind}"


def _of_front(block: str, name: str, port: int) -> str:
    values = {"@front@": name, "@FRONT@": name.upper(), "@front_port@": str(port)}
    for placeholder, value in values.items():
        block = block.replace(placeholder, value)
    return block


def _of_service(block: str, name: str, port: int) -> str:
    block = _IF_ISSUER.sub(lambda found: found[1] if name in issuers() else "", block)
    values = {"@service@": name, "@SERVICE@": name.upper(), "@port@": str(port)}
    for placeholder, value in values.items():
        block = block.replace(placeholder, value)
    return block


if __name__ == "__main__":
    try:
        write()
        gateway.write()
    except NotAService as error:
        sys.exit(f"services: {error}")
