"""The event log and the databases that the settings name."""

from urllib.parse import quote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from eventspine.address import Address, urls
from eventspine.log import EventLog
from eventspine.postgres_log import PostgresLog
from shop.platform.secret_files import Current, passwords
from shop.platform.settings import NotConfigured, Settings

_LAST_PORT = 65535


class NotSet(NotConfigured):
    """A setting is missing."""


def open_event_log(settings: Settings) -> EventLog:
    """The event log of the settings, without a connection yet. Raises `NotConfigured`."""
    if settings.event_log == "postgres":
        return PostgresLog(log_address(settings))
    if "bootstrap_servers" not in settings.kafka:
        raise NotSet("SHOP_KAFKA__BOOTSTRAP_SERVERS is not set: host:port of a broker")
    # Imported here, so that the embedded shop never loads librdkafka.
    from eventspine.kafka_log import KafkaLog, Passwords  # noqa: PLC0415

    config: dict[str, str | Passwords] = {
        name.replace("_", "."): value for name, value in settings.kafka.items()
    }
    password = Current("SHOP_KAFKA__SASL_PASSWORD", settings.kafka.get("sasl_password", ""))
    if password.from_file:
        config["sasl.password"] = Passwords(lambda: passwords(password()))
    return KafkaLog(
        config,
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication_factor,
    )


def relay_batch(settings: Settings) -> int:
    """The number of events that are relayed at a time. It is larger for Kafka, which splits a batch into one request
    for each partition.
    """
    return settings.relay_batch or (10_000 if settings.event_log == "kafka" else 2_000)


def log_url(settings: Settings) -> str:
    """The URL of the log that is a table, with the present password."""
    return urls(log_address(settings))[0]


def log_address(settings: Settings) -> Address:
    """The address of the log that is a table. Raises `NotConfigured`."""
    if not settings.event_log_url:
        raise NotSet("SHOP_EVENT_LOG_URL is not set: the log's PostgreSQL database")
    return _address("SHOP_EVENT_LOG", settings.event_log_url, settings.event_log_password)


def database_url(settings: Settings, service: str) -> str:
    """The URL of a service's database, with the present password."""
    return urls(database_address(settings, service))[0]


def database_address(settings: Settings, service: str) -> Address:
    """The address of a service's database, for long-running processes. New connections read the password file again.

    Raises `NotConfigured`.
    """
    own = settings.service(service)
    prefix = f"SHOP_{service.upper()}__DATABASE"
    if not own.database_url:
        raise NotSet(f"{prefix}_URL is not set")
    return _address(prefix, own.database_url, own.database_password)


def cdc_address(settings: Settings, service: str) -> Address:
    """The address of a service's database for one that uses replication slots. Raises `NotConfigured`."""
    own = settings.service(service)
    if not own.cdc_database_url:
        return database_address(settings, service)
    prefix = f"SHOP_{service.upper()}__CDC_DATABASE"
    return _address(prefix, own.cdc_database_url, own.cdc_database_password)


def captures(settings: Settings) -> bool:
    """Whether Debezium feeds the log, and not the worker. Raises `NotConfigured`."""
    if settings.relay == "cdc" and settings.event_log != "kafka":
        raise NotConfigured(
            "SHOP_RELAY is cdc, which needs Kafka, and SHOP_EVENT_LOG is postgres: set SHOP_EVENT_LOG=kafka, or"
            " SHOP_RELAY=polling"
        )
    return settings.relay == "cdc"


def _address(prefix: str, url: str, password: str) -> Address:
    _checked(url, f"{prefix}_URL")
    where, secret = Current(f"{prefix}_URL", url), Current(f"{prefix}_PASSWORD", password)
    if not (where.from_file or secret.from_file):
        return with_password(url, passwords(password)[0])
    return lambda: [with_password(where(), each) for each in passwords(secret())]


def with_password(url: str, password: str) -> str:
    """The URL, with this password in the place of its own, if there is any."""
    if not password:
        return url
    parts = urlsplit(url)
    account, _, server = parts.netloc.rpartition("@")
    user = account.partition(":")[0]
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{server}").geturl()


def _checked(url: str, variable: str) -> str:
    """Check a URL. Errors never show the URL or libpq's message, because they may contain a password."""
    if not url.startswith(("postgresql://", "postgres://")):
        raise NotConfigured(f"{variable} is not like postgresql://user:password@host/database")
    try:
        ports = str(conninfo_to_dict(url).get("port", "")).split(",")
    except ProgrammingError:
        raise NotConfigured(
            f"{variable} can't be read: look at the host and at what follows the ?, and whether special "
            "characters are percent-encoded"
        ) from None
    if not all(port == "" or (port.isdecimal() and 0 < int(port) <= _LAST_PORT) for port in ports):
        raise NotConfigured(f"{variable} has a port that is no number from 1 to {_LAST_PORT}")
    return url
