"""Checks the settings for `SHOP_ENV=production`: one sentence for each setting that is not safe.

Some unsafe settings may be intended, for example a connection without TLS to a database in a private network.
`SHOP_PRODUCTION_ALLOWS` accepts them by the name in the sentence. The others can't be accepted.
"""

import os
import re
import resource
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from psycopg.conninfo import conninfo_to_dict

from shop.platform.secret_checks import Refusal, check_rights, check_secret, from_files
from shop.platform.settings import PREFIX, NotConfigured, ServiceSettings, Settings
from shop.platform.settings_list import flat, is_secret

ALLOWABLE = frozenset(
    {
        "database-without-tls",
        "database-unverified",
        "few-replicas",
        "kafka-without-login",
        "kafka-without-tls",
        "kafka-unverified",
        "local-origins",
        "readable-secrets",
        "secrets-in-environment",
    }
)
"""What `SHOP_PRODUCTION_ALLOWS` may name."""

_DEBUGGING = ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE", "PYTHONINSPECT", "PYTHONTRACEMALLOC")
_KAFKA = f"{PREFIX}KAFKA__"
_OF_CONNECTIONS = re.compile(r"^SHOP_KAFKA__|__DATABASE_PASSWORD$|^SHOP_EVENT_LOG_PASSWORD$")
_CERTIFICATES = {"ssl_certificate_location", "ssl_keystore_location", "ssl_certificate_pem"}
_OLD_TLS = {"TLSv1", "TLSv1.0", "TLSv1.1"}
_TLS = {"verify-full"}
_UNVERIFIED = {"require", "verify-ca"}


class NotSafe(NotConfigured):
    """All settings that are not safe, one sentence on each line."""


def require(
    settings: Settings, kind: Literal["api", "front", "worker", "migrate"], services: Sequence[str]
) -> None:
    """Check the settings, except in development. Raises `NotSafe`."""
    if settings.env != "production":
        return
    refused = refusals(settings, kind, services)
    if refused:
        raise NotSafe("\nshop: ".join(refused))
    # A core file would hold every secret.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def refusals(settings: Settings, kind: str, services: Sequence[str]) -> list[str]:
    """A sentence for each thing that is wrong for these services' processes of this kind."""
    found = [*_of_all(settings, kind), *_databases(settings, kind, services)]
    if kind != "api":
        found += _log(settings, kind)
    if kind == "api":
        found += [*_browsers(settings), *_authentication(settings, services)]
    if kind == "front":
        # It issues no tokens, so it does not need the key of those that do.
        found += [*_browsers(settings), *_authentication(settings, ())]
    return [str(each) for each in found if each.allowed_by not in settings.production_allows]


def _of_all(settings: Settings, kind: str) -> Iterator[Refusal]:
    for name in sorted(set(settings.production_allows) - ALLOWABLE):
        yield Refusal(
            f"SHOP_PRODUCTION_ALLOWS: {name} can't be allowed; there are: {', '.join(sorted(ALLOWABLE))}"
        )
    if settings.log_level == "debug":
        yield Refusal("SHOP_LOG_LEVEL is debug, which may log what clients sent: choose info")
    if settings.accept_data_loss and kind == "migrate":
        yield Refusal("SHOP_ACCEPT_DATA_LOSS is on: a crash may take what was confirmed; unset it")
    for name in _DEBUGGING:
        if os.environ.get(name):
            yield Refusal(f"{name} is set, which is for debugging: unset it")
    for name, value in flat(settings):
        # The secrets of a database and of Kafka are checked with the rest of their connection.
        if value and is_secret(name) and not _OF_CONNECTIONS.search(name):
            yield from check_secret(name, str(value), {})
    if os.environ.get("PGPASSWORD"):
        yield Refusal(
            "PGPASSWORD is set, which child processes and crash reports show: use …_PASSWORD_FILE",
            "secrets-in-environment",
        )


def _databases(settings: Settings, kind: str, services: Sequence[str]) -> Iterator[Refusal]:
    said: dict[str, str] = {}
    for name in services:
        own = settings.service(name)
        prefix = f"{PREFIX}{name.upper()}__DATABASE"
        yield from _database(prefix, own.database_url, own.database_password, said)
    if settings.event_log == "postgres" and kind != "api":
        url, password = settings.event_log_url, settings.event_log_password
        yield from _database(f"{PREFIX}EVENT_LOG", url, password, said)
    if kind == "migrate":
        return
    for name, section in vars(settings).items():
        if name not in services and isinstance(section, ServiceSettings) and section.database_url:
            yield Refusal(
                f"{PREFIX}{name.upper()}__DATABASE_URL is set for a process of {services[0]}, which must not reach"
                " that database: unset it"
            )


def _database(prefix: str, url: str, password: str, said: dict[str, str]) -> Iterator[Refusal]:
    """`said` has the passwords that were seen before, and their settings."""
    if not url:
        return  # the code that opens it reports this, in all modes
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(url).items()}
    except Exception:  # noqa: BLE001 - the code that opens it reports this
        return
    hosts = given.get("host", "").split(",")
    if all(host == "" or host.startswith(("/", "@")) for host in hosts) and "hostaddr" not in given:
        return  # a socket of this machine; the server checks the rights
    yield from _database_tls(f"{prefix}_URL", given)
    has_key = given.get("sslcert") or os.environ.get("PGSSLCERT") or os.environ.get("PGPASSFILE")
    in_url = given.get("password", "") if not password else ""
    if in_url:
        variable, secret = f"{prefix}_URL", in_url
    else:
        variable, secret = f"{prefix}_PASSWORD", password
    if (
        variable not in from_files()
        and not secret
        and not has_key
        and not os.environ.get("PGPASSWORD")
    ):
        yield Refusal(f"{variable} is not set: name the password's file with {variable}_FILE")
    if secret or variable in from_files():
        yield from check_secret(variable, secret, said, user=given.get("user", ""))


def _database_tls(variable: str, given: Mapping[str, str]) -> Iterator[Refusal]:
    mode = given.get("sslmode") or os.environ.get("PGSSLMODE") or "prefer"
    root = given.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or ""
    if mode not in _TLS | _UNVERIFIED:
        yield Refusal(
            f"{variable}: the connection may be without TLS (sslmode={mode}): add"
            " ?sslmode=verify-full&sslrootcert=…",
            "database-without-tls",
        )
    elif mode in _UNVERIFIED:
        yield Refusal(
            f"{variable}: the server's certificate or name is not verified (sslmode={mode}): use"
            " sslmode=verify-full",
            "database-unverified",
        )
    elif root != "system" and not Path(root or "~/.postgresql/root.crt").expanduser().is_file():
        yield Refusal(
            f"{variable}: there is no file {root or '~/.postgresql/root.crt'} with the authority that the server's"
            " certificate is verified by: set sslrootcert"
        )
    oldest = given.get("ssl_min_protocol_version") or os.environ.get("PGSSLMINPROTOCOLVERSION")
    if oldest in _OLD_TLS:
        yield Refusal(f"{variable}: {oldest} can be broken: set ssl_min_protocol_version=TLSv1.2")


def _log(settings: Settings, kind: str) -> Iterator[Refusal]:
    if settings.event_log != "kafka":
        return
    kafka = settings.kafka
    yield from _broker(kafka)
    yield from _login(kafka)
    if kafka.get("debug"):
        yield Refusal(f"{_KAFKA}DEBUG is set, which logs what is sent: unset it")
    if kind == "migrate" and settings.kafka_replication_factor < 3:  # noqa: PLR2004
        yield Refusal(
            f"SHOP_KAFKA_REPLICATION_FACTOR is {settings.kafka_replication_factor}, so a broker that dies takes"
            " confirmed events with it: set 3",
            "few-replicas",
        )


def _broker(kafka: Mapping[str, str]) -> Iterator[Refusal]:
    """Whether the broker is authenticated, and the connection encrypted."""
    protocol = _protocol(kafka)
    if protocol not in {"SSL", "SASL_SSL"}:
        yield Refusal(
            f"{_KAFKA}SECURITY_PROTOCOL is {protocol}, without TLS: use SASL_SSL or SSL",
            "kafka-without-tls",
        )
    elif kafka.get("enable_ssl_certificate_verification", "true").lower() in {"false", "0", "f"}:
        yield Refusal(
            f"{_KAFKA}ENABLE_SSL_CERTIFICATE_VERIFICATION is off, so anybody may pass for the broker: unset it",
            "kafka-unverified",
        )
    elif kafka.get("ssl_endpoint_identification_algorithm", "https").lower() == "none":
        yield Refusal(
            f"{_KAFKA}SSL_ENDPOINT_IDENTIFICATION_ALGORITHM is none, so the broker's name is not verified: unset"
            " it",
            "kafka-unverified",
        )
    authority = kafka.get("ssl_ca_location", "")
    if authority not in {"", "probe"} and not Path(authority).exists():
        yield Refusal(
            f"{_KAFKA}SSL_CA_LOCATION: there is no {authority}: name the authority's file"
        )


def _login(kafka: Mapping[str, str]) -> Iterator[Refusal]:
    """How this process authenticates itself to the broker."""
    protocol, password = _protocol(kafka), kafka.get("sasl_password", "")
    variable = f"{_KAFKA}SASL_PASSWORD"
    if protocol.startswith("SASL"):
        if password or variable in from_files():
            yield from check_secret(variable, password, {}, user=kafka.get("sasl_username", ""))
        elif "oauth" not in kafka.get("sasl_mechanism", "").lower():
            yield Refusal(f"{variable} is not set: name the password's file with {variable}_FILE")
    elif not _CERTIFICATES & kafka.keys():
        yield Refusal(
            f"{_KAFKA}SECURITY_PROTOCOL is {protocol} without a client's certificate, so the broker can't tell"
            " services apart: use SASL_SSL",
            "kafka-without-login",
        )


def _protocol(kafka: Mapping[str, str]) -> str:
    return kafka.get("security_protocol", "plaintext").upper()


def _browsers(settings: Settings) -> Iterator[Refusal]:
    for origin in settings.cors_origins:
        if _is_local(origin):
            yield Refusal(
                f"SHOP_CORS_ORIGINS: {origin} is any program on a customer's own machine: remove it",
                "local-origins",
            )
        elif not origin.startswith("https://"):
            yield Refusal(
                f"SHOP_CORS_ORIGINS: {origin} can be changed on its way to the browser: use https://"
            )


def _authentication(settings: Settings, services: Sequence[str]) -> Iterator[Refusal]:
    auth = settings.auth
    if not auth.required:
        yield Refusal("SHOP_AUTH__REQUIRED is off, so any request may do anything: set it to true")
    if not auth.issuer.startswith("https://"):
        yield Refusal(
            f"SHOP_AUTH__ISSUER: {auth.issuer} is not an https:// address: tokens name it"
        )
    for each in auth.issuers:
        for url in (each.issuer, each.jwks_url or each.issuer):
            if not url.startswith("https://"):
                yield Refusal(
                    f"SHOP_AUTH__ISSUERS: {url} is not https://, so its keys can be changed on their way"
                )
                break
    variable = "SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE"
    if any(settings.service(name).issues_tokens for name in services):
        if auth.key_encryption_key_file is None:
            yield Refusal(f"{variable} is not set: the keys that sign tokens would be lost or open")
        else:
            yield from check_rights(variable, auth.key_encryption_key_file)


def _is_local(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    return bool(re.fullmatch(r"localhost|.*\.localhost|127\..*|::1|0\.0\.0\.0", host))
