"""Finds services by their folders. A service is imported only when it is needed, so that a process loads
only its own service.

`SHOP_SERVICES` names the packages that hold services, separated by commas. The default is `shop.services`. With
`shop.services,acme.services`, a team can keep its services in its own distribution. Every folder in such a
package is a service:

    acme/services/loyalty/app.py        its parts: `SERVICE`
    acme/services/loyalty/settings.py   its settings and its port: `SETTINGS`
    acme/contracts/loyalty.py           the events it publishes; missing if it only reads

A folder whose name starts with an underscore, or that has no Python files, is not a service.

A folder with a front.py in place of app.py is a front: pages over the other services, in a process without a
database, a topic or a worker of its own. `names` does not have it, because nearly all that is done with a service
is done with its database:

    acme/services/desk/front.py         its parts: `FRONT`
    acme/services/desk/settings.py      its settings and its port: `SETTINGS`

    python -m shop.platform.discovery   checks all services; the exit status is 0 or 1
"""

import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from eventspine.event import Event
from shop.platform.service import Front, Service
from shop.platform.settings import ApiSettings, ServiceSettings, Settings

PACKAGES = "SHOP_SERVICES"
_DEFAULT = "shop.services"

# In environment variables a name is followed by two underscores.
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
_TAKEN = {*Settings.model_fields, "log"}
"""Names that are already used, for settings of the platform and for the log's database."""


class NotAService(Exception):
    """A folder that should be a service is not one. The message says what is missing."""


@dataclass(frozen=True)
class Found:
    """A service's folder. Nothing of it is imported yet."""

    name: str
    package: str
    folder: Path
    contracts: str | None
    """The module of its events, if it publishes any."""
    is_front: bool = False


def names() -> tuple[str, ...]:
    """The names of all services, sorted. Raises `NotAService`."""
    return tuple(_found())


def find(name: str) -> Found:
    """Find a service. Raises `NotAService`, and `KeyError` for a name that is not in `names()`."""
    return _found()[name]


def fronts() -> tuple[str, ...]:
    """The names of all fronts, sorted. Raises `NotAService`."""
    return tuple(_fronts())


def load_front(name: str) -> Front:
    """Import a front. Raises `NotAService`, and `KeyError` for a name that is not in `fronts()`."""
    found = _fronts()[name]
    front = _constant(found, "front", "FRONT")
    if not isinstance(front, Front):
        raise NotAService(f"{found.folder / 'front.py'}: FRONT is not a `Front`")
    if front.name != name:
        raise NotAService(
            f"{found.folder / 'front.py'}: the front is named {front.name} and its folder {name}; give both the"
            " same name"
        )
    return front


def folders() -> dict[str, Path]:
    """The folder of each service and of each front. Raises `NotAService`."""
    return {found.name: found.folder for found in [*_found().values(), *_fronts().values()]}


def load(name: str) -> Service:
    """Import a service. Raises the same errors as `find`."""
    found = find(name)
    service = _constant(found, "app", "SERVICE")
    if not isinstance(service, Service):
        raise NotAService(f"{found.folder / 'app.py'}: SERVICE is not a `Service`")
    if service.name != name:
        raise NotAService(
            f"{found.folder / 'app.py'}: the service is named {service.name} and its folder {name}; "
            "give both the same name"
        )
    if service.handlers.consumer != name:
        raise NotAService(
            f"{found.folder / 'app.py'}: the service's handlers are named {service.handlers.consumer} and "
            f"its folder {name}; give both the same name"
        )
    events = found.folder.parent.parent / "contracts" / f"{name}.py"
    if bool(service.topic) != bool(service.source):
        raise NotAService(
            f"{found.folder / 'app.py'}: a service has a topic and a source, or, if it only reads, neither"
        )
    if service.topic and found.contracts is None:
        raise NotAService(
            f"{found.folder} is no service yet: {events}, with the events it publishes, is missing"
        )
    if not service.topic and found.contracts is not None:
        raise NotAService(
            f"{events} has the events of {name}, which has no topic: give it one, or delete that file"
        )
    return service


def load_all() -> list[Service]:
    """Import all services. Raises `NotAService`."""
    return [load(name) for name in names()]


def sections() -> dict[str, type[ApiSettings]]:
    """The model of the settings of each service and of each front. Imports only their settings.py.

    Raises `NotAService`.
    """
    return {found.name: _section(found) for found in [*_found().values(), *_fronts().values()]}


def contracts(name: str) -> list[type[Event]]:
    """The events that a service publishes.

    These are the event classes with a type in its contracts, and those of other modules that `__all__` of its
    contracts names.
    """
    found = find(name)
    if found.contracts is None:
        return []
    module = import_module(found.contracts)
    also = getattr(module, "__all__", ())
    return [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type)
        and issubclass(kind, Event)
        and (kind.__module__ == module.__name__ or kind.__name__ in also)
        and "type" in vars(kind)
    ]


def check() -> None:
    """Load every service, and compare them. Raises `NotAService`."""
    ports: dict[int, str] = {}
    topics: dict[str, str] = {}
    for service in load_all():
        name = service.name
        port = sections()[name].model_fields["port"].default
        if (twin := ports.setdefault(port, name)) != name:
            raise NotAService(
                f"{twin} and {name} have the same port, {port}: give {name} another in its settings.py"
            )
        if not service.topic:
            continue
        if (twin := topics.setdefault(service.topic, name)) != name:
            raise NotAService(
                f"{twin} and {name} publish to the same topic, {service.topic}: give {name} another"
            )
        for event in contracts(name):
            said = (event.topic, event.source)
            if said != (service.topic, service.source):
                raise NotAService(
                    f"{event.__name__} says topic {event.topic} and source {event.source}, and the "
                    f"service {name} topic {service.topic} and source {service.source}; they must be "
                    "the same"
                )
    for name in fronts():
        load_front(name)
        port = sections()[name].model_fields["port"].default
        if (twin := ports.setdefault(port, name)) != name:
            raise NotAService(
                f"{twin} and {name} have the same port, {port}: give {name} another in its settings.py"
            )


def _found() -> Mapping[str, Found]:
    return _find(os.environ.get(PACKAGES) or _DEFAULT)


def _fronts() -> Mapping[str, Found]:
    return _find_fronts(os.environ.get(PACKAGES) or _DEFAULT)


@cache
def _find(packages: str) -> Mapping[str, Found]:
    return {name: found for name, found in _folders(packages).items() if not found.is_front}


def _find_fronts(packages: str) -> Mapping[str, Found]:
    return {name: found for name, found in _folders(packages).items() if found.is_front}


def _folders(packages: str) -> Mapping[str, Found]:
    everything: dict[str, Found] = {}
    for package in packages.split(","):
        for found in _in_package(package.strip()):
            if (twin := everything.setdefault(found.name, found)) is not found:
                raise NotAService(
                    f"{twin.folder} and {found.folder} are both services named {found.name}; rename one"
                )
    return dict(sorted(everything.items()))


def _in_package(package: str) -> Iterator[Found]:
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise NotAService(f"{PACKAGES}: there is no package {package!r} that could hold services")
    for location in spec.submodule_search_locations:
        for folder in Path(location).iterdir():
            # After a service is deleted, git leaves a folder with only __pycache__.
            if folder.name[0] not in "._" and folder.is_dir() and any(folder.glob("*.py")):
                yield _in_folder(folder, package)


def _in_folder(folder: Path, package: str) -> Found:
    name = folder.name
    if not _NAME.fullmatch(name):
        raise NotAService(
            f"{folder}: a service's name is of small letters and digits, with single underscores "
            "between words"
        )
    if name in _TAKEN:
        raise NotAService(f"{folder}: a service can't be named {name}, which is taken")
    is_front = (folder / "front.py").is_file()
    for part in ("__init__.py", "front.py" if is_front else "app.py", "settings.py"):
        if not (folder / part).is_file():
            raise NotAService(f"{folder} is no service yet: it has no {part}")
    if is_front:
        return Found(name, f"{package}.{name}", folder, None, is_front=True)
    beside = package.rpartition(".")[0]
    contracts = f"{beside}.contracts.{name}".removeprefix(".")
    publishes = (folder.parent.parent / "contracts" / f"{name}.py").is_file()
    return Found(name, f"{package}.{name}", folder, contracts if publishes else None)


def _section(found: Found) -> type[ApiSettings]:
    model = _constant(found, "settings", "SETTINGS")
    where = found.folder / "settings.py"
    base = ApiSettings if found.is_front else ServiceSettings
    if not (isinstance(model, type) and issubclass(model, base)):
        raise NotAService(f"{where}: SETTINGS is not a subclass of `{base.__name__}`")
    if model.model_fields["port"].is_required():
        raise NotAService(f"{where}: {model.__name__} has no port; say where its API listens")
    return model


def _constant(found: Found, module: str, name: str) -> object:
    value: object = getattr(import_module(f"{found.package}.{module}"), name, None)
    if value is None:
        raise NotAService(f"{found.folder / f'{module}.py'} has no {name}")
    return value


if __name__ == "__main__":
    try:
        check()
    except NotAService as error:
        sys.exit(f"services: {error}")
