"""`shop settings`: every value, where it came from, and no secret."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from shop.cli.main import app
from shop.platform.settings_list import MASK, is_secret, masked

SECRET = "gVq2-9fLr_Tz8wKd3NxP"


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "password").write_text(SECRET)
    for name, value in {
        "SHOP_SERVICES": "shop.services",
        "SHOP_USERS__DATABASE_URL": f"postgresql://users:{SECRET}@db/users?sslpassword={SECRET}",
        "SHOP_ORDERS__DATABASE_PASSWORD_FILE": str(tmp_path / "password"),
        "SHOP_KAFKA__SASL_PASSWORD": SECRET,
        "SHOP_KAFKA__SSL_KEY_PEM": SECRET,
        "SHOP_KAFKA__SASL_USERNAME": "users",
    }.items():
        monkeypatch.setenv(name, value)


def test_each_setting_has_its_value_and_its_origin_and_secrets_are_masked(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["settings", "--json"])
    assert done.exit_code == 0, done.output
    assert SECRET not in done.output
    shown = {one["name"]: one for one in map(json.loads, done.output.splitlines())}
    assert shown["SHOP_ORDERS__DATABASE_PASSWORD"] == {
        "name": "SHOP_ORDERS__DATABASE_PASSWORD",
        "value": MASK,
        "origin": str(tmp_path / "password"),
    }
    url = shown["SHOP_USERS__DATABASE_URL"]
    assert url["value"] == f"postgresql://users:{MASK}@db/users?sslpassword={MASK}"
    assert url["origin"] == "SHOP_USERS__DATABASE_URL"
    assert shown["SHOP_USERS__PORT"]["value"] == "8001"
    assert shown["SHOP_USERS__PORT"]["origin"] == "default"
    assert shown["SHOP_KAFKA__SASL_USERNAME"]["value"] == "users"
    assert shown["SHOP_KAFKA__SASL_PASSWORD"]["value"] == MASK
    assert shown["SHOP_KAFKA__SSL_KEY_PEM"]["value"] == MASK


def test_people_may_ask_for_what_is_not_the_default() -> None:
    done = CliRunner().invoke(app, ["settings", "--changed"])
    assert done.exit_code == 0 and SECRET not in done.output
    assert "SHOP_USERS__DATABASE_URL" in done.output and "SHOP_LOG_LEVEL" not in done.output


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("SHOP_KAFKA__SSL_KEY_PASSWORD", True),
        ("SHOP_KAFKA__SASL_OAUTHBEARER_CLIENT_SECRET", True),
        ("SHOP_AUTH__KEY_ENCRYPTION_KEY", True),
        ("SHOP_AUTH__KEY_ENCRYPTION_KEY_FILE", False),
        ("SHOP_AUTH__ACCESS_TOKEN_S", False),
        ("SHOP_USERS__PASSWORD_THREADS", False),
        ("SHOP_USERS__MAX_WAITING_PASSWORDS", False),
        ("SHOP_KAFKA__SSL_CA_LOCATION", False),
        ("SHOP_IDEMPOTENCY_RETENTION_S", False),
    ],
)
def test_secrets_are_known_by_their_names(name: str, secret: bool) -> None:
    assert is_secret(name) is secret
    assert (masked(name, "text") == MASK) is secret
