"""The settings of telemetry: `SHOP_TELEMETRY__…`."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, field_validator


class TelemetrySettings(BaseModel):
    metrics: bool = Field(
        default=True,
        description="whether a process counts and measures its work, and serves that as `/metrics` on a port of its"
        " own ([metrics](#metrics))",
    )
    metrics_host: str = Field(
        default="127.0.0.1",
        description="the address on which `/metrics` is served; `0.0.0.0` in a container. Anyone who reaches it may"
        " read it",
    )
    metrics_port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0,
        description="its port; with 0, a free one, which the log names (`telemetry.serving`). Each process on a"
        " machine needs its own",
    )
    target_file: Path | None = Field(
        default=None,
        description="a file in which a process writes the address of its `/metrics`, for Prometheus'"
        " `file_sd_configs`. `shop up` has one for each process, in `metrics/` of its data",
    )
    otlp_endpoint: str = Field(
        default="",
        description="an OpenTelemetry collector that takes OTLP over HTTP, like `http://collector:4318`; spans go to its"
        " `/v1/traces`. Without it there are no traces ([traces](#traces))",
    )
    otlp_headers: str = Field(
        default="",
        description="headers for the collector, as `name=value,…`, values as in a URL; use `…_FILE` if one is a secret",
    )
    traces_ratio: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.01,
        description="the share of requests that are traced, if no `traceparent` says whether they are",
    )
    traces_per_s: Annotated[int, Field(ge=1)] = Field(
        default=200,
        description="requests that a process traces in a second at most, whatever their `traceparent` says",
    )

    @field_validator("otlp_endpoint")
    @classmethod
    def _is_url(cls, given: str) -> str:
        if given and not re.fullmatch(r"https?://[^/\s?#]+(/[^\s?#]*)?", given):
            raise ValueError("it must be a URL without a query, like http://collector:4318")
        return given.rstrip("/")

    @field_validator("otlp_headers")
    @classmethod
    def _are_headers(cls, given: str) -> str:
        for pair in filter(None, given.split(",")):
            if not re.fullmatch(r"\s*[A-Za-z0-9_.-]+=[\x21-\x7e]*\s*", pair):
                raise ValueError("it must be name=value,name=value, with values as in a URL")
        return given
