"""Which log and which databases the settings name."""

from urllib.parse import quote, urlsplit

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

from eventspine.log import EventLog
from eventspine.postgres_log import PostgresLog
from shop.platform.settings import NotConfigured, Settings

_LAST_PORT = 65535


class NotSet(NotConfigured):
    """It is missing."""


def open_event_log(settings: Settings) -> EventLog:
    """Connects to nothing yet. Raises `NotConfigured`."""
    if settings.event_log == "postgres":
        return PostgresLog(log_url(settings))
    if "bootstrap_servers" not in settings.kafka:
        raise NotSet("SHOP_KAFKA__BOOTSTRAP_SERVERS is not set: host:port of a broker")
    # Imported here, so that the embedded shop never loads librdkafka.
    from eventspine.kafka_log import KafkaLog  # noqa: PLC0415

    return KafkaLog(
        {name.replace("_", "."): value for name, value in settings.kafka.items()},
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication_factor,
    )


def relay_batch(settings: Settings) -> int:
    """Kafka takes a batch apart into a request for each partition, and wants those large."""
    return settings.relay_batch or (10_000 if settings.event_log == "kafka" else 2_000)


def log_url(settings: Settings) -> str:
    """Of the log that is a table. Raises `NotConfigured`."""
    if not settings.event_log_url:
        raise NotSet("SHOP_EVENT_LOG_URL is not set: the log's PostgreSQL database")
    return _checked(settings.event_log_url, "SHOP_EVENT_LOG_URL")


def database_url(settings: Settings, service: str) -> str:
    """Raises `NotConfigured`."""
    own = settings.service(service)
    variable = f"SHOP_{service.upper()}__DATABASE_URL"
    if not own.database_url:
        raise NotSet(f"{variable} is not set")
    whole = _checked(own.database_url, variable)
    if not own.database_password:
        return whole
    url = urlsplit(whole)
    account, _, server = url.netloc.rpartition("@")
    user = account.partition(":")[0]
    password = quote(own.database_password, safe="")
    return url._replace(netloc=f"{user}:{password}@{server}").geturl()


def _checked(url: str, variable: str) -> str:
    """The URL itself is never shown, nor what libpq says of it: there may be a password in it."""
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
