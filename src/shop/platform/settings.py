"""Settings come from environment variables that start with `SHOP_`.

The names of nested settings are joined by two underscores: `SHOP_USERS__DATABASE_URL`. Any setting can also come
from a file, so that no secret is in the environment. `SHOP_USERS__DATABASE_URL_FILE=/run/secrets/…` names the
file, and the file's content, without the last newline, is the value. `secret_files` knows
the other places where a file is looked for.
"""

import os
import re
from collections.abc import Mapping
from math import ceil
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypedDict, TypeVar

from pydantic import BaseModel, Field, create_model, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from shop.platform import environment, secret_files
from shop.platform.auth.settings import AuthSettings
from shop.platform.settings_files import FromFiles
from shop.platform.telemetry.settings import TelemetrySettings

PREFIX = "SHOP_"

BODY_WITHIN = 10  # seconds
TRANSACTION_WITHIN = 15  # seconds: an API's transaction that takes longer is ended by PostgreSQL
# Two waits for a connection, then the transaction. The last second is for the server's answer, or, if the
# database is silent, for closing the connection.
_UNDER_WAY = 2 + 2 + TRANSACTION_WITHIN + 1


_ORIGIN = r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[1-9][0-9]{0,4})?"


class NotConfigured(Exception):
    """A setting is missing or has an invalid value. The message names it."""


class Bounds(TypedDict):
    max_waiting: int
    timeout: float


Port = Annotated[
    int,
    Field(
        ge=1,
        le=65535,
        description="the port of its API; `shop up --port SERVICE=PORT` does the same",
    ),
]


class ApiSettings(BaseModel):
    """The settings of a process that answers HTTP. The settings.py of a front adds its port and further settings."""

    issues_tokens: ClassVar[bool] = False
    """Whether its API signs access tokens, and so needs the key that its private keys are encrypted with."""

    port: Port


class ServiceSettings(ApiSettings):
    """The settings of one service. Its settings.py adds its port and further settings."""

    database_url: str = Field(
        default="", description="its PostgreSQL: `postgresql://user@host/database`"
    )
    database_password: str = Field(
        default="",
        description="the password, if it is not in the URL; use `…_FILE`. The file is read again for each new"
        " connection. While the password is replaced, the file may have both, one a line",
    )
    cdc_database_url: str = Field(
        default="",
        description="the same database with a role that may use replication slots, for `shop cdc`; if not set, that"
        " uses `DATABASE_URL`",
    )
    cdc_database_password: str = Field(
        default="", description="its password, if it is not in the URL; use `…_FILE`"
    )


_Section = TypeVar("_Section", bound=ApiSettings)


class Settings(BaseSettings):
    """The settings of the platform. `read_settings` adds a section for each service."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", hide_input_in_errors=True
    )

    env: Literal["development", "production"] = Field(
        default="development",
        description="`production` refuses to start with [settings that are not safe](#production)",
    )
    production_allows: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="what production is to accept all the same, by name, separated by commas; the refusal says"
        " the name",
    )

    host: str = Field(
        default="localhost",
        description="the address APIs listen on; `localhost` means both 127.0.0.1 and ::1, if the machine has them",
    )

    event_log: Literal["postgres", "kafka"] = Field(
        default="postgres", description="the event log: a PostgreSQL table, or Kafka"
    )
    event_log_url: str = Field(
        default="", description="the PostgreSQL database of the log, if the log is a table"
    )
    event_log_password: str = Field(
        default="", description="its password, if it is not in the URL; use `…_FILE`"
    )
    accept_data_loss: bool = Field(
        default=False,
        description="`shop migrate` accepts a server that may lose confirmed data in a crash",
    )
    kafka: dict[str, str] = Field(
        default_factory=dict,
        description="any librdkafka property, dots as underscores: "
        "`SHOP_KAFKA__BOOTSTRAP_SERVERS=host:port,…`, `SHOP_KAFKA__SECURITY_PROTOCOL`, "
        "`SHOP_KAFKA__SASL_PASSWORD_FILE`",
    )
    kafka_partitions: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=12,
        description="partitions of a topic that `shop migrate` creates; it refuses a topic with "
        "another number",
    )
    kafka_replication_factor: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1, description="replicas of a topic that `shop migrate` creates; 3 in production"
    )

    relay: Literal["polling", "cdc"] = Field(
        default="polling",
        description="who copies events from the outbox to the log: the worker (`polling`), or Debezium in Kafka Connect"
        " ([`cdc`](#change-data-capture))",
    )
    connect_url: str = Field(
        default="",
        description="the REST address of Kafka Connect, for `shop cdc`: `http://host:8083`",
    )

    auth: AuthSettings = Field(default_factory=AuthSettings)

    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings)

    max_waiting: Annotated[int, Field(ge=1)] = Field(
        default=1024,
        description="requests that may wait for their batch, and as many that may wait for an event, as an "
        "order waits for its customer; one more gets a 503 at once",
    )
    max_connections: Annotated[int, Field(ge=1)] = Field(
        default=8192,
        description="connections that an API holds. One more closes the connection that has been idle the longest. "
        "If none is idle, one more gets a 503 and is closed, a health probe too. Each connection is an open file. "
        "The API raises its limit on open files (`ulimit -n`) as far as the system allows. If that is not enough, "
        "it holds fewer connections, and logs `api.connections_limited`",
    )
    keep_alive_s: Annotated[int, Field(ge=1, le=24 * 3600)] = Field(
        default=75,
        description="how long an API keeps an idle connection. A load balancer in front of it must keep "
        "its connections for less time (nginx and AWS 60 s, Google 600 s). Otherwise it may send a request into a "
        "connection that is being closed",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="origins whose pages may send requests from a browser: "
        "`https://shop.example,http://localhost:3000`. None by default; cookies are never used",
    )
    docs: bool | None = Field(
        default=None,
        description="whether an API serves `/docs`, `/redoc`, `/openapi.json`, and `/`, which redirects to "
        "`/docs`; if not set, in development only",
    )
    request_timeout_ms: Annotated[int, Field(ge=100)] = Field(
        default=10_000,
        description="a request whose turn has not come by then gets a 503 and is not executed; nor is one "
        "started again later",
    )
    outbox_retention_s: Annotated[int, Field(ge=0)] = Field(
        default=7 * 24 * 3600,
        description="how long relayed events stay in the outbox, to feed a log that lost its last records "
        "([how time is counted](#clocks))",
    )
    idempotency_retention_s: Annotated[int, Field(ge=60)] = Field(
        default=24 * 3600, description="how long idempotency keys are kept, at least"
    )
    drain_ms: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="how long an API that was asked to stop reports that it is not ready and still "
        "answers, with `Connection: close`, so that a load balancer notices; a second signal ends that time",
    )
    most_parked: Annotated[int, Field(ge=1)] = Field(
        default=100,
        description="keys that may be blocked by parked events; a partition with one more such key pauses",
    )
    parked_retention_s: Annotated[int, Field(ge=60)] = Field(
        default=30 * 24 * 3600,
        description="how long parked foreign records are kept; parked events stay, however old",
    )
    relay_batch: Annotated[int, Field(ge=1, le=100_000)] | None = Field(
        default=None, description="events relayed at a time; if not set, 2000, or on Kafka 10000"
    )
    consumer_batch: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=2000, description="events applied at a time"
    )

    heartbeat: Path | None = Field(
        default=None, description="a file that a worker writes every second while it is healthy"
    )

    interceptors: str = Field(
        default="",
        description="functions that return interceptors, as module:function, separated by commas",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the lowest level that is logged, as JSON lines on stdout"
    )
    log_dir: Path | None = Field(
        default=None,
        description="a directory for log files, one for each kind of process, each of 20 MiB at most, with one older file",
    )
    access_log: bool = Field(default=False, description="a log line for every request")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - no .env: it would be read by surprise
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - see FromFiles
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings, FromFiles(settings_cls, PREFIX), env_settings)

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _origins(cls, given: Any) -> Any:
        origins = [one.strip() for one in given.split(",")] if isinstance(given, str) else given
        origins = tuple(origin for origin in origins if origin)
        for origin in origins:
            if not re.fullmatch(_ORIGIN, origin) or re.fullmatch("http:.*:80|https:.*:443", origin):
                raise ValueError(
                    f"{origin!r} is not an origin as a browser sends it: scheme, host in lower case, and "
                    "the port unless it is the usual one, like https://shop.example,http://localhost:3000"
                )
        return origins

    @field_validator("production_allows", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return (
            [one.strip() for one in given.split(",") if one.strip()]
            if isinstance(given, str)
            else given
        )

    @field_validator("kafka")
    @classmethod
    def _without_file_names(cls, kafka: dict[str, str]) -> dict[str, str]:
        return {name: value for name, value in kafka.items() if not name.endswith("_file")}

    @property
    def serves_docs(self) -> bool:
        return self.env == "development" if self.docs is None else self.docs

    def bounds(self) -> Bounds:
        """The limits of every batcher of an API."""
        return {"max_waiting": self.max_waiting, "timeout": self.request_timeout_ms / 1000}

    def finish_within(self) -> int:
        """Seconds after which an API has finished all accepted requests.

        It is the sum of three limits: for the body, for the wait in the batcher, and for the transaction.
        """
        return ceil(BODY_WITHIN + self.request_timeout_ms / 1000 + _UNDER_WAY)

    def stop_within(self) -> int:
        """Seconds that an API may take to stop, and that its supervisor should allow."""
        return ceil(self.drain_ms / 1000) + self.finish_within()

    def api(self, name: str) -> ApiSettings:
        """The settings of the service or front with this name."""
        found = getattr(self, name)
        assert isinstance(found, ApiSettings)
        return found

    def service(self, name: str) -> ServiceSettings:
        """The settings of the service with this name."""
        found = getattr(self, name)
        assert isinstance(found, ServiceSettings)
        return found

    def section(self, model: type[_Section]) -> _Section:
        """The settings of the service or front with this model."""
        return next(each for each in vars(self).values() if isinstance(each, model))


def read_settings(sections: Mapping[str, type[ApiSettings]], **given: Any) -> Settings:
    """Read the settings from the environment. `given` overrides them. An unknown variable is an error, because it
    is usually misspelled.

    Raises `SettingsError` and pydantic's `ValidationError`.
    """
    fields: dict[str, Any] = {
        name: (section, Field(default_factory=section)) for name, section in sections.items()
    }
    model: type[Settings] = create_model("Settings", __base__=Settings, **fields)
    known = environment.names(model, PREFIX)
    placed = secret_files.files(os.environ, PREFIX)
    in_folders = {
        name: str(path) for name, path in placed.items() if f"{name}_FILE" not in os.environ
    }
    variables = {**in_folders, **os.environ}
    if wrong := environment.unknown(variables.items(), known, PREFIX):
        raise SettingsError("; ".join(wrong))
    return model(**given)
