"""The table of settings in docs/operations.md is the one that the models give."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo

from shop.platform import discovery
from shop.platform.auth.settings import AuthSettings
from shop.platform.settings import Port, ServiceSettings, Settings
from shop.platform.settings_table import PAGE, page_with, table
from shop.platform.telemetry.settings import TelemetrySettings

ROOT = Path(__file__).parents[3]


class Loyalty(ServiceSettings):
    port: Port = 8003
    expiry_s: Annotated[int, Field(ge=1, le=9)] | None = Field(default=None, description="an age")


def fields() -> Iterator[tuple[str, FieldInfo]]:
    models: dict[str, type[BaseModel]] = {"": Settings, **discovery.sections()}
    models |= {"auth": AuthSettings, "telemetry": TelemetrySettings}
    for name, model in models.items():
        for field, info in model.model_fields.items():
            if field not in models:
                yield f"{name} {field}", info


@pytest.mark.usefixtures("only_shipped_services")
def test_the_page_has_the_table_of_the_models() -> None:
    page = (ROOT / PAGE).read_text()
    assert page == page_with(page, table(discovery.sections())), (
        "run: python -m shop.platform.settings_table --write"
    )


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, info in fields() if not info.description] == []


def test_a_setting_is_a_row_with_its_default_and_its_limits() -> None:
    rows = table({"loyalty": Loyalty}).splitlines()
    assert "| `SHOP_LOYALTY__EXPIRY_S` |  | 1 to 9 | an age |" in rows
    assert any(row.startswith("| `SHOP_LOYALTY__PORT` | `8003` | 1 to 65535 |") for row in rows)
    assert any(row.startswith("| `SHOP_OUTBOX_RETENTION_S` | `604800` (7 days) |") for row in rows)


@pytest.mark.usefixtures("only_shipped_services")
def test_settings_that_every_service_has_share_a_row() -> None:
    rows = table({"loyalty": Loyalty, **discovery.sections()})
    ports = [f"`SHOP_{name.upper()}__PORT`" for name in ("loyalty", *discovery.sections())]
    assert f"| {', '.join(dict.fromkeys(ports))} |" in rows


def test_a_page_without_a_place_for_the_table_is_left_alone() -> None:
    with pytest.raises(ValueError, match="put them back"):
        page_with("# Operations\n", "| a |\n")
