"""Settings: each service's own, and variables that set nothing."""

import pytest
from pydantic_settings import SettingsError

from shop.platform import discovery
from shop.platform.settings import Settings, read_settings
from shop.services.orders.settings import OrdersSettings


def read(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return read_settings(discovery.sections())


def test_a_service_brings_its_own_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = read(monkeypatch, SHOP_ORDERS__CUSTOMER_GRACE_MS="7", SHOP_USERS__PORT="9001")
    assert settings.section(OrdersSettings).customer_grace_ms == 7
    assert settings.service("orders").port == 8002
    assert settings.service("users").port == 9001


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("SHOP_USRES__PORT", "did you mean SHOP_USERS__PORT?"),
        ("SHOP_USERS_PORT", "did you mean SHOP_USERS__PORT?"),
        ("SHOP_USERS__CUSTOMER_GRACE_MS", "did you mean SHOP_ORDERS__CUSTOMER_GRACE_MS?"),
        ("SHOP_CUSTOMER_GRACE_MS", "did you mean SHOP_ORDERS__CUSTOMER_GRACE_MS?"),
        ("SHOP_MAX_WAITNG", "did you mean SHOP_MAX_WAITING?"),
        ("SHOP_EVENTLOG_FILE", "did you mean SHOP_EVENT_LOG_FILE?"),
        ("SHOP_SERVICE", "did you mean SHOP_SERVICES?"),
        ("SHOP_XYZ", "docs/operations.md lists them"),
        # A section is set by its parts only.
        ("SHOP_ORDERS", "did you mean SHOP_ORDERS__PORT?"),
    ],
)
def test_a_variable_that_sets_nothing_is_named_with_what_was_meant(
    monkeypatch: pytest.MonkeyPatch, name: str, meant: str
) -> None:
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, **{name: "1"})
    assert str(error.value) == f"{name} is not a setting; {meant}"


def test_each_of_several_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError) as error:
        read(monkeypatch, SHOP_HOTS="::1", SHOP_LOG_DIRR="/logs")
    assert str(error.value) == (
        "SHOP_HOTS is not a setting; did you mean SHOP_HOST?; "
        "SHOP_LOG_DIRR is not a setting; did you mean SHOP_LOG_DIR?"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SHOP_KAFKA__SASL_PASSWORD", "secret"),
        ("SHOP_DATA_DIR", "/data"),
        ("SHOP_READY_FD", "3"),
        ("SHOP_SERVICES", "shop.services"),
        # What Kubernetes tells every container of a Service named `shop-users`.
        ("SHOP_USERS_SERVICE_HOST", "10.0.0.1"),
        ("SHOP_USERS_SERVICE_PORT", "8001"),
        ("SHOP_USERS_SERVICE_PORT_HTTP", "8001"),
        ("SHOP_USERS_PORT", "tcp://10.0.0.1:8001"),
        ("SHOP_USERS_PORT_8001_TCP", "tcp://10.0.0.1:8001"),
        ("SHOP_USERS_PORT_8001_TCP_PROTO", "tcp"),
        ("SHOP_USERS_PORT_8001_TCP_ADDR", "10.0.0.1"),
        ("EVENTSHOP_USERS", "1"),
    ],
)
def test_variables_of_other_programs_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    read(monkeypatch, **{name: value})
