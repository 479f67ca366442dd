"""Where secrets' files are looked for, and that they are read again."""

from pathlib import Path

import pytest
from pydantic_settings import SettingsError

from eventspine.address import urls
from shop.platform import discovery, secret_files
from shop.platform.event_log import database_address, log_address
from shop.platform.secret_files import Current
from shop.platform.settings import read_settings

NAME = "SHOP_USERS__DATABASE_PASSWORD"


@pytest.fixture(autouse=True)
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for place in ("run", "credentials"):
        (tmp_path / place).mkdir()
    monkeypatch.setattr(secret_files, "RUN_SECRETS", tmp_path / "run")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "credentials"))
    monkeypatch.setenv("SHOP_USERS__DATABASE_URL", "postgresql://users@db/users")
    return tmp_path


def password() -> str:
    return read_settings(discovery.sections()).service("users").database_password


def test_the_nearest_of_four_places_wins(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NAME, "of the variable")
    assert password() == "of the variable"
    (places / "run" / NAME.lower()).write_text("of the container\n")
    assert password() == "of the container"
    (places / "credentials" / NAME).write_text("of systemd")
    assert password() == "of systemd"
    (places / "named").write_text("named")
    monkeypatch.setenv(f"{NAME}_FILE", str(places / "named"))
    assert password() == "named"


def test_a_file_that_sets_nothing_is_named(places: Path) -> None:
    (places / "run" / "shop_users__datbase_password").write_text("x")
    (places / "run" / "somebody_elses").write_text("x")
    with pytest.raises(SettingsError, match="did you mean SHOP_USERS__DATABASE_PASSWORD"):
        password()


def test_a_setting_that_is_refused_does_not_show_its_value(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_USERS__PORT", "hunter2")
    with pytest.raises(ValueError, match="port") as refused:
        password()
    assert "hunter2" not in str(refused.value)


def test_an_address_has_the_passwords_that_its_file_holds_now(places: Path) -> None:
    file = places / "run" / NAME.lower()
    file.write_text("first\n")
    address = database_address(read_settings(discovery.sections()), "users")
    assert urls(address) == ["postgresql://users:first@db/users"]
    file.write_text("first\nsecond\n")
    assert urls(address) == [f"postgresql://users:{one}@db/users" for one in ("first", "second")]
    file.write_text("second\n")
    assert urls(address) == ["postgresql://users:second@db/users"]


def test_the_logs_address_does_so_too(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_EVENT_LOG_URL", "postgresql://log_worker@db/log")
    file = places / "run" / "shop_event_log_password"
    file.write_text("first")
    address = log_address(read_settings(discovery.sections()))
    file.write_text("second")
    assert urls(address) == ["postgresql://log_worker:second@db/log"]


def test_a_file_that_is_away_or_empty_for_a_moment_changes_nothing(places: Path) -> None:
    file = places / "run" / NAME.lower()
    file.write_text("first")
    current = Current(NAME, "")
    assert current() == "first"
    file.write_text("")
    assert current() == "first"
    file.unlink()
    assert current() == "first"
    file.write_text("second")
    assert current() == "second"
