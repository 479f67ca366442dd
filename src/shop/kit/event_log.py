"""Which log and which databases the settings name."""

from urllib.parse import quote, urlsplit

from eventspine.log import EventLog
from eventspine.postgres_log import PostgresLog
from shop.kit.settings import Settings


class NotConfigured(Exception):
    """A setting is missing; the message names it."""


def open_event_log(settings: Settings) -> EventLog:
    """Connects to nothing yet. Raises `NotConfigured`."""
    if settings.event_log == "postgres":
        if not settings.event_log_url:
            raise NotConfigured("SHOP_EVENT_LOG_URL is not set: the log's PostgreSQL database")
        return PostgresLog(settings.event_log_url)
    if "bootstrap_servers" not in settings.kafka:
        raise NotConfigured("SHOP_KAFKA__BOOTSTRAP_SERVERS is not set: host:port of a broker")
    # Imported here, so that the embedded shop never loads librdkafka.
    from eventspine.kafka_log import KafkaLog  # noqa: PLC0415

    return KafkaLog(
        {name.replace("_", "."): value for name, value in settings.kafka.items()},
        partitions=settings.kafka_partitions,
        replication_factor=settings.kafka_replication_factor,
    )


def database_url(settings: Settings, service: str) -> str:
    """Raises `NotConfigured`."""
    own = settings.service(service)
    if not own.database_url:
        raise NotConfigured(f"SHOP_{service.upper()}__DATABASE_URL is not set")
    if not own.database_password:
        return own.database_url
    url = urlsplit(own.database_url)
    account, _, server = url.netloc.rpartition("@")
    user = account.partition(":")[0]
    password = quote(own.database_password, safe="")
    return url._replace(netloc=f"{user}:{password}@{server}").geturl()
