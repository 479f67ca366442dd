"""The settings of telemetry: `SHOP_TELEMETRY__…`."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field


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
