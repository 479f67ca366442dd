"""The settings of the processes that `shop up` runs, and what has to run before these are known: a broker, Debezium."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from devstack.auth import auth_settings
from devstack.files import make_folder, write_whole
from devstack.postgres import LocalPostgres
from devstack.supervisor import StartFailed, Supervisor
from devstack.up_options import LOCAL, UpOptions
from shop.platform import discovery
from shop.platform.discovery import PACKAGES
from shop.platform.settings import PREFIX
from shop.platform.settings_list import is_secret

if TYPE_CHECKING:
    from devstack.capture import LocalCapture
    from devstack.connect import Connect

START_TIMEOUT = 60.0
"""Seconds within which all processes of the shop must be ready."""


def _own_settings(options: UpOptions, postgres: LocalPostgres) -> dict[str, str]:
    """The databases and ports of the services, and the ports of the fronts."""
    # Otherwise other commands on this directory would not find all services.
    settings = {PACKAGES: os.environ[PACKAGES]} if PACKAGES in os.environ else {}
    # Where the console keeps the results of its checks.
    settings["SHOP_DATA_DIR"] = str(options.data.absolute())
    for service in options.services:
        settings[f"SHOP_{service.name.upper()}__DATABASE_URL"] = postgres.dsn(service.name)
    for each in [*options.services, *options.fronts]:
        settings[f"SHOP_{each.name.upper()}__PORT"] = str(each.port)
    return settings


def process_settings(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> dict[str, str]:
    """The settings of all processes. Starts the broker if it runs here."""
    settings = _own_settings(options, postgres)
    if options.gateway is not None:
        settings |= _behind_gateway()
    if options.auth:
        sections = discovery.sections()
        issuers = [each.port for each in options.services if sections[each.name].issues_tokens]
        settings |= auth_settings(data, f"http://127.0.0.1:{issuers[0] if issuers else 8001}")
    return settings | dict(_log_settings(options, data, supervisor, postgres))


def capturing(
    options: UpOptions, data: Path, postgres: LocalPostgres, settings: dict[str, str]
) -> "tuple[LocalCapture | None, Connect | None]":
    """What captures, if it is wanted; adds its settings.

    Without `--cdc`, it is there if it has run here before. Then it must be ended, because its slots hold back the
    write-ahead log.
    """
    if not options.cdc and not (data / "connect").exists():
        return None, None
    # Imported only here, because most users never capture.
    from devstack.capture import LocalCapture  # noqa: PLC0415

    capture = LocalCapture(data / "connect", postgres, [each.name for each in options.services])
    settings |= capture.prepare()
    if not options.cdc:
        return capture, None
    servers = settings["SHOP_KAFKA__BOOTSTRAP_SERVERS"]
    connect = capture.connect(servers, data / "logs" / "connect.log")
    settings |= {"SHOP_RELAY": "cdc", "SHOP_CONNECT_URL": connect.url}
    return capture, connect


def _behind_gateway() -> dict[str, str]:
    """For services that need to know from where a client asks."""
    return {
        f"SHOP_{name.upper()}__TRUSTED_PROXIES": "127.0.0.1,::1"
        for name, section in discovery.sections().items()
        if "trusted_proxies" in section.model_fields
    }


_WHERE = ("DATABASE_URL", "EVENT_LOG", "EVENT_LOG_URL", "BOOTSTRAP_SERVERS", "RELAY")


def overridden(settings: Mapping[str, str]) -> list[str]:
    """The variables of the environment that name another database or log than those that run here."""
    return [
        name
        for name, value in settings.items()
        if name.endswith(_WHERE) and os.environ.get(name, value) != value
    ]


def environment_around(settings: Mapping[str, str], secrets: Path) -> dict[str, str]:
    """The environment, without variables that would override these settings (`SHOP_…_FILE`), and without secrets.

    Secrets of settings are given to the processes in files. The databases here have no passwords.
    """
    over = {f"{name}_FILE" for name in settings} | {"PGPASSWORD"}
    over |= {name.replace("_URL", "_PASSWORD") for name in settings if name.endswith("_URL")}
    over |= {f"{name}_FILE" for name in over}
    found = {}
    for name, value in os.environ.items():
        if name in over:
            continue
        if name.startswith(PREFIX) and value and is_secret(name):
            make_folder(secrets, 0o700)
            write_whole(secrets / name, value)
            found[f"{name}_FILE"] = str(secrets / name)
        else:
            found[name] = value
    return found


def _log_settings(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> Mapping[str, str]:
    """The settings of the event log. Starts the broker if it runs here."""
    if options.kafka is None:
        return {"SHOP_EVENT_LOG": "postgres", "SHOP_EVENT_LOG_URL": postgres.dsn("log")}
    servers = options.kafka
    if servers == LOCAL:
        # Imported only here, because most users never start a broker.
        from devstack.broker import Broker  # noqa: PLC0415

        kafka = Broker(data / "kafka")
        supervisor.start(kafka, timeout=START_TIMEOUT)
        servers = kafka.bootstrap_servers
    return {"SHOP_EVENT_LOG": "kafka", "SHOP_KAFKA__BOOTSTRAP_SERVERS": servers}


def other_log(
    options: UpOptions, data: Path, supervisor: Supervisor, postgres: LocalPostgres
) -> Mapping[str, str] | None:
    """The settings of the local log to copy from, or None. Starts its broker if necessary."""
    of = options.copy_log_from
    if of is None:
        return None
    if of == ("kafka" if options.kafka else "postgres"):
        raise StartFailed(f"--copy-log-from {of} names the log that the shop itself uses")
    if of == "kafka" and not (data / "kafka").exists():
        raise StartFailed(f"there is no log to copy in {data / 'kafka'}: no broker has run here")
    if of not in {"postgres", "kafka"}:
        return {}
    other = replace(options, kafka=LOCAL if of == "kafka" else None)
    return _log_settings(other, data, supervisor, postgres)
